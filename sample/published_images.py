"""Published class-conditional models as sample/images.py takes models: DiT and ADM.

A folder of DiT, as diffusers saves it, has its autoencoder and the names of its
classes. ADM is a file under its published name, such as "256x256_diffusion.pt", which
says how its network is made.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import jaxlib_guidance as jg
from jaxlib_guidance.diffusion import cosine_betas, linear_betas
from jaxlib_guidance.models import (
    ClassTransformer,
    DiffusionModel,
    from_linen,
    load_adm,
    load_pretrained,
    load_published,
    read_json,
)
from jaxlib_guidance.types import Process


@dataclasses.dataclass(frozen=True)
class PublishedImages:
    """A published model of labels; its parameters are apart.

    Attributes:
      module: The network.
      process: The noise process that it was trained on.
      shape: Shape of one state, a latent or an image.
      classes: Number of classes, or None.
      null: Label of no class, or None where there is none.
      denoiser: ``params -> denoiser``.
      decode: ``(params, states) -> images`` in [-1, 1].
      bound: What its scheduler clips estimates to, or None.
    """

    module: Any
    process: Process
    shape: tuple[int, ...]
    classes: int | None
    null: Any
    denoiser: Callable[[Any], jg.Denoiser]
    decode: Callable[[Any, jax.Array], jax.Array] = lambda params, x: x
    bound: float | None = None

    def grid(self, n: int, spacing: Callable[..., jax.Array]) -> jax.Array:
        """Times of ``n`` steps.

        Args:
          n: Number of steps.
          spacing: Rule such as `karras_grid`.
        """
        return spacing(self.process, n)


Drawable = DiffusionModel | PublishedImages


def is_published(weights: str) -> bool:
    """Whether weights are a published folder or file, and not this library's."""
    path = Path(weights).expanduser()
    # A folder that is called like a bundled model hides it from nobody.
    return (path / "model_index.json").is_file() or path.suffix == ".pt"


def class_names(weights: str) -> tuple[str, ...]:
    """Names of the classes of a published folder; empty for a file.

    Args:
      weights: A published folder or file.
    """
    path = Path(weights).expanduser()
    if not path.is_dir():
        return ()
    names = read_json(path / "model_index.json").get("id2label") or {}
    return tuple(names[i] for i in sorted(names, key=int))


def load_drawable(weights: str, dtype: str = "float32") -> tuple[Any, Any]:
    """A model that draws images, and its parameters.

    Args:
      weights: A name or a file, as `load_pretrained` takes it; a folder of DiT; or a
        file of ADM.
      dtype: Type of a published model's parameters and computation.

    Raises:
      ValueError: A folder of another family, a file of ADM by another name, or a type
        for a model of this library.
      OSError: No such file.
    """
    path = Path(weights).expanduser()
    if not is_published(weights):
        if dtype != "float32":
            raise ValueError(f"dtype is {dtype}, for published models; expected none")
        return load_pretrained(weights)
    if path.is_dir():
        model, params = load_published(path, dtype=jnp.dtype(dtype))
        if not isinstance(model, ClassTransformer):
            raise ValueError(
                f"weights {weights!r} take texts; expected a model of classes, or "
                "sample/text_to_image.py"
            )
        return _of_latents(model), params
    module, params = load_adm(path, path.stem, dtype=jnp.dtype(dtype))
    # 64x64 was trained on the cosine's table.
    side = int(path.stem.partition("x")[0]) if path.stem[0].isdigit() else 256
    betas = cosine_betas(1000) if side == 64 else linear_betas(1000)
    process = jg.vp_discrete(betas)
    drawable = PublishedImages(
        module,
        process,
        shape=(side, side, module.in_channels),
        classes=module.num_classes,
        null=None,
        denoiser=lambda p: jg.parametrize(from_linen(module, p), process, "eps"),
    )
    return drawable, params


def _of_latents(model):
    return PublishedImages(
        model.network,
        model.process,
        shape=model.latent(),
        classes=model.classes,
        null=model.classes,
        denoiser=model.denoiser,
        decode=lambda params, z: 2 * model.decode(params, z) - 1,
        bound=model.scheduler.clip(),
    )
