"""Who the impostor is by Bayes' rule, and how often the best crew is right.

A dossier is what a player saw of the three others, one of 27. Given who the impostor
is, dossiers are independent, and the alibi is one of them; so whatever was said by
whatever rules, what it tells is a product over the speakers.
"""

from itertools import product
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.reduce import divide, require_shape
from jaxlib_guidance.types import Array, require_array
from jaxlib_guidance.worlds import _hidden_role as world
from jaxlib_guidance.worlds._checks import require_number
from jaxlib_guidance.worlds._hidden_role import (
    ACCUSE,
    AT_TASK,
    CLEAR,
    IDLE,
    OWN,
    PLAYERS,
    SELF,
    SILENCE,
    require_seen,
)

DOSSIERS = 27
SEEN = np.full((PLAYERS, DOSSIERS, PLAYERS), SELF)
"""What each player saw of each in each of its dossiers."""
LITERAL = np.full((PLAYERS, DOSSIERS, 2), SILENCE)
"""Two words that tell a dossier plainly: who was idle first, then who was at a task."""
for _player, _row in enumerate(OWN):
    SEEN[_player][:, ~_row] = list(product(range(3), repeat=PLAYERS - 1))
    for _number, _seen in enumerate(SEEN[_player]):
        _told = [ACCUSE + j for j in range(PLAYERS) if _seen[j] == IDLE]
        _told += [CLEAR + j for j in range(PLAYERS) if _seen[j] == AT_TASK]
        LITERAL[_player, _number, : len(_told)] = _told[:2]


class Solution(NamedTuple):
    """How often a crew that votes by Bayes' rule ejects an impostor who `hide`-s.

    Attributes:
      alone: Each by its own dossier, ties by a coin.
      literal: All by what is told in the words `LITERAL`, of the impostor as well.
      told: All by the four dossiers. No crew is better whose words are those of its
        rules for the dossiers, if the impostor follows the same rules with its alibi.
      right: Chance that one vote is right where each votes by its own dossier.
    """

    alone: Array
    literal: Array
    told: Array
    right: Array


def dossier(seen: Array) -> Array:
    """Numbers of the dossiers.

    Args:
      seen: What each (row) saw of each, integers ``[4, 4]``.

    Returns:
      Int32 ``[4]``, 0 to 26: in base 3, of the others in order.
    """
    require_seen(seen)
    power = np.zeros((PLAYERS, PLAYERS), np.int32)
    power[~OWN] = np.tile([9, 3, 1], PLAYERS)
    return jnp.sum(jnp.asarray(seen, jnp.int32) * power, -1).astype(jnp.int32)


def likelihood(game: world.Game) -> Array:
    """Chance of each dossier.

    Args:
      game: The game.

    Returns:
      Float32 ``[4, 4, 27]``: of each player, if each is the impostor. Its own is the
      chance of the alibi.
    """
    guilty = np.eye(PLAYERS, dtype=int)[:, None, None]
    chance = jnp.where(SEEN == SELF, 1.0, game.sees[guilty, np.minimum(SEEN, IDLE)])
    chance = jnp.prod(chance, -1).swapaxes(0, 1)
    crew = jnp.where(OWN[..., None], 0.0, chance)
    alibi = jnp.sum(crew, 1, keepdims=True) / (PLAYERS - 1)
    return jnp.where(OWN[..., None], alibi, chance)


def beliefs(game: world.Game, seen: Array, said: Array | None = None) -> Array:
    """What each believes, as a crew member, by its dossier and what the others said.

    ``p_i(j) ~ 1[j != i] P(d_i | j) prod_{s != i} sum_d P(d_s = d | j) said[s, d]``

    Args:
      game: The game.
      seen: What each (row) saw of each, integers ``[4, 4]``.
      said: Chance that each player had said its words so far, with each dossier, given
        what it had heard, ``[4, 27]``, for the impostor with each alibi; up to a factor
        a player. None before anybody has spoken.

    Returns:
      Probabilities of each (column) being the impostor, ``[4, 4]``; a row is 0 where
      what was heard is impossible.

    Raises:
      TypeError: A list.
      ValueError: Another shape, a number below 0.
    """
    chance = likelihood(game)
    own = jnp.take_along_axis(chance, dossier(seen)[:, None, None], 2)[..., 0]
    told = jnp.ones_like(own)
    if said is not None:
        require_array("said", said)
        require_shape("said", said, (PLAYERS, DOSSIERS))
        require_number("said", said, 0)
        said = jnp.asarray(said, jnp.float32)
        # A product of three small chances could leave float32, so each begins at 1.
        said = divide(said, jnp.max(said, -1, keepdims=True))
        told = jnp.einsum("sjd,sd->sj", chance, said)
    others = jnp.where(OWN[..., None], 1.0, told)
    odds = jnp.where(OWN, 0.0, own * jnp.prod(others, 1))
    return divide(odds, jnp.sum(odds, -1, keepdims=True))


def solve(game: world.Game) -> Solution:
    """The best rates of the crew, by listing all dossiers.

    Args:
      game: The game.

    Returns:
      Rates; two of them list ``27^4`` cases.
    """
    chance = likelihood(game)

    def pooled(each):
        cases = jnp.einsum("ja,jb,jc,jd->jabcd", *each)
        return jnp.sum(jnp.max(cases, 0)) / PLAYERS

    same = np.all(LITERAL[:, :, None] == LITERAL[:, None], -1)
    first = np.argmax(same, -1)  # Dossiers that are told alike are counted as one.
    merge = jnp.asarray(first[..., None] == np.arange(DOSSIERS), jnp.float32)
    odds = jnp.where(OWN[..., None], 0.0, chance)
    best = odds >= jnp.max(odds, 1, keepdims=True) * (1 - 1e-5)
    vote = best.astype(jnp.float32)
    right = jnp.sum(odds * vote / jnp.sum(vote, 1, keepdims=True), -1)
    crew = jnp.where(OWN, 1.0, right)
    return Solution(
        jnp.mean(jnp.prod(crew, 0)),
        pooled(chance @ merge),
        pooled(chance),
        jnp.sum(right) / (PLAYERS * (PLAYERS - 1)),
    )
