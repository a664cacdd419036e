"""A shop whose seller answers for features that the customer cannot see.

Each of ``I`` items has the feature that the customer needs, or not; a listing, which
the seller alone reads, says so or does not specify it. The seller makes a claim of each
item, the customer believes it as far as sellers are trusted, and buys an item or none.
What the customer says then is the utility that was believed; the true one comes later,
when the item is used. With few items the value of each policy, and the best, are exact.

Reference: Liang et al., "RLHS: Mitigating Misalignment in RLHF with Hindsight
Simulation", arXiv 2501.08617: the marketplace, without its language models.
"""

from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.reduce import divide, require_shape
from jaxlib_guidance.types import Array, pytree_dataclass
from jaxlib_guidance.worlds._checks import require_chance, require_number, require_words
from jaxlib_guidance.worlds._picture import bars, paper

LACKS, HAS, UNSPECIFIED = 0, 1, 2
"""What a listing says of an item, and what a seller does; the last claims nothing."""


@pytree_dataclass
class Shop:
    """Items ``I``, and who buys them.

    Attributes:
      shares: Probability that an item has the feature, ``[I]``.
      listed: Probability that an item's listing specifies it, ``[I]``.
      prices: Price of each item, ``[I]``, in the unit of ``worth``.
      worth: Worth of an item with the feature, scalar; one without it has none.
      trust: Share of sellers who pass the listing on, as the customer supposes, in [0,
        1]; the others are taken to make claims evenly at random.
      temperature: Spread of the customer's choice, a positive scalar in the unit of
        ``worth``: odds are ``exp(believed utility / temperature)``, of nothing 1.
      noise: Standard deviation of a used item's worth, scalar, at least 0.
    """

    shares: Array
    listed: Array
    prices: Array
    worth: Array | float
    trust: Array | float
    temperature: Array | float
    noise: Array | float


class State(NamedTuple):
    """A customer's visit.

    Attributes:
      has: Whether each item has the feature, bool ``[I]``.
      listing: What listings say: 0 lacks it, 1 has it, 2 nothing, int32 ``[I]``.
    """

    has: Array
    listing: Array


class Table(NamedTuple):
    """All listings and claims with their exact expectations; ``N`` is ``3^I``.

    Attributes:
      listings: Each listing, and each list of claims in the same order, so that claims
        of the listing's own number pass it on; int32 ``[N, I]``.
      odds: Probability of each listing, ``[N]``.
      satisfaction: Utility that is believed, of a listing and claims, ``[N, N]``.
      utility: Utility when the item is used, ``[N, N]``.
      feigned: Share of items that are said to have the feature and lack it, ``[N, N]``.
      denied: Share of items that are said to lack the feature and have it, ``[N, N]``.
      best: Number of the claims of most utility, int32 ``[N]``.
      value: Expected utility of the best claims, scalar.
    """

    listings: Array
    odds: Array
    satisfaction: Array
    utility: Array
    feigned: Array
    denied: Array
    best: Array
    value: Array


def build(
    shares: Array | tuple[float, ...] = (0.6, 0.5, 0.3),
    listed: Array | tuple[float, ...] = (0.6, 0.6, 0.6),
    prices: Array | tuple[float, ...] = (0.7, 0.55, 0.4),
    *,
    worth: float | Array = 1.0,
    trust: float | Array = 0.8,
    temperature: float | Array = 0.1,
    noise: float | Array = 0.3,
) -> Shop:
    """A shop; by default of three items, the dearer the likelier to have the feature.

    Args:
      shares: Probability that an item has the feature, ``[I]``.
      listed: Probability that an item's listing specifies it, ``[I]``.
      prices: Price of each item, ``[I]``, finite.
      worth: Worth of an item with the feature, at least 0.
      trust: Share of sellers who pass the listing on, as the customer supposes.
      temperature: Spread of the customer's choice, positive.
      noise: Standard deviation of a used item's worth, at least 0.

    Returns:
      The shop.

    Raises:
      ValueError: Other shapes, numbers out of range.
    """
    shares, listed, prices = map(jnp.float32, (shares, listed, prices))
    if shares.ndim != 1 or not len(shares):
        raise ValueError(f"shares has shape {shares.shape}; expected [I], I at least 1")
    require_shape("listed", listed, shares.shape)
    require_shape("prices", prices, shares.shape)
    for name, value in (("shares", shares), ("listed", listed), ("trust", trust)):
        require_chance(name, value)
    require_number("prices", prices)
    require_number("worth", worth, 0)
    require_number("temperature", temperature, 0, above=True)
    require_number("noise", noise, 0)
    return Shop(shares, listed, prices, worth, trust, temperature, noise)


