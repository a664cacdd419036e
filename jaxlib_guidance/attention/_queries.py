"""Self-attention maps by their queries and keys, which are far smaller than the map."""

import math

import jax
import jax.numpy as jnp

from jaxlib_guidance.attention._rows import rows_at_once
from jaxlib_guidance.types import Array

# Entries of two maps' rows that are held at once.
HELD = 2**22


def queries_and_keys(probs: Array) -> Array:
    """What to capture of a self-attention site in place of its map.

    Given to ``capture`` it makes `attend` return the queries and keys that its map is
    the softmax of, ``[B, 2, T, H, D]``, and no map is ever held. The whole map
    ``[B, H, T, T]`` is returned where it is no such softmax: for cross-attention, under
    a mask or an edit of the map, and from networks that cannot reduce what they return.

    Args:
      probs: A map, from those that cannot.

    Returns:
      The map.
    """
    return probs


def map_distance(one: Array, other: Array) -> Array:
    """``mean (A - B)^2`` of two maps, each by its queries and keys or as it is.

    Of queries and keys a few rows of the maps are made at a time, on the way back too.

    Args:
      one: ``[B, 2, T, H, D]``, as `queries_and_keys` captures it, or a map
        ``[B, H, T, T]``.
      other: Another of the same tokens, in either form.

    Returns:
      Float32 ``[B]``.

    Raises:
      ValueError: Two shapes.
    """
    if one.ndim != other.ndim:  # An edit has made a map of one of them.
        one, other = (
            x if x.ndim == 4 else _map(x[:, 0], x[:, 1]) for x in (one, other)
        )
    if one.shape != other.shape:
        raise ValueError(f"maps have shapes {one.shape} and {other.shape}")
    if one.ndim != 5:
        return jnp.mean(jnp.square(one - other), axis=tuple(range(1, one.ndim)))
    batch, _, tokens, heads, _ = one.shape
    rows = rows_at_once(tokens, heads * tokens, HELD)

    def parts(q):
        return jnp.moveaxis(q.reshape(batch, -1, rows, *q.shape[2:]), 1, 0)

    @jax.checkpoint
    def part(total, given):
        a, b = (
            _map(q, each[:, 1]) for q, each in zip(given, (one, other), strict=True)
        )
        return total + jnp.sum(jnp.square(a - b), axis=(1, 2, 3)), None

    total, _ = jax.lax.scan(
        part, jnp.zeros(batch), (parts(one[:, 0]), parts(other[:, 0]))
    )
    return total / (heads * tokens**2)


def _map(q, k):
    logits = jnp.einsum("bqhd,bmhd->bhqm", q, k, preferred_element_type=jnp.float32)
    return jax.nn.softmax(logits / math.sqrt(q.shape[-1]), axis=-1)
