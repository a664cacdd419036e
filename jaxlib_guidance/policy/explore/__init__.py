"""Exploration."""

from jaxlib_guidance.policy.explore._counts import count_bonus

__all__ = [
    # Visit counts
    "count_bonus",
]
