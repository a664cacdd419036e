"""Users of a recommender who seek what is new in some sessions, and not in others.

Items belong to genres; a genre is novel to a user who clicked nothing of it in the last
few sessions. A user has a taste, which a profile tells, and a hidden propensity, drawn
once; each session he seeks novelty with that probability. Who seeks clicks novel items
more often and familiar ones less, who does not the other way round. What clicks tell of
the session is summed exactly; of the propensity the belief is by bins (`prior`).

Reference: Li et al., "Hierarchical Reinforcement Learning for Modeling User Novelty-
Seeking Intent in Recommender Systems", arXiv 2306.01476: a static and a dynamic intent.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array, pytree_dataclass
from jaxlib_guidance.worlds._beta_bins import beta_bins
from jaxlib_guidance.worlds._checks import require_chance, require_number
from jaxlib_guidance.worlds._picture import bars, paper
from jaxlib_guidance.worlds._slates import require_clicks, require_slate


@pytree_dataclass
class World:
    """Items ``N`` of ``G`` genres, and how users click.

    Attributes:
      items: Each item's direction, unit vectors ``[N, D]``.
      genres: Each item's genre, int32 ``[N]``.
      centres: Each genre's direction, unit vectors ``[G, D]``.
      alpha: First number of the propensities' Beta distribution, positive scalar.
      beta: Its second number, positive scalar.
      appeal: Weight of taste in the log-odds of a click, scalar.
      offset: Log-odds of a click where nothing else speaks, scalar.
      pull: What seeking adds to the log-odds of a novel item and takes from those of a
        familiar one; without seeking the signs are exchanged. Scalar.
      memory: Sessions after which a genre is novel again, int scalar.
      slates: Slates of a session, int scalar.
    """

    items: Array
    genres: Array
    centres: Array
    alpha: Array | float
    beta: Array | float
    appeal: Array | float
    offset: Array | float
    pull: Array | float
    memory: Array | int
    slates: Array | int


class State(NamedTuple):
    """A user; only ``propensity`` and ``seeking`` are hidden.

    Attributes:
      taste: Unit vector ``[D]``.
      propensity: Probability that he seeks novelty in a session, scalar.
      seeking: Whether he does in this one, bool scalar.
      ago: Sessions since each genre was last clicked, before this one, int32 ``[G]``.
      clicked: Whether each genre was clicked in this session, bool ``[G]``.
      slate: Number of slates shown in this session, int32 scalar.
    """

    taste: Array
    propensity: Array
    seeking: Array
    ago: Array
    clicked: Array
    slate: Array


class Belief(NamedTuple):
    """What clicks tell of a user.

    Attributes:
      weights: Logarithms of the probabilities that the propensity lies in each of ``Q``
        even bins of [0, 1], by the sessions before, ``[Q]``.
      propensities: Mean propensity of the prior in each bin, ``[Q]``.
      evidence: Log-likelihoods of the clicks since, without seeking and with, ``[2]``.
    """

    weights: Array
    propensities: Array
    evidence: Array


def build(
    key: Array,
    *,
    genres: int = 10,
    each: int = 5,
    dimensions: int = 8,
    alpha: float | Array = 0.5,
    beta: float | Array = 0.8,
    appeal: float | Array = 3.0,
    offset: float | Array = -1.0,
    pull: float | Array = 1.2,
    memory: int | Array = 3,
    slates: int | Array = 5,
) -> World:
    """Draws items around the centres of genres, which are drawn evenly.

    Args:
      key: A typed key.
      genres: Number of genres, at least 3.
      each: Items of a genre, at least 1.
      dimensions: Length of a direction, at least 1.
      alpha: First number of the propensities' Beta distribution, positive.
      beta: Its second number, positive.
      appeal: Weight of taste in the log-odds of a click.
      offset: Log-odds of a click where nothing else speaks.
      pull: What seeking adds to the log-odds of a novel item.
      memory: Sessions after which a genre is novel again, at least 1.
      slates: Slates of a session, at least 1.

    Returns:
      The world.

    Raises:
      ValueError: Numbers out of range.
    """
    for name, value, least in (
        ("genres", genres, 3), ("each", each, 1), ("dimensions", dimensions, 1),
        ("memory", memory, 1), ("slates", slates, 1),
    ):  # fmt: skip
        require_number(name, value, least)
    for name, value in (("alpha", alpha), ("beta", beta)):
        require_number(name, value, 0, above=True)
    for name, value in (("appeal", appeal), ("offset", offset), ("pull", pull)):
        require_number(name, value)
    far, near = jax.random.split(key)
    centres = _unit(jax.random.normal(far, (genres, dimensions)))
    belongs = jnp.repeat(jnp.arange(genres, dtype=jnp.int32), each)
    spread = jax.random.normal(near, (genres * each, dimensions)) / dimensions**0.5
    items = _unit(centres[belongs] + 0.5 * spread)
    return World(
        items, belongs, centres, alpha, beta, appeal, offset, pull, memory, slates
    )


def reset(world: World, key: Array) -> tuple[State, Array]:
    """Draws a user, to whom the three genres nearest to his taste are familiar.

    Args:
      world: The world.
      key: A typed key.

    Returns:
      The user, and what is seen of him: novelty of each item, float32 ``[N]``.
    """
    like, lean, seek = jax.random.split(key, 3)
    taste = _unit(jax.random.normal(like, world.centres.shape[1:]))
    propensity = jax.random.beta(lean, world.alpha, world.beta)
    near = world.centres @ taste
    # Places and not values, of which more than three may be among the highest.
    ago = jnp.full(near.shape, world.memory + 1, jnp.int32)
    ago = ago.at[jax.lax.top_k(near, 3)[1]].set(1)
    seeking = jax.random.uniform(seek) < propensity
    clicked = jnp.zeros(near.shape, bool)
    state = State(taste, propensity, seeking, ago, clicked, jnp.int32(0))
    return state, novelty(world, state)


def novelty(world: World, state: State) -> Array:
    """1 for items of genres not clicked in the sessions remembered, ``[N]``."""
    return (state.ago > world.memory).astype(jnp.float32)[world.genres]


def click_odds(world: World, state: State, seeking: Array | float) -> Array:
    """Probability that each item is clicked.

    ``sigmoid(appeal taste.item + offset + pull (2 seeking - 1) (2 novelty - 1))``.

    Args:
      world: The world.
      state: The user.
      seeking: Whether he seeks novelty, 0 or 1.

    Returns:
      Float32 ``[N]``.
    """
    return jax.nn.sigmoid(_log_odds(world, state, seeking))


def step(
    world: World, state: State, action: Array, key: Array
) -> tuple[State, Array, Array, Array]:
    """Shows a slate; after the last of a session the next one begins.

    Args:
      world: The world.
      state: The user.
      action: Numbers of the items shown, ``[K]``.
      key: A typed key of the clicks and of the next session's seeking.

    Returns:
      The user, clicks on the slate bool ``[K]``, their number, and False: he stays.

    Raises:
      ValueError: Items that there are not, or numbers of another rank.
    """
    action = require_slate("action", action, len(world.items))
    click, seek = jax.random.split(key)
    odds = click_odds(world, state, state.seeking)[action]
    clicks = jax.random.uniform(click, odds.shape) < odds
    clicked = state.clicked.at[world.genres[action]].max(clicks)
    ends = state.slate + 1 >= world.slates
    again = jax.random.uniform(seek) < state.propensity
    after = state._replace(
        seeking=jnp.where(ends, again, state.seeking),
        ago=jnp.where(ends, jnp.where(clicked, 1, state.ago + 1), state.ago),
        clicked=clicked & ~ends,
        slate=jnp.where(ends, 0, state.slate + 1),
    )
    return after, clicks, jnp.sum(clicks, dtype=jnp.float32), jnp.zeros((), bool)


def prior(world: World, *, points: int = 64) -> Belief:
    """What is known of a user who was shown nothing.

    Each bin has its mass under ``Beta(alpha, beta)`` and its mean propensity, so that
    the prior and its mean are exact, and so are the bins' probabilities after one
    session. Later ones take the spread within a bin, under ``1 / Q``, for none.

    Args:
      world: The world.
      points: Bins ``Q``, at least 1.

    Returns:
      The belief.

    Raises:
      ValueError: Fewer than one bin.
    """
    require_number("points", points, 1)
    return Belief(*beta_bins(world.alpha, world.beta, points), jnp.zeros(2))


def observe(
    world: World, state: State, belief: Belief, slate: Array, clicks: Array
) -> Belief:
    """The belief after a slate, by Bayes' rule with one propensity for each bin.

    Args:
      world: The world.
      state: The user as he was when the slate was shown; what is hidden is not read.
      belief: What was known.
      slate: Numbers of the items shown, ``[K]``.
      clicks: Which were clicked, bool ``[K]``.

    Returns:
      The belief.

    Raises:
      ValueError: Items that there are not, clicks other than 0 or 1 for each of them.
    """
    slate = require_slate("slate", slate, len(world.items))
    clicked = require_clicks(clicks, slate)

    def likelihood(seeking):
        odds = _log_odds(world, state, seeking)[slate]
        return jnp.sum(jax.nn.log_sigmoid(jnp.where(clicked, odds, -odds)))

    evidence = belief.evidence + jax.vmap(likelihood)(jnp.arange(2.0))
    each = belief.propensities
    either = jnp.logaddexp(jnp.log1p(-each) + evidence[0], jnp.log(each) + evidence[1])
    ends = state.slate + 1 >= world.slates
    weights = jax.nn.log_softmax(belief.weights + jnp.where(ends, either, 0.0))
    return Belief(weights, each, jnp.where(ends, 0.0, evidence))


def infer(belief: Belief) -> tuple[Array, Array]:
    """The propensity expected, by the sessions before, and the chance of seeking now.

    Args:
      belief: What is known.

    Returns:
      Two scalars in [0, 1].
    """
    mean = jnp.sum(jnp.exp(belief.weights) * belief.propensities)
    logit = jnp.log(mean) - jnp.log1p(-mean)
    return mean, jax.nn.sigmoid(logit + belief.evidence[1] - belief.evidence[0])


def greedy(
    world: World, state: State, seeking: Array | float, *, number: int = 4
) -> Array:
    """The items that are likeliest to be clicked, whatever comes after.

    Args:
      world: The world.
      state: The user.
      seeking: Chance that he seeks novelty: of `infer`, or 0 or 1 where it is known.
      number: Items of the slate ``K``, at most ``N``.

    Returns:
      Int32 ``[K]``.

    Raises:
      ValueError: A chance that is none, more items than there are.
    """
    require_chance("seeking", seeking)
    require_number("number", number, 1, len(world.items))
    odds = seeking * click_odds(world, state, 1.0)
    odds += (1 - seeking) * click_odds(world, state, 0.0)
    return jax.lax.top_k(odds, number)[1]


def diversity(world: World, slate: Array) -> Array:
    """``1 -`` mean cosine of a slate's pairs, ``[K]`` to a scalar; K at least 2."""
    shown = world.items[require_slate("slate", slate, len(world.items))]
    count = len(shown)
    require_number("number of items", count, 2)
    total = jnp.sum(jnp.sum(shown, 0) ** 2) - count
    return 1 - total / (count * (count - 1))


def render(world: World, state: State, *, size: int = 128) -> Array:
    """Mean chance of a click by genre: green for novel genres, grey for familiar ones.

    Args:
      world: The world.
      state: The user.
      size: Pixels of a side.

    Returns:
      Float32 ``[size, size, 3]`` in [0, 1].
    """
    count = len(world.centres)
    require_shape("ago", state.ago, (count,))
    mine = jax.nn.one_hot(world.genres, count)
    tall = click_odds(world, state, state.seeking) @ mine / jnp.sum(mine, 0)
    novel = (state.ago > world.memory)[:, None]
    colors = jnp.where(novel, jnp.array([0.2, 0.65, 0.3]), jnp.full(3, 0.5))
    return bars(paper(size)[0], tall, 0.0, colors)


def _log_odds(world: World, state: State, seeking: Array | float) -> Array:
    sign = (2 * jnp.float32(seeking) - 1) * (2 * novelty(world, state) - 1)
    taste = world.appeal * (world.items @ state.taste)
    return taste + world.offset + world.pull * sign


def _unit(x: Array) -> Array:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
