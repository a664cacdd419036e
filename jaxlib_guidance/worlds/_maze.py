"""A maze with a far room, driven by a small network; a picture of where it ended.

A robot starts at the lower left of the unit square. Three walls make the way to the
upper left long. A policy is a flat vector of weights: five ranges and the last turn go
through a layer of 8 to a turn and a speed. Only a disc in the far room pays, the more
the nearer its centre. The shortest way is known.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.reduce import require_shape, sqrt
from jaxlib_guidance.types import Array
from jaxlib_guidance.worlds._picture import disc, line, paper

ANGLES = (-1.57, -0.785, 0.0, 0.785, 1.57)
"""Of the ranges, from the heading in rad."""
HIDDEN = 8
WEIGHTS = (len(ANGLES) + 2) * HIDDEN + (HIDDEN + 1) * 2
"""Length of a policy's vector."""


class World(NamedTuple):
    """Parameters.

    Attributes:
      walls: Ends ``(x0, y0, x1, y1)`` of each wall, the borders too, ``[W, 4]``.
      goal: Centre of the disc that pays, ``[2]``.
      radius: Its radius, scalar.
      speed: Longest move of a step, scalar.
    """

    walls: Array
    goal: Array
    radius: Array
    speed: Array


class State(NamedTuple):
    """Position ``[2]``, heading in rad, and the last turn."""

    position: Array
    heading: Array
    turned: Array


START = (0.15, 0.1)


def default() -> World:
    """Three walls from side to side with gaps at alternate ends; steps of 0.03."""
    borders = [[0, 0, 1, 0], [1, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1]]
    inner = [[0, 0.25, 0.75, 0.25], [0.25, 0.5, 1, 0.5], [0, 0.75, 0.75, 0.75]]
    walls = jnp.array(borders + inner, jnp.float32)
    goal = jnp.array([0.15, 0.88], jnp.float32)
    return World(walls, goal, jnp.float32(0.1), jnp.float32(0.03))


def ranges(world: World, state: State) -> Array:
    """Distance to the nearest wall along each of ``ANGLES``, ``[5]``."""
    angle = state.heading + jnp.array(ANGLES)
    way = jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
    return jax.vmap(lambda w: _reach(world, state.position, w))(way)


def _reach(world, at, way):
    """How far a ray goes: the least ``t >= 0`` at which it crosses a wall."""
    start, end = world.walls[:, :2], world.walls[:, 2:]
    along, apart = end - start, start - at
    cross = way[0] * along[:, 1] - way[1] * along[:, 0]
    safe = jnp.where(jnp.abs(cross) < 1e-9, 1.0, cross)
    t = (apart[:, 0] * along[:, 1] - apart[:, 1] * along[:, 0]) / safe
    s = (apart[:, 0] * way[1] - apart[:, 1] * way[0]) / safe
    hit = (jnp.abs(cross) >= 1e-9) & (t >= 0) & (s >= 0) & (s <= 1)
    return jnp.min(jnp.where(hit, t, jnp.inf))


def reset(world: World, key: Array | None) -> tuple[State, Array]:
    """The start, looking right; nothing is drawn.

    Args:
      world: The maze.
      key: Typed key.

    Returns:
      State and observation ``[6]``: ranges and the last turn.
    """
    del key
    state = State(jnp.array(START, jnp.float32), jnp.zeros(()), jnp.zeros(()))
    return state, jnp.append(ranges(world, state), 0.0)


def step(
    world: World, state: State, action: Array, key: Array | None
) -> tuple[State, Array, Array, Array]:
    """Turns, then moves on up to a wall.

    Args:
      world: The maze.
      state: State.
      action: Turn and speed, each in [-1, 1]: half a radian at most, and backwards
        never, ``[2]``.
      key: Typed key; nothing is drawn from it.

    Returns:
      State, observation, reward in the disc, 1 at its centre falling to 0, and False.

    Raises:
      ValueError: Another shape of ``action``.
    """
    del key
    require_shape("action", action, (2,))
    action = jnp.clip(action, -1.0, 1.0)
    heading = state.heading + 0.5 * action[0]
    way = jnp.stack([jnp.cos(heading), jnp.sin(heading)])
    room = jnp.maximum(_reach(world, state.position, way) - 1e-3, 0.0)
    move = jnp.minimum(world.speed * jnp.maximum(action[1], 0.0), room)
    after = State(state.position + move * way, heading, action[0])
    obs = jnp.append(ranges(world, after), action[0])
    return after, obs, pay(world, after.position), jnp.zeros((), bool)


def pay(world: World, position: Array) -> Array:
    """1 at the disc's centre, falling to 0 at its border and outside: a scalar."""
    # The slope at the very centre is 0, where that of a norm is NaN.
    away = sqrt(jnp.sum((position - world.goal) ** 2))
    return jnp.maximum(1 - away / world.radius, 0.0)


def act(weights: Array, obs: Array) -> Array:
    """Turn and speed of a policy's vector ``[WEIGHTS]``.

    Args:
      weights: Both layers with their biases.
      obs: Observation, ``[6]``.

    Returns:
      ``[2]`` in (-1, 1).

    Raises:
      ValueError: Another length of ``weights``.
    """
    require_shape("weights", weights, (WEIGHTS,))
    size = (len(ANGLES) + 2) * HIDDEN
    inner = jnp.reshape(weights[:size], (-1, HIDDEN))
    outer = jnp.reshape(weights[size:], (HIDDEN + 1, 2))
    hidden = jnp.tanh(obs @ inner[:-1] + inner[-1])
    return jnp.tanh(hidden @ outer[:-1] + outer[-1])


def drive(world: World, weights: Array, *, steps: int = 150) -> tuple[Array, Array]:
    """Where a policy ends, and what that pays.

    Args:
      world: The maze.
      weights: Policy, ``[WEIGHTS]``.
      steps: Length of an episode.

    Returns:
      Position ``[2]`` and its reward.
    """
    start = reset(world, None)

    def move(carry, _):
        state, obs = carry
        state, obs, *_ = step(world, state, act(weights, obs), None)
        return (state, obs), None

    (state, _), _ = jax.lax.scan(move, start, None, length=steps)
    return state.position, pay(world, state.position)


def solve(world: World) -> float:
    """Length of the shortest way from the start to the disc's centre.

    Through the ends of the inner walls, in order, which is shortest in a maze whose
    gaps take turns.

    Args:
      world: A maze whose inner walls are listed from below.

    Returns:
      The length.
    """
    points = [np.array(START)]
    for wall in np.asarray(world.walls, np.float64)[4:]:
        # The end that is not on a border.
        ends = wall.reshape(2, 2)
        points.append(ends[((ends > 0) & (ends < 1)).all(1)][0])
    points.append(np.asarray(world.goal, np.float64))
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


def render(world: World, position: Array, *, size: int = 64) -> Array:
    """The maze from above, with the disc and the robot.

    Args:
      world: The maze.
      position: Where the robot is, ``[2]``.
      size: Pixels of a side.

    Returns:
      Float32 ``[size, size, 3]`` in [0, 1], the top row where ``y`` is 1.
    """
    picture, _, _ = paper(size)
    picture = disc(picture, world.goal, world.radius, (0.7, 0.9, 0.7))
    for wall in world.walls:
        picture = line(picture, wall[:2], wall[2:], 1.2 / size, (0.2, 0.2, 0.2))
    return disc(picture, position, 0.04, (0.2, 0.3, 0.9))
