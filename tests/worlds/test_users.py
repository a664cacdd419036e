"""Users: clicks by their odds, memory by sessions, and beliefs by enumeration."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jaxlib_guidance.worlds import users as world

MADE = world.build(
    jax.random.key(0), genres=4, each=3, slates=2, alpha=2.0, beta=5.0, appeal=4.0,
    pull=1.5,
)  # fmt: skip


@jax.jit
@jax.vmap
def visit(key):
    """Four sessions of two evenly drawn slates of three, and what is believed."""
    come, key = jax.random.split(key)
    state, _ = world.reset(MADE, come)

    def show(carry, key):
        state, belief = carry
        draw, click = jax.random.split(key)
        slate = jax.random.choice(draw, 12, (3,), replace=False)
        after, clicks, reward, _ = world.step(MADE, state, slate, click)
        seen = world.observe(MADE, state, belief, slate, clicks)
        odds = world.click_odds(MADE, state, state.seeking)[slate]
        told = state, slate, clicks, reward, odds, world.infer(seen), seen
        return (after, seen), told

    start = state, world.prior(MADE, points=16)
    return jax.lax.scan(show, start, jax.random.split(key, 8))[1]


@pytest.fixture(scope="module")
def seen():
    return visit(jax.random.split(jax.random.key(1), 2000))


def test_clicks_come_by_their_odds_and_belief_is_calibrated(seen):
    state, _, clicks, reward, odds, (mean, seeking), _ = seen
    np.testing.assert_allclose(clicks.mean(), odds.mean(), atol=0.01)
    np.testing.assert_array_equal(clicks.sum(-1), reward)
    # After the first slate of each session; after the second it is of the next one.
    chance, true = np.asarray(seeking)[:, ::2], np.asarray(state.seeking)[:, ::2]
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 1.0)):
        there = (chance >= low) & (chance < high)
        assert there.sum() > 300
        np.testing.assert_allclose(true[there].mean(), chance[there].mean(), atol=0.05)
    propensity = np.asarray(state.propensity)[:, 0]
    np.testing.assert_allclose(propensity.mean(), 2 / 7, atol=0.02)
    # Four standard errors of the mean of 2,000 users' errors are .013.
    error = np.asarray(mean)[:, -1] - propensity
    assert abs(error.mean()) < 0.013
    for group in np.array_split(np.argsort(mean[:, -1]), 3):
        assert abs(error[group].mean()) < 0.025
    assert error.std() < 0.95 * propensity.std()


def test_the_posterior_is_a_sum_over_propensities_and_sessions(seen):
    state, slate, clicks, _, _, (mean, _), belief = jax.tree.map(
        lambda x: np.asarray(x[0]), seen
    )
    items, genres = np.asarray(MADE.items), np.asarray(MADE.genres)
    edges = np.linspace(0, 1, 17)
    mass = np.diff(stats.beta(2, 5).cdf(edges))
    grid = 2 / 7 * np.diff(stats.beta(3, 5).cdf(edges)) / mass
    likelihood = np.ones((4, 2))
    for t, on in product(range(8), (0, 1)):
        novel = state.ago[t][genres[slate[t]]] > 3
        sign = np.where(novel, 1, -1) * (2 * on - 1)
        odds = 4 * items[slate[t]] @ state.taste[t] - 1 + 1.5 * sign
        odds = 1 / (1 + np.exp(-odds))
        likelihood[t // 2, on] *= np.prod(np.where(clicks[t], odds, 1 - odds))
    weights = np.zeros(16)
    for path in product((0, 1), repeat=4):
        now = mass
        for session, on in enumerate(path):
            now = now * np.where(on, grid, 1 - grid) * likelihood[session, on]
        weights += now
    weights /= weights.sum()
    np.testing.assert_allclose(np.exp(belief.weights[-1]), weights, rtol=2e-3)
    np.testing.assert_allclose(mean[-1], weights @ grid, rtol=1e-3)


@pytest.mark.parametrize(
    ("alpha", "beta"), [(0.5, 0.8), (0.05, 0.5), (2.0, 5.0), (5.0, 0.05)]
)
def test_the_posterior_is_that_of_the_beta_distribution(alpha, beta):
    made = world.build(jax.random.key(0), alpha=alpha, beta=beta, slates=1)
    state, _ = world.reset(made, jax.random.key(1))
    belief = world.prior(made)
    edges = np.linspace(0, 1, 65)
    mass = np.diff(stats.beta(alpha, beta).cdf(edges))
    np.testing.assert_allclose(np.exp(belief.weights), mass, rtol=2e-3, atol=2e-6)
    np.testing.assert_allclose(world.infer(belief)[0], alpha / (alpha + beta), 1e-5)
    # Each session multiplies by a line in the propensity, so that Beta's moments give
    # the posterior's mean: a polynomial's coefficients are kept.
    kept = np.polynomial.Polynomial([1.0])
    for session in range(12):
        slate = jax.random.choice(jax.random.key(session), 50, (4,), replace=False)
        clicks = np.arange(4) < session % 4
        chance = []
        for on in (0, 1):
            odds = np.asarray(world.click_odds(made, state, on), np.float64)[slate]
            chance.append(np.prod(np.where(clicks, odds, 1 - odds)))
        kept *= np.polynomial.Polynomial([chance[0], chance[1] - chance[0]])
        kept /= max(chance)
        belief = world.observe(made, state, belief, slate, clicks)
        powers = np.arange(len(kept.coef) + 1)
        moments = special.beta(alpha + powers, beta) / special.beta(alpha, beta)
        total = kept.coef @ moments[:-1]
        mean = kept.coef @ moments[1:] / total
        np.testing.assert_allclose(world.infer(belief)[0], mean, atol=5e-4)
        if session == 0:
            more = np.diff(stats.beta(alpha + 1, beta).cdf(edges)) * moments[1]
            want = (kept.coef[0] * mass + kept.coef[1] * more) / total
            got = np.exp(belief.weights)
            np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-6)


def test_much_evidence_brings_a_belief_to_where_the_prior_has_next_to_nothing():
    made = world.build(jax.random.key(0), alpha=30.0, beta=4.0, slates=1, pull=50.0)
    state, _ = world.reset(made, jax.random.key(1))
    slate = np.array([0, 13, 26, 39])
    # Novel items unclicked and familiar ones clicked: nobody who seeks.
    clicks = np.asarray(world.novelty(made, state))[slate] == 0
    one = jax.jit(lambda belief: world.observe(made, state, belief, slate, clicks))
    belief = jax.lax.fori_loop(0, 600, lambda i, b: one(b), world.prior(made))
    assert np.isfinite(belief.weights).all()
    np.testing.assert_allclose(world.infer(belief)[0], 30 / 634, rtol=0.02)


def test_genres_are_forgotten_after_some_sessions(seen):
    state, slate, clicks, *_ = jax.tree.map(np.asarray, seen)
    genres = np.asarray(MADE.genres)
    for user in range(20):
        last = np.where(state.ago[user, 0] == 1, -1, -9)
        for session in range(4):
            novel = state.ago[user, 2 * session] > 3
            np.testing.assert_array_equal(novel, session - last > 3)
            now = slice(2 * session, 2 * session + 2)
            last[genres[slate[user, now]][clicks[user, now]]] = session
    assert ((state.ago[:, 0] == 1).sum(-1) == 3).all()


def test_three_genres_are_familiar_where_more_are_as_near():
    line = world.build(jax.random.key(0), dimensions=1)
    states, _ = jax.vmap(partial(world.reset, line))(
        jax.random.split(jax.random.key(1), 9)
    )
    np.testing.assert_array_equal((states.ago == 1).sum(-1), np.full(9, 3))


def test_lists_are_slates_as_arrays_are():
    state, _ = world.reset(MADE, jax.random.key(1))
    belief, key = world.prior(MADE), jax.random.key(2)
    arrays, lists = (np.array([1, 5]), np.array([True, False])), ([1, 5], [True, False])
    for call in (
        lambda slate, _: world.step(MADE, state, slate, key),
        lambda *told: world.observe(MADE, state, belief, *told),
        lambda slate, _: world.diversity(MADE, slate),
    ):
        jax.tree.map(np.testing.assert_array_equal, call(*arrays), call(*lists))


def test_who_seeks_is_shown_what_is_new():
    made = world.build(jax.random.key(2), pull=50.0)
    state, novel = world.reset(made, jax.random.key(3))
    assert novel[world.greedy(made, state, 1.0)].all()
    assert not novel[world.greedy(made, state, 0.0)].any()
    shown = np.asarray(made.items)[[3, 9, 20]]
    cosines = [shown[0] @ shown[1], shown[0] @ shown[2], shown[1] @ shown[2]]
    got = world.diversity(made, jnp.array([3, 9, 20]))
    np.testing.assert_allclose(got, 1 - np.mean(cosines), atol=1e-6)


def see(slate, clicks):
    """A belief after a slate that may be wrong."""
    state, _ = world.reset(MADE, jax.random.key(1))
    return world.observe(MADE, state, world.prior(MADE), slate, clicks)


def show(slate):
    """A step with a slate that may be wrong."""
    state, _ = world.reset(MADE, jax.random.key(1))
    return world.step(MADE, state, slate, jax.random.key(2))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: world.build(jax.random.key(0), genres=2), "genres is 2"),
        (lambda: world.build(jax.random.key(0), alpha=0.0), "alpha is 0"),
        (lambda: world.build(jax.random.key(0), pull=np.nan), "pull is nan"),
        (lambda: world.prior(MADE, points=0), "points is 0"),
        (lambda: world.diversity(MADE, jnp.array([1])), "number of items is 1"),
        (lambda: world.diversity(MADE, [0, 12]), "slate is 12"),
        (lambda: see([0, 999], [True, False]), "slate is 999"),
        (lambda: see([0, -1], [True, False]), "slate is -1"),
        (lambda: see([0.0, 1.0], [True, False]), "expected integers"),
        (lambda: see(3, True), r"slate has shape \(\)"),
        (lambda: see([0, 1, 2], [True]), r"clicks has shape \(1,\)"),
        (lambda: see([0, 1], [0.5, 1]), "clicks are"),
        (lambda: see([0, 1], [np.nan, 1]), "clicks are"),
        (lambda: show([3, 12]), "action is 12"),
        (lambda: show(3), r"action has shape \(\)"),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()