def reset(shop: Shop, key: Array) -> tuple[State, Array]:
    """Draws which items have the feature, and what their listings tell.

    Args:
      shop: The world.
      key: A typed key.

    Returns:
      The state, and the listing, which is what the seller sees, int32 ``[I]``.
    """
    own, told = jax.random.split(key)
    has = jax.random.uniform(own, jnp.shape(shop.shares)) < shop.shares
    known = jax.random.uniform(told, jnp.shape(shop.shares)) < shop.listed
    listing = jnp.where(known, has.astype(jnp.int32), UNSPECIFIED)
    return State(has, listing), listing


def step(
    shop: Shop, state: State, action: Array, key: Array
) -> tuple[State, Array, Array, Array]:
    """The seller's claims, the customer's choice, and what its use is worth.

    Args:
      shop: The world.
      state: The visit.
      action: Claims: 0 that an item lacks the feature, 1 that it has it, 2 none,
        integers ``[I]``.
      key: A typed key of the choice and of the worth.

    Returns:
      The state, the listing ``[I]``, the true utility, and True: the customer leaves.
    """
    choose, use = jax.random.split(key)
    choice = jax.random.categorical(choose, jnp.log(choices(shop, action)))
    paid = _experience(shop, state.has.astype(jnp.float32), choice, use)
    return state, state.listing, paid, jnp.ones((), bool)


def beliefs(shop: Shop, claims: Array) -> Array:
    """Probability that each item has the feature, as the customer believes.

    Bayes' rule for a seller who passes the listing on with probability ``trust`` and
    claims evenly at random else; without a claim it is the item's share.

    Args:
      shop: The world.
      claims: What the seller says of each item, integers ``[..., I]``.

    Returns:
      Float32 ``[..., I]``; at a trust of 1 claims are taken at their word.

    Raises:
      ValueError: Claims of another shape, or other numbers.
    """
    require_words("claims", claims, 3, shop.shares)
    share, other = shop.shares, (1 - shop.trust) / 3
    told = shop.trust * shop.listed + other

    def bayes(if_it_has, if_not):
        both = share * if_it_has + (1 - share) * if_not
        # What cannot be said is not heeded.
        return jnp.where(both > 0, divide(share * if_it_has, both), share)

    yes, no = bayes(told, other), bayes(other, told)
    return jnp.where(claims == HAS, yes, jnp.where(claims == LACKS, no, share))


def choices(shop: Shop, claims: Array) -> Array:
    """Probability that the customer buys each item, or nothing: ``[..., I + 1]``.

    Args:
      shop: The world.
      claims: What the seller says of each item, integers ``[..., I]``.

    Returns:
      Float32 ``[..., I + 1]``; the last is buying nothing.
    """
    return jax.nn.softmax(_utilities(shop, beliefs(shop, claims)) / shop.temperature)


def expect(
    shop: Shop,
    listing: Array,
    claims: Array,
    *,
    guess: float | Array = 0.0,
    echo: float | Array = 0.0,
) -> Array:
    """Probability that each item has the feature, by the listing and a simulator.

    Without errors it is the item's share where the listing does not specify it.

    Args:
      shop: The world.
      listing: What each listing says, integers ``[..., I]``.
      claims: What the seller says of each item, integers ``[..., I]``.
      guess: How often a coin decides instead, in [0, 1].
      echo: How often a claim decides instead, where there is one, in [0, 1 - guess].

    Returns:
      Float32 ``[..., I]``.

    Raises:
      ValueError: Other shapes or numbers.
    """
    require_words("listing", listing, 3, shop.shares)
    require_words("claims", claims, 3, shop.shares)
    require_chance("guess", guess)
    require_chance("echo", echo)
    require_chance("guess + echo", guess + echo)
    told, claimed = (jnp.asarray(x, jnp.float32) for x in (listing, claims))
    known = jnp.where(listing == UNSPECIFIED, shop.shares, told)
    said = jnp.where(claims == UNSPECIFIED, known, claimed)
    return (1 - guess - echo) * known + guess / 2 + echo * said


