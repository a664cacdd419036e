"""Stable Diffusion from its published folder."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.models.published._autoencoder import load_autoencoder
from jaxlib_guidance.models.published._clip_text import load_clip_text
from jaxlib_guidance.models.published._clip_tokens import load_clip_tokenizer
from jaxlib_guidance.models.published._folder import (
    Part,
    open_part,
    read_index,
    read_json,
)
from jaxlib_guidance.models.published._ldm import ldm_unet_name
from jaxlib_guidance.models.published._lora import LoRA
from jaxlib_guidance.models.published._lora_changes import changes_of, require_loaded
from jaxlib_guidance.models.published._scheduler import read_scheduler
from jaxlib_guidance.models.published._single_file import open_single_file
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
    lora: Sequence[LoRA] = (),
    single_file: str | os.PathLike | None = None,
) -> tuple[StableDiffusion, dict[str, PyTree]]:
    """Stable Diffusion 1.x, 2.x or XL from its folder; see `load_published`.

    Args:
      folder: Published folder.
      dtype: Type of the parameters and of the computation.
      sharding: Where the parameters go; see `fill`.
      parts: Parts to load, of "unet", "vae", "text_encoder", "text_encoder_2"; None
        loads all that there are.
      variant: Variant of the files, such as "fp16".
      lora: Changes to merge, from `read_lora`.
      single_file: File with the weights of all parts under the authors' names, in place
        of the folder's, which then need not hold any.

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
    config = read_json(path)
    if "text_encoder_2" not in have:
        # As in diffusers' pipelines of 1.x and 2.x, whatever the file says.
        config["clip_sample"] = False
    found: dict[str, Any] = {"scheduler": read_scheduler(config, str(path))}
    params: dict[str, PyTree] = {}
    where = {"dtype": dtype, "sharding": sharding}

    require_loaded(lora, set(wanted) - {"vae"})

    single: dict[str, Part] = {}
    if single_file is not None:
        configs = {name: read_json(folder / name / "config.json") for name in wanted}
        single = open_single_file(single_file, configs)

    def opened(name):
        return single.get(name) or open_part(folder / name, variant=variant)

    if "unet" in wanted:
        part = opened("unet")
        aliases = _ldm_names(part.config)
        change = changes_of(lora, "unet", part.tensors, aliases)
        found["unet"], params["unet"] = load_unet(part, change=change, **where)
    if "vae" in wanted:
        (encoder, own), (decoder, other) = load_autoencoder(opened("vae"), **where)
        found |= {"encoder": encoder, "decoder": decoder}
        params["vae"] = {**own, **other}
    texts, tokenizers = [], []
    for i, name in enumerate(PARTS[2:]):
        if name not in wanted:
            continue
        part = opened(name)
        change = changes_of(lora, name, part.tensors)
        module, params[name] = load_clip_text(part, change=change, **where)
        texts.append(module)
        tokenizer = "tokenizer" if i == 0 else f"tokenizer_{i + 1}"
        tokenizers.append(load_clip_tokenizer(folder / tokenizer))
    zeros = read_json(folder / "model_index.json").get("force_zeros_for_empty_prompt")
    model = StableDiffusion(
        unet=found.pop("unet", None),
        text_encoders=tuple(texts),
        tokenizers=tuple(tokenizers),
        zeros=bool(zeros),
        **found,
    )
    return model, params


def _ldm_names(config):
    """Names of the authors' code for a module, where layers are alike."""
    layers, up = config.get("layers_per_block", 2), config.get("up_block_types", ())
    if not isinstance(layers, int):
        return lambda module: ()
    attention = tuple("CrossAttn" in kind for kind in up)
    return lambda module: (ldm_unet_name(module, layers, attention),)
