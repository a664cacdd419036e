"""DiT from its authors' `.pt` files, under the names that the network has."""

import os
import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.files import CorruptFileError, load_torch
from jaxlib_guidance.models.published._dit_xl import DiTXL, load_dit_xl
from jaxlib_guidance.models.published._folder import Part
from jaxlib_guidance.models.published._tensors import Place
from jaxlib_guidance.types import PyTree

# Leading parts of names outside of the blocks, theirs and the network's.
OUTSIDE = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.linear": "proj_out_2",
    "final_layer.adaLN_modulation.1": "proj_out_1",
}
# What each block of the network has, and the file once.
EMBEDDED = {
    "t_embedder.mlp.0": "timestep_embedder.linear_1",
    "t_embedder.mlp.2": "timestep_embedder.linear_2",
    "y_embedder.embedding_table": "class_embedder.embedding_table",
}
INSIDE = {
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
    "adaLN_modulation.1": "norm1.linear",
}


def load_dit_authors(
    path: str | os.PathLike,
    *,
    heads: int = 16,
    dtype: Any = jnp.float32,
    sharding: Place = None,
) -> tuple[DiTXL, PyTree]:
    """DiT and its parameters from the authors' ``.pt`` file, without PyTorch.

    Args:
      path: File such as ``DiT-XL-2-256x256.pt``, or a checkpoint of their training with
        averaged weights under "ema", which are then taken.
      heads: Number of attention heads, which the file does not say: 16 for XL and L, 12
        for B, 6 for S.
      dtype: Type of the parameters and of the computation.
      sharding: Where the parameters go; see `fill`.

    Returns:
      ``(module, parameters)``; sizes are those of the tensors.

    Raises:
      ValueError: ``heads`` that do not divide the width.
      CorruptFileError: A file that cannot be read, or tensors that do not fit.
    """
    tensors, _ = load_torch(path)
    averaged = {n[4:]: a for n, a in tensors.items() if n.startswith("ema.")}
    tensors = averaged or tensors
    try:
        width, channels, patch, _ = tensors["x_embedder.proj.weight"].shape
        places = tensors.pop("pos_embed").shape[1]
        classes = tensors["y_embedder.embedding_table.weight"].shape[0] - 1
        out = tensors["final_layer.linear.weight"].shape[0]
    except (KeyError, ValueError, IndexError) as error:
        raise CorruptFileError(f"{path} is no DiT of its authors ({error})") from error
    if width % heads:
        raise ValueError(f"heads is {heads}, which does not divide the width {width}")
    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    config = {
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
        "in_channels": channels,
        "out_channels": out // patch**2,
        "num_layers": depth,
        "sample_size": round(places**0.5) * patch,
        "patch_size": patch,
        "num_embeds_ada_norm": classes,
    }
    named = dict(item for each in tensors.items() for item in _renamed(*each, depth))
    return load_dit_xl(Part(Path(path), config, named), dtype=dtype, sharding=sharding)


def _renamed(name: str, tensor: np.ndarray, depth: int):
    """The names that a tensor has in the network, with its parts."""
    module, _, leaf = name.rpartition(".")
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)", module)
    if module in EMBEDDED:
        for i in range(depth):
            place = f"transformer_blocks.{i}.norm1.emb"
            yield f"{place}.{EMBEDDED[module]}.{leaf}", tensor
    elif block is None:
        yield f"{OUTSIDE.get(module, module)}.{leaf}", tensor
    elif block[2] == "attn.qkv":
        for part, own in zip("qkv", np.split(tensor, 3), strict=True):
            yield f"transformer_blocks.{block[1]}.attn1.to_{part}.{leaf}", own
    else:
        inside = INSIDE.get(block[2], block[2])
        yield f"transformer_blocks.{block[1]}.{inside}.{leaf}", tensor
