"""People in a street who walk, stop, cross or greet, any of whom may be taken away.

Each person has an action that sets where it wants to go: `WALK` ahead, `STOP` where it
is, `CROSS` to the left of its heading, `GREET` to the nearest other person. Actions
change by a Markov chain: in a step each is kept with probability ``stay``, else it is
one of the others, each alike. How people move to where they want to go, and out of each
other's way, are the forces of `crowd`.

`without` takes a person away: the same start, actions and key then show what that
person did to the others, exactly. A stand-in, ours, for the street scenes of TITAN
(arXiv 2003.13886), in which labels of actions help to forecast where people go.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array
from jaxlib_guidance.worlds import _crowd as crowd
from jaxlib_guidance.worlds._checks import require_chance, require_index, require_number
from jaxlib_guidance.worlds._picture import disc, paper

WALK, STOP, CROSS, GREET = range(4)
ACTIONS, AWAY = 4, 1e3
"""Number of actions; how far who is taken away is, in m."""


class World(NamedTuple):
    """Parameters.

    Attributes:
      crowd: How people move, see `crowd.World`.
      stay: Probability that an action goes on in a step, in [0, 1], scalar.
    """

    crowd: crowd.World
    stay: Array | float


class State(NamedTuple):
    """People and what they are about.

    Attributes:
      crowd: Places, velocities and paces, see `crowd.State`; there is no robot.
      headings: Unit vector of each person's way ``[N, 2]``.
      actions: What each does, int32 ``[N]``.
    """

    crowd: crowd.State
    headings: Array
    actions: Array


class Tracks(NamedTuple):
    """Places after each step ``[T, N, 2]``, and the actions of the step ``[T, N]``."""

    people: Array
    actions: Array


def default() -> World:
    """Actions that last 20 steps on average, a little less than seven seconds."""
    return World(crowd.default(), jnp.float32(0.95))


def observe(state: State) -> Array:
    """Places and velocities of all, from the first person's place.

    Args:
      state: The state.

    Returns:
      ``[4 N]``.
    """
    people = state.crowd.people - state.crowd.people[0]
    return jnp.concatenate([people, state.crowd.moves], axis=1).ravel()


def reset(world: World, key: Array, *, people: int = 6) -> tuple[State, Array]:
    """People at random places of a street of 8 by 8 m, each at its pace on its way.

    Args:
      world: Parameters.
      key: Typed key.
      people: Number ``N`` of people, at least 2: who greets needs another.

    Returns:
      The state, and what is seen ``[4 N]``.

    Raises:
      ValueError: Fewer than two people, or a probability out of range.
    """
    require_chance("stay", world.stay)
    require_number("people", people, 2)
    place, way, pace, action = jax.random.split(key, 4)
    at = jax.random.uniform(place, (people, 2), minval=-4.0, maxval=4.0)
    angle = jax.random.uniform(way, (people, 1), maxval=2 * jnp.pi)
    headings = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=1)
    paces = 1.2 + 0.2 * jnp.clip(jax.random.normal(pace, (people,)), -2, 2)
    actions = jax.random.randint(action, (people,), 0, ACTIONS, jnp.int32)
    nobody = jnp.zeros(2)
    moving = crowd.State(
        *(at, paces[:, None] * headings, at, paces, nobody, nobody, jnp.float32(0))
    )
    state = State(moving, headings, actions)
    return state, observe(state)


def switch(world: World, actions: Array, key: Array) -> Array:
    """The actions of the next step.

    Args:
      world: Parameters.
      actions: Those of this one ``[N]``.
      key: Typed key.

    Returns:
      Int32 ``[N]``.

    Raises:
      ValueError: A probability out of range, or actions that are none.
    """
    require_chance("stay", world.stay)
    require_index("actions", actions, ACTIONS)
    keep, which = jax.random.split(key)
    stays = jax.random.bernoulli(keep, world.stay, actions.shape)
    other = actions + jax.random.randint(which, actions.shape, 1, ACTIONS, jnp.int32)
    return jnp.where(stays, actions, other % ACTIONS).astype(jnp.int32)


def goals(state: State) -> Array:
    """Where each person wants to go by its action, ``[N, 2]``.

    Who greets and has nobody to greet, but those who were taken away, stays.
    """
    at, n = state.crowd.people, len(state.crowd.people)
    left = state.headings[:, ::-1] * jnp.array([-1.0, 1.0])
    apart = jnp.sum((at[:, None] - at) ** 2, axis=-1)
    apart = jnp.where(jnp.eye(n, dtype=bool), jnp.inf, apart)
    greets = jnp.min(apart, axis=1, keepdims=True) < (AWAY / 2) ** 2
    meets = jnp.where(greets, at[jnp.argmin(apart, axis=1)], at)
    ways = jnp.stack([at + 5 * state.headings, at, at + 5 * left, meets])
    return jnp.take_along_axis(ways, state.actions[None, :, None], axis=0)[0]


def step(
    world: World, state: State, action: Array, key: Array
) -> tuple[State, Array, Array, Array]:
    """One step of a third of a second; nothing pays, and it never ends.

    Args:
      world: Parameters.
      state: The state.
      action: What each person does in it ``[N]``, such as those of `switch`.
      key: Typed key of the noise.

    Returns:
      The next state, what is seen, 0 and False.

    Raises:
      ValueError: Actions of another shape or out of range, or parameters out of range.
    """
    require_shape("action", action, state.actions.shape)
    require_index("action", action, ACTIONS)
    doing = state._replace(actions=jnp.asarray(action, jnp.int32))
    moving = state.crowd._replace(goals=goals(doing))
    moved = crowd.step(world.crowd, moving, jnp.zeros(2), key)[0]
    after = doing._replace(crowd=moved)
    return after, observe(after), jnp.zeros(()), jnp.zeros((), bool)


def walk(world: World, state: State, key: Array, *, steps: int) -> tuple[State, Tracks]:
    """What comes of a state when actions change by their chain.

    Args:
      world: Parameters.
      state: The state at first.
      key: Typed key of actions and noise: with the same the same actions change,
        whoever is there.
      steps: Number ``T`` of steps, at least 1.

    Returns:
      The state after them, and the tracks that led there.

    Raises:
      ValueError: No steps, or parameters out of range.
    """
    require_number("steps", steps, 1)

    def one(state, key):
        chain, noise = jax.random.split(key)
        actions = switch(world, state.actions, chain)
        state = step(world, state, actions, noise)[0]
        return state, Tracks(state.crowd.people, actions)

    return jax.lax.scan(one, state, jax.random.split(key, steps))


def without(state: State, person: Array | int) -> State:
    """The same state without a person, whom nobody feels or greets any more.

    Args:
      state: The state.
      person: Number of the person, scalar.

    Returns:
      The state, of the same shapes; the person is a kilometre away.

    Raises:
      ValueError: A number that no person has.
    """
    require_index("person", person, len(state.actions))
    gone = (jnp.arange(len(state.actions)) == person)[:, None]
    away = jnp.where(gone, AWAY, state.crowd.people)
    return state._replace(crowd=state.crowd._replace(people=away))


def render(world: World, state: State, *, size: int = 64) -> Array:
    """A picture of twelve metres: walks blue, stops grey, crosses green, greets red.

    Args:
      world: Parameters.
      state: The state.
      size: Pixels of a side.

    Returns:
      Float32 ``[size, size, 3]`` in [0, 1], the top row where ``y`` is `crowd.EDGE`.
    """
    picture, *_ = paper(size)
    colors = jnp.array(
        [[0.2, 0.3, 0.9], [0.5, 0.5, 0.5], [0.30, 0.62, 0.36], [0.8, 0.2, 0.16]]
    )
    for at, action in zip(state.crowd.people, state.actions, strict=True):
        place = 0.5 + 0.5 * at / crowd.EDGE
        radius = world.crowd.body / crowd.EDGE / 2
        picture = disc(picture, place, radius, colors[action])
    return picture
