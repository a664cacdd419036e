"""What a negotiation would have been: without an utterance, or by the best ones.

Of `jaxlib_guidance.worlds.negotiation`. In replays the partner decides by the same
draws, so that what differs is what was said.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array, concrete
from jaxlib_guidance.worlds._checks import require_index, require_number
from jaxlib_guidance.worlds._negotiation import (
    LENGTH,
    SILENCE,
    WORDS,
    State,
    Talks,
    answer,
    begin,
    habits,
    say,
    scores,
)


def replay(
    talks: Talks, orders: Array, words: Array, draws: Array, player: Array | int
) -> State:
    """The talk in which a player says these words and the partner what it says then.

    Args:
      talks: The world.
      orders: Number of each speaker's order, integers ``[2]``.
      words: Utterances about items, integers ``[6]``, `SILENCE` after a deal; the
        partner's are not read.
      draws: Numbers in [0, 1) that decide the partner's utterances, ``[6]``.
      player: Who says them, 0 for the first speaker, or 1.

    Returns:
      The state after six utterances or a deal.

    Raises:
      ValueError: Other shapes, or numbers out of range.
    """
    require_index("words", words, WORDS + 1)
    require_shape("words", words, (LENGTH,))
    require_number("draws", draws, 0, np.nextafter(np.float32(1), 0))
    require_shape("draws", draws, (LENGTH,))
    require_index("player", player, 2)

    def utter(state, each):
        word, draw = each
        own = state.turn % 2 == player
        word = jnp.where(own, word, answer(talks, state, draw))
        return say(talks, state, word), None

    return jax.lax.scan(utter, begin(orders), (jnp.asarray(words), draws))[0]


def contributions(
    talks: Talks, orders: Array, words: Array, draws: Array, player: Array | int
) -> tuple[Array, Array]:
    """What each own utterance brought: the scores less those of a talk without it.

    Args:
      talks: The world.
      orders: Number of each speaker's order, integers ``[2]``.
      words: Utterances about items, integers ``[6]``, `SILENCE` after a deal.
      draws: Numbers that decide the partner's utterances in all replays, ``[6]``.
      player: Who says them, 0 for the first speaker, or 1.

    Returns:
      Scores ``[3]`` of the talk, and differences ``[6, 3]``: 0 at the partner's turns.

    Raises:
      ValueError: Other shapes, or numbers out of range.
    """
    require_index("words", words, WORDS + 1)
    require_index("player", player, 2)
    words, turns = jnp.asarray(words), jnp.arange(0, LENGTH, 2) + player

    def run(words):
        return scores(talks, replay(talks, orders, words, draws, player), player)

    full = run(words)
    without = jax.vmap(lambda turn: run(words.at[turn].set(SILENCE)))(turns)
    return full, jnp.zeros((LENGTH, 3)).at[turns].set(full - without)


def solve(talks: Talks, state: State, player: int) -> Array:
    """Best goal score that a player can expect from here, by listing what can be said.

    It remembers all and plans with its belief, to which the partner's habits are known.

    Args:
      talks: The world.
      state: The talk. From its beginning ``13^6`` talks are listed, in 2.4
        GB and seconds to a minute.
      player: Who plans, 0 or 1.

    Returns:
      Expected worth, scalar.

    Raises:
      ValueError: A traced turn, or another player.
    """
    require_index("player", player, 2)
    turn = concrete(state.turn)
    if turn is None:
        raise ValueError("state.turn is traced; expected a known number of utterances")

    def best(turn, state, weight):
        # The weight is the belief times the chances of what the partner has said.
        if turn == LENGTH:
            return jnp.sum(weight) * scores(talks, state, player)[0]
        after = jax.vmap(lambda word: say(talks, state, word))(jnp.arange(WORDS))
        if turn % 2 == player:
            each = jax.vmap(lambda s: best(turn + 1, s, weight))(after)
            return jnp.max(each)
        chance = habits(talks, state).T * weight
        return jnp.sum(jax.vmap(lambda s, w: best(turn + 1, s, w))(after, chance))

    return best(int(turn), state, state.beliefs[player])
