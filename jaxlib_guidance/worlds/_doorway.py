"""A point that walks to a goal behind a wall with one door; the shortest way is known.

The unit square is split by a wall at ``x = 0.5`` whose door spans ``door``. An action
is a step of at most ``speed``; a step against the wall stops in front of it. The
geodesic distance has a closed form, so the best policy and its number of steps are
known everywhere.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance.reduce import require_shape, sqrt
from jaxlib_guidance.types import Array
from jaxlib_guidance.worlds._checks import at_most_one
from jaxlib_guidance.worlds._picture import disc, paper

WALL = 0.5


class World(NamedTuple):
    """Parameters of the doorway.

    Attributes:
      goal: Place of the goal, ``[2]``.
      door: Lower and upper end of the door, ``[2]``.
      speed: Longest step, scalar.
      radius: Distance from the goal that counts as there, scalar.
    """

    goal: Array
    door: Array
    speed: Array
    radius: Array


def default() -> World:
    """A goal low on the right, a door high in the wall, steps of 0.05."""
    point = jnp.array([0.85, 0.15], jnp.float32)
    door = jnp.array([0.6, 0.75], jnp.float32)
    return World(point, door, jnp.float32(0.05), jnp.float32(0.05))


def distance(world: World, position: Array) -> Array:
    """Length of the shortest way to the goal.

    Args:
      world: The world.
      position: Where the way begins, ``[2]``.

    Returns:
      A scalar: of the straight line, or of the way round the nearer end of the door.
    """
    return _way(world, position)[0]


def guide(world: World, position: Array, *, margin: float = 0.02) -> Array:
    """Unit vector along the shortest way: the best policy, up to the door's corners.

    Args:
      world: The world.
      position: Where the point is, ``[2]``.
      margin: How far inside of the door's ends the way is aimed.

    Returns:
      ``[2]``.
    """
    inner = world.door + margin * jnp.array([1.0, -1.0])
    aim = _way(world._replace(door=inner), position)[1]
    away = aim - position
    return away / jnp.maximum(jnp.linalg.norm(away), 1e-6)


def _way(world, position):
    """Length of the shortest way, and the point that it is straight to."""
    require_shape("position", position, (2,))
    straight = sqrt(jnp.sum((world.goal - position) ** 2))
    through = _crosses_at(position, world.goal)
    same = (position[0] < WALL) == (world.goal[0] < WALL)
    clear = same | ((through >= world.door[0]) & (through <= world.door[1]))
    ends = jnp.stack([jnp.full(2, WALL), world.door], -1)
    lengths = jnp.linalg.norm(ends - position, axis=-1)
    lengths += jnp.linalg.norm(ends - world.goal, axis=-1)
    nearer = jnp.argmin(lengths)
    # Behind the door's plane, on the goal's side, the corner has been rounded.
    beyond = jnp.stack([jnp.where(world.goal[0] < WALL, -0.01, 0.01), jnp.zeros(())])
    return (
        jnp.where(clear, straight, lengths[nearer]),
        jnp.where(clear, world.goal, ends[nearer] + beyond),
    )


def _crosses_at(a, b):
    """``y`` where the line from ``a`` to ``b`` meets the wall."""
    width = jnp.where(jnp.abs(b[0] - a[0]) < 1e-9, 1e-9, b[0] - a[0])
    return a[1] + (WALL - a[0]) / width * (b[1] - a[1])


def solve(world: World, position: Array) -> Array:
    """Fewest steps to the goal: ``ceil((distance - radius) / speed)``.

    Exact where the way is straight; with a corner one step more may be needed.

    Args:
      world: The world.
      position: Where the point is, ``[2]``.

    Returns:
      A float scalar, at least 0.
    """
    left = distance(world, position) - world.radius
    return jnp.maximum(jnp.ceil(left / world.speed - 1e-4), 0)


def reset(world: World, key: Array) -> tuple[Array, Array]:
    """A point anywhere in the left half.

    Args:
      world: The world.
      key: Typed key.

    Returns:
      The position ``[2]``, and the same in [-1, 1] as observation.
    """
    del world
    state = jax.random.uniform(key, (2,)) * jnp.array([0.45, 1.0])
    return state, 2 * state - 1


def step(
    world: World, state: Array, action: Array, key: Array
) -> tuple[Array, Array, Array, Array]:
    """One step.

    Args:
      world: The world.
      state: Position, ``[2]``.
      action: Direction and size, ``[2]``, shortened to length 1.
      key: Typed key; nothing is drawn from it.

    Returns:
      Position, observation, reward 1 in the goal and else 0, and whether it ended.

    Raises:
      ValueError: Another shape of ``action``.
    """
    del key
    action = at_most_one(action)
    to = jnp.clip(state + world.speed * action, 0.0, 1.0)
    crosses = (state[0] < WALL) != (to[0] < WALL)
    at = _crosses_at(state, to)
    open_ = (at >= world.door[0]) & (at <= world.door[1])
    before = jnp.where(state[0] < WALL, WALL - 1e-3, WALL)
    to = to.at[0].set(jnp.where(crosses & ~open_, before, to[0]))
    there = jnp.linalg.norm(to - world.goal) <= world.radius
    return to, 2 * to - 1, there.astype(jnp.float32), there


def render(world: World, state: Array, *, size: int = 64) -> Array:
    """A picture of the square: wall, goal and point.

    Args:
      world: The world.
      state: Position, ``[2]``.
      size: Pixels of a side.

    Returns:
      Float32 ``[size, size, 3]`` in [0, 1], the top row where ``y`` is 1.
    """
    picture, x, y = paper(size)
    wall = (jnp.abs(x - WALL) < 0.6 / size) & (
        (y < world.door[0]) | (y > world.door[1])
    )
    picture = jnp.where(wall[..., None], 0.2, picture)
    picture = disc(picture, world.goal, world.radius, (0.3, 0.7, 0.3))
    return disc(picture, state, 0.03, (0.2, 0.3, 0.9))
