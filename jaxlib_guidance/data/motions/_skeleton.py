"""Where the joints of a skeleton are, for pictures of it."""

import numpy as np

from jaxlib_guidance.data.motions._actions import MOTION_CHANNELS

BONES = (
    *((0, 1), (1, 2)),  # Trunk and head.
    *((1, 3), (3, 4), (4, 5), (1, 6), (6, 7), (7, 8)),  # Arms.
    *((0, 9), (9, 10), (10, 11), (0, 12), (12, 13), (13, 14)),  # Legs.
)
"""Pairs of joints that a bone joins, in the order of `skeleton_positions`."""


def skeleton_positions(poses: np.ndarray) -> np.ndarray:
    """Joints of poses in space, in leg lengths.

    Args:
      poses: Poses ``[..., 12]``, as of `Motions`.

    Returns:
      Positions ``[..., 15, 3]``, forward, to the left and up: hips, neck, head; then
      shoulder, elbow and hand, and hip, knee and foot, the left before the right.

    Raises:
      ValueError: Poses of another width.
    """
    poses = np.asarray(poses, float)
    if poses.shape[-1] != len(MOTION_CHANNELS):
        raise ValueError(f"poses has shape {poses.shape}; expected [..., 12]")
    at = dict(zip(MOTION_CHANNELS, np.moveaxis(poses, -1, 0), strict=True))

    def limb(start, first, second, raised, length):
        """Two bones that hang from a joint, swung forward and raised sideways."""
        joints = [start]
        for angle in (first, second):
            bone = [
                np.sin(angle) * np.cos(raised),
                np.sin(raised),
                -np.cos(angle) * np.cos(raised),
            ]
            joints.append(joints[-1] + length * np.stack(bone, -1))
        return joints

    zero = np.zeros(poses.shape[:-1])
    hips = np.stack([zero, zero, 1 + at["height"]], -1)
    trunk = np.stack([np.sin(at["lean"]), zero, np.cos(at["lean"])], -1)
    joints = [hips, hips + 0.6 * trunk, hips + 0.85 * trunk]
    for side, sign in (("left", 1), ("right", -1)):
        start = joints[1] + np.array([0, 0.2 * sign, 0])
        upper, bent = at[f"{side} shoulder"], at[f"{side} elbow"]
        raised = sign * at[f"{side} raise"]
        joints += limb(start, upper, upper + bent, raised, 0.33)
    for side, sign in (("left", 1), ("right", -1)):
        start = hips + np.array([0, 0.12 * sign, 0])
        upper, bent = at[f"{side} hip"], at[f"{side} knee"]
        joints += limb(start, upper, upper - bent, zero, 0.5)
    return np.stack(joints, -2)
