"""Motions of a skeleton."""

from jaxlib_guidance.data.motions._actions import MOTION_CHANNELS
from jaxlib_guidance.data.motions._motions import (
    MOTION_ACTIONS,
    Motions,
    make_motions,
)
from jaxlib_guidance.data.motions._recorded import RECORDED_ACTIONS, load_motions
from jaxlib_guidance.data.motions._skeleton import BONES, skeleton_positions

__all__ = [
    # Synthetic clips with words and a known truth
    "MOTION_ACTIONS",
    "MOTION_CHANNELS",
    "Motions",
    "make_motions",
    # Recorded clips of an installed package
    "RECORDED_ACTIONS",
    "load_motions",
    # A skeleton to draw
    "BONES",
    "skeleton_positions",
]
