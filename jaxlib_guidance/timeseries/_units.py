"""Sums of values in any unit: in units of 1e-30 or 1e30 they overflow or vanish."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxlib_guidance.types import Array


def unit_of(values: Array, axes: int | Sequence[int] | None = None) -> Array:
    """A power of two near the largest finite ``|value|``; 1 where all are 0.

    Sums, squares and means of ``values / unit`` stay within range, and since the unit
    is a power of two they are rounded exactly as those of ``values`` would be.

    Args:
      values: Array of any shape; NaN and infinite entries have no size.
      axes: Axes that share one unit; None for all.

    Returns:
      The unit, with ``axes`` kept as axes of length 1. It carries no gradient.
    """
    size = jnp.abs(jax.lax.stop_gradient(values))
    size = jnp.where(jnp.isfinite(size), size, 0)
    peak = jnp.max(size, axes, keepdims=True, initial=0)
    mantissa, _ = jnp.frexp(peak)
    some = peak > 0
    unit = jnp.where(some, peak / jnp.where(some, 2 * mantissa, 1), 1)
    # XLA may multiply by the reciprocal, which must not be below the normal numbers.
    smallest = jnp.finfo(unit.dtype).tiny
    return jnp.clip(unit, smallest, 0.5 / smallest)


def over(values: Array, scale: Array) -> Array:
    """``values / scale`` for scales of any size, of shapes that broadcast.

    In two steps: XLA may multiply by the reciprocal, and that of the largest scales is
    not a normal number.
    """
    unit = unit_of(scale, ())
    return values / unit / (scale / unit)
