"""Rewards along waypoints."""

import jax
import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.reduce import require_shape, sqrt
from jaxlib_guidance.types import Array, at_least_float32, concrete


def waypoint_index(points: Array, waypoints: Array, *, radius: float | Array) -> Array:
    """Waypoint that is next at each step: it moves on when one has been reached.

    Args:
      points: Where a key point is at each step, ``[T, D]``.
      waypoints: Places to pass in order, ``[W, D]``.
      radius: Distance at which a waypoint counts as reached, in the unit of ``points``.

    Returns:
      int32 ``[T]``, never falling, 0 to ``W - 1``: the last one stays.

    Raises:
      ValueError: Other shapes, a negative radius.
    """
    _require_places(points, waypoints, 1)
    require_range("radius", radius, 0)
    points, waypoints = at_least_float32(points), at_least_float32(waypoints)

    def step(index, point):
        near = jnp.linalg.norm(point - waypoints[index]) <= radius
        index = jnp.minimum(index + near.astype(jnp.int32), len(waypoints) - 1)
        return index, index

    return jax.lax.scan(step, jnp.int32(0), points)[1]


def waypoint_rewards(
    points: Array, waypoints: Array, index: Array, success: Array, *, scale: float = 1.0
) -> Array:
    """The sparse reward where it is not 0; else how near the next waypoint is, below 0.

    ``r = success > 0 ? success : -scale (|p - w_i| + sum_{j >= i} |w_{j+1} - w_j|) /
    L`` with ``L`` the length of the whole way: along the way it rises to 0.

    Args:
      points: Where a key point is after each step, ``[T, D]``.
      waypoints: Places to pass in order, ``[W, D]``, at least two, not all the same.
      index: Waypoint that is next, ``[T]``, from `waypoint_index`.
      success: Sparse reward of each step, ``[T]``.
      scale: Weight of the dense reward, at least 0; 0 leaves the sparse one.

    Returns:
      Float32 ``[T]``.

    Raises:
      ValueError: Mismatched shapes, an index that no waypoint has, a way of no length,
        a negative scale.

    Reference: KAGI, Lee et al., arXiv 2407.10341, for the switch; the distance is ours.
    """
    _require_places(points, waypoints, 2)
    steps = jnp.shape(points)[:1]
    require_shape("index", index, steps)
    require_range("index", index, 0, len(waypoints) - 1)
    require_shape("success", success, steps)
    require_range("scale", scale, 0)
    points, waypoints = at_least_float32(points), at_least_float32(waypoints)
    between = sqrt(jnp.sum(jnp.diff(waypoints, axis=0) ** 2, axis=-1))
    rest = jnp.append(jnp.cumsum(between[::-1])[::-1], 0.0)
    left = sqrt(jnp.sum((points - waypoints[index]) ** 2, axis=-1)) + rest[index]
    success = at_least_float32(success)
    return jnp.where(success > 0, success, -scale * left / rest[0])


def _require_places(points, waypoints, least):
    shapes = jnp.shape(points), jnp.shape(waypoints)
    if any(len(s) != 2 for s in shapes) or shapes[0][1] != shapes[1][1]:
        raise ValueError(
            f"points and waypoints have shapes {shapes[0]} and {shapes[1]}; expected "
            "[T, D] and [W, D]"
        )
    if shapes[1][0] < least:
        raise ValueError(f"waypoints are {shapes[1][0]}; expected at least {least}")
    known = concrete(waypoints)
    if least > 1 and known is not None and (known == known[:1]).all():
        raise ValueError("waypoints are all at one place; expected a way to go")
