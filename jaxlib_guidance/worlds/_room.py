"""A room with pillars, seen by rays: noisy depth ahead, and how its texture looks.

A robot flies in a square room of 5 m with three pillars. It observes the depth ahead
with noise, as from stereo vision, and 12 numbers of the texture that it looks at, which
depend on the patch, on the distance and on the angle: from these the depth can be
learned. A collision costs 1 and leaves it with any heading. True depth is known.

Reference: van Hecke et al., "Persistent self-supervised learning principle", arXiv
1603.08047, for the setting; textures by a random network are ours.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance.reduce import require_shape, sqrt
from jaxlib_guidance.types import Array
from jaxlib_guidance.worlds._checks import require_number
from jaxlib_guidance.worlds._picture import disc, paper

SIDE, FEATURES, PATCHES = 5.0, 12, 5
RAYS = (-0.3, 0.0, 0.3)
"""Angles from the heading of the rays whose least is the depth ahead, in rad."""
BODY = 0.15
"""Depth of the nearest ray below which the robot has hit something, in m."""


class World(NamedTuple):
    """Parameters.

    Attributes:
      pillars: Centres in m, ``[P, 2]``.
      radius: Radius of a pillar in m, scalar.
      speed: Longest move of a step in m, scalar.
      noise: Standard deviation of the depth that is observed, in m, scalar.
      look: What patches look like, ``[4 PATCHES + P, 4]``.
      inner: First layer of the texture's network, ``[6, 16]``.
      outer: Its second layer, ``[16, FEATURES]``.
    """

    pillars: Array
    radius: Array
    speed: Array
    noise: Array
    look: Array
    inner: Array
    outer: Array


class State(NamedTuple):
    """Position in m ``[2]``, and heading in rad."""

    position: Array
    heading: Array


def make(key: Array, *, noise: float = 0.1, speed: float = 0.1) -> World:
    """A room with three pillars and textures of its own.

    Args:
      key: Typed key.
      noise: Standard deviation of the depth that is observed, in m, at least 0.
      speed: Longest move of a step, in m.

    Returns:
      The room.

    Raises:
      ValueError: ``noise`` or ``speed`` that is negative or no number.
    """
    require_number("noise", noise, 0)
    require_number("speed", speed, 0)
    keys = jax.random.split(key, 4)
    turn = jax.random.uniform(keys[0], (), maxval=2 * jnp.pi)
    angles = turn + 2 * jnp.pi * jnp.arange(3, dtype=jnp.float32) / 3
    pillars = SIDE / 2 + 1.2 * jnp.stack([jnp.cos(angles), jnp.sin(angles)], -1)
    look = jax.random.normal(keys[1], (4 * PATCHES + 3, 4))
    inner = jax.random.normal(keys[2], (6, 16))
    outer = jax.random.normal(keys[3], (16, FEATURES)) / 4
    return World(
        pillars=pillars,
        radius=jnp.float32(0.3),
        speed=jnp.float32(speed),
        noise=jnp.float32(noise),
        look=look,
        inner=inner,
        outer=outer,
    )


def cast(world: World, state: State, angle: Array) -> tuple[Array, Array, Array]:
    """The surface that a ray meets first.

    Args:
      world: The room.
      state: Where the ray begins.
      angle: Its angle from the heading in rad, scalar.

    Returns:
      Depth in m, number of the patch, and the cosine of the angle of incidence.
    """
    at, angle = state.position, state.heading + angle
    way = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    tiny = jnp.where(way > 0, 1e-6, -1e-6)
    safe = jnp.where(jnp.abs(way) < 1e-6, tiny, way)
    # A wall for each axis: the one that the ray goes to.
    walls = (jnp.where(way > 0, SIDE, 0.0) - at) / safe
    axis = jnp.argmin(walls)
    hit = at + walls[axis] * way
    along = jnp.clip(hit[1 - axis] / SIDE * PATCHES, 0, PATCHES - 1e-3)
    side = 2 * axis + (way[axis] > 0).astype(axis.dtype)
    wall_patch = side * PATCHES + along.astype(axis.dtype)

    apart = world.pillars - at
    nearest = apart @ way
    miss = jnp.sum(apart**2, -1) - nearest**2
    inside = world.radius**2 - miss
    reach = nearest - sqrt(jnp.maximum(inside, 0))
    reach = jnp.where((inside > 0) & (nearest > 0), jnp.maximum(reach, 0), jnp.inf)
    pillar = jnp.argmin(reach)
    normal = (apart[pillar] - reach[pillar] * way) / world.radius

    first = reach[pillar] < walls[axis]
    depth = jnp.where(first, reach[pillar], walls[axis])
    patch = jnp.where(first, 4 * PATCHES + pillar, wall_patch)
    facing = jnp.where(first, jnp.sum(normal * way), jnp.abs(way[axis]))
    return depth, patch, jnp.where(jnp.isfinite(facing), facing, 1.0)


def depth(world: World, state: State) -> Array:
    """True depth ahead, the least over ``RAYS``, in m."""
    return jnp.min(jax.vmap(lambda a: cast(world, state, a)[0])(jnp.array(RAYS)))


def observe(world: World, state: State, key: Array) -> Array:
    """Depth ahead with noise in m, then the texture's numbers: ``[1 + FEATURES]``."""
    ahead, patch, facing = cast(world, state, jnp.zeros(()))
    seen = depth(world, state) + world.noise * jax.random.normal(key)
    x = jnp.concatenate([world.look[patch], jnp.stack([jnp.log(ahead + 0.1), facing])])
    return jnp.append(seen, jnp.tanh(x @ world.inner) @ world.outer)


