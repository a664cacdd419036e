"""A published transformer of latents as one object: denoiser, times, pictures."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlib_guidance import rng
from jaxlib_guidance.diffusion import Process, VPDiscrete, parametrize
from jaxlib_guidance.models._adapters import from_linen
from jaxlib_guidance.models.published._autoencoder import (
    AutoencoderKLDecoder,
    AutoencoderKLEncoder,
    load_autoencoder,
)
from jaxlib_guidance.models.published._folder import open_part, read_index, read_json
from jaxlib_guidance.models.published._scheduler import Scheduler, read_scheduler
from jaxlib_guidance.types import Array, Denoiser, PyTree


def require_texts(name: str, texts: Any) -> list[str]:
    """Texts as a list, which has at least one and nothing else."""
    if isinstance(texts, str):
        raise TypeError(f"{name} is the text {texts!r:.80}; expected a list of them")
    if not isinstance(texts, Sequence):
        raise TypeError(f"{name} is {texts!r:.80}; expected a list of texts")
    if not texts:
        raise ValueError(f"{name} is empty; expected at least one text")
    for text in texts:
        if not isinstance(text, str):
            kind = type(text).__name__
            raise TypeError(f"{name} has what is no text: text is {kind}; expected str")
    return list(texts)


def require_prompts(texts: Any, negative: Any) -> tuple[list[str], list[str]]:
    """Texts, and one negative text for all of them or one for each; None is empty."""
    texts = require_texts("texts", texts)
    one = negative is None or isinstance(negative, str)
    away = [negative or ""] if one else require_texts("negative", negative)
    if len(away) not in (1, len(texts)):
        raise ValueError(
            f"negative has {len(away)} texts; expected one or {len(texts)}"
        )
    return texts, away


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentModel:
    """What published models of latents have in common: times, and an autoencoder.

    Parameters are apart, a tree for each part. Parts that were not loaded are None, and
    what needs them raises.

    Attributes:
      scheduler: Noise process, parametrisation and steps.
      encoder: Pictures to latents.
      decoder: Latents to pictures.
    """

    scheduler: Scheduler
    encoder: AutoencoderKLEncoder | None = None
    decoder: AutoencoderKLDecoder | None = None

    @property
    def network(self) -> Any:
        """The network, which must have been loaded."""
        raise NotImplementedError

    @property
    def patch(self) -> int:
        """Number of latents along a side of a patch."""
        return 1

    @property
    def process(self) -> Process:
        """The noise process that the network was trained on."""
        return self.scheduler.process

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures of the training, in pixels."""
        side = self.network.sample_size or 64
        height, width = side if isinstance(side, tuple) else (side, side)
        factor = present(self.decoder, "vae").factor
        return height * factor, width * factor

    def grid(
        self, n: int, solver: str | None = None, *, clipped: bool = False
    ) -> Array:
        """The times of ``n`` steps as diffusers takes them; see `Scheduler.grid`.

        Args:
          n: Number of steps.
          solver: "ddim", "euler" or "dpm", the family of the solver; None is that of
            the published file.
          clipped: Whether the guidance clips x0 as ``scheduler.clip`` says.

        Returns:
          Float32 ``[n + 1]``.
        """
        return self.scheduler.grid(n, solver, clipped=clipped)

    def latent(
        self, height: int | None = None, width: int | None = None
    ) -> tuple[int, int, int]:
        """The shape of the latent of a picture.

        Args:
          height: Height of the picture in pixels; None is that of the training.
          width: Its width; None is the height.

        Returns:
          ``(h, w, channels)``, for `sample`.

        Raises:
          ValueError: A size that autoencoder and patches do not divide.
        """
        decoder = present(self.decoder, "vae")
        default = height or self.size[0]
        sides, step = (default, width or default), self.patch * decoder.factor
        if any(side < 1 or side % step for side in sides):
            raise ValueError(
                f"height and width are {sides}; expected multiples of {step}"
            )
        h, w = (side // decoder.factor for side in sides)
        return h, w, decoder.latent_channels

    def decode(self, params: PyTree, z: Array) -> Array:
        """Pictures of latents, one after another, which needs the least memory.

        Args:
          params: Parameters by part.
          z: Latents ``[B, h, w, C]``.

        Returns:
          Pictures ``[B, H, W, 3]`` in [0, 1].
        """
        apply: Any = present(self.decoder, "vae").apply
        own = {"params": own_params(params, "vae")}
        images = jax.lax.map(lambda one: apply(own, one[None])[0], z)
        return jnp.clip(0.5 * images + 0.5, 0, 1)

    def encode(self, params: PyTree, images: Array, keys: Array | None = None) -> Array:
        """Latents of pictures.

        Args:
          params: Parameters by part.
          images: Pictures ``[B, H, W, 3]`` in [0, 1].
          keys: Typed keys ``[B]`` to draw the latents with; None takes their mean.

        Returns:
          Latents ``[B, h, w, C]``, float32.

        Raises:
          ValueError: Sides that the autoencoder does not divide.
        """
        apply: Any = present(self.encoder, "vae").apply
        mean, std = apply({"params": own_params(params, "vae")}, 2 * images - 1)
        return mean if keys is None else mean + std * rng.normal(keys, mean.shape[1:])


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentTransformer(LatentModel):
    """A published transformer of latents.

    Attributes:
      transformer: The network, with its sites and taps.
    """

    transformer: nn.Module | None

    @property
    def network(self) -> Any:
        """The network, which must have been loaded."""
        return present(self.transformer, "transformer")

    @property
    def patch(self) -> int:
        """Number of latents along a side of a patch."""
        return 2

    def c_noise(self, t: Array) -> Array:
        """What the network receives as the noise level at time ``t``."""
        process = self.process
        return process.index(t) if isinstance(process, VPDiscrete) else t

    def denoiser(self, params: PyTree) -> Denoiser:
        """The denoiser of latents; call it inside the function that is jitted.

        Args:
          params: Parameters by part.

        Returns:
          A denoiser of states ``[B, h, w, C]``.
        """
        network = from_linen(self.network, own_params(params, "transformer"))
        scheduler = self.scheduler
        return parametrize(
            network, scheduler.process, scheduler.predicts, c_noise=self.c_noise
        )


def wanted_parts(
    folder: Path, known: Sequence[str], parts: Sequence[str] | None
) -> list[str]:
    """The parts to load: those that are there, or some of them.

    Raises:
      ValueError: Parts that the folder does not have.
    """
    index = read_index(folder)
    have = [part for part in known if part in index]
    wanted = have if parts is None else list(parts)
    unknown = [part for part in wanted if part not in have]
    if unknown:
        raise ValueError(f"parts has {unknown}; expected some of {have}")
    return wanted


def load_latent_parts(
    folder: Path, wanted: Sequence[str], variant: str | None, where: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, PyTree]]:
    """What all such models have: scheduler and autoencoder, with parameters."""
    path = folder / "scheduler" / "scheduler_config.json"
    found: dict[str, Any] = {"scheduler": read_scheduler(read_json(path), str(path))}
    params: dict[str, PyTree] = {}
    if "vae" in wanted:
        part = open_part(folder / "vae", variant=variant)
        (encoder, own), (decoder, other) = load_autoencoder(part, **where)
        found |= {"encoder": encoder, "decoder": decoder}
        params["vae"] = {**own, **other}
    return found, params


def present(part: Any, name: str) -> Any:
    """A part, which must have been loaded."""
    if part is None:
        raise ValueError(f"the part {name!r} was not loaded; add it to parts")
    return part


def own_params(params: PyTree, name: str) -> PyTree:
    """The parameters of a part, which must be there."""
    if name not in params:
        raise ValueError(f"params has {sorted(params)}; expected also {name!r}")
    return params[name]
