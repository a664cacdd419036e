"""SD3, Flux and PixArt from their published folders."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.models.published._clip_text import CLIPText, load_clip_text
from jaxlib_guidance.models.published._clip_tokens import load_clip_tokenizer
from jaxlib_guidance.models.published._flux import load_flux
from jaxlib_guidance.models.published._folder import open_part
from jaxlib_guidance.models.published._latents import load_latent_parts, wanted_parts
from jaxlib_guidance.models.published._lora import LoRA
from jaxlib_guidance.models.published._lora_changes import changes_of, require_loaded
from jaxlib_guidance.models.published._pixart import load_pixart
from jaxlib_guidance.models.published._sd3 import load_sd3
from jaxlib_guidance.models.published._t5 import T5Encoder, load_t5
from jaxlib_guidance.models.published._t5_tokens import load_t5_tokenizer
from jaxlib_guidance.models.published._tensors import Place
from jaxlib_guidance.models.published._text_transformer import (
    LENGTHS,
    FluxModel,
    PixArtModel,
    StableDiffusion3,
    Tokenizer,
)
from jaxlib_guidance.types import PyTree


def load_stable_diffusion_3(
    folder: str | os.PathLike,
    *,
    dtype: Any = jnp.float32,
    sharding: Place = None,
    parts: Sequence[str] | None = None,
    variant: str | None = None,
    lora: Sequence[LoRA] = (),
) -> tuple[StableDiffusion3, dict[str, PyTree]]:
    """Stable Diffusion 3 or 3.5 from its folder; see `load_published`.

    Args:
      folder: Published folder.
      dtype: Type of the parameters and of the computation.
      sharding: Where the parameters go; see `fill`.
      parts: Parts to load, of "transformer", "vae", "text_encoder", "text_encoder_2",
        "text_encoder_3"; None loads all that there are.
      variant: Variant of the files, such as "fp16".
      lora: Changes to merge, from `read_lora`.

    Returns:
      ``(model, parameters by part)``.

    Raises:
      FileNotFoundError: A part, a tokenizer or a scheduler that is not there.
      CorruptFileError: Files that are damaged or do not fit each other.
      ValueError: A configuration that is not computed here, or unknown parts.
    """
    encoders = ("text_encoder", "text_encoder_2", "text_encoder_3")
    found, params = _load(
        "SD3", folder, encoders, dtype, sharding, parts, variant, lora
    )
    return StableDiffusion3(**found), params


def load_flux_model(
    folder: str | os.PathLike,
    *,
    dtype: Any = jnp.float32,
    sharding: Place = None,
    parts: Sequence[str] | None = None,
    variant: str | None = None,
    lora: Sequence[LoRA] = (),
) -> tuple[FluxModel, dict[str, PyTree]]:
    """Flux from its folder; see `load_published`.

    Args:
      folder: Published folder.
      dtype: Type of the parameters and of the computation.
      sharding: Where the parameters go; see `fill`.
      parts: Parts to load, of "transformer", "vae", "text_encoder", "text_encoder_2";
        None loads all that there are.
      variant: Variant of the files, such as "fp16".
      lora: Changes to merge, from `read_lora`.

    Returns:
      ``(model, parameters by part)``.

    Raises:
      FileNotFoundError: A part, a tokenizer or a scheduler that is not there.
      CorruptFileError: Files that are damaged or do not fit each other.
      ValueError: A configuration that is not computed here, or unknown parts.
    """
    encoders = ("text_encoder", "text_encoder_2")
    found, params = _load(
        "Flux", folder, encoders, dtype, sharding, parts, variant, lora
    )
    return FluxModel(**found), params


def load_pixart_model(
    folder: str | os.PathLike,
    *,
    dtype: Any = jnp.float32,
    sharding: Place = None,
    parts: Sequence[str] | None = None,
    variant: str | None = None,
    lora: Sequence[LoRA] = (),
) -> tuple[PixArtModel, dict[str, PyTree]]:
    """PixArt from its folder; see `load_published`.

    Args:
      folder: Published folder.
      dtype: Type of the parameters and of the computation.
      sharding: Where the parameters go; see `fill`.
      parts: Parts to load, of "transformer", "vae", "text_encoder"; None loads all that
        there are.
      variant: Variant of the files, such as "fp16".
      lora: Changes to merge, from `read_lora`.

    Returns:
      ``(model, parameters by part)``.

    Raises:
      FileNotFoundError: A part or a scheduler that is not there.
      CorruptFileError: Files that are damaged or do not fit each other.
      ValueError: A configuration that is not computed here, or unknown parts.
    """
    encoders = ("text_encoder",)
    found, params = _load(
        "PixArt", folder, encoders, dtype, sharding, parts, variant, lora
    )
    return PixArtModel(**found), params


def _load(kind, folder, encoders, dtype, sharding, parts, variant, lora):
    """The fields of a model, and parameters by part."""
    folder = Path(folder).expanduser()
    wanted = wanted_parts(folder, ("transformer", "vae", *encoders), parts)
    where = {"dtype": dtype, "sharding": sharding}
    found, params = load_latent_parts(folder, wanted, variant, where)
    opened = {
        name: open_part(folder / name, variant=variant)
        for name in wanted
        if name != "vae"
    }
    of_t5 = {n for n, part in opened.items() if part.config.get("model_type") == "t5"}
    require_loaded(lora, opened.keys() - of_t5)
    found["transformer"] = None
    if "transformer" in opened:
        part = opened["transformer"]
        load = {"SD3": load_sd3, "Flux": load_flux, "PixArt": load_pixart}[kind]
        change = changes_of(lora, "transformer", part.tensors)
        found["transformer"], params["transformer"] = load(part, change=change, **where)
    modules: dict[str, CLIPText | T5Encoder] = {}
    tokenizers: dict[str, Tokenizer] = {}
    for name in encoders:
        if name not in wanted:
            continue
        part = opened[name]
        path = folder / name.replace("text_encoder", "tokenizer")
        if name not in of_t5:
            change = changes_of(lora, name, part.tensors)
            modules[name], params[name] = load_clip_text(part, change=change, **where)
            tokenizers[name] = load_clip_tokenizer(path)
            continue
        modules[name], params[name] = load_t5(part, **where)
        if (path / "tokenizer.json").is_file():
            tokenizers[name] = load_t5_tokenizer(path, LENGTHS[kind])
    return found | {"text_encoders": modules, "tokenizers": tokenizers}, params
