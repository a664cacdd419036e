"""A social dilemma of two actions, played again and again, and when it stops being one.

Action 0 cooperates and 1 defects. Whatever the other does, defecting pays more, and
both would have more had both cooperated: (3, 3), (0, 4), (4, 0), (1, 1).

Reference: Dasgupta and Musolesi, "Investigating the Impact of Direct Punishment on the
Emergence of Cooperation in Multi-Agent Reinforcement Learning Systems", arXiv
2301.08278; payoffs of the authors' code, its ``MatrixGame/IPDGame.py``.
"""

from typing import NamedTuple

import jax.numpy as jnp

from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array
from jaxlib_guidance.worlds._checks import require_index, require_number
from jaxlib_guidance.worlds._paint import FLOOR, paint

COOPERATE, DEFECT, UNKNOWN = 0, 1, 2
"""Actions, and what stands for the action of a player who has not played yet."""


class Game(NamedTuple):
    """A symmetric game of two players and two actions.

    Attributes:
      payoff: What a player gets for the own action (row) against the other's (column),
        ``[2, 2]``.
    """

    payoff: Array


class Solution(NamedTuple):
    """Best answers where nobody looks ahead.

    Attributes:
      punish: Whether punishing pays in itself, after a cooperation and after a
        defection, bool ``[2]``.
      cooperate: Whether cooperating then pays, whatever the other does, bool scalar.
      payoff: What each player then gets from play, scalar.
    """

    punish: Array
    cooperate: Array
    payoff: Array


def prisoners() -> Game:
    """The prisoner's dilemma of the authors' code.

    Returns:
      The game with payoffs 3, 0, 4, 1.
    """
    return Game(jnp.array([[3.0, 0.0], [4.0, 1.0]]))


def deterrence(game: Game, penalty: float | Array) -> Array:
    """Punishments a defection must meet, in the mean, for cooperating to pay always.

    ``max_c (payoff[1, c] - payoff[0, c]) / penalty``.

    Args:
      game: The game.
      penalty: What a punishment costs its victim, positive, of any shape.

    Returns:
      Of the shape of ``penalty``; at most 0 where the game is no dilemma.
    """
    require_shape("payoff", game.payoff, (2, 2))
    return jnp.max(game.payoff[1] - game.payoff[0]) / penalty


def solve(
    game: Game, *, punishers: int, penalty: float, just: float, unjust: float
) -> Solution:
    """What best answers lead to if every punisher looks at the own pay alone.

    Args:
      game: The game.
      punishers: Number of players who may punish each action.
      penalty: What a punishment costs its victim, positive.
      just: Pay of a punisher of a defection.
      unjust: Pay of a punisher of a cooperation.

    Returns:
      Who is punished, and whether both cooperate.
    """
    require_shape("payoff", game.payoff, (2, 2))
    punish = jnp.array([unjust, just]) > 0
    loss = jnp.where(punish, punishers * penalty, 0.0)
    paid = game.payoff - loss[:, None]
    cooperate = jnp.all(paid[0] > paid[1])
    both = jnp.where(cooperate, paid[0, 0], paid[1, 1])
    return Solution(punish, cooperate, both)


def reset(game: Game, key: Array) -> tuple[Array, Array]:
    """Two players who have not played.

    Args:
      game: The game.
      key: Typed key; nothing is drawn from it.

    Returns:
      The state, each player's last action, int32 ``[2]``, and what each player sees,
      int32 ``[2, 2]``: the other's last action and the own.
    """
    del game, key
    state = jnp.full(2, UNKNOWN, jnp.int32)
    return state, views(state)


def step(
    game: Game, state: Array, action: Array, key: Array
) -> tuple[Array, Array, Array, Array]:
    """One round.

    Args:
      game: The game.
      state: Last actions, int32 ``[2]``.
      action: Actions, int32 ``[2]``.
      key: Typed key; nothing is drawn from it.

    Returns:
      The new state ``[2]``, what each player sees ``[2, 2]``, the payoffs ``[2]``, and
      False: it never ends.
    """
    del key
    require_shape("action", action, jnp.shape(state))
    reward = jnp.asarray(game.payoff)[action, action[::-1]]
    return action, views(action), reward, jnp.zeros((), bool)


def views(state: Array) -> Array:
    """What each player sees of the last actions: the other's, then the own.

    Args:
      state: Last actions, int32 ``[2]``.

    Returns:
      Int32 ``[2, 2]``, a row for each player.
    """
    return jnp.stack([state[::-1], state], -1)


def render(game: Game, state: Array, *, scale: int = 16) -> Array:
    """Two players: green cooperated last, red defected, grey has not played.

    Args:
      game: The game.
      state: Last actions, int32 ``[2]``.
      scale: Pixels of a player.

    Returns:
      Float32 ``[scale, 2 scale, 3]`` in [0, 1].
    """
    del game
    require_shape("state", state, (2,))
    require_index("state", state, UNKNOWN + 1)
    require_number("scale", scale, 4)
    colors = jnp.array([(0.3, 0.65, 0.35), (0.8, 0.25, 0.2), (0.7, 0.7, 0.7)])
    cells = jnp.tile(jnp.array(FLOOR), (1, 2, 1))
    players = colors[jnp.asarray(state)][None, None]
    picture = paint(cells, players, scale=scale, inset=(scale // 6,))
    return picture.astype(jnp.float32)
