"""Layers of this room's small networks, as a plain tree."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.types import Array


def init_layers(key: Array, entries: int, outputs: int, widths: Sequence[int]) -> Any:
    """Layers ``{"layer0": {"kernel", "bias"}, ...}``, the last of which is 0."""
    sizes = [entries, *widths, outputs]
    layers = {}
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        last = i == len(widths)
        noise = jax.random.normal(jax.random.fold_in(key, i), (a, b))
        kernel = jnp.zeros((a, b)) if last else noise * (2 / a) ** 0.5
        layers[f"layer{i}"] = {"kernel": kernel, "bias": jnp.zeros(b)}
    return layers


def apply_layers(params: Any, x: Array) -> Array:
    """``[..., outputs]`` of ``[..., entries]``, with SiLU between the layers."""
    for i in range(len(params)):
        layer = params[f"layer{i}"]
        x = x @ layer["kernel"] + layer["bias"]
        x = x if i == len(params) - 1 else jax.nn.silu(x)
    return x
