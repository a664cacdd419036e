"""A scalar linear system pushed by a disturber, with every answer in closed form.

``x' = x + u + w``, cost ``x^2 + u^2`` a step, an actor ``u = -K x`` and a disturber ``w
= L x``. For an attenuation ``g`` the game is ``min_K max_L sum x^2 + u^2 - g^2 w^2``;
it has a solution for every ``g`` above ``sqrt 2``, and no controller attenuates more.

Reference: Basar and Bernhard, "H-infinity Optimal Control and Related Minimax Design
Problems" (1995); the Riccati equation is solved here by hand.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array
from jaxlib_guidance.worlds._picture import disc, line, paper

LIMIT = 2**0.5
"""Least attenuation that a controller can have, in the limit ``K = 1``."""


class Game(NamedTuple):
    """The system's parameters; there is one: how hard the disturber may push.

    Attributes:
      cap: Largest ``|w|``, scalar.
    """

    cap: Array


class Saddle(NamedTuple):
    """Where neither player gains by another linear policy.

    Attributes:
      actor: Gain ``K`` of the actor, ``u = -K x``.
      disturber: Gain ``L`` of the disturber, ``w = L x``.
      value: Cost less ``g^2 w^2``, summed over time, from ``x = 1``.
    """

    actor: float
    disturber: float
    value: float


def solve(attenuation: float) -> Saddle:
    """The game's saddle; for an infinite attenuation the optimum without disturber.

    ``P = (1 + sqrt(1 + 4 / c)) / 2`` with ``c = 1 - 1 / g^2``, ``K = P / (1 + c P)``
    and ``L = K / g^2``.

    Args:
      attenuation: Attenuation ``g``, above ``sqrt 2``; infinite for no disturber.

    Returns:
      Both gains and the value.

    Raises:
      ValueError: ``attenuation`` at or below ``sqrt 2``: the game has no solution.
    """
    if not attenuation > LIMIT:
        raise ValueError(f"attenuation is {attenuation}; expected more than sqrt 2")
    c = 1 - attenuation**-2.0
    value = (1 + (1 + 4 / c) ** 0.5) / 2
    actor = value / (1 + c * value)
    return Saddle(actor, actor * attenuation**-2.0, value)


def gain(actor: Array) -> Array:
    """``sqrt(1 + K^2) / (1 - |1 - K|)``: the worst amplification of a disturbance.

    The largest ratio of ``sqrt(sum x^2 + u^2)`` to ``sqrt(sum w^2)``, over all
    disturbances of finite energy from rest.

    Args:
      actor: Gain ``K``, of any shape.

    Returns:
      Of the shape of ``actor``; infinite for an unstable loop, ``K`` outside (0, 2).
    """
    actor = jnp.asarray(actor)
    room = 1 - jnp.abs(1 - actor)
    inside = jnp.sqrt(1 + actor**2) / jnp.where(room > 0, room, 1)
    return jnp.where(room > 0, inside, jnp.inf)


def nominal_cost(actor: Array) -> Array:
    """``(1 + K^2) / (1 - (1 - K)^2)``: what the loop costs without a disturber.

    Summed over time from ``x = 1``; equally the mean cost a step under white noise of
    variance 1.

    Args:
      actor: Gain ``K``, of any shape.

    Returns:
      Of the shape of ``actor``; infinite for an unstable loop.
    """
    actor = jnp.asarray(actor)
    room = 1 - (1 - actor) ** 2
    inside = (1 + actor**2) / jnp.where(room > 0, room, 1)
    return jnp.where(room > 0, inside, jnp.inf)


def worst_value(actor: Array, attenuation: Array) -> Array:
    """Cost less ``g^2 w^2`` from ``x = 1``, against the disturber's best response.

    The smaller root of ``P = 1 + K^2 + (1 - K)^2 P / (1 - P / g^2)``.

    Args:
      actor: Gain ``K``, of any shape.
      attenuation: Attenuation ``g``, of the shape of ``actor`` or a scalar; infinite
        for no disturber.

    Returns:
      Of their common shape; infinite where ``gain(actor)`` is not below ``g``.
    """
    actor = jnp.asarray(actor)
    square = jnp.asarray(attenuation) ** 2
    cost, carried = 1 + actor**2, (1 - actor) ** 2
    # P^2 / g^2 - (1 + cost / g^2 - carried) P + cost = 0.
    half = (1 + cost / square - carried) / 2
    root = half**2 - cost / square
    # The product of the roots over the larger one, which also serves an infinite g.
    larger = half + jnp.sqrt(jnp.maximum(root, 0))
    value = cost / jnp.where(larger > 0, larger, 1)
    return jnp.where(gain(actor) < jnp.sqrt(square), value, jnp.inf)


def control_weight(actor: float) -> float:
    """The ``r`` for which ``K`` is optimal for the cost ``x^2 + r u^2`` alone.

    Every stabilising gain up to 1 is one, so in one dimension the game's policy is also
    that of a plain controller whose price of control was searched.

    Args:
      actor: Gain ``K``, in (0, 1].

    Returns:
      ``r``, at least 0: ``(1 - K) / K^2``.

    Raises:
      ValueError: ``actor`` outside of (0, 1].
    """
    if not 0 < actor <= 1:
        raise ValueError(f"actor is {actor}; expected a gain in (0, 1]")
    return float(np.float64(1 - actor) / actor**2)


def reset(game: Game, key: Array) -> tuple[Array, Array]:
    """A state drawn from N(0, 1), which is also what is observed.

    Args:
      game: The game.
      key: Typed key.

    Returns:
      State and observation, two scalars.
    """
    del game
    state = jax.random.normal(key)
    return state, state


def step(
    game: Game, state: Array, action: Array, key: Array
) -> tuple[Array, Array, Array, Array]:
    """One step of both players.

    Args:
      game: The game.
      state: State, scalar.
      action: What the actor and what the disturber does, ``[2]``; the second is cut to
        the cap.
      key: Typed key; nothing is drawn from it.

    Returns:
      The next state, the observation, which is the state, the reward ``-x^2 - u^2`` of
      this step, and False: it never ends.

    Raises:
      ValueError: Another shape of ``action``.
    """
    del key
    require_shape("action", action, (2,))
    push = jnp.clip(action[1], -game.cap, game.cap)
    after = state + action[0] + push
    reward = -(state**2) - action[0] ** 2
    return after, after, reward, jnp.zeros((), bool)


def render(game: Game, state: Array, action: Array, *, size: int = 64) -> Array:
    """A picture: the state on a line of -3 to 3, and both pushes below it.

    The actor's is green and the disturber's red.

    Args:
      game: The game.
      state: State, scalar.
      action: What the actor and what the disturber does, ``[2]``.
      size: Pixels of a side.

    Returns:
      Float32 ``[size, size, 3]`` in [0, 1].
    """
    require_shape("action", action, (2,))
    picture, _, _ = paper(size)
    at = lambda x, y: jnp.stack([0.5 + x / 6, jnp.asarray(y, jnp.float32)])  # noqa: E731
    x = jnp.clip(jnp.asarray(state, jnp.float32), -3.0, 3.0)
    picture = line(picture, at(-3.0, 0.6), at(3.0, 0.6), 0.02, (0.8, 0.8, 0.8))
    picture = line(picture, at(0.0, 0.5), at(0.0, 0.7), 0.02, (0.3, 0.3, 0.3))
    push = jnp.stack([action[0], jnp.clip(action[1], -game.cap, game.cap)])
    for y, one, color in zip(
        (0.4, 0.25), push, ((0.2, 0.6, 0.3), (0.8, 0.2, 0.15)), strict=True
    ):
        picture = line(picture, at(x, y), at(x + one, y), 0.04, color)
    return disc(picture, at(x, 0.6), 0.06, (0.2, 0.3, 0.9))
