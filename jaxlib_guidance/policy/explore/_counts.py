"""Bonuses for what was visited rarely."""

import jax.numpy as jnp

from jaxlib_guidance.types import Array, at_least_float32


def count_bonus(visits: Array, *, lam: float = 1.0, most: float = 1.0) -> Array:
    """``lam / sqrt((lam / most)^2 + N)``: ``most`` for a new state, then less and less.

    Args:
      visits: ``N``, any shape.
      lam: Its size far out.
      most: Its size at 0.

    Reference: ExploRS, Devidze et al., NeurIPS 2022.
    """
    return lam / jnp.sqrt((lam / most) ** 2 + at_least_float32(visits))
