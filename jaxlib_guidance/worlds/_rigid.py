"""Rigid motions in space: six numbers, or a matrix ``[4, 4]`` that moves and turns.

A motion is a way (3 numbers, any length) and a rotation vector (its axis times its
angle in rad), both in the frame of what moves. Matrices are a group under `compose`;
``relative(a, b)`` is the motion that brings ``a`` to ``b``, whatever frame they share.
"""

import jax.numpy as jnp

from jaxlib_guidance.types import Array
from jaxlib_guidance.worlds._checks import require_trailing


def matrix(motion: Array) -> Array:
    """The matrix of a motion.

    Args:
      motion: Way and rotation vector ``[..., 6]``.

    Returns:
      ``[..., 4, 4]``, the rotation by Rodrigues' formula.
    """
    require_trailing("motion", motion, (6,))
    motion = jnp.asarray(motion)
    way, turn = motion[..., :3], motion[..., 3:]
    square = jnp.sum(turn**2, -1)[..., None, None]
    small = square < 1e-6
    angle = jnp.sqrt(jnp.where(small, 1.0, square))
    first = jnp.where(small, 1 - square / 6, jnp.sin(angle) / angle)
    second = jnp.where(small, 0.5 - square / 24, (1 - jnp.cos(angle)) / angle**2)
    cross = _cross(turn)
    rotation = jnp.eye(3) + first * cross + second * (cross @ cross)
    return join(rotation, way)


def motion(matrix: Array) -> Array:
    """Way and rotation vector of a matrix, the inverse of `matrix`.

    Args:
      matrix: ``[..., 4, 4]``.

    Returns:
      ``[..., 6]``; the angle is 0 to pi, and at pi the axis has either sign.
    """
    require_trailing("matrix", matrix, (4, 4))
    matrix = jnp.asarray(matrix)
    r = matrix[..., :3, :3]
    # Quaternions four times over, each divided by another entry; the longest is exact
    # where others lose their digits.
    odd = jnp.stack(
        [r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0],
         r[..., 1, 0] - r[..., 0, 1]], -1,
    )  # fmt: skip
    trace = jnp.trace(r, axis1=-2, axis2=-1)[..., None, None]
    even = r + jnp.swapaxes(r, -1, -2) + (1 - trace) * jnp.eye(3)
    scalar = jnp.concatenate([1 + trace, odd[..., None, :]], -1)
    rest = jnp.concatenate([odd[..., :, None], even], -1)
    each = jnp.concatenate([scalar, rest], -2)
    longest = jnp.argmax(jnp.sum(each**2, -1), -1)[..., None, None]
    q = jnp.take_along_axis(each, longest, -2)[..., 0, :]
    q = q * jnp.where(q[..., :1] < 0, -1.0, 1.0)
    square = jnp.sum(q[..., 1:] ** 2, -1, keepdims=True)
    small = square < 1e-12 * q[..., :1] ** 2
    sine = jnp.sqrt(jnp.where(small, 1.0, square))
    by = jnp.where(small, 2 / q[..., :1], 2 * jnp.arctan2(sine, q[..., :1]) / sine)
    return jnp.concatenate([matrix[..., :3, 3], by * q[..., 1:]], -1)


def join(rotation: Array, way: Array) -> Array:
    """The matrix of a rotation ``[..., 3, 3]`` and a way ``[..., 3]``."""
    require_trailing("rotation", rotation, (3, 3))
    require_trailing("way", way, (3,))
    top = jnp.concatenate([rotation, way[..., None]], -1)
    last = jnp.broadcast_to(jnp.eye(4)[3:], (*top.shape[:-2], 1, 4))
    return jnp.concatenate([top, last], -2)


def compose(a: Array, b: Array) -> Array:
    """First ``a``, then ``b`` in the frame that ``a`` has led to: ``a @ b``."""
    require_trailing("a", a, (4, 4))
    require_trailing("b", b, (4, 4))
    return jnp.asarray(a) @ jnp.asarray(b)


def inverse(a: Array) -> Array:
    """The motion back, ``[..., 4, 4]``."""
    require_trailing("a", a, (4, 4))
    back = jnp.swapaxes(jnp.asarray(a)[..., :3, :3], -1, -2)
    return join(back, -(back @ jnp.asarray(a)[..., :3, 3:])[..., 0])


def relative(a: Array, b: Array) -> Array:
    """What brings ``a`` to ``b``: ``inverse(a) @ b``, so ``b = compose(a, it)``."""
    return compose(inverse(a), b)


def apart(a: Array, b: Array) -> tuple[Array, Array]:
    """How far two poses are apart.

    Args:
      a: Poses ``[..., 4, 4]``.
      b: Others.

    Returns:
      Distance of their places, in their unit, and angle between them in rad, ``[...]``.
    """
    between = motion(relative(a, b))
    norm = jnp.linalg.norm
    return norm(between[..., :3], axis=-1), norm(between[..., 3:], axis=-1)


def mean(poses: Array, weights: Array | None = None) -> Array:
    """The mean place, and the rotation nearest to the mean of rotations.

    Args:
      poses: ``[..., N, 4, 4]``.
      weights: ``[..., N]``, not all 0; None for equal ones.

    Returns:
      ``[..., 4, 4]``.
    """
    require_trailing("poses", poses, (4, 4))
    poses = jnp.asarray(poses)
    weights = jnp.ones(poses.shape[:-2]) if weights is None else jnp.asarray(weights)
    share = weights / jnp.sum(weights, -1, keepdims=True)
    middle = jnp.einsum("...n,...nij->...ij", share, poses)
    u, _, v = jnp.linalg.svd(middle[..., :3, :3])
    sign = jnp.sign(jnp.linalg.det(u @ v))
    u = u.at[..., 2].multiply(sign[..., None])
    return join(u @ v, middle[..., :3, 3])


def _cross(a):
    """The matrix that takes the cross product with ``a``."""
    x, y, z = jnp.moveaxis(a, -1, 0)
    zero = jnp.zeros_like(x)
    rows = [[zero, -z, y], [z, zero, -x], [-y, x, zero]]
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)
