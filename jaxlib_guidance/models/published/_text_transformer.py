"""SD3, Flux and PixArt as one object each: prompts, denoiser, pictures."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.diffusion import shift_grid, uniform_grid
from jaxlib_guidance.models.published._latents import (
    LatentTransformer,
    own_params,
    require_prompts,
)
from jaxlib_guidance.types import Array, PyTree

# What makes rows of token numbers from texts.
Tokenizer = Callable[[Sequence[str]], Any]
# Tokens of T5's texts in diffusers' pipelines, by the network's class.
LENGTHS = {"SD3": 256, "Flux": 512, "PixArt": 120}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextTransformer(LatentTransformer):
    """What SD3, Flux and PixArt share: text encoders, and conditions of texts.

    Attributes:
      text_encoders: Encoders by part: "text_encoder", ...; CLIP's, and T5's last.
      tokenizers: Tokenizers of these parts. Old folders of T5 have none that is read
        here, ``tokenizer.json``; a function of texts may take its place, by
        ``dataclasses.replace(model, tokenizers={..., "text_encoder_2": mine})``.
    """

    text_encoders: dict[str, Any] = dataclasses.field(default_factory=dict)
    tokenizers: dict[str, Tokenizer] = dataclasses.field(
        default_factory=dict, repr=False
    )

    @property
    def zeros(self) -> bool:
        """Whether no negative prompt means zeros: here it is the empty text."""
        return False

    def tokens(self, texts: Sequence[str]) -> dict[str, Array]:
        """Token numbers of texts for each text encoder, by part.

        Args:
          texts: Texts; each may be empty.

        Returns:
          int32 ``[B, T]`` by part.

        Raises:
          ValueError: A text encoder without a tokenizer, or none at all.
        """
        lacks = [name for name in self.text_encoders if name not in self.tokenizers]
        if lacks or not self.text_encoders:
            raise ValueError(
                f"{lacks or 'the model'} has no tokenizer; load its part, give "
                "model.tokenizers one, or give token numbers to condition"
            )
        return {
            name: jnp.asarray(self.tokenizers[name](texts), jnp.int32)
            for name in self.text_encoders
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
          negative: A negative text for all or one for each; None is the empty text.
          size: Height and width of the pictures in pixels, which PixArt of 1024 pixels
            is told; None is that of the training.

        Returns:
          ``(cond, null)`` for `sample` and `cfg`.

        Raises:
          TypeError: Texts that are no list of them.
          ValueError: No text; another number of negatives than of texts; a text encoder
            without a tokenizer.
        """
        texts, away = require_prompts(texts, negative)
        cond = self.condition(params, self.tokens(texts), size)
        null = self.condition(params, self.tokens(away), size)
        return cond, {k: jnp.broadcast_to(null[k], a.shape) for k, a in cond.items()}

    def condition(
        self,
        params: PyTree,
        tokens: dict[str, Array],
        size: tuple[int, int] | None = None,
    ) -> dict[str, Array]:
        """The condition of token numbers; jit it for many texts.

        Args:
          params: Parameters by part.
          tokens: Token numbers by part, from `tokens`.
          size: Height and width of the pictures in pixels; see `prompts`.
        """
        raise NotImplementedError

    def encoded(
        self, params: PyTree, name: str, tokens: dict[str, Array], *options: Any
    ) -> Any:
        """What a text encoder says of its token numbers."""
        apply: Any = self.text_encoders[name].apply
        return apply({"params": own_params(params, name)}, tokens[name], *options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StableDiffusion3(TextTransformer):
    """A published Stable Diffusion 3 or 3.5; see `LatentTransformer`.

    T5, by far its largest part, may be left out: its states are then zeros, as in
    training and in diffusers.
    """

    def c_noise(self, t: Array) -> Array:
        """The timestep, from 0 to 1000."""
        return 1000.0 * t

    def condition(
        self,
        params: PyTree,
        tokens: dict[str, Array],
        size: tuple[int, int] | None = None,
    ) -> dict[str, Array]:
        """The condition of token numbers; jit it for many texts.

        Args:
          params: Parameters by part.
          tokens: Token numbers by part, from `tokens`.
          size: Height and width of the pictures in pixels; see `prompts`.

        Returns:
          "text", the states of both CLIPs side by side, padded with zeros, and then
          those of T5; and "pooled", the vectors of both CLIPs.
        """
        both = [
            self.encoded(params, name, tokens)
            for name in ("text_encoder", "text_encoder_2")
        ]
        width = self.network.joint_attention_dim
        text = jnp.concatenate([each.hidden[-2] for each in both], -1)
        text = jnp.pad(text, ((0, 0), (0, 0), (0, width - text.shape[-1])))
        if "text_encoder_3" in self.text_encoders:
            long = self.encoded(params, "text_encoder_3", tokens).astype(text.dtype)
        else:
            long = jnp.zeros((len(text), LENGTHS["SD3"], width), text.dtype)
        return {
            "text": jnp.concatenate([text, long], 1),
            "pooled": jnp.concatenate([each.pooled for each in both], -1),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class FluxModel(TextTransformer):
    """A published Flux; see `LatentTransformer`.

    Attributes:
      guidance: Scale of guidance that a distilled network is told, where it has such
        an input (dev); that is not `cfg`.
    """

    guidance: float = 3.5

    def c_noise(self, t: Array) -> Array:
        """The time itself."""
        return t

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures, 1024 pixels; the folder does not say."""
        return 1024, 1024

    def grid(
        self,
        n: int,
        solver: str | None = None,
        size: tuple[int, int] | None = None,
        *,
        clipped: bool = False,
    ) -> Array:
        """The times of ``n`` steps as diffusers takes them.

        Args:
          n: Number of steps.
          solver: None: a flow has one rule.
          size: Height and width of the pictures in pixels, by which dev shifts its
            times; None is 1024.
          clipped: As for other models; a flow's scheduler never clips.

        Returns:
          Float32 ``[n + 1]``.
        """
        config, grid = self.scheduler.config, uniform_grid(self.process, n)
        if not config.get("use_dynamic_shifting"):
            return shift_grid(grid, float(config.get("shift", 1.0)))
        h, w, _ = self.latent(*(size or self.size))
        low, high = (config.get(f"{end}_image_seq_len") for end in ("base", "max"))
        low, high = low or 256, high or 4096
        first = float(config.get("base_shift", 0.5))
        last = float(config.get("max_shift", 1.15))
        slope = (last - first) / (high - low)
        return shift_grid(grid, math.exp(first + slope * (h * w / 4 - low)))

    def condition(
        self,
        params: PyTree,
        tokens: dict[str, Array],
        size: tuple[int, int] | None = None,
    ) -> dict[str, Array]:
        """The condition of token numbers; jit it for many texts.

        Args:
          params: Parameters by part.
          tokens: Token numbers by part, from `tokens`.
          size: Height and width of the pictures in pixels; see `prompts`.

        Returns:
          "text", T5's states; "pooled", CLIP's vector; and "guidance" where the network
          has such an input.
        """
        text = self.encoded(params, "text_encoder_2", tokens)
        pooled = self.encoded(params, "text_encoder", tokens).pooled
        cond = {"text": text, "pooled": pooled}
        if self.network.guidance_embeds:
            cond["guidance"] = jnp.full(len(text), self.guidance)
        return cond


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixArtModel(TextTransformer):
    """A published PixArt-alpha; see `LatentTransformer`."""

    def condition(
        self,
        params: PyTree,
        tokens: dict[str, Array],
        size: tuple[int, int] | None = None,
    ) -> dict[str, Array]:
        """The condition of token numbers; jit it for many texts.

        Args:
          params: Parameters by part.
          tokens: Token numbers by part, from `tokens`.
          size: Height and width of the pictures in pixels; see `prompts`.

        Returns:
          "text", T5's states; "text_mask", False on padding; and for networks of 1024
          pixels "resolution" and "aspect_ratio".
        """
        mask = tokens["text_encoder"] != 0
        text = self.encoded(params, "text_encoder", tokens, mask)
        cond = {"text": text, "text_mask": mask}
        if self.network.sized:
            height, width = size or self.size
            sides = jnp.asarray([height, width], jnp.float32)
            cond["resolution"] = jnp.broadcast_to(sides, (len(text), 2))
            cond["aspect_ratio"] = jnp.full((len(text), 1), height / width)
        return cond
