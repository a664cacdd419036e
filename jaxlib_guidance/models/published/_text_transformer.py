"""Stable Diffusion 3 and Flux as one object each: prompts, denoiser, pictures."""

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.diffusion import shift_grid, uniform_grid
from jaxlib_guidance.models.published._clip_text import CLIPText, load_clip_text
from jaxlib_guidance.models.published._clip_tokens import load_clip_tokenizer
from jaxlib_guidance.models.published._flux import load_flux
from jaxlib_guidance.models.published._folder import open_part
from jaxlib_guidance.models.published._latents import (
    LatentTransformer,
    load_latent_parts,
    own_params,
    wanted_parts,
)
from jaxlib_guidance.models.published._sd3 import load_sd3
from jaxlib_guidance.models.published._t5 import T5Encoder, load_t5
from jaxlib_guidance.models.published._tensors import Place
from jaxlib_guidance.types import Array, PyTree

# What makes rows of token numbers from texts.
Tokenizer = Callable[[Sequence[str]], Any]
# Rows of states that stand for a T5 that was not loaded.
NO_T5 = 256


@dataclasses.dataclass(frozen=True)
class TextTransformer(LatentTransformer):
    """What SD3 and Flux share: text encoders, and conditions of texts.

    Attributes:
      text_encoders: Encoders by part: "text_encoder", ...; CLIP's, and T5's last.
      tokenizers: Tokenizers of as many parts; one may be given in place of a missing
        one, such as T5's, as a function of texts: ``dataclasses.replace(model,
        tokenizers={**model.tokenizers, "text_encoder_2": mine})``.
    """

    text_encoders: dict[str, Any] = dataclasses.field(default_factory=dict)
    tokenizers: dict[str, Tokenizer] = dataclasses.field(
        default_factory=dict, repr=False
    )

    def tokens(self, texts: Sequence[str]) -> dict[str, Array]:
        """Token numbers of texts for each text encoder, by part.

        Args:
          texts: Texts; each may be empty.

        Returns:
          int32 ``[B, T]`` by part.

        Raises:
          ValueError: A text encoder without a tokenizer, as T5's, which is not read
            here.
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
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Conditions of texts and of what to move away from.

        Args:
          params: Parameters by part.
          texts: A text for each picture.
          negative: A negative text for all or one for each; None is the empty text.

        Returns:
          ``(cond, null)`` for `sample` and `cfg`.

        Raises:
          ValueError: Another number of negatives than of texts; a text encoder without
            a tokenizer.
        """
        cond = self.condition(params, self.tokens(texts))
        one = negative is None or isinstance(negative, str)
        away = [negative or ""] if one else list(negative or ())
        if len(away) not in (1, len(texts)):
            raise ValueError(
                f"negative has {len(away)} texts; expected one or {len(texts)}"
            )
        null = self.condition(params, self.tokens(away))
        return cond, {k: jnp.broadcast_to(null[k], a.shape) for k, a in cond.items()}

    def condition(self, params: PyTree, tokens: dict[str, Array]) -> dict[str, Array]:
        """The condition of token numbers; jit it for many texts.

        Args:
          params: Parameters by part.
          tokens: Token numbers by part, from `tokens`.
        """
        raise NotImplementedError

    def encoded(self, params: PyTree, name: str, tokens: dict[str, Array]) -> Any:
        """What a text encoder says of its token numbers."""
        apply: Any = self.text_encoders[name].apply
        return apply({"params": own_params(params, name)}, tokens[name])


