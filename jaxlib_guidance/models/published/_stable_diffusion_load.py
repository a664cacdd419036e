"""Stable Diffusion from its published folder."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.models.published._autoencoder import load_autoencoder
from jaxlib_guidance.models.published._clip_text import load_clip_text
from jaxlib_guidance.models.published._clip_tokens import load_clip_tokenizer
from jaxlib_guidance.models.published._folder import open_part, read_index, read_json
from jaxlib_guidance.models.published._scheduler import read_scheduler
from jaxlib_guidance.models.published._stable_diffusion import PARTS, StableDiffusion
from jaxlib_guidance.models.published._tensors import Place
from jaxlib_guidance.models.published._unet_load import load_unet
from jaxlib_guidance.types import PyTree


def load_stable_diffusion(
    folder: str | os.PathLike,
    *,
    dtype: Any = jnp.float32,
    sharding: Place = None,
    parts: Sequence[str] | None = None,
    variant: str | None = None,
) -> tuple[StableDiffusion, dict[str, PyTree]]:
    """Stable Diffusion 1.x, 2.x or XL from its folder; see `load_published`.

    Args:
      folder: Published folder.
      dtype: Type of the parameters and of the computation.
      sharding: Where the parameters go; see `fill`.
      parts: Parts to load, of "unet", "vae", "text_encoder", "text_encoder_2"; None
        loads all that there are.
      variant: Variant of the files, such as "fp16".

    Returns:
      ``(model, parameters by part)``.

    Raises:
      FileNotFoundError: A part, a tokenizer or a scheduler that is not there.
      CorruptFileError: Files that are damaged or do not fit each other.
      ValueError: A configuration that is not computed here, or unknown parts.
    """
    folder, index = Path(folder).expanduser(), read_index(folder)
    have = [part for part in PARTS if part in index]
    wanted = have if parts is None else list(parts)
    unknown = [part for part in wanted if part not in have]
    if unknown:
        raise ValueError(f"parts has {unknown}; expected some of {have}")
    path = folder / "scheduler" / "scheduler_config.json"
    found: dict[str, Any] = {"scheduler": read_scheduler(read_json(path), str(path))}
    params: dict[str, PyTree] = {}
    where = {"dtype": dtype, "sharding": sharding}

    def opened(name):
        return open_part(folder / name, variant=variant)

    if "unet" in wanted:
        found["unet"], params["unet"] = load_unet(opened("unet"), **where)
    if "vae" in wanted:
        (encoder, own), (decoder, other) = load_autoencoder(opened("vae"), **where)
        found |= {"encoder": encoder, "decoder": decoder}
        params["vae"] = {**own, **other}
    texts, tokenizers = [], []
    for i, name in enumerate(PARTS[2:]):
        if name not in wanted:
            continue
        module, params[name] = load_clip_text(opened(name), **where)
        texts.append(module)
        tokenizer = "tokenizer" if i == 0 else f"tokenizer_{i + 1}"
        tokenizers.append(load_clip_tokenizer(folder / tokenizer))
    zeros = read_json(folder / "model_index.json").get("force_zeros_for_empty_prompt")
    model = StableDiffusion(
        found.pop("unet", None),
        text_encoders=tuple(texts),
        tokenizers=tuple(tokenizers),
        zeros=bool(zeros),
        **found,
    )
    return model, params
