"""A point with two errands in order: to touch one place, then to be at another.

The unit square holds A on the left and B on the right. An action is a step of at most
``speed``. Being at B pays only once A has been touched. The fewest steps are known.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance.types import Array
from jaxlib_guidance.worlds._checks import at_most_one
from jaxlib_guidance.worlds._picture import disc, paper


class World(NamedTuple):
    """Parameters.

    Attributes:
      first: Place A, ``[2]``.
      second: Place B, ``[2]``.
      speed: Longest step, scalar.
      radius: Distance that counts as there, scalar.
    """

    first: Array
    second: Array
    speed: Array
    radius: Array


class State(NamedTuple):
    """Position ``[2]``, and 1 where A has been touched."""

    position: Array
    touched: Array


def default() -> World:
    """A on the left, B on the right, steps of 0.06: 9 to A, 13 from there to B."""
    first = jnp.array([0.1, 0.5], jnp.float32)
    second = jnp.array([0.9, 0.5], jnp.float32)
    return World(first, second, jnp.float32(0.06), jnp.float32(0.06))


def observe(state: State) -> Array:
    """Position in [-1, 1] and 1 where A has been touched, else -1: ``[3]``."""
    return jnp.append(2 * state.position - 1, 2 * state.touched - 1)


def reset(world: World, key: Array) -> tuple[State, Array]:
    """A point near the middle.

    Args:
      world: The world.
      key: Typed key.

    Returns:
      State and observation ``[3]``.
    """
    del world
    low, high = jnp.array([0.5, 0.3]), jnp.array([0.7, 0.7])
    state = State(jax.random.uniform(key, (2,), minval=low, maxval=high), jnp.zeros(()))
    return state, observe(state)


def step(
    world: World, state: State, action: Array, key: Array
) -> tuple[State, Array, Array, Array]:
    """One step.

    Args:
      world: The world.
      state: State.
      action: Direction and size, ``[2]``, shortened to length 1.
      key: Typed key; nothing is drawn from it.

    Returns:
      State, observation, reward 1 at B once A has been touched and else 0, and False:
      it never ends.

    Raises:
      ValueError: Another shape of ``action``.
    """
    del key
    action = at_most_one(action)
    position = jnp.clip(state.position + world.speed * action, 0.0, 1.0)
    at = lambda place: jnp.linalg.norm(position - place) <= world.radius  # noqa: E731
    touched = jnp.maximum(state.touched, at(world.first).astype(jnp.float32))
    after = State(position, touched)
    reward = touched * at(world.second).astype(jnp.float32)
    return after, observe(after), reward, jnp.zeros((), bool)


def guide(world: World, state: State) -> Array:
    """The best action: straight to A, then straight to B, then rest there, ``[2]``."""
    aim = jnp.where(state.touched > 0, world.second, world.first)
    away = aim - state.position
    return away / jnp.maximum(jnp.linalg.norm(away), world.speed)


def solve(world: World, state: State) -> Array:
    """Fewest steps until the first reward, exact to one at the turn.

    Args:
      world: The world.
      state: State.

    Returns:
      A float scalar, at least 1.
    """
    there = jnp.linalg.norm(state.position - world.first) - world.radius
    across = jnp.linalg.norm(world.second - world.first) - 2 * world.radius
    steps = lambda d: jnp.maximum(jnp.ceil(d / world.speed - 1e-4), 0)  # noqa: E731
    alone = jnp.linalg.norm(state.position - world.second) - world.radius
    both = steps(there) + steps(across)
    return jnp.maximum(jnp.where(state.touched > 0, steps(alone), both), 1)


def render(world: World, state: State, *, size: int = 64) -> Array:
    """A picture: A in orange, or grey once touched, B in green, the point in blue.

    Args:
      world: The world.
      state: State.
      size: Pixels of a side.

    Returns:
      Float32 ``[size, size, 3]`` in [0, 1], the top row where ``y`` is 1.
    """
    picture, _, _ = paper(size)
    orange, grey = jnp.array([0.95, 0.6, 0.1]), jnp.array([0.7, 0.7, 0.7])
    color = jnp.where(state.touched > 0, grey, orange)
    picture = disc(picture, world.first, world.radius, color)
    picture = disc(picture, world.second, world.radius, (0.3, 0.7, 0.3))
    return disc(picture, state.position, 0.03, (0.2, 0.3, 0.9))