@dataclasses.dataclass(frozen=True)
class StableDiffusion3(TextTransformer):
    """A published Stable Diffusion 3 or 3.5; see `LatentTransformer`.

    T5, by far its largest part, may be left out: its states are then zeros, as in
    training and in diffusers.
    """

    def c_noise(self, t: Array) -> Array:
        """The timestep, from 0 to 1000."""
        return 1000.0 * t

    def condition(self, params: PyTree, tokens: dict[str, Array]) -> dict[str, Array]:
        """The condition of token numbers; jit it for many texts.

        Args:
          params: Parameters by part.
          tokens: Token numbers by part, from `tokens`.

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
            long = jnp.zeros((len(text), NO_T5, width), text.dtype)
        return {
            "text": jnp.concatenate([text, long], 1),
            "pooled": jnp.concatenate([each.pooled for each in both], -1),
        }


@dataclasses.dataclass(frozen=True)
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
    def size(self) -> int:
        """Side of the pictures, 1024 pixels; the folder does not say."""
        return 1024

    def grid(
        self,
        n: int,
        solver: str | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
    ) -> Array:
        """The times of ``n`` steps as diffusers takes them.

        Args:
          n: Number of steps.
          solver: None: a flow has one rule.
          height: Height of the pictures in pixels, by which dev shifts its times; None
            is 1024.
          width: Their width; None is the height.

        Returns:
          Float32 ``[n + 1]``.
        """
        config, grid = self.scheduler.config, uniform_grid(self.process, n)
        if not config.get("use_dynamic_shifting"):
            return shift_grid(grid, float(config.get("shift", 1.0)))
        h, w, _ = self.latent(height, width)
        low, high = (config.get(f"{end}_image_seq_len") for end in ("base", "max"))
        low, high = low or 256, high or 4096
        first = float(config.get("base_shift", 0.5))
        last = float(config.get("max_shift", 1.15))
        slope = (last - first) / (high - low)
        return shift_grid(grid, math.exp(first + slope * (h * w / 4 - low)))

    def condition(self, params: PyTree, tokens: dict[str, Array]) -> dict[str, Array]:
        """The condition of token numbers; jit it for many texts.

        Args:
          params: Parameters by part.
          tokens: Token numbers by part, from `tokens`.

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


def load_stable_diffusion_3(
    folder: str | os.PathLike,
    *,
    dtype: Any = jnp.float32,
    sharding: Place = None,
    parts: Sequence[str] | None = None,
    variant: str | None = None,
) -> tuple[StableDiffusion3, dict[str, PyTree]]:
    """Stable Diffusion 3 or 3.5 from its folder; see `load_published`.

    Args:
      folder: Published folder.
      dtype: Type of the parameters and of the computation.
      sharding: Where the parameters go; see `fill`.
      parts: Parts to load, of "transformer", "vae", "text_encoder", "text_encoder_2",
        "text_encoder_3"; None loads all that there are.
      variant: Variant of the files, such as "fp16".

    Returns:
      ``(model, parameters by part)``.

    Raises:
      FileNotFoundError: A part, a tokenizer or a scheduler that is not there.
      CorruptFileError: Files that are damaged or do not fit each other.
      ValueError: A configuration that is not computed here, or unknown parts.
    """
    encoders = ("text_encoder", "text_encoder_2", "text_encoder_3")
    found, params = _load(folder, load_sd3, encoders, dtype, sharding, parts, variant)
    return StableDiffusion3(**found), params


def load_flux_model(
    folder: str | os.PathLike,
    *,
    dtype: Any = jnp.float32,
    sharding: Place = None,
    parts: Sequence[str] | None = None,
    variant: str | None = None,
) -> tuple[FluxModel, dict[str, PyTree]]:
    """Flux from its folder; see `load_published`.

    Args:
      folder: Published folder.
      dtype: Type of the parameters and of the computation.
      sharding: Where the parameters go; see `fill`.
      parts: Parts to load, of "transformer", "vae", "text_encoder", "text_encoder_2";
        None loads all that there are.
      variant: Variant of the files, such as "fp16".

    Returns:
      ``(model, parameters by part)``.

    Raises:
      FileNotFoundError: A part, a tokenizer or a scheduler that is not there.
      CorruptFileError: Files that are damaged or do not fit each other.
      ValueError: A configuration that is not computed here, or unknown parts.
    """
    encoders = ("text_encoder", "text_encoder_2")
    found, params = _load(folder, load_flux, encoders, dtype, sharding, parts, variant)
    return FluxModel(**found), params


def _load(folder, network, encoders, dtype, sharding, parts, variant):
    folder = Path(folder).expanduser()
    wanted = wanted_parts(folder, ("transformer", "vae", *encoders), parts)
    where = {"dtype": dtype, "sharding": sharding}
    found, params = load_latent_parts(folder, wanted, variant, where)
    found["transformer"] = None
    if "transformer" in wanted:
        part = open_part(folder / "transformer", variant=variant)
        found["transformer"], params["transformer"] = network(part, **where)
    modules: dict[str, CLIPText | T5Encoder] = {}
    tokenizers: dict[str, Tokenizer] = {}
    for name in encoders:
        if name not in wanted:
            continue
        part = open_part(folder / name, variant=variant)
        if part.config.get("model_type") == "t5":
            modules[name], params[name] = load_t5(part, **where)
            continue
        modules[name], params[name] = load_clip_text(part, **where)
        path = folder / name.replace("text_encoder", "tokenizer")
        tokenizers[name] = load_clip_tokenizer(path)
    return found | {"text_encoders": modules, "tokenizers": tokenizers}, params
