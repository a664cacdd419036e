"""Environments with a known truth, each a namespace of pure functions."""

from jaxlib_guidance.worlds import _kuhn as kuhn

__all__ = ["kuhn"]
