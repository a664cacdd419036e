"""Parts of a single file, in which all tensors stand under the authors' names.

Most models of the community are passed on so. Such a file has no configuration and no
tokenizer: these are a folder's, of the model that it was tuned from.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxlib_guidance.files import CorruptFileError, load_safetensors
from jaxlib_guidance.models.published._folder import Part
from jaxlib_guidance.models.published._ldm import (
    published_autoencoder_name,
    published_unet_names,
)

# Where each part begins: of 1.x and 2.x, then of XL.
PREFIXES = {
    "unet": ("model.diffusion_model.",),
    "vae": ("first_stage_model.",),
    "text_encoder": (
        "cond_stage_model.transformer.",
        "cond_stage_model.model.",
        "conditioner.embedders.0.transformer.",
    ),
    "text_encoder_2": ("conditioner.embedders.1.model.",),
}
# OpenCLIP's names, whose projections of queries, keys and values are one tensor.
OPEN_CLIP = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
RESBLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
# What such files hold besides parameters.
BUFFERS = ("position_ids", "logit_scale", "attn_mask")


def open_single_file(
    path: str | os.PathLike, configs: Mapping[str, Mapping[str, Any]]
) -> dict[str, Part]:
    """The parts of a single file, under their published names; nothing is read yet.

    Args:
      path: A ``.safetensors`` file with the names of the latent diffusion repository.
      configs: Configuration of each part that is wanted, of "unet", "vae",
        "text_encoder", "text_encoder_2".

    Returns:
      A `Part` for each of ``configs``.

    Raises:
      FileNotFoundError: No such file.
      CorruptFileError: A damaged file, or one that lacks a part.
      ValueError: A part that such files do not have.
    """
    path = Path(path).expanduser()
    held, _ = load_safetensors(path)
    parts = {}
    for part, config in configs.items():
        if part not in PREFIXES:
            raise ValueError(f"part {part!r}; expected some of {tuple(PREFIXES)}")
        prefix = next(
            (p for p in PREFIXES[part] if any(name.startswith(p) for name in held)),
            None,
        )
        if prefix is None:
            raise CorruptFileError(
                f"{path} has no {part!r}: no tensor begins with {PREFIXES[part][0]!r}. "
                "Is the configuration of another model?"
            )
        own = {
            name.removeprefix(prefix): tensor
            for name, tensor in held.items()
            if name.startswith(prefix) and name.rpartition(".")[2] not in BUFFERS
        }
        parts[part] = Part(path, config, _renamed(part, prefix, own, config))
    return parts


def _renamed(part, prefix, own, config) -> dict[str, np.ndarray]:
    if part == "unet":
        layers = config.get("layers_per_block", 2)
        up = tuple("CrossAttn" in kind for kind in config["up_block_types"])
        names = published_unet_names(own, layers, up)
        return {names[name]: tensor for name, tensor in own.items()}
    if part == "vae":
        stages = len(config["block_out_channels"])
        return {published_autoencoder_name(n, stages): a for n, a in own.items()}
    return own if prefix.endswith("transformer.") else _open_clip(own, config)


def _open_clip(own, config):
    found = {}
    kinds = config.get("architectures") or ()
    for name, tensor in own.items():
        block = re.match(r"transformer\.resblocks\.(\d+)\.(.*)\.?(weight|bias)$", name)
        if name in OPEN_CLIP:
            found[OPEN_CLIP[name]] = tensor
        elif name == "text_projection":
            if "CLIPTextModelWithProjection" in kinds:
                found["text_projection.weight"] = tensor.T
        # Stable Diffusion 2 leaves the last of 24 layers out.
        elif block and int(block[1]) < config["num_hidden_layers"]:
            layer, module = f"encoder.layers.{block[1]}", block[2].rstrip(".")
            if module == "attn.in_proj_":
                for word, third in zip("qkv", np.split(tensor, 3), strict=True):
                    found[f"{layer}.self_attn.{word}_proj.{block[3]}"] = third
            else:
                found[f"{layer}.{RESBLOCK.get(module, module)}.{block[3]}"] = tensor
        elif not block:
            found[name] = tensor
    return found
