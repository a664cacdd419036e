r"""Takes an object out of a picture: what is around it fills its place.

    python sample/erase.py
    python sample/erase.py --picture photo.png --mask mask.png --dilation 0.5
    python sample/erase.py --model FOLDER --picture photo.png --mask mask.png \
        --dilation 12

Without --picture it takes an emoji of the held-out tenth with another pasted on it, of
which the truth is known. A mask is white where the object is, of any size: it is
stretched to the picture, and what is transparent is not masked. The result is a PNG of
the picture, the mask as it is used, and the picture without the object.

--model is a name or file of `load_pretrained`, or the folder of a published model of
texts (docs/models.md), which gets the empty text. docs/erasing.md says how well this
works.
"""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from outputs import require_writable
from pictures import read_mask, read_picture
from tqdm import tqdm

import jaxlib_guidance as jg
from jaxlib_guidance.data import load_emoji, save_grid
from jaxlib_guidance.editing import erase, prepare_mask
from jaxlib_guidance.models import (
    DiffusionModel,
    StableDiffusion,
    TextTransformer,
    load_pretrained,
    load_published,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to take out, and how."""

    picture: Path | None = None
    """A file of a picture; by default an emoji with another on it."""
    mask: Path | None = None
    """A file of a picture that is white on the object; needed with --picture."""
    model: str = "emoji"
    """A name or a file of `load_pretrained`, or the folder of a published model."""
    sites: tuple[str, ...] = ()
    """Self-attention sites; by default the later half of those of the emoji model, and
    the middle and the way up of a published U-Net."""
    weight: float = 9.0
    """Factor of the redirection; 0 is inpainting."""
    suppression: float = 0.3
    """Factor of the object's similarities in the first quarter of the steps."""
    dilation: float = 0.0
    """Width of the blur that dilates the mask, in pixels of the model's picture."""
    strength: float = 0.8
    """Share of the steps that are taken."""
    steps: int = 50
    """Steps of the solver."""
    solver: Literal["ddim", "ddpm"] = "ddim"
    """Solver; ddpm draws noise at every step."""
    size: tuple[int, int] | None = None
    """Height and width for a published model; by default those of its training."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of a published model's computation."""
    columns: int = 1
    """Number of results."""
    seed: int = 0
    """Of the noise that all samples start from."""
    scale: int = 6
    """Pixels of the result for each pixel of the emoji model's."""
    out: Path = Path("out/erase.png")


class Loaded(NamedTuple):
    """A model as this recipe needs it.

    Attributes:
      size: Height, width and channels of its pictures.
      params: Parameters.
      denoiser: Denoiser of parameters.
      grid: Times of the steps.
      cond: The condition that says nothing, of parameters.
      encode: Pictures ``[B, H, W, C]`` in [-1, 1] to what the denoiser takes.
      decode: The inverse.
      sites: Default attention sites.
    """

    size: tuple[int, int, int]
    params: Any
    denoiser: Callable[[Any], Any]
    grid: Any
    cond: Callable[[Any, int], Any]
    encode: Callable[[Any, Any], Any]
    decode: Callable[[Any, Any], Any]
    sites: tuple[str, ...]


def own_model(config: Config) -> Loaded:
    """A model of `load_pretrained`.

    Raises:
      ValueError: A model of no pictures, or without attention.
    """
    model, params = load_pretrained(config.model)
    if not isinstance(model, DiffusionModel) or len(model.shape) != 3:
        raise ValueError(f"model {config.model!r} makes no pictures")
    own = tuple(site for site in model.module.sites if site.endswith("/attn"))
    if not own:
        raise ValueError(f"model {config.model!r} has no self-attention")

    def cond(params, count):
        del params
        width = getattr(model.module, "text", None)
        label = {"label": jnp.full(count, model.classes)} if model.classes else {}
        if width is None:
            return label.get("label")
        text = {"text": jnp.zeros((count, 1, width))}
        return {**label, **text, "text_mask": jnp.zeros((count, 1), bool)}

    return Loaded(
        model.shape,
        params,
        model.denoiser,
        jg.uniform_grid(model.process, config.steps),
        cond,
        lambda params, x: x,
        lambda params, x: x,
        own[len(own) // 2 :],
    )


def published_model(config: Config) -> Loaded:
    """A published model of texts, from its folder.

    Raises:
      ValueError: Another model, or one that needs --sites.
    """
    model, params = load_published(config.model, dtype=jnp.dtype(config.dtype))
    if not isinstance(model, StableDiffusion | TextTransformer):
        raise ValueError(f"{config.model} takes no texts; see docs/models.md")
    if isinstance(model, StableDiffusion) and model.repaints:
        raise ValueError(
            f"{config.model} was trained to repaint; sample/text_to_image.py --mask "
            "uses that"
        )
    size = config.size or model.size
    stages = sorted({site.partition("/")[0] for site in model.network.sites})
    model.latent(*size)  # Raises for a size that does not fit.

    def cond(params, count):
        tokens: Any = model.tokens([""])
        one = model.condition(params, tokens, size)
        return jax.tree.map(lambda a: jnp.repeat(a, count, 0), one)

    return Loaded(
        (*size, 3),
        params,
        model.denoiser,
        model.grid(config.steps, "ddim")
        if isinstance(model, StableDiffusion)
        else model.grid(config.steps),
        cond,
        lambda params, x: model.encode(params, x / 2 + 0.5),
        lambda params, z: 2 * model.decode(params, z) - 1,
        tuple(stage for stage in stages if stage == "mid" or stage.startswith("up")),
    )


def example() -> tuple[np.ndarray, np.ndarray]:
    """A flag of three stripes ``[32, 32, 3]`` with a ghost on it, and its mask."""
    emoji = load_emoji("test")
    flag, ghost = (
        emoji.images[emoji.captions.index(name)] for name in ("flag armenia", "ghost")
    )
    small = ghost[1:31, 1:31].reshape(10, 3, 10, 3, 3).mean((1, 3))
    picture, mask = flag.copy(), np.zeros(flag.shape[:2], bool)
    place = np.s_[11:21, 11:21]
    mask[place] = (small < 0.9).any(-1)
    picture[mask] = small[mask[place]]
    return picture, mask


def read(config: Config, size: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The picture ``[H, W, C]`` in [-1, 1], and the mask bool ``[H, W]``.

    Raises:
      ValueError: A picture without a mask or the other way round; no such files.
    """
    height, width, channels = size
    if (config.picture is None) != (config.mask is None):
        raise ValueError("picture and mask go together; give both or neither")
    if config.picture is not None and config.mask is not None:
        picture = 2 * read_picture(config.picture, (height, width), channels) - 1
        mask = read_mask(config.mask, config.picture, (height, width))
    else:
        picture, mask = example()
        if picture.shape != size:
            raise ValueError(f"model takes pictures {size}; give --picture and --mask")
    return picture, np.asarray(prepare_mask(mask, (height, width), config.dilation))


def remove(config: Config) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The picture ``[H, W, C]``, the mask ``[H, W]``, and results ``[N, H, W, C]``.

    Raises:
      ValueError: Options out of their range, models or files that do not fit.
    """
    if config.steps < 1 or config.columns < 1:
        raise ValueError(
            f"steps {config.steps}, columns {config.columns}; expected at least 1"
        )
    published = Path(config.model).expanduser().is_dir()
    loaded = (published_model if published else own_model)(config)
    sites = config.sites or loaded.sites
    if not sites:
        raise ValueError("this network has no way up; name its sites by --sites")
    picture, mask = read(config, loaded.size)
    bar = tqdm(total=max(1, int(config.strength * config.steps)), unit="step")

    def report(done, total):
        bar.total = total
        bar.update(done - bar.n)

    @jax.jit
    def run(params):
        x = jnp.broadcast_to(picture, (config.columns, *picture.shape))
        z = erase(
            jg.sample_keys(jax.random.key(config.seed), config.columns),
            loaded.denoiser(params),
            loaded.grid,
            loaded.encode(params, x),
            mask,
            loaded.cond(params, config.columns),
            sites=sites,
            weight=config.weight,
            suppression=config.suppression,
            strength=config.strength,
            sampler=getattr(jg, config.solver)(),
            progress=report,
        )
        found = loaded.decode(params, z)
        # An autoencoder changes what the mask does not cover, too.
        return jnp.where(mask[..., None], found, x)

    with bar:
        found = np.asarray(run(loaded.params))
        jax.effects_barrier()
    return picture, mask, found


def main(config: Config) -> None:
    """Removes, and draws; a mistake is told in one line."""
    made = {f.name: str(getattr(config, f.name)) for f in dataclasses.fields(config)}
    try:
        require_writable(config.out)
        picture, mask, found = remove(config)
    except (ValueError, OSError) as error:
        sys.exit(f"sample/erase.py: {error}")
    shown = np.broadcast_to(2.0 * mask[..., None] - 1, picture.shape)
    rows = np.concatenate([picture[None], shown[None], found])
    scale = config.scale if max(picture.shape) <= 64 else 1
    save_grid(config.out, rows, len(rows), scale, note=made)
    print(f"{config.out}: the picture, the mask, the picture without it")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
