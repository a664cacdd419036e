"""Two who split three items by six utterances, of which an offer, alone, is binding.

Each of the two values the items by the same three numbers, in an order that the other
does not know. They speak in turns: to offer a split, to ask what the other likes best,
to tell it, or small talk. Who offers the split that the other has just offered agrees
to it, and the talk ends; without a deal nobody gets anything. A partner with fixed
habits answers what it is asked, grows generous by small talk, and leaves to the other
what it was told; each believes by Bayes' rule that the other speaks so. What each
utterance brought is exact: `negotiation_replays` has the talk without it.

Reference: Yu et al., "Sotopia-RL: Reward Design for Social Intelligence", arXiv
2508.03905: its dimensions goal, relationship and knowledge, in a world where they are
known; the game is after Lewis et al., "Deal or No Deal?", arXiv 1706.05125.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.reduce import divide, require_shape
from jaxlib_guidance.types import Array, concrete, pytree_dataclass
from jaxlib_guidance.worlds._checks import require_chance, require_index, require_number
from jaxlib_guidance.worlds._negotiation_words import (
    ASK,
    BY_ITEM,
    BY_RANK,
    HOLDS,
    NONE,
    ORDERS,
    SILENCE,
    TALK,
    TELL,
    WORDS,
)
from jaxlib_guidance.worlds._picture import bars, paper

LENGTH = 6
PLACES = (3, 2, 4, 9)
"""Numbers of the values in `observe`."""


@pytree_dataclass
class Talks:
    """What items are worth, and the habits of the partner.

    Attributes:
      worth: Worth of the best, second and third item to each, ``[3]``, of sum 1.
      habits: Probability of each word about items, ``[3, 9, 4, 4, 6, 13]``: after a
        question, small talk or else; by the bits of what one is offered (8 for none),
        the item that the other is said to like best (3 for none), how often it has
        talked small, and one's own order.
    """

    worth: Array
    habits: Array


class State(NamedTuple):
    """A talk after some utterances; integers are int32.

    Attributes:
      orders: Number of each speaker's order of the items, ``[2]``, private.
      turn: Number of utterances so far; speaker ``turn % 2`` is next.
      last: The last utterance, about items.
      offer: Bits of what the first speaker gets by the last offer; 8 for none.
      by: Who made it.
      told: Item of which each was told last that it is the other's favourite, ``[2]``;
        3 for none.
      warm: How often the other has talked small to each, ``[2]``.
      deal: Bits of what the first speaker gets; 8 without a deal.
      beliefs: What each thinks of the other's order, ``[2, 6]``.
    """

    orders: Array
    turn: Array
    last: Array
    offer: Array
    by: Array
    told: Array
    warm: Array
    deal: Array
    beliefs: Array


def build(
    worth: Array | tuple[float, ...] = (0.6, 0.3, 0.1),
    *,
    honest: float | Array = 0.9,
    chatty: float | Array = 0.3,
    asks: float | Array = 0.6,
    care: float | Array = 0.5,
    warmth: float | Array = 0.15,
    temperature: float | Array = 0.1,
) -> Talks:
    """A world of talks; by default the partner keeps two items unless it is told more.

    Args:
      worth: Worth of the best, second and third item, ``[3]``, at least 0, of sum 1.
      honest: Probability that the partner's answer is the truth for certain.
      chatty: Probability that small talk is answered by small talk.
      asks: Own share at which it accepts every other offer.
      care: Weight of the other's share in what it offers, at least 0.
      warmth: Change of both by each small talk, at least 0.
      temperature: Spread of the partner's decisions, positive.

    Returns:
      The world.

    Raises:
      ValueError: Another shape or sum, numbers out of range.
    """
    best = jnp.float32(worth)
    require_shape("worth", best, (3,))
    require_number("worth", best, 0)
    if (known := concrete(best)) is not None and abs(known.sum() - 1) > 1e-5:
        raise ValueError(f"worth is {known.tolist()}; expected a sum of 1")
    require_chance("honest", honest)
    require_chance("chatty", chatty)
    require_number("asks", asks)
    require_number("care", care, 0)
    require_number("warmth", warmth, 0)
    require_number("temperature", temperature, 0, above=True)
    value = best[ORDERS]
    own, warm = value @ HOLDS.T, warmth * jnp.arange(4.0)[:, None, None]
    # To the other an item is worth the mean, or what is left of its favourite.
    known = jnp.where(jnp.eye(3) > 0, best[0], (1 - best[0]) / 2)
    known = jnp.concatenate([known, jnp.full((1, 3), 1 / 3)])
    other = (known @ HOLDS[::-1].T)[:, None, None]
    offers = jax.nn.softmax((own + (care + warm) * other) / temperature)
    gain = jnp.moveaxis(own, 0, 1)[:, None] - asks + warm[..., 0]
    agree = jax.nn.sigmoid(gain / temperature)[:, None, ..., None]
    deals = jnp.eye(8)[:, None, None, None] * agree + (1 - agree) * offers
    business = jnp.concatenate([deals, offers[None]])
    business = jnp.pad(business, [(0, 0)] * 4 + [(0, WORDS - 8)])
    names = jnp.where(ORDERS == 0, honest, 0.0) + (1 - honest) / 3
    answers = jnp.pad(names, ((0, 0), (TELL, WORDS - TALK)))
    small = jnp.where(jnp.arange(WORDS) == TALK, chatty, (1 - chatty) * business)
    answers = jnp.broadcast_to(answers, business.shape)
    return Talks(best, jnp.stack([answers, small, business]))


def begin(orders: Array) -> State:
    """A talk of which nothing is said.

    Args:
      orders: Number of each speaker's order of the items, integers ``[2]``, 0 to 5.

    Returns:
      The state.
    """
    require_index("orders", orders, 6)
    require_shape("orders", orders, (2,))
    none = jnp.int32(NONE)
    return State(
        jnp.asarray(orders, jnp.int32), jnp.int32(0), jnp.int32(SILENCE), none,
        jnp.int32(0), jnp.full(2, 3, jnp.int32), jnp.zeros(2, jnp.int32), none,
        jnp.full((2, 6), 1 / 6),
    )  # fmt: skip


def reset(talks: Talks, key: Array) -> tuple[State, Array]:
    """Draws two orders and who begins; where the partner does, it has spoken.

    Args:
      talks: The world.
      key: A typed key.

    Returns:
      The state, in which the learner speaks next, and what it observes.
    """
    of_orders, first, speaks = jax.random.split(key, 3)
    state = begin(jax.random.randint(of_orders, (2,), 0, 6))
    spoken = say(talks, state, answer(talks, state, jax.random.uniform(speaks)))
    begins = jax.random.bernoulli(first)
    state = jax.tree.map(lambda a, b: jnp.where(begins, a, b), state, spoken)
    return state, observe(state)


def step(
    talks: Talks, state: State, action: Array, key: Array
) -> tuple[State, Array, Array, Array]:
    """The learner's utterance, and the partner's answer.

    Args:
      talks: The world.
      state: The talk.
      action: Utterance about ranks: the learner's best item is bit 0, and 9.
      key: A typed key of the answer.

    Returns:
      The state, what the learner observes (`PLACES`), its goal score where the talk
      ends with this step and 0 else, and whether it is at its end. After that nothing
      changes, and what is observed is nobody's.
    """
    require_index("action", action, WORDS)
    over = _ended(state)
    player = state.turn % 2
    word = jnp.asarray(BY_ITEM)[state.orders[player], action]
    state = say(talks, state, word)
    state = say(talks, state, answer(talks, state, jax.random.uniform(key)))
    ended = _ended(state)
    paid = jnp.where(ended & ~over, scores(talks, state, player)[0], 0.0)
    return state, observe(state), paid, ended


def _ended(state):
    return (state.turn >= LENGTH) | (state.deal < NONE)


def observe(state: State) -> Array:
    """What who speaks next needs to know, about ranks of its own order.

    Args:
      state: The talk.

    Returns:
      Int32 ``[4]``: number of own utterances so far, whether one is second, the rank
      that the other is said to like best (3 for none), and the bits of what one is
      offered (8 for none); their numbers are `PLACES`.
    """
    player = state.turn % 2
    order = state.orders[player]
    told, names = state.told[player], jnp.asarray(BY_RANK)[order]
    heard = jnp.where(told < 3, names[TELL + jnp.minimum(told, 2)] - TELL, 3)
    own = names[jnp.where(player == 0, state.offer, 7 - state.offer)]
    offered = (state.offer < NONE) & (state.by != player)
    turn = jnp.minimum(state.turn // 2, LENGTH // 2 - 1)
    return jnp.stack([turn, player, heard, jnp.where(offered, own, NONE)])


def habits(talks: Talks, state: State) -> Array:
    """Probability of each utterance of who speaks next, with the partner's habits.

    Args:
      talks: The world.
      state: The talk.

    Returns:
      Float32 ``[6, 13]`` for each order of the speaker, of words about items.
    """
    player = state.turn % 2
    case = jnp.where(state.last == ASK, 0, jnp.where(state.last == TALK, 1, 2))
    offered = (state.offer < NONE) & (state.by != player)
    share = jnp.where(player == 0, state.offer, 7 - state.offer)
    share = jnp.where(offered, share, NONE)
    return talks.habits[case, share, state.told[player], state.warm[player]]


def answer(talks: Talks, state: State, draw: Array) -> Array:
    """The partner's next utterance; equal draws in other talks are the same whim.

    Args:
      talks: The world.
      state: The talk.
      draw: A number uniform in [0, 1).

    Returns:
      A word about items.
    """
    chance = habits(talks, state)[state.orders[state.turn % 2]]
    past = jnp.cumsum(chance) <= draw * jnp.sum(chance)
    return jnp.minimum(jnp.sum(past), WORDS - 1).astype(jnp.int32)


def say(talks: Talks, state: State, word: Array) -> State:
    """The talk with an utterance more; after its end it stays as it is.

    Args:
      talks: The world.
      state: The talk.
      word: What is said, about items: 0 to 12, or `SILENCE`.

    Returns:
      The state. What the partner would never say changes no belief.
    """
    require_index("word", word, WORDS + 1)
    word = jnp.asarray(word, jnp.int32)
    player = state.turn % 2
    hears = 1 - player
    offers, tells = word < ASK, (word >= TELL) & (word < TALK)
    split = jnp.where(player == 0, word, 7 - word)
    agreed = offers & (state.by != player) & (split == state.offer)
    likely = habits(talks, state)[:, jnp.minimum(word, WORDS - 1)]
    belief = state.beliefs[hears]
    seen = divide(belief * likely, jnp.sum(belief * likely))
    learns = (word < WORDS) & (jnp.sum(seen) > 0)
    after = State(
        state.orders,
        state.turn + 1,
        word,
        jnp.where(offers, split, state.offer),
        jnp.where(offers, player, state.by),
        state.told.at[hears].set(jnp.where(tells, word - TELL, state.told[hears])),
        state.warm.at[hears].add((word == TALK).astype(jnp.int32)),
        jnp.where(agreed, split, state.deal),
        state.beliefs.at[hears].set(jnp.where(learns, seen, belief)),
    )
    ended = _ended(state)
    return jax.tree.map(lambda a, b: jnp.where(ended, a, b), state, after)


def scores(talks: Talks, state: State, player: Array | int) -> Array:
    """Goal, relationship and knowledge of a player, each in [0, 1].

    Args:
      talks: The world.
      state: The talk.
      player: 0 who spoke first, or 1.

    Returns:
      Float32 ``[3]``: the worth of what one got; of what the other got, by the other's
      order; and the fall of the entropy of one's belief about that order, by ``log 6``.
    """
    require_index("player", player, 2)
    value = talks.worth[ORDERS][state.orders]
    first = jnp.asarray(HOLDS)[jnp.clip(state.deal, 0, 7)]
    each = jnp.sum(value * jnp.stack([first, 1 - first]), -1)
    each = jnp.where(state.deal < NONE, each, 0)
    belief = state.beliefs[player]
    # What is ruled out adds nothing; the logarithm of 0 would make its gradient NaN.
    entropy = -jnp.sum(belief * jnp.log(jnp.where(belief > 0, belief, 1.0)))
    return jnp.stack([each[player], each[1 - player], 1 - entropy / jnp.log(6.0)])


def render(talks: Talks, state: State, *, size: int = 128) -> Array:
    """Two bars an item, what it is worth to the first and to the second speaker.

    Args:
      talks: The world.
      state: The talk.
      size: Pixels of a side.

    Returns:
      Float32 ``[size, size, 3]`` in [0, 1]; red for who gets the item by the last
      offer, green by a deal, and grey else.
    """
    value = talks.worth[ORDERS][state.orders]
    split = jnp.asarray(HOLDS)[jnp.clip(state.offer, 0, 7)]
    gets = jnp.stack([split, 1 - split], 1)
    given = (gets > 0) & (state.offer < NONE)
    grey, red, green = np.array([[0.6, 0.6, 0.6], [0.8, 0.2, 0.16], [0.2, 0.65, 0.3]])
    tint = jnp.where(state.deal < NONE, green, red)
    colors = jnp.where(given[..., None], tint, grey).reshape(-1, 3)
    return bars(paper(size)[0], value.T.ravel(), 0.0, colors)
