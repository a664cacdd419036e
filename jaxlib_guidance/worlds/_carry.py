"""A point that picks up an object and brings it to a goal: grip, carry, let go.

The unit square holds a hand, an object and a goal. An action is a step of the hand, of
at most ``speed``, and a grip: positive is closed. A hand that closes within ``reach``
of the object holds it, and it moves with the hand until the hand opens. It is done when
the object lies, let go, within ``reach`` of the goal. The fewest steps are known.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array
from jaxlib_guidance.worlds._checks import at_most_one
from jaxlib_guidance.worlds._picture import disc, paper


class World(NamedTuple):
    """Parameters.

    Attributes:
      goal: Where the object is to lie, ``[2]``.
      speed: Longest step of the hand, scalar.
      reach: Distance at which the hand can grip, and that counts as at the goal.
    """

    goal: Array
    speed: Array
    reach: Array


class State(NamedTuple):
    """Hand ``[2]``, object ``[2]``, and 1 where the hand holds it."""

    hand: Array
    thing: Array
    held: Array


def default() -> World:
    """A goal on the upper right, steps of 0.08."""
    goal = jnp.array([0.8, 0.8], jnp.float32)
    return World(goal, jnp.float32(0.08), jnp.float32(0.1))


def observe(world: World, state: State) -> Array:
    """Hand, object and goal relative to each other, and whether it is held, ``[7]``."""
    apart = state.thing - state.hand, world.goal - state.thing
    rest = 2 * state.hand - 1, 2 * state.held[None] - 1
    return jnp.concatenate([2 * apart[0], 2 * apart[1], *rest])


def reset(world: World, key: Array) -> tuple[State, Array]:
    """Hand anywhere, the object on the left or below, at least 0.4 from the goal.

    Args:
      world: The world.
      key: Typed key.

    Returns:
      State and observation ``[7]``.
    """
    hand_key, thing_key = jax.random.split(key)
    hand = jax.random.uniform(hand_key, (2,))
    thing = jax.random.uniform(thing_key, (2,), minval=0.1, maxval=0.5)
    state = State(hand, thing, jnp.zeros(()))
    return state, observe(world, state)


def step(
    world: World, state: State, action: Array, key: Array
) -> tuple[State, Array, Array, Array]:
    """One step.

    Args:
      world: The world.
      state: State.
      action: Direction and size, shortened to length 1, and the grip: ``[3]``.
      key: Typed key; nothing is drawn from it.

    Returns:
      State, observation, reward 1 where the object lies at the goal and else 0, and
      whether it ended.

    Raises:
      ValueError: Another shape of ``action``.
    """
    del key
    require_shape("action", action, (3,))
    way = at_most_one(action[:2])
    closed = action[2] > 0
    near = jnp.linalg.norm(state.hand - state.thing) <= world.reach
    held = closed & ((state.held > 0) | near)
    hand = jnp.clip(state.hand + world.speed * way, 0.0, 1.0)
    thing = jnp.clip(state.thing + jnp.where(held, hand - state.hand, 0.0), 0.0, 1.0)
    after = State(hand, thing, held.astype(jnp.float32))
    done = ~held & (jnp.linalg.norm(thing - world.goal) <= world.reach)
    return after, observe(world, after), done.astype(jnp.float32), done


def solve(world: World, state: State) -> Array:
    """Fewest steps: to within reach of the object, with it to the goal, and let go.

    Exact away from the border of the square.

    Args:
      world: The world.
      state: State.

    Returns:
      A float scalar.
    """
    steps = lambda d: jnp.maximum(jnp.ceil(d / world.speed - 1e-4), 0)  # noqa: E731
    to = steps(jnp.linalg.norm(state.thing - state.hand) - world.reach)
    bring = steps(jnp.linalg.norm(world.goal - state.thing) - world.reach)
    lying = (state.held == 0) & (bring == 0)
    return jnp.where(lying, 1, jnp.where(state.held > 0, 0, to) + bring + 1)


def guide(world: World, state: State) -> Array:
    """The best action: straight to the object, straight with it to the goal, let go.

    Args:
      world: The world.
      state: State.

    Returns:
      ``[3]``.
    """
    arrived = jnp.linalg.norm(state.thing - world.goal) <= world.reach
    near = jnp.linalg.norm(state.hand - state.thing) <= world.reach
    carries = (state.held > 0) | near
    away = jnp.where(carries, world.goal - state.thing, state.thing - state.hand)
    length = jnp.linalg.norm(away)
    way = away / jnp.maximum(length, 1e-6)
    grip = jnp.where(carries & ~arrived, 1.0, -1.0)
    return jnp.append(jnp.where(arrived, 0.0, way), grip)


def render(world: World, state: State, *, size: int = 64) -> Array:
    """A picture: the goal in green, the object in red, the hand in blue.

    Args:
      world: The world.
      state: State.
      size: Pixels of a side.

    Returns:
      Float32 ``[size, size, 3]`` in [0, 1], the top row where ``y`` is 1.
    """
    picture, _, _ = paper(size)
    picture = disc(picture, world.goal, world.reach, (0.7, 0.9, 0.7))
    picture = disc(picture, state.thing, 0.05, (0.9, 0.3, 0.2))
    return disc(picture, state.hand, 0.03, (0.2, 0.3, 0.9))
