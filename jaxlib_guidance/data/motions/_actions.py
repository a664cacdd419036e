"""Actions as periodic motions of a skeleton's joints.

One cycle of an action is a function of its phase in [0, 1), which begins and ends at
rest. All are made up: nobody was recorded.
"""

from collections.abc import Callable

import numpy as np

MOTION_CHANNELS = (
    *("height", "lean"),
    *("left shoulder", "right shoulder", "left elbow", "right elbow"),
    *("left raise", "right raise"),
    *("left hip", "right hip", "left knee", "right knee"),
)
"""Names of a pose's numbers: a height in leg lengths, then angles in radians."""

SIDED = ("kick", "punch", "wave")
"""Actions of the left or the right."""


def _bump(phase):
    """Rises once from 0 to 1 and falls again."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * phase)


def _walk(phase, side):
    swing, bent = np.sin(2 * np.pi * phase), _bump(2 * phase)
    return {
        "left hip": 0.6 * swing,
        "right hip": -0.6 * swing,
        "left shoulder": -0.5 * swing,
        "right shoulder": 0.5 * swing,
        "left knee": 0.5 * bent * (swing > 0),
        "right knee": 0.5 * bent * (swing < 0),
    }


def _run(phase, side):
    swing, bent = np.sin(2 * np.pi * phase), _bump(2 * phase)
    held = np.minimum(1, 8 * np.minimum(phase, 1 - phase))
    return {
        "height": 0.15 * bent,
        "lean": 0.3 * held,
        "left hip": 1.0 * swing,
        "right hip": -1.0 * swing,
        "left shoulder": -0.9 * swing,
        "right shoulder": 0.9 * swing,
        "left elbow": 1.4 * held,
        "right elbow": 1.4 * held,
        "left knee": 1.2 * bent * (swing > 0),
        "right knee": 1.2 * bent * (swing < 0),
    }


def _jump(phase, side):
    up = _bump(phase)
    bent = _bump(2 * phase) * (phase < 0.25) + _bump(2 * phase) * (phase > 0.75)
    both = {"shoulder": 0.8 * up, "knee": 0.9 * bent, "hip": 0.5 * bent}
    return {"height": 0.6 * up - 0.2 * bent} | {
        f"{side} {joint}": angle
        for joint, angle in both.items()
        for side in ("left", "right")
    }


def _kick(phase, side):
    out = _bump(phase)
    return {
        f"{side} hip": 1.4 * out,
        f"{side} knee": 0.6 * np.sin(np.pi * phase) - 0.5 * out,
        "lean": -0.25 * out,
    }


def _punch(phase, side):
    out = _bump(phase)
    return {
        f"{side} shoulder": 1.5 * out,
        f"{side} elbow": 1.2 * np.sin(np.pi * phase) - 1.1 * out,
        "lean": 0.15 * out,
    }


def _wave(phase, side):
    out = _bump(phase)
    return {f"{side} raise": 1.6 * out, f"{side} elbow": 0.9 * out}


def _clap(phase, side):
    out = _bump(phase)
    return {
        f"{side} {joint}": size * out
        for joint, size in (("shoulder", 1.2), ("raise", 0.5), ("elbow", 0.5))
        for side in ("left", "right")
    }


def _bow(phase, side):
    down = _bump(phase)
    return {"lean": 1.2 * down, "left hip": 0.3 * down, "right hip": 0.3 * down}


ACTIONS: dict[str, Callable] = {
    "walk": _walk,
    "run": _run,
    "jump": _jump,
    "kick": _kick,
    "punch": _punch,
    "wave": _wave,
    "clap": _clap,
    "bow": _bow,
}
MOVED = {
    "walk": "left hip",
    "run": "left hip",
    "jump": "height",
    "kick": "hip",
    "punch": "shoulder",
    "wave": "raise",
    "clap": "left shoulder",
    "bow": "lean",
}


def cycle(action: str, side: str, phase: np.ndarray) -> np.ndarray:
    """Poses at phases in [0, 1) of an action's cycle.

    Args:
      action: One of `ACTIONS`.
      side: "left" or "right"; other actions than `SIDED` are the same for both.
      phase: Phases ``[N]``.

    Returns:
      Poses ``[N, 12]``, 0 at rest.
    """
    poses = np.zeros((len(phase), len(MOTION_CHANNELS)))
    for name, values in ACTIONS[action](phase, side).items():
        poses[:, MOTION_CHANNELS.index(name)] = values
    return poses


def moved_channel(action: str, side: str) -> int:
    """The channel that rises once in each cycle of an action."""
    name = MOVED[action]
    return MOTION_CHANNELS.index(f"{side} {name}" if action in SIDED else name)
