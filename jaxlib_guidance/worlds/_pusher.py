"""A hand that pushes a puck about a square; where the puck will rest is known.

Hand and puck are points with velocities. An action is a force on the hand, which has
drag. Where the hand comes within ``reach`` of the puck it gives it the part of its
velocity that points to it, and nothing to the sides; friction slows the puck down. The
puck stays in the unit square; the hand may leave it, which is not safe, nor is a hand
faster than ``limit``.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.reduce import require_shape, sqrt
from jaxlib_guidance.types import Array
from jaxlib_guidance.worlds._checks import require_number
from jaxlib_guidance.worlds._picture import disc, paper

BEYOND = 0.2
"""How far beyond the square the hand may go."""


class World(NamedTuple):
    """Parameters.

    Attributes:
      reach: Distance at which hand and puck touch, scalar.
      time: Time of a step, scalar.
      force: Change of the hand's velocity in a step by a full force, scalar.
      drag: Share of the hand's velocity that is lost in a step, in [0, 1), scalar.
      keep: Share of the puck's velocity that is left after a step, in [0, 1), scalar.
      limit: Largest speed of the hand that is safe, scalar.
    """

    reach: Array
    time: Array
    force: Array
    drag: Array
    keep: Array
    limit: Array


class State(NamedTuple):
    """Position and velocity of the hand and of the puck, ``[2]`` each."""

    hand: Array
    speed: Array
    puck: Array
    glide: Array


def default() -> World:
    """A hand that a full force brings beyond its limit, and a puck that glides."""
    return World(*map(jnp.float32, (0.08, 0.05, 0.3, 0.2, 0.9, 1.0)))


def observe(state: State) -> Array:
    """Positions in [-1, 1], the way from hand to puck, both velocities: ``[10]``."""
    places = 2 * state.hand - 1, 2 * state.puck - 1, 2 * (state.puck - state.hand)
    return jnp.concatenate([*places, state.speed, state.glide])


def reset(world: World, key: Array) -> tuple[State, Array]:
    """The puck at rest in the middle, the hand at rest anywhere beside it.

    Args:
      world: The world.
      key: Typed key.

    Returns:
      State and observation ``[10]``.
    """
    angle_key, far_key = jax.random.split(key)
    angle = jax.random.uniform(angle_key, (), maxval=2 * jnp.pi)
    far = jax.random.uniform(far_key, (), minval=0.15, maxval=0.4)
    middle, rest = jnp.full(2, 0.5, jnp.float32), jnp.zeros(2)
    hand = middle + far * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    state = State(hand, rest, middle, rest)
    return state, observe(state)


def step(
    world: World, state: State, action: Array, key: Array | None
) -> tuple[State, Array, Array, Array]:
    """One step; what pays is a learner's matter, so the reward is 0.

    Args:
      world: The world.
      state: State.
      action: Force on the hand, ``[2]``, each in [-1, 1].
      key: Typed key; nothing is drawn from it.

    Returns:
      State, observation, 0 and False.

    Raises:
      ValueError: Another shape of ``action``.
    """
    del key
    require_shape("action", action, (2,))
    push = world.force * jnp.clip(action, -1.0, 1.0)
    speed = (1 - world.drag) * state.speed + push
    hand = state.hand + world.time * speed
    inside = jnp.clip(hand, -BEYOND, 1 + BEYOND)
    hand, speed = inside, jnp.where(hand == inside, speed, 0.0)
    way, touches = _contact(world, hand, state.puck)
    # The puck never lags behind a hand that pushes it, and is never pulled.
    faster = jnp.maximum((speed - state.glide) @ way, 0.0)
    glide = world.keep * (state.glide + jnp.where(touches, faster, 0.0) * way)
    puck = state.puck + world.time * glide
    way, touches = _contact(world, hand, puck)
    puck = jnp.where(touches, hand + world.reach * way, puck)
    kept = jnp.clip(puck, 0.0, 1.0)
    after = State(hand, speed, kept, jnp.where(puck == kept, glide, 0.0))
    return after, observe(after), jnp.zeros(()), jnp.zeros((), bool)


def _contact(world, hand, puck):
    """Unit vector from hand to puck, and whether they touch."""
    apart = puck - hand
    length = sqrt(jnp.sum(apart**2))
    # One upon the other: the puck is pushed to the right.
    way = jnp.where(length > 1e-6, apart / jnp.maximum(length, 1e-6), jnp.eye(2)[0])
    return way, length < world.reach


def unsafe(world: World, state: State) -> Array:
    """Whether the hand is outside of the square or faster than its limit: a bool."""
    inside = jnp.all((state.hand >= 0) & (state.hand <= 1))
    # What is not a number is not safe.
    return ~(inside & (jnp.sum(state.speed**2) <= world.limit**2))


def rest(world: World, state: State) -> Array:
    """Where the puck comes to rest if nothing touches it again.

    ``puck + time keep / (1 - keep) glide``, or where that leaves the square the border,
    along which it glides on.

    Args:
      world: The world.
      state: State.

    Returns:
      ``[2]``.
    """
    far = world.time * world.keep / (1 - world.keep) * state.glide
    return jnp.clip(state.puck + far, 0.0, 1.0)


def spread(ends: Array, goals: Array) -> Array:
    """Mean distance from a goal to the nearest of some places where the puck ended.

    Args:
      ends: Places, one a skill, ``[..., Z, 2]``.
      goals: Goals, ``[G, 2]``.

    Returns:
      Float32 ``[...]``; over the whole square .383 for a puck that stays in the middle,
      and for eight places that were chosen best what `solve` finds.

    Raises:
      ValueError: Other shapes.
    """
    require_shape("ends", ends, (*jnp.shape(ends)[:-1], 2))
    require_shape("goals", goals, (len(goals), 2))
    apart = ends[..., :, None, :] - goals
    nearest = jnp.min(sqrt(jnp.sum(apart**2, -1)), -2)
    return jnp.mean(nearest, -1)


def solve(places: int = 8, *, side: int = 30, sweeps: int = 60) -> np.ndarray:
    """Places from which the square is near: the least that `spread` can be.

    Goals are the centres of a grid; each sweep gives each place the goals nearest to it
    and moves it to their geometric median (Weiszfeld's step). From four starts,
    the best.

    Args:
      places: How many, at least 1.
      side: Goals along a side of the square.
      sweeps: Sweeps of each start.

    Returns:
      Float64 ``[places, 2]``.

    Raises:
      ValueError: ``places`` or ``side`` below 1, ``sweeps`` below 0.
    """
    require_number("places", places, 1)
    require_number("side", side, 1)
    require_number("sweeps", sweeps, 0)
    line = (np.arange(side) + 0.5) / side
    goals = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    best, least = np.empty((places, 2)), np.inf
    for start in range(4):
        at = np.random.default_rng(start).uniform(size=(places, 2))
        for _ in range(sweeps):
            far = np.linalg.norm(goals[:, None] - at, axis=-1)
            mine = np.eye(places)[far.argmin(1)] / np.maximum(far, 1e-9)
            total = mine.sum(0)[:, None]
            at = np.where(total > 0, mine.T @ goals / np.maximum(total, 1e-9), at)
        mean = np.linalg.norm(goals[:, None] - at, axis=-1).min(1).mean()
        if mean < least:
            best, least = at, mean
    return best


def render(world: World, state: State, *, size: int = 64) -> Array:
    """A picture: the puck in red, the hand in blue, darker where it is not safe.

    Args:
      world: The world.
      state: State.
      size: Pixels of a side.

    Returns:
      Float32 ``[size, size, 3]`` in [0, 1], the top row where ``y`` is 1.
    """
    picture, _, _ = paper(size)
    picture = disc(picture, state.puck, world.reach / 2, (0.9, 0.3, 0.2))
    safe, not_safe = jnp.array([0.2, 0.3, 0.9]), jnp.array([0.05, 0.05, 0.3])
    color = jnp.where(unsafe(world, state), not_safe, safe)
    return disc(picture, state.hand, world.reach / 2, color)
