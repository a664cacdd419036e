"""Environments with a known truth, each a namespace of pure functions."""

from jaxlib_guidance.worlds import _chains as chains
from jaxlib_guidance.worlds import _craft as craft
from jaxlib_guidance.worlds import _dynamical_bandit as dynamical_bandit
from jaxlib_guidance.worlds import _grids as grids
from jaxlib_guidance.worlds import _key_door as key_door
from jaxlib_guidance.worlds import _kuhn as kuhn
from jaxlib_guidance.worlds import _linear_game as linear_game
from jaxlib_guidance.worlds import _social_dilemma as social_dilemma
from jaxlib_guidance.worlds import _sums as sums
from jaxlib_guidance.worlds import _tables as tables

__all__ = [
    "chains",
    "craft",
    "dynamical_bandit",
    "grids",
    "key_door",
    "kuhn",
    "linear_game",
    "social_dilemma",
    "sums",
    "tables",
]
