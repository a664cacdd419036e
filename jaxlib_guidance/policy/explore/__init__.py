"""Exploration."""

from jaxlib_guidance.policy.explore._bandits import (
    DynLin,
    Ridge,
    dynlin_block,
    dynlin_radius,
    dynlin_step,
    init_dynlin,
    init_ridge,
    update_ridge,
    upper_bounds,
)
from jaxlib_guidance.policy.explore._counts import count_bonus

__all__ = [
    # Visit counts
    "count_bonus",
    # Linear bandits
    "Ridge",
    "init_ridge",
    "update_ridge",
    "upper_bounds",
    "DynLin",
    "init_dynlin",
    "dynlin_step",
    "dynlin_block",
    "dynlin_radius",
]
