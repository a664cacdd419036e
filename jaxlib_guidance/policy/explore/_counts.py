"""Bonuses for what was visited rarely."""

import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.types import Array, at_least_float32


def count_bonus(visits: Array, *, lam: float = 1.0, max_bonus: float = 1.0) -> Array:
    """``lam / sqrt((lam / max_bonus)^2 + N)``: starts at ``max_bonus`` and falls.

    Args:
      visits: Number of visits ``N`` of each state, of any shape.
      lam: Factor of the bonus, positive: at many visits ``N`` the bonus is ``lam /
        sqrt(N)``.
      max_bonus: Bonus of a state without a visit, positive.

    Returns:
      Float32 of the shape of ``visits``.

    Reference: ExploRS, Devidze et al., NeurIPS 2022.
    """
    require_range("visits", visits, 0)
    require_range("lam", lam, 0, inside=True)
    require_range("max_bonus", max_bonus, 0, inside=True)
    return lam / jnp.sqrt((lam / max_bonus) ** 2 + at_least_float32(visits))
