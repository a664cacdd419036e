"""Attention of many tokens, whose map is made a few rows at a time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxlib_guidance.types import Array

# Entries of the map of a head that are held at once.
LARGE = 2**20
# Fewer rows at a time, of a prime number of tokens, would take too long.
FEW = 16


def by_rows(
    attention: Callable[..., Array], q: Array, k: Array, v: Array, bias: Array | None
) -> Array:
    """``attention(q, k, v, bias)``, a few queries at a time where the map is large.

    Args:
      attention: Function of these that gives ``[B, Q, H, D]``, each query by itself.
      q: Queries ``[B, Q, H, D]``.
      k: Keys ``[B, M, H, D]``.
      v: Values ``[B, M, H, D]``.
      bias: What is added to the logits, ``[B, 1, 1, M]``, or None.
    """
    tokens, keys = q.shape[1], k.shape[1]
    if tokens * keys < LARGE:
        return attention(q, k, v, bias)
    # A large map is made again on the way back, and not held for it.
    again = jax.checkpoint(attention)
    rows = rows_at_once(tokens, keys, LARGE)
    if rows == tokens or rows < FEW:
        return again(q, k, v, bias)
    parts = jnp.moveaxis(q.reshape(q.shape[0], -1, rows, *q.shape[2:]), 1, 0)
    out = jax.lax.map(lambda part: again(part, k, v, bias), parts)
    return jnp.moveaxis(out, 0, 1).reshape(*q.shape[:-1], v.shape[-1])


def rows_at_once(tokens: int, entries: int, held: int) -> int:
    """Most rows of a map that are made at once: a divisor of their number, at least 1.

    Args:
      tokens: Number of rows.
      entries: Entries of a row.
      held: Entries that may be held.
    """
    divisors = (n for n in range(1, tokens + 1) if tokens % n == 0)
    return max(n for n in divisors if n == 1 or n * entries <= held)
