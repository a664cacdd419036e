"""Stable Diffusion 1.x, 2.x and XL as one object: prompts, denoiser, pictures."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.diffusion import parametrize
from jaxlib_guidance.models._adapters import from_linen
from jaxlib_guidance.models.published._clip_text import CLIPText
from jaxlib_guidance.models.published._clip_tokens import (
    CLIPTokenizer,
)
from jaxlib_guidance.models.published._controlnet import ControlNet, with_controlnet
from jaxlib_guidance.models.published._latents import (
    LatentModel,
    own_params,
    present,
    require_prompts,
)
from jaxlib_guidance.models.published._unet import UNet2DCondition
from jaxlib_guidance.types import Array, Denoiser, PyTree

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StableDiffusion(LatentModel):
    """A published Stable Diffusion; its parameters are apart, a tree for each part.

    Parts that were not loaded are None, and what needs them raises.

    Attributes:
      unet: The network, whose sites and taps have the published indices.
      text_encoders: One text encoder, or the two of SDXL.
      tokenizers: As many tokenizers.
      zeros: Whether no negative prompt means states of zeros, as in SDXL, and not those
        of the empty text.
    """

    unet: UNet2DCondition | None
    text_encoders: tuple[CLIPText, ...] = ()
    tokenizers: tuple[CLIPTokenizer, ...] = dataclasses.field(default=(), repr=False)
    zeros: bool = False

    @property
    def network(self) -> Any:
        """The network, which must have been loaded."""
        return present(self.unet, "unet")

    @property
    def pooled(self) -> bool:
        """Whether the condition has a pooled text and sizes, as SDXL's."""
        unet = self.network
        return unet.addition_embed_type is not None

    @property
    def repaints(self) -> bool:
        """Whether the network was trained to fill in a mask: it takes nine channels."""
        return self.network.in_channels == 9

    def denoiser(
        self,
        params: PyTree,
        *,
        controlnet: ControlNet | None = None,
        scale: Array | float = 1.0,
    ) -> Denoiser:
        """The denoiser of latents; call it inside the function that is jitted.

        Args:
          params: Parameters by part.
          controlnet: A ControlNet from `load_controlnet`, with its parameters as
            ``params["controlnet"]``; the condition then has also "hint", pictures
            ``[B, H, W, 3]`` in [0, 1]. None is none.
          scale: Factor of the ControlNet, scalar or ``[B]``.

        Returns:
          A denoiser of states ``[B, h, w, 4]`` with the condition that `prompts` makes.
        """
        network = from_linen(self.network, own_params(params, "unet"))
        if controlnet is not None:
            own = {"params": own_params(params, "controlnet")}
            apply: Any = controlnet.apply
            network = with_controlnet(network, partial(apply, own), scale)
        return parametrize(network, self.process, self.scheduler.predicts)

    def tokens(self, texts: Sequence[str]) -> tuple[Array, ...]:
        """Token numbers of texts, for each text encoder.

        Args:
          texts: Texts; each may be empty.

        Returns:
          int32 ``[B, 77]`` for each text encoder.

        Raises:
          TypeError: One text alone, or something that is none.
          ValueError: The folder's tokenizer was not loaded.
        """
        if not self.tokenizers:
            raise ValueError("the text encoder was not loaded; add it to parts")
        return tuple(jnp.asarray(each(texts)) for each in self.tokenizers)

    def condition(
        self,
        params: PyTree,
        tokens: tuple[Array, ...],
        size: tuple[int, int] | None = None,
    ) -> dict[str, Array]:
        """The condition of token numbers; jit it for many texts.

        Args:
          params: Parameters by part.
          tokens: Token numbers for each text encoder, from `tokens`.
          size: Height and width of the pictures in pixels, which SDXL is told; None is
            that of the training.

        Returns:
          ``{"text"}``, and for SDXL also "pooled" and "time_ids".
        """
        states = []
        for i, (module, ids) in enumerate(zip(self.text_encoders, tokens, strict=True)):
            own = own_params(params, _encoder_name(i))
            apply: Any = module.apply
            states.append(apply({"params": own}, ids))
        if not self.pooled:
            return {"text": states[0].last}
        # Height before width; nothing is cropped.
        height, width = size or self.size
        ids = jnp.asarray([height, width, 0, 0, height, width], jnp.float32)
        text = jnp.concatenate([each.hidden[-2] for each in states], -1)
        return {
            "text": text,
            "pooled": states[-1].pooled,
            "time_ids": jnp.broadcast_to(ids, (len(text), 6)),
        }

    def prompts(
        self,
        params: PyTree,
        texts: Sequence[str],
        negative: str | Sequence[str] | None = None,
        size: tuple[int, int] | None = None,
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Conditions of texts and of what to move away from.

        Args:
          params: Parameters by part.
          texts: A text for each picture.
          negative: A negative text for all or one for each; None is the empty text, or
            for SDXL zeros, as in training.
          size: Height and width of the pictures in pixels, which SDXL is told; None is
            that of the training.

        Returns:
          ``(cond, null)`` for `sample` and `cfg`.

        Raises:
          TypeError: ``texts`` is one text, or something that is none.
          ValueError: No text; another number of negatives than of texts; a part that
            was not loaded.
        """
        texts, away = require_prompts(texts, negative)
        cond = self.condition(params, self.tokens(texts), size)
        if negative is None and self.zeros:
            return cond, self.empty(cond)
        null = self.condition(params, self.tokens(away), size)
        full = {k: jnp.broadcast_to(null[k], cond[k].shape) for k in cond}
        return cond, full

    def empty(self, cond: dict[str, Array]) -> dict[str, Array]:
        """The condition of no text at all: zeros, with the sizes as they are.

        Args:
          cond: Condition from `prompts`.
        """
        return {k: a if k == "time_ids" else jnp.zeros_like(a) for k, a in cond.items()}

    def masked(
        self, params: PyTree, cond: PyTree, images: Array, mask: Array
    ) -> dict[str, Array]:
        """The condition of a network that was trained to fill in, with nine channels.

        Args:
          params: Parameters by part.
          cond: Condition from `prompts`, or the negative one.
          images: Pictures ``[B, H, W, 3]`` in [0, 1].
          mask: Mask ``[B, H, W]`` or ``[H, W]``, 1 where the picture is to be filled.

        Returns:
          The condition with "image": the mask, and the latents of what is seen.

        Raises:
          ValueError: A network without these channels.
        """
        if not self.repaints:
            raise ValueError(
                f"the network takes {self.network.in_channels} "
                "channels; one that fills in takes 9"
            )
        hole = jnp.broadcast_to(mask, images.shape[:3])[..., None] > 0.5
        # Grey, the middle of [-1, 1], where nothing is seen.
        z = self.encode(params, jnp.where(hole, 0.5, images))
        small = latent_mask(hole[..., 0], (z.shape[1], z.shape[2]))[..., None]
        return {**cond, "image": jnp.concatenate([small.astype(z.dtype), z], -1)}


def latent_mask(mask: Array, size: tuple[int, int]) -> Array:
    """A mask of pixels at the size of latents, by the nearest pixel as diffusers does.

    Args:
      mask: Mask ``[..., H, W]``.
      size: Height and width of the latents.

    Returns:
      Mask ``[..., h, w]`` of ``mask``'s type.
    """
    for axis, new in zip((-2, -1), size, strict=True):
        mask = jnp.take(mask, jnp.arange(new) * mask.shape[axis] // new, axis)
    return mask


def _encoder_name(i):
    return "text_encoder" if i == 0 else f"text_encoder_{i + 1}"
