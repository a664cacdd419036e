"""Kuhn poker: the smallest game with bluffs, played in batches and solved exactly.

Two players ante 1 and get one card each of J < Q < K. Player 0 checks or bets 1; after
a check player 1 checks (showdown) or bets; whoever faces a bet folds or calls. A policy
is the probability of the bold action (to bet or to call) in each of the 12 information
sets, ``[12]``: the card ``c`` is 0, 1 or 2 and

| index | who | after |
|---|---|---|
| ``c`` | player 0 | the deal |
| ``3 + c`` | player 1 | a check |
| ``6 + c`` | player 1 | a bet |
| ``9 + c`` | player 0 | own check, then a bet |

Amounts are in antes.

Reference: H. W. Kuhn, "A simplified two-person poker" (1950); every equilibrium is
`equilibrium` for one ``alpha``, and its value to player 0 is -1/18.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array
from jaxlib_guidance.worlds._checks import require_chance
from jaxlib_guidance.worlds._picture import bars, paper

SETS = 12
SEATS = (0, 1, 0)
"""Who takes the first, second and third decision."""


class Games(NamedTuple):
    """Games that were played.

    Attributes:
      sets: Information set of each decision, int32 ``[B, 3]``.
      bold: Whether it was to bet or call, bool ``[B, 3]``.
      mask: 1 on the decisions that came up, float32 ``[B, 3]``.
      payoff: What each player won, ``[B, 2]``; the two sum to 0.
    """

    sets: Array
    bold: Array
    mask: Array
    payoff: Array


def play(keys: Array, policy: Array) -> Games:
    """Plays one game for each key, both seats by the same policy.

    Args:
      keys: Typed keys ``[B]``, one for each game.
      policy: Probability of the bold action in each information set, ``[12]``.

    Returns:
      The games, all arrays with leading ``B``.

    Raises:
      ValueError: ``policy`` has another shape.
    """
    require_shape("policy", policy, (SETS,))

    def game(key):
        deal, *acts = (jax.random.fold_in(key, i) for i in range(4))
        a, b = jax.random.permutation(deal, 3)[:2].astype(jnp.int32)
        draw = lambda key, index: jax.random.uniform(key) < policy[index]  # noqa: E731
        bet = draw(acts[0], a)
        second = jnp.where(bet, 6, 3) + b
        answer = draw(acts[1], second)
        raised = ~bet & answer
        call = draw(acts[2], 9 + a)
        showdown = jnp.where(a > b, 1.0, -1.0)
        won = jnp.where(
            bet,
            jnp.where(answer, 2 * showdown, 1.0),
            jnp.where(raised, jnp.where(call, 2 * showdown, -1.0), showdown),
        )
        return Games(
            jnp.stack([a, second, 9 + a]),
            jnp.stack([bet, answer, call]),
            jnp.stack([jnp.float32(1), jnp.float32(1), raised.astype(jnp.float32)]),
            jnp.stack([won, -won]),
        )

    return jax.vmap(game)(keys)


def _deals(policy):
    """Policy by set and card, and ``[3, 3]`` tables of what player 0 wins at showdown.

    The second table is 1 where the deal is possible.
    """
    require_shape("policy", policy, (SETS,))
    card = jnp.arange(3)
    showdown = jnp.sign(card[:, None] - card).astype(jnp.float32)
    return jnp.reshape(policy, (4, 3)), showdown, jnp.abs(showdown)


def value(policy: Array) -> Array:
    """What player 0 wins on average, exactly.

    Args:
      policy: Probability of the bold action in each information set, ``[12]``.

    Returns:
      A scalar, in antes.
    """
    (first, after_check, after_bet, facing), win, possible = _deals(policy)
    checked = (1 - after_check) * win + after_check * (
        (facing[:, None] - 1) + facing[:, None] * 2 * win
    )
    bet = (1 - after_bet) + after_bet * 2 * win
    each = (1 - first)[:, None] * checked + first[:, None] * bet
    return jnp.sum(possible * each) / 6


def best_responses(policy: Array) -> Array:
    """What the best opponent wins in seat 0 and in seat 1 against ``policy``, ``[2]``.

    Exact: an opponent sees only the own card, so the cards that it may be facing are
    weighed by how the policy would have come here with them, and the choices that come
    later are maximised first.
    """
    (first, after_check, after_bet, facing), win, possible = _deals(policy)
    # Rows are player 0's card, columns player 1's.
    meets_bet = jnp.maximum(
        jnp.sum(possible * after_check * -1, 1),
        jnp.sum(possible * after_check * 2 * win, 1),
    )
    check = jnp.sum((1 - after_check) * win, 1) + meets_bet
    bet = jnp.sum(possible * ((1 - after_bet) + after_bet * 2 * win), 1)
    seat0 = jnp.sum(jnp.maximum(check, bet)) / 6

    came = (1 - first)[:, None]
    called = -(facing[:, None] * 2 * win + (facing[:, None] - 1))
    after_check = jnp.maximum(
        jnp.sum(came * -win, 0), jnp.sum(possible * came * called, 0)
    )
    came = first[:, None]
    after_bet = jnp.maximum(
        jnp.sum(possible * came * -1, 0), jnp.sum(came * -2 * win, 0)
    )
    return jnp.stack([seat0, jnp.sum(after_check + after_bet) / 6])


def exploitability(policy: Array) -> Array:
    """Mean of `best_responses`: what the best opponent wins a game; 0 in equilibrium.

    It is half of NashConv, 0.4583 for uniform play.
    """
    return jnp.mean(best_responses(policy))


def equilibrium(alpha: float) -> Array:
    """The equilibrium in which player 0 bets a jack with probability ``alpha``.

    Args:
      alpha: Probability in [0, 1/3] with which player 0 bets a jack.

    Returns:
      The probability of the bold action in each information set, ``[12]``.

    Raises:
      ValueError: ``alpha`` lies outside [0, 1/3].
    """
    if not 0 <= alpha <= 1 / 3:
        raise ValueError(f"alpha is {alpha}; expected 0 to 1/3")
    rows = [alpha, 0, 3 * alpha, 1 / 3, 0, 1, 0, 1 / 3, 1, 0, alpha + 1 / 3, 1]
    return jnp.array(rows, jnp.float32)


def render(policy: Array, *, size: int = 96) -> Array:
    """A picture of a policy: how bold it is, a bar for each information set.

    Three bars, of J, Q and K, for each of four places in the game, in the order of the
    table above: player 0 in blue and player 1 in red.

    Args:
      policy: Probability of the bold action in each information set, ``[12]``.
      size: Pixels of a side.

    Returns:
      Float32 ``[size, size, 3]`` in [0, 1]; a full bar is always bold.
    """
    require_shape("policy", policy, (SETS,))
    require_chance("policy", policy)
    picture, _, _ = paper(size)
    blue, red = (0.2, 0.3, 0.9), (0.8, 0.25, 0.2)
    colors = jnp.array([blue] * 3 + [red] * 6 + [blue] * 3)
    tall = 0.02 + 0.96 * jnp.asarray(policy, jnp.float32)
    return bars(picture, tall, 0.0, colors)
