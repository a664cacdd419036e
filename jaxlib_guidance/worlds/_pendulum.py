"""A pendulum held upright while somebody pushes: the worst pushes are known.

``omega' = omega + time (15 sin theta + 3 (u + d))`` and ``theta' = theta + time
omega'``, with the angle from upright; the torque ``u`` has a limit and the push ``d`` a
cap. A step costs ``theta^2 + .1 omega^2 + price u^2``. The worst pushes against a
controller are found by dynamic programming, and near upright the best linear controller
for a bound on amplification is that of a Riccati equation.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array
from jaxlib_guidance.worlds._checks import require_number
from jaxlib_guidance.worlds._picture import disc, paper

FASTEST = 8.0
"""Largest angular speed, in rad/s."""


class World(NamedTuple):
    """Parameters.

    Attributes:
      limit: Largest torque of the controller, scalar.
      cap: Largest push, scalar.
      time: Time of a step in s, scalar.
      price: Cost of a squared torque, scalar.
    """

    limit: Array
    cap: Array
    time: Array
    price: Array


def make(*, cap: float | Array = 0.0, price: float | Array = 0.1) -> World:
    """Masses and lengths of the usual swing-up task, whose price is 0.001.

    Args:
      cap: Largest push, at least 0; the controller's largest torque is 2.
      price: Cost of a squared torque, above 0.

    Raises:
      ValueError: Numbers out of range, more than one of a kind.
    """
    require_shape("cap", cap, ())
    require_shape("price", price, ())
    require_number("cap", cap, 0)
    require_number("price", price, 0, above=True)
    return World(*map(jnp.float32, (2.0, cap, 0.05, price)))


def reset(world: World, key: Array) -> tuple[Array, Array]:
    """An angle and a speed of at most 0.2 either way.

    Args:
      world: The world.
      key: Typed key.

    Returns:
      State, angle in rad and speed in rad/s, ``[2]``, and the observation, the same.
    """
    del world
    state = jax.random.uniform(key, (2,), minval=-0.2, maxval=0.2)
    return state, state


def cost(world: World, state: Array, torque: Array) -> Array:
    """``theta^2 + .1 omega^2 + price u^2``, the angle in [-pi, pi)."""
    angle = jnp.mod(state[0] + jnp.pi, 2 * jnp.pi) - jnp.pi
    torque = jnp.clip(torque, -world.limit, world.limit)
    return angle**2 + 0.1 * state[1] ** 2 + world.price * torque**2


def step(
    world: World, state: Array, action: Array, key: Array | None
) -> tuple[Array, Array, Array, Array]:
    """One step of both players.

    Args:
      world: The world.
      state: Angle and speed, ``[2]``.
      action: Torque and push, each cut to its largest, ``[2]``.
      key: Typed key; nothing is drawn from it.

    Returns:
      The next state, the observation, which is the state with its angle in [-pi, pi),
      the negative cost of this step, and False: it never ends.

    Raises:
      ValueError: Another shape of ``state`` or ``action``.
    """
    del key
    require_shape("state", state, (2,))
    require_shape("action", action, (2,))
    torque = jnp.clip(action[0], -world.limit, world.limit)
    push = jnp.clip(action[1], -world.cap, world.cap)
    turn = 15 * jnp.sin(state[0]) + 3 * (torque + push)
    speed = jnp.clip(state[1] + world.time * turn, -FASTEST, FASTEST)
    angle = jnp.mod(state[0] + world.time * speed + jnp.pi, 2 * jnp.pi) - jnp.pi
    after = jnp.stack([angle, speed])
    return after, after, -cost(world, state, torque), jnp.zeros((), bool)


def solve(
    world: World, attenuation: float, *, sweeps: int = 2000
) -> tuple[np.ndarray, np.ndarray]:
    """Gains of the linear game near upright, ``u = -K x`` and ``d = L x``.

    The saddle of ``sum theta^2 + .1 omega^2 + price u^2 - g^2 d^2`` without limits, by
    iterating ``P = Q + A' P (I + B B' (1 / price - 1 / g^2) P)^-1 A``.

    Args:
      world: The world, of known numbers.
      attenuation: Bound ``g`` on the amplification; infinite for no disturber.
      sweeps: Iterations.

    Returns:
      ``K`` and ``L``, float64 ``[2]`` each.

    Raises:
      ValueError: No controller has this bound, one that is not positive, no sweeps.

    Reference: Basar and Bernhard, "H-infinity Optimal Control and Related Minimax
    Design Problems" (1995), theorem 3.7.
    """
    require_number("attenuation", attenuation, 0, above=True, finite=False)
    require_number("sweeps", sweeps, 1)
    time, price = float(world.time), float(world.price)
    a = np.array([[1 + 15 * time**2, time], [15 * time, 1.0]])
    b = 3 * time * np.array([[time], [1.0]])
    cost_of, p = np.diag([1.0, 0.1]), np.diag([1.0, 0.1])
    share = attenuation**-2.0
    carried = p @ a
    for _ in range(sweeps):
        if not share * (b.T @ p @ b).item() < 1:
            raise ValueError(
                f"attenuation is {attenuation}; expected more: no controller has it"
            )
        carried = p @ np.linalg.solve(np.eye(2) + b @ b.T @ p * (1 / price - share), a)
        p = cost_of + a.T @ carried
    return (b.T @ carried / price)[0], share * (b.T @ carried)[0]


def worst(
    world: World,
    policy: Callable[[Array], Array],
    start: Array,
    *,
    steps: int = 60,
    points: int = 61,
) -> tuple[Array, Array]:
    """What an episode costs when the disturber answers a controller as well as it can.

    Dynamic programming over a grid of states with pushes of ``-cap``, 0 and ``cap``
    finds what is to come; the episode itself then follows the exact world, so the cost
    is one that these pushes do reach, and at most the worst one.

    Args:
      world: The world.
      policy: Torque for an observation, ``[2]`` to a scalar.
      start: First states, ``[N, 2]``.
      steps: Length of the episode.
      points: Points of the grid in either direction, at least 3.

    Returns:
      Costs ``[N]``, NaN where a torque on the way is, and the pushes ``[N, steps]``.

    Raises:
      ValueError: Another shape of ``start``, no steps, too few points.
    """
    if jnp.ndim(start) != 2 or jnp.shape(start)[1] != 2:
        raise ValueError(f"start has shape {jnp.shape(start)}; expected [N, 2]")
    require_number("steps", steps, 1)
    require_number("points", points, 3)
    start = jnp.asarray(start, jnp.float32)
    angles = jnp.linspace(-jnp.pi, jnp.pi, points)
    speeds = jnp.linspace(-FASTEST, FASTEST, points)
    grid = jnp.stack(jnp.meshgrid(angles, speeds, indexing="ij"), -1).reshape(-1, 2)
    pushes = world.cap * jnp.array([-1.0, 0.0, 1.0])

    def tried(state):
        torque = policy(state)
        go = lambda push: step(world, state, jnp.stack([torque, push]), None)[0]  # noqa: E731
        return jax.vmap(go)(pushes), cost(world, state, torque)

    def read(table, state):
        at = (state / jnp.array([jnp.pi, FASTEST]) + 1) * (points - 1) / 2
        floor = jnp.clip(jnp.floor(at), 0, points - 2)
        low, part = floor.astype(jnp.int32), at - floor
        rows = table[low[0]] * (1 - part[0]) + table[low[0] + 1] * part[0]
        return rows[low[1]] * (1 - part[1]) + rows[low[1] + 1] * part[1]

    look = jax.vmap(jax.vmap(read, (None, 0)), (None, 0))
    reached, paid = jax.vmap(tried)(grid)

    def back(table, _):
        better = paid + jnp.max(look(table, reached), -1)
        return better.reshape(points, points), table

    none = jnp.zeros((points, points))
    _, tables = jax.lax.scan(back, none, None, length=steps)

    def move(state, table):
        reached, paid = tried(state)
        values = jax.vmap(partial(read, table))(reached)
        best = jnp.argmax(values)
        # A controller that fails somewhere has no worst cost.
        paid = jnp.where(jnp.any(jnp.isnan(values)), jnp.nan, paid)
        return reached[best], (paid, pushes[best])

    # The tables were found backwards: the first is of the last step.
    walk = lambda state: jax.lax.scan(move, state, tables, reverse=True)[1]  # noqa: E731
    costs, chosen = jax.vmap(walk)(start)
    return jnp.sum(costs, -1), chosen[:, ::-1]


def render(world: World, state: Array, *, size: int = 64) -> Array:
    """A picture: the pivot in black, the rod in grey, its end in blue.

    Args:
      world: The world.
      state: Angle and speed, ``[2]``.
      size: Pixels of a side.

    Returns:
      Float32 ``[size, size, 3]`` in [0, 1], upright to the top.
    """
    del world
    picture, _, _ = paper(size)
    way = 0.4 * jnp.stack([jnp.sin(state[0]), jnp.cos(state[0])])
    for part in range(1, 25):
        picture = disc(picture, 0.5 + part / 25 * way, 0.015, (0.6, 0.6, 0.6))
    picture = disc(picture, jnp.full(2, 0.5), 0.03, (0.1, 0.1, 0.1))
    return disc(picture, 0.5 + way, 0.05, (0.2, 0.3, 0.9))
