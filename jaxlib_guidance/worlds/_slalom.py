"""A glider that must pass each of several pillars, on either side, in gusty air.

It flies forward one length a step and is pushed sideways: ``v' = DRAG v + PUSH a +
gust``, ``y' = y + v'``. Every `SPACING` lengths stands a pillar, and who is within
`HALF` of its centre there, or leaves the track at ``|y| = EDGE``, is out. Both sides
are as good, so that those who know the way differ: the average of two ways past a
pillar is the pillar. And nobody can wait: a mind changed on the way ends in the middle.

Everything is a function of one glider; `jax.vmap` makes many. The world stands in for
those of Kinetix, in which real-time chunking was measured (arXiv 2506.07339); its
numbers are ours.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array
from jaxlib_guidance.worlds._checks import require_number
from jaxlib_guidance.worlds._picture import disc, line, paper

PILLARS, SPACING = 4, 20
"""Number of pillars; steps from one to the next, and from the start to the first."""
HALF, EDGE, WANDER = 0.25, 1.2, 0.25
"""Half a pillar's width; where the track ends; farthest centre from the middle."""
DRAG, PUSH = 0.85, 0.025
"""What a velocity keeps of itself in a step, and what a push adds."""
ACTIONS, SEEN = 1, 5
"""Entries of an action and of an observation, see `observe`."""
LENGTH = PILLARS * SPACING
"""Steps of a flight."""


class World(NamedTuple):
    """Parameters of the slalom.

    Attributes:
      gust: Standard deviation of what the air adds to the velocity in a step, scalar.
    """

    gust: Array | float


class State(NamedTuple):
    """A glider and its track.

    Attributes:
      y: Place across the track, scalar.
      velocity: Lengths that it moves sideways in a step, scalar.
      steps: Steps that it has flown, int32 scalar.
      centres: Place of each pillar's centre ``[4]``.
      whole: Whether it has touched nothing, bool scalar.
    """

    y: Array
    velocity: Array
    steps: Array
    centres: Array
    whole: Array


def default() -> World:
    """Gusts of .004 a step."""
    return World(jnp.float32(0.004))


def _ahead(state: State) -> tuple[Array, Array, Array]:
    """Steps to the next pillar, its centre, and that of the one after it."""
    last = PILLARS - 1
    index = state.steps // SPACING
    left = (index + 1) * SPACING - state.steps
    at = lambda i: state.centres[jnp.minimum(i, last)]  # noqa: E731
    return left, at(index), at(index + 1)


def observe(state: State) -> Array:
    """What the glider sees.

    Args:
      state: The state.

    Returns:
      ``[5]``: place, ten times the velocity, distance of the next pillar in units of
      `SPACING`, where its centre is from the glider, and that of the one after it; the
      last pillar stands for those after it.
    """
    left, centre, after = _ahead(state)
    parts = (
        state.y,
        10 * state.velocity,
        left / SPACING,
        centre - state.y,
        after - state.y,
    )
    return jnp.stack(parts).astype(jnp.float32)


def reset(world: World, key: Array) -> tuple[State, Array]:
    """A glider near the middle of a new track.

    Args:
      world: Parameters.
      key: Typed key, of the pillars and of the place.

    Returns:
      The state, and what is seen ``[5]``.

    Raises:
      ValueError: A gust that is negative.
    """
    require_number("gust", world.gust, 0)
    one, two = jax.random.split(key)
    centres = jax.random.uniform(one, (PILLARS,), minval=-WANDER, maxval=WANDER)
    y = jax.random.uniform(two, (), minval=-0.2, maxval=0.2)
    state = State(y, jnp.float32(0), jnp.int32(0), centres, jnp.array(True))
    return state, observe(state)


def step(
    world: World, state: State, action: Array, key: Array
) -> tuple[State, Array, Array, Array]:
    """One step of the glider.

    Args:
      world: Parameters.
      state: The state.
      action: Push ``[1]``, cut to [-1, 1].
      key: Typed key of the gust.

    Returns:
      The next state, what is seen ``[5]``, the reward (1 where the last pillar is
      passed and nothing was touched, else 0), and whether it is over.

    Raises:
      ValueError: An action of another shape, or a gust that is negative.
    """
    require_shape("action", action, (ACTIONS,))
    require_number("gust", world.gust, 0)
    push = jnp.clip(action[0], -1, 1)
    gust = world.gust * jax.random.normal(key)
    velocity = DRAG * state.velocity + PUSH * push + gust
    y = state.y + velocity
    left, centre, _ = _ahead(state)
    # Written so that a place that is not known, NaN, has touched something.
    clear = (left != 1) | (jnp.abs(y - centre) >= HALF)
    touched = ~(clear & (jnp.abs(y) <= EDGE))
    whole = state.whole & ~touched
    after = State(y, velocity, state.steps + 1, state.centres, whole)
    done = after.steps >= LENGTH
    reward = (whole & (after.steps == LENGTH)).astype(jnp.float32)
    return after, observe(after), reward, done | ~whole


def expert(world: World, state: State, side: Array | float) -> Array:
    """A script that passes the next pillar on a side.

    Args:
      world: Parameters.
      state: The state.
      side: 1 passes above and -1 below, scalar.

    Returns:
      Its action ``[1]``.
    """
    del world
    _, centre, _ = _ahead(state)
    aim = centre + side * (HALF + 0.25)
    # Where the glider comes to rest if nothing pushes it.
    rest = state.y + state.velocity * DRAG / (1 - DRAG)
    return jnp.clip(3 * (aim - rest), -1, 1)[None]


def render(world: World, state: State, *, size: int = 64) -> Array:
    """A picture of the track from the left to the right: pillars and glider.

    Args:
      world: Parameters.
      state: The state.
      size: Pixels of a side.

    Returns:
      Float32 ``[size, size, 3]`` in [0, 1], the top row where ``y`` is `EDGE`; the
      glider is blue, and red once it has touched something.
    """
    del world
    picture, *_ = paper(size)
    across = lambda y: 0.5 + 0.5 * y / EDGE  # noqa: E731
    along = lambda steps: 0.05 + 0.9 * jnp.float32(steps) / LENGTH  # noqa: E731
    for i in range(PILLARS):
        x, centre = along((i + 1) * SPACING), state.centres[i]
        low, high = (jnp.stack([x, across(centre + s)]) for s in (-HALF, HALF))
        picture = line(picture, low, high, 0.03, (0.2, 0.2, 0.2))
    at = jnp.stack([along(state.steps), across(state.y)])
    blue, red = jnp.array([0.2, 0.3, 0.9]), jnp.array([0.8, 0.2, 0.16])
    color = jnp.where(state.whole, blue, red)
    return disc(picture, at, 0.03, color)
