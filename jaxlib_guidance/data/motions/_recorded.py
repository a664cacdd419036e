"""Recorded clips of people from the package ``pybullet``, with words for what they do.

The package is never imported, its files of text are read: ``pip install --no-deps
pybullet``, or unpack its wheel. They are the reference motions of DeepMimic (arXiv
1804.02717): one recording for each action.
"""

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from jaxlib_guidance.data.motions._actions import MOTION_CHANNELS
from jaxlib_guidance.data.motions._clips import gathered, require_clips
from jaxlib_guidance.data.motions._motions import NUMBERS, Motions

# Actions, which name their files: the side that acts in the recording or None, and what
# rises once in each repetition. The other eight files turn over or lie down, or have
# arms that go all the way round, for which twelve numbers are too few.
CLIPS = {
    "walk": (None, "left knee"),
    "run": (None, "left hip"),
    "jump": (None, "height"),
    "kick": ("right", "lean"),
    "punch": ("right", "left hip"),
    "spin": (None, "lean"),
    "cartwheel": (None, "lean"),
}
RECORDED_ACTIONS = tuple(CLIPS)
"""Names of the actions of recorded motions, by label."""
RATE = 10.0  # Frames a second at the recording's own speed.
SPEEDS = {"fast": (1.3, 1.6), "": (0.9, 1.1), "slow": (0.6, 0.75)}
STANDING = 0.9  # Metres from the ground to the hips.
SIDEWAYS = 0.9  # Of an arm's length.
RAMP = 3  # Frames from rest to the action and back.
# Where a frame has what: of joints on one axis an angle, of others a quaternion.
ANGLES = {"right knee": 20, "right elbow": 29, "left knee": 34, "left elbow": 43}
TURNS = {
    "root": 4,
    "chest": 8,
    "right hip": 16,
    "right shoulder": 25,
    "left hip": 30,
    "left shoulder": 39,
}
FORWARD, UP, RIGHT = np.eye(3)