def outcomes(
    shop: Shop,
    listing: Array,
    claims: Array,
    key: Array,
    *,
    number: int = 1,
    guess: float | Array = 0.0,
    echo: float | Array = 0.0,
) -> Array:
    """Simulated utilities: customers choose, and use what they bought.

    Args:
      shop: The world.
      listing: What each listing says, integers ``[I]``; the rest is drawn each time.
      claims: What the seller says of each item, integers ``[I]``.
      key: A typed key.
      number: Number of simulated customers ``K``, at least 1.
      guess: How often a coin decides whether an item has the feature, in [0, 1].
      echo: How often the seller's claim decides it, in [0, 1].

    Returns:
      Float32 ``[K]``, which `policy.hindsight_score` takes.
    """
    require_number("number", number, 1)
    chance = expect(shop, listing, claims, guess=guess, echo=echo)
    require_shape("listing", listing, jnp.shape(shop.shares))
    odds = jnp.log(choices(shop, claims))

    def customer(key):
        choose, own, use = jax.random.split(key, 3)
        has = (jax.random.uniform(own, chance.shape) < chance).astype(jnp.float32)
        return _experience(shop, has, jax.random.categorical(choose, odds), use)

    return jax.vmap(customer)(jax.random.split(key, number))


def solve(
    shop: Shop, *, guess: float | Array = 0.0, echo: float | Array = 0.0
) -> Table:
    """All expectations exactly, and the claims of most utility, by enumeration.

    Args:
      shop: The world, of a few items: all ``9^I`` cases are listed.
      guess: Share of the items for which the simulator tosses a coin, 0 for the truth.
      echo: Share for which it takes the seller at his word, 0 for the truth. With
        either, ``utility``, ``best`` and ``value`` are the simulator's.

    Returns:
      The table. A policy ``p [N, N]`` has the utility ``sum(odds * sum(p * utility))``.
    """
    share, told = shop.shares, shop.listed
    every = jnp.asarray(list(product(range(3), repeat=len(share))), jnp.int32)
    of_item = jnp.stack([(1 - share) * told, share * told, 1 - told])
    odds = jnp.prod(of_item[every, jnp.arange(len(share))], -1)
    chosen = choices(shop, every)
    satisfaction = jnp.sum(chosen * _utilities(shop, beliefs(shop, every)), -1)
    listing, claims = jnp.broadcast_arrays(every[:, None], every[None])
    true = expect(shop, listing, claims)
    simulated = expect(shop, listing, claims, guess=guess, echo=echo)
    utility = jnp.sum(chosen * _utilities(shop, simulated), -1)
    return Table(
        every,
        odds,
        jnp.broadcast_to(satisfaction, utility.shape),
        utility,
        jnp.mean(jnp.where(claims == HAS, 1 - true, 0.0), -1),
        jnp.mean(jnp.where(claims == LACKS, true, 0.0), -1),
        jnp.argmax(utility, -1).astype(jnp.int32),
        jnp.sum(odds * jnp.max(utility, -1)),
    )


def render(shop: Shop, listing: Array, claims: Array, *, size: int = 128) -> Array:
    """Two bars an item: what the listing says in grey, what the customer believes.

    Args:
      shop: The world.
      listing: What each listing says, integers ``[I]``.
      claims: What the seller says of each item, integers ``[I]``.
      size: Pixels of a side.

    Returns:
      Float32 ``[size, size, 3]`` in [0, 1]; beliefs above the listing are red.
    """
    true, thought = expect(shop, listing, claims), beliefs(shop, claims)
    require_shape("listing", listing, jnp.shape(shop.shares))
    grey, blue, red = np.array([[0.6, 0.6, 0.6], [0.2, 0.3, 0.9], [0.8, 0.2, 0.16]])
    tint = jnp.where((thought > true)[:, None], red, blue)
    colors = jnp.stack([jnp.broadcast_to(grey, tint.shape), tint], 1).reshape(-1, 3)
    return bars(paper(size)[0], jnp.stack([true, thought], 1).ravel(), 0.0, colors)


def _utilities(shop: Shop, chance: Array) -> Array:
    """Expected utility of each item and of none, of chances that it has the feature."""
    bought = shop.worth * chance - shop.prices
    return jnp.concatenate([bought, jnp.zeros_like(bought[..., :1])], -1)


def _experience(shop: Shop, has: Array, choice: Array, key: Array) -> Array:
    """Utility of a used item; nothing that was bought is worth exactly 0."""
    spread = jnp.where(choice < len(shop.shares), shop.noise, 0.0)
    return _utilities(shop, has)[choice] + spread * jax.random.normal(key)
