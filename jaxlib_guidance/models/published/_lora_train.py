"""Low-rank changes of a published model as parameters to train, and their file.

The changes are a pytree beside the frozen weights: a loss takes the gradient by them
alone, through `merge_lora`, in any train step or policy gradient. What is written is
read by diffusers, and by `read_lora`.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from jaxlib_guidance.models.published._lora import ABOUT, PARTS
from jaxlib_guidance.models.published._tensors import tensor_name
from jaxlib_guidance.types import Array, PyTree

# What is tuned by default: attention, to itself and to the text.
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
Factors = Mapping[str, Mapping[str, Array]]


def init_lora(
    key: Array, params: PyTree, rank: int = 4, targets: Sequence[str] = ATTENTION
) -> dict[str, dict[str, Array]]:
    """Changes of a published network's layers, which change nothing yet.

    Args:
      key: One typed key.
      params: Parameters of one part, such as ``params["unet"]``.
      rank: Largest rank of each change.
      targets: Ends of the names of the layers to change; by default those of attention.

    Returns:
      By published name of each layer ``{"a" [in, rank], "b" [rank, out]}``, float32,
      with ``b = 0``; ``in`` counts the pixels of a convolution.

    Raises:
      ValueError: A rank below 1, or targets that select no layer.

    Reference: Hu et al., LoRA, arXiv 2106.09685.
    """
    if rank < 1:
        raise ValueError(f"rank is {rank}; expected at least 1")
    factors = {}
    for name, kernel in _kernels(params):
        if not name.endswith(tuple(f".{each}" for each in targets)):
            continue
        width, out = math.prod(kernel.shape[:-1]), kernel.shape[-1]
        own = jax.random.fold_in(key, len(factors))
        bound = (3 / width) ** 0.5
        a = jax.random.uniform(own, (width, rank), jnp.float32, -bound, bound)
        factors[name] = {"a": a, "b": jnp.zeros((rank, out))}
    if not factors:
        raise ValueError(f"targets {tuple(targets)} select no layer of params")
    return factors


def merge_lora(params: PyTree, factors: Factors, alpha: float | None = None) -> PyTree:
    """``W + alpha / rank A B`` for the layers that are changed.

    The sum is rounded to the type of ``W``: in bfloat16 changes below a 256th of a
    weight are lost, so train in float32.

    Args:
      params: Parameters of one part, which stay as they are.
      factors: Changes, from `init_lora`.
      alpha: Scale of the changes; None is the rank, a factor of 1.

    Returns:
      Parameters of the structure and types of ``params``.

    Raises:
      ValueError: A change of a layer that ``params`` does not have, or of another
        shape.

    Reference: Hu et al., LoRA, arXiv 2106.09685.
    """
    unknown = set(factors) - {name for name, _ in _kernels(params)}
    if unknown:
        raise ValueError(f"factors change {sorted(unknown)[:3]}, no layers of params")
    _require_shapes(factors, {name: kernel.shape for name, kernel in _kernels(params)})

    def merged(path, leaf):
        own = factors.get(tensor_name(path).removesuffix(".weight"))
        if own is None or path[-1].key != "kernel":
            return leaf
        rank = own["a"].shape[-1]
        change = (own["a"] @ own["b"]).reshape(leaf.shape)
        factor = 1.0 if alpha is None else alpha / rank
        return (leaf.astype(jnp.float32) + factor * change).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(merged, params)


def write_lora(
    path: str | os.PathLike,
    params: PyTree,
    factors: Factors,
    *,
    part: str = "unet",
    alpha: float | None = None,
) -> None:
    """Writes changes in peft's layout, which diffusers' ``load_lora_weights`` reads.

    Args:
      path: File to write, with the suffix ``.safetensors``.
      params: Parameters of the part, whose shapes say what is a convolution.
      factors: Changes, from `init_lora`.
      part: Part that is changed: "unet", "transformer", "text_encoder" or
        "text_encoder_2".
      alpha: Scale of the changes; None is the rank.

    Raises:
      ValueError: Another suffix or part, no changes, changes of other parameters, or of
        several ranks.
    """
    path = Path(path).expanduser()
    if path.suffix != ".safetensors" or part not in PARTS.values():
        raise ValueError(
            f"path is '{path}' and part {part!r}; expected a name that ends in "
            f".safetensors, and one of {sorted(set(PARTS.values()))}"
        )
    shapes = {name: kernel.shape for name, kernel in _kernels(params)}
    lacks = set(factors) - set(shapes)
    if lacks:
        raise ValueError(f"factors change {sorted(lacks)[:3]}, no layers of params")
    _require_shapes(factors, shapes)
    held, ranks = {}, {}
    for name, own in factors.items():
        a, b = (np.asarray(own[key], np.float32) for key in ("a", "b"))
        *pixels, width, _ = shapes[name]
        ranks[name] = a.shape[-1]
        down = a.reshape(*pixels, width, -1)
        # Flax's [h, w, in, rank] as PyTorch's [rank, in, h, w].
        down = down.transpose(*range(down.ndim)[::-1][:2], *range(len(pixels)))
        up = b.T.reshape(*b.T.shape, *(1 for _ in pixels))
        start = f"{part}.{'text_model.' * part.startswith('text')}{name}"
        held[f"{start}.lora_A.weight"] = np.ascontiguousarray(down)
        held[f"{start}.lora_B.weight"] = np.ascontiguousarray(up)
    if len(set(ranks.values())) != 1:
        raise ValueError(
            f"factors have ranks {sorted(set(ranks.values()))}; expected layers of one "
            "rank"
        )
    (rank,) = set(ranks.values())
    about = {
        f"{part}.r": rank,
        f"{part}.lora_alpha": rank if alpha is None else float(alpha),
        f"{part}.target_modules": sorted(factors),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(held, path, metadata={"format": "pt", ABOUT: json.dumps(about)})


def _require_shapes(factors, shapes):
    """Raises unless each change is ``[in, rank]`` and ``[rank, out]`` of its layer."""
    for name, own in factors.items():
        width, out = math.prod(shapes[name][:-1]), shapes[name][-1]
        a, b = (jnp.shape(own.get(key, ())) for key in ("a", "b"))
        if len(a) != 2 or a[0] != width or b != (a[1], out):
            raise ValueError(
                f"factors of {name!r} have shapes a {a} and b {b}; expected "
                f"({width}, rank) and (rank, {out})"
            )


def _kernels(params):
    """Published name and kernel of each layer."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if path[-1].key == "kernel":
            yield tensor_name(path).removesuffix(".weight"), leaf
