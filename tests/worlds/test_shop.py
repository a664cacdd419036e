"""The shop against sums in plain Python, simulated customers, and laws of belief."""

import dataclasses
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.worlds import shop as world

SHOP = world.build()
TWO = world.build((0.7, 0.2), (0.5, 0.9), (0.5, 0.1), trust=0.6, temperature=0.2)


def test_the_table_is_a_sum_over_all_that_can_happen():
    """Feature by feature, listing by listing, choice by choice."""
    found = world.solve(TWO)
    shares, listed, prices = ((0.7, 0.2), (0.5, 0.9), (0.5, 0.1))
    every = list(product(range(3), repeat=2))

    def belief(item, claim):
        def says(has):  # What customers suppose that sellers say.
            pass_on = {0: listed[item] * (not has), 1: listed[item] * has}
            return 0.6 * pass_on.get(claim, 1 - listed[item]) + 0.4 / 3

        yes, no = shares[item] * says(True), (1 - shares[item]) * says(False)
        return yes / (yes + no)

    for row, listing in enumerate(every):
        for column, claims in enumerate(every):
            thought = [belief(i, claims[i]) - prices[i] for i in range(2)] + [0.0]
            odds = np.exp(np.array(thought) / 0.2)
            odds /= odds.sum()
            chance, utility, feigned, denied = 0.0, 0.0, 0.0, 0.0
            for has in product((0, 1), repeat=2):
                p = 1.0
                for i in range(2):
                    p *= shares[i] if has[i] else 1 - shares[i]
                    tells = listing[i] == has[i]
                    blank = listing[i] == 2
                    p *= listed[i] * tells + (1 - listed[i]) * blank
                chance += p
                utility += p * sum(odds[i] * (has[i] - prices[i]) for i in range(2))
                feigned += p * sum(claims[i] == 1 and not has[i] for i in range(2)) / 2
                denied += p * sum(claims[i] == 0 and has[i] for i in range(2)) / 2
            at = row, column
            np.testing.assert_allclose(found.odds[row], chance, rtol=1e-5)
            want = utility / chance, feigned / chance, denied / chance, odds @ thought
            got = found.utility, found.feigned, found.denied, found.satisfaction
            for one, other in zip(got, want, strict=True):
                np.testing.assert_allclose(one[at], other, atol=1e-5)
    np.testing.assert_allclose(found.odds.sum(), 1, rtol=1e-5)
    best = np.asarray(found.utility).max(1) @ np.asarray(found.odds)
    np.testing.assert_allclose(found.value, best, rtol=1e-5)


def test_an_honest_seller_who_is_trusted_satisfies_by_what_is_true():
    found = world.solve(dataclasses.replace(SHOP, trust=1.0))
    at = np.arange(27), np.arange(27)
    np.testing.assert_allclose(found.utility[at], found.satisfaction[at], atol=1e-6)
    np.testing.assert_array_equal(found.feigned[at] + found.denied[at], 0)
    # Not so of the one who is most satisfying: he feigns, and utility falls.
    said = jnp.argmax(found.satisfaction, -1)
    # He claims the feature of the cheapest item alone, and who buys it regrets it.
    np.testing.assert_allclose(
        found.odds @ found.feigned[at[0], said], 0.7 / 3, atol=1e-5
    )
    assert found.odds @ found.utility[at[0], said] < -0.09 < 0.25 < found.value


def test_claims_that_nobody_trusts_change_nothing():
    found = world.solve(dataclasses.replace(SHOP, trust=0.0))
    utility = np.asarray(found.utility)
    np.testing.assert_allclose(utility, utility[:, :1].repeat(27, 1), atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"guess": 0.5}, {"echo": 0.7, "guess": 0.2}])
def test_simulated_outcomes_have_the_mean_of_the_table(options):
    found = world.solve(SHOP, **options)
    row, column = 11, 14
    paid = world.outcomes(
        SHOP, found.listings[row], found.listings[column], jax.random.key(0),
        number=20_000, **options,
    )  # fmt: skip
    np.testing.assert_allclose(paid.mean(), found.utility[row, column], atol=0.012)


def test_an_echo_believes_all_lies():
    """A simulator that takes every claim for true has trusted claims satisfy it."""
    found = world.solve(dataclasses.replace(SHOP, trust=1.0), echo=1.0)
    claimed = (np.asarray(found.listings) < 2).all(1)
    np.testing.assert_allclose(
        found.utility[:, claimed], found.satisfaction[:, claimed], atol=1e-6
    )


def test_visits_have_the_utility_of_the_table():
    claims = jnp.array([1, 2, 0])

    def visit(key):
        come, go = jax.random.split(key)
        state, listing = world.reset(SHOP, come)
        after, seen, paid, ended = world.step(SHOP, state, claims, go)
        return listing, seen, after.has, paid, ended

    listing, seen, has, paid, ended = jax.jit(jax.vmap(visit))(
        jax.random.split(jax.random.key(1), 20_000)
    )
    assert ended.all()
    np.testing.assert_array_equal(listing, seen)
    known = np.asarray(listing) != 2
    np.testing.assert_array_equal(np.asarray(listing)[known], np.asarray(has)[known])
    found = world.solve(SHOP)
    column = int(np.argmax((np.asarray(found.listings) == claims).all(1)))
    want = found.odds @ found.utility[:, column]
    np.testing.assert_allclose(paid.mean(), want, atol=0.012)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: world.build(0.5), r"shares has shape \(\); expected \[I\]"),
        (lambda: world.build((0.5, 1.2, 0.1)), "shares is 1.2"),
        (lambda: world.build((0.5, 0.5)), "listed has shape"),
        (lambda: world.build(trust=float("nan")), "trust is nan"),
        (lambda: world.build(temperature=0.0), "temperature is 0"),
        (lambda: world.beliefs(SHOP, jnp.array([0, 1])), "claims has shape"),
        (lambda: world.beliefs(SHOP, jnp.array([0, 1, 3])), "claims is 3"),
        (lambda: world.beliefs(SHOP, jnp.ones(3)), "expected integers"),
        (
            lambda: world.expect(
                SHOP, *2 * [jnp.array([0, 1, 2])], guess=0.6, echo=0.6
            ),
            r"guess \+ echo is 1.2",
        ),
        (
            lambda: world.outcomes(
                SHOP, *2 * [jnp.array([0, 1, 2])], jax.random.key(0), number=0
            ),
            "number is 0",
        ),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_lists_are_refused():
    """Which compare with a number as a whole, and so would claim nothing."""
    with pytest.raises(TypeError, match="claims is a list; expected an array"):
        world.beliefs(SHOP, [0, 1, 2])