def reset(world: World, key: Array) -> tuple[State, Array]:
    """The middle of the room, with any heading.

    Args:
      world: The room.
      key: Typed key.

    Returns:
      State and observation ``[1 + FEATURES]``.
    """
    turn_key, see_key = jax.random.split(key)
    heading = jax.random.uniform(turn_key, (), maxval=2 * jnp.pi)
    state = State(jnp.full(2, SIDE / 2, jnp.float32), heading)
    return state, observe(world, state, see_key)


def step(
    world: World, state: State, action: Array, key: Array
) -> tuple[State, Array, Array, Array]:
    """Turns, then flies on, unless something stands there.

    Args:
      world: The room.
      state: State.
      action: Turn in rad, and the share of the speed to fly with, in [0, 1]: ``[2]``.
      key: Typed key of the noise, and of the heading after a collision.

    Returns:
      State, observation, reward -1 for a collision and else 0, and False.

    Raises:
      ValueError: Another shape of ``action``.
    """
    require_shape("action", action, (2,))
    turned = state._replace(heading=state.heading + action[0])
    move = world.speed * jnp.clip(action[1], 0.0, 1.0)
    hit = (depth(world, turned) - move < BODY) & (move > 0)
    way = jnp.stack([jnp.cos(turned.heading), jnp.sin(turned.heading)])
    tumble_key, see_key = jax.random.split(key)
    heading = jax.random.uniform(tumble_key, (), maxval=2 * jnp.pi)
    after = State(
        state.position + jnp.where(hit, 0.0, move) * way,
        jnp.where(hit, heading, turned.heading),
    )
    seen = observe(world, after, see_key)
    return after, seen, -hit.astype(jnp.float32), jnp.zeros((), bool)


def render(world: World, state: State, *, size: int = 64) -> Array:
    """The room from above: pillars, the robot and its three rays.

    Args:
      world: The room.
      state: State.
      size: Pixels of a side.

    Returns:
      Float32 ``[size, size, 3]`` in [0, 1], the top row where ``y`` is 5 m.
    """
    picture, _, _ = paper(size)
    for pillar in world.pillars:
        picture = disc(picture, pillar / SIDE, world.radius / SIDE, (0.5, 0.4, 0.3))
    for ray in RAYS:
        reach = cast(world, state, jnp.float32(ray))[0]
        angle = state.heading + ray
        way = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        for share in range(1, 25):
            at = (state.position + reach * share / 24 * way) / SIDE
            picture = disc(picture, at, 0.006, (0.95, 0.7, 0.2))
    return disc(picture, state.position / SIDE, 0.03, (0.2, 0.3, 0.9))
