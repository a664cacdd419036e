"""Clips of a skeleton that acts, with words and a known truth; synthetic."""

from typing import NamedTuple

import numpy as np

from jaxlib_guidance.data.motions._actions import (
    ACTIONS,
    MOTION_CHANNELS,
    SIDED,
    cycle,
    moved_channel,
)
from jaxlib_guidance.data.motions._clips import gathered, require_clips

MOTION_ACTIONS = tuple(ACTIONS)
"""Names of the actions of motions, by label."""
NUMBERS = ("one", "two", "three", "four", "five")
# Frames of a cycle, by the word that says so.
PERIODS = {"fast": (6, 7), "": (8, 10), "slow": (11, 13)}
SIZES = {"low": (0.5, 0.65), "": (0.9, 1.1), "high": (1.4, 1.6)}


class Motions(NamedTuple):
    """Clips, each of an action that is repeated in a part of it, with rest around.

    Attributes:
      poses: Float32 ``[N, frames, 12]``: a height in leg lengths, then angles in
        radians, all 0 at rest; see `skeleton_positions`.
      texts: Words of each clip, ``N`` texts: the action, and at times its side, size,
        speed and number.
      labels: Actions int32 ``[N]``, indices into `MOTION_ACTIONS`.
      counts: Number of repetitions int32 ``[N]``.
      spans: First frame of the action and the one after its last, int32 ``[N, 2]``.
      moved: The channel that rises once in each repetition, int32 ``[N]``.
    """

    poses: np.ndarray
    texts: tuple[str, ...]
    labels: np.ndarray
    counts: np.ndarray
    spans: np.ndarray
    moved: np.ndarray


def make_motions(seed: int, count: int, frames: int = 48) -> Motions:
    """Draws clips of a synthetic skeleton with words and a known truth.

    Each has one of eight actions, one to five times, between times of rest: a cycle
    lasts 6 to 13 frames. Sizes, periods and places are drawn; the repetitions of a clip
    are alike but for a tenth of their size. Nobody was recorded, so what these motions
    look like proves nothing about people; number, place and kind of the actions are
    known exactly.

    Args:
      seed: Of the clips.
      count: Number of clips ``N``.
      frames: Number of frames of a clip, at least 16.

    Returns:
      The clips.

    Raises:
      ValueError: Fewer frames, or a negative number of clips.

    Example:
      >>> from jaxlib_guidance.data import make_motions
      >>> motions = make_motions(0, 3)
      >>> motions.poses.shape, motions.texts[0].split()[-1] != ""
      ((3, 48, 12), True)
    """
    require_clips(frames, count, least=16)
    random = np.random.default_rng(seed)
    poses = np.zeros((count, frames, len(MOTION_CHANNELS)))
    texts, labels, counts, spans, moved = [], [], [], [], []
    for i in range(count):
        label = int(random.integers(len(ACTIONS)))
        action, side = MOTION_ACTIONS[label], str(random.choice(["left", "right"]))
        speed = str(random.choice(list(PERIODS), p=(0.25, 0.5, 0.25)))
        size = str(random.choice(list(SIZES), p=(0.25, 0.5, 0.25)))
        period = int(random.integers(PERIODS[speed][0], PERIODS[speed][1] + 1))
        number = int(random.integers(1, min(5, (frames - 2) // period) + 1))
        first = int(random.integers(1, frames - number * period))
        one = cycle(action, side, np.arange(period) / period)
        each = random.uniform(*SIZES[size]) * random.uniform(0.95, 1.05, number)
        whole = np.concatenate([scale * one for scale in each])
        poses[i, first : first + len(whole)] = whole
        words = [size, speed] if random.uniform() < 0.7 else []
        words += [side] if action in SIDED else []
        words += [action]
        words += [NUMBERS[number - 1]] if random.uniform() < 0.7 else []
        texts.append(" ".join(word for word in words if word))
        labels.append(label)
        counts.append(number)
        spans.append((first, first + len(whole)))
        moved.append(moved_channel(action, side))
    return Motions(*gathered(poses, texts, labels, counts, spans, moved))