def load_motions(seed: int, count: int, frames: int = 48) -> Motions:
    """Draws clips of recorded people with words and a known truth.

    Each has one of `RECORDED_ACTIONS`, once or several times, between times of rest, at
    a speed that is drawn, mirrored or not: the recording is real, its repetition, speed
    and place are made, so that they are known. Of each action there is one recording,
    so what is learned of these clips proves nothing about other people.

    Args:
      seed: Of the clips.
      count: Number of clips ``N``.
      frames: Number of frames of a clip, ten for a second, at least 32.

    Returns:
      The clips, in the numbers of `MOTION_CHANNELS`. What rises once in each repetition
      of a recording, ``moved``, is not what moves most.

    Raises:
      ModuleNotFoundError: The package ``pybullet`` is not there.
      ValueError: Fewer frames, or a negative number of clips.
    """
    require_clips(frames, count, least=32)
    random = np.random.default_rng(seed)
    poses = np.zeros((count, frames, len(MOTION_CHANNELS)))
    texts, labels, counts, spans, moved = [], [], [], [], []
    for i in range(count):
        label = int(random.integers(len(CLIPS)))
        action, side = RECORDED_ACTIONS[label], str(random.choice(["left", "right"]))
        acting, rising = CLIPS[action]
        speed = str(random.choice(list(SPEEDS), p=(0.25, 0.5, 0.25)))
        recorded, seconds = _recording(action)
        length = seconds * RATE / random.uniform(*SPEEDS[speed])
        period = int(np.clip(round(length), 4, frames - 2))
        number = int(random.integers(1, min(5, (frames - 2) // period) + 1))
        one = _at(recorded, np.arange(period) / period)
        if side != (acting or "right"):
            one = _mirrored(one)
        whole = np.tile(one, (number, 1))
        edge = np.minimum(np.arange(1, len(whole) + 1), np.arange(len(whole), 0, -1))
        whole *= np.minimum(1, edge / (RAMP + 1))[:, None]
        first = int(random.integers(1, frames - len(whole)))
        poses[i, first : first + len(whole)] = whole
        words = [speed] if random.uniform() < 0.7 else []
        words += [action] + [side] * (acting is not None)
        words += [NUMBERS[number - 1]] if random.uniform() < 0.7 else []
        texts.append(" ".join(word for word in words if word))
        labels.append(label)
        counts.append(number)
        spans.append((first, first + len(whole)))
        moved.append(MOTION_CHANNELS.index(rising))
    return Motions(*gathered(poses, texts, labels, counts, spans, moved))


@cache
def _recording(name: str) -> tuple[np.ndarray, float]:
    """Poses ``[F, 12]`` of a file and the seconds that they take.

    Raises:
      ModuleNotFoundError: The package is not there.
    """
    spec = find_spec("pybullet_data")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "recorded motions are read from a package that is not installed: pip "
            "install --no-deps pybullet"
        )
    folder = Path(spec.submodule_search_locations[0]) / "data" / "motions"
    text = (folder / f"humanoid3d_{name}.txt").read_text(encoding="utf-8")
    table = np.array(json.loads(text)["Frames"], float)
    times = np.concatenate([[0], np.cumsum(table[:-1, 0])])
    # Even frames: those of a file may last differently.
    even = np.linspace(0, times[-1], len(times))
    poses = _poses(table)
    poses = np.stack([np.interp(even, times, column) for column in poses.T], 1)
    return poses, float(times[-1])


def _at(recorded, phases):
    """Poses at phases in [0, 1) of a recording."""
    places = phases * (len(recorded) - 1)
    own = np.arange(len(recorded))
    return np.stack([np.interp(places, own, column) for column in recorded.T], 1)


def _mirrored(poses):
    """Left and right exchanged."""
    swap = {"left": "right", "right": "left"}
    names = [" ".join(swap.get(w, w) for w in c.split()) for c in MOTION_CHANNELS]
    return poses[:, [MOTION_CHANNELS.index(name) for name in names]]


def _poses(table):
    """Numbers of `MOTION_CHANNELS` ``[F, 12]`` of frames of 44 numbers."""
    turns = {name: table[:, at : at + 4] for name, at in TURNS.items()}

    def turned(vector, *joints):
        for joint in reversed(joints):
            vector = _rotated(turns[joint], vector)
        return vector

    # Forward is where the hips point on the ground, whatever they lean.
    right = turned(RIGHT, "root") * (1 - UP)
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    forward = np.cross(UP, right)

    def angle(direction, upright):
        along = (direction * forward).sum(-1)
        return np.arctan2(along, upright * direction[:, 1])

    found = {
        "height": table[:, 2] / STANDING - 1,
        "lean": angle(turned(UP, "root", "chest"), 1),
    }
    for side, sign in (("left", -1), ("right", 1)):
        thigh = turned(-UP, "root", f"{side} hip")
        arm = turned(-UP, "root", "chest", f"{side} shoulder")
        found[f"{side} hip"] = angle(thigh, -1)
        outward = np.clip(sign * (arm * right).sum(-1), -1, 1)
        found[f"{side} raise"] = np.arcsin(outward)
        # An arm that points sideways has no angle forward: there it goes on evenly.
        told, frames = np.abs(outward) < SIDEWAYS, np.arange(len(table))
        swing = angle(arm, -1)[told]
        found[f"{side} shoulder"] = np.interp(frames, frames[told], swing)
        found[f"{side} knee"] = -table[:, ANGLES[f"{side} knee"]]
        found[f"{side} elbow"] = table[:, ANGLES[f"{side} elbow"]]
    return np.stack([found[name] for name in MOTION_CHANNELS], 1)


def _rotated(turn, vector):
    """Vectors ``[F, 3]`` or ``[3]`` turned by quaternions ``(w, x, y, z)``."""
    scalar, axis = turn[:, :1], turn[:, 1:]
    vector = np.broadcast_to(vector, axis.shape)
    across = np.cross(axis, vector)
    return vector + 2 * (scalar * across + np.cross(axis, across))
