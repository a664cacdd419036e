"""Users: clicks by their odds, memory by sessions, and beliefs by enumeration."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
    state, _, clicks, reward, odds, (_, seeking), _ = seen
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


def test_the_posterior_is_a_sum_over_propensities_and_sessions(seen):
    state, slate, clicks, _, _, (mean, _), belief = jax.tree.map(
        lambda x: np.asarray(x[0]), seen
    )
    items, genres = np.asarray(MADE.items), np.asarray(MADE.genres)
    grid = (np.arange(16) + 0.5) / 16
    likelihood = np.ones((4, 2))
    for t, on in product(range(8), (0, 1)):
        novel = state.ago[t][genres[slate[t]]] > 3
        sign = np.where(novel, 1, -1) * (2 * on - 1)
        odds = 4 * items[slate[t]] @ state.taste[t] - 1 + 1.5 * sign
        odds = 1 / (1 + np.exp(-odds))
        likelihood[t // 2, on] *= np.prod(np.where(clicks[t], odds, 1 - odds))
    weights = np.zeros(16)
    for path in product((0, 1), repeat=4):
        now = grid * (1 - grid) ** 4
        for session, on in enumerate(path):
            now = now * np.where(on, grid, 1 - grid) * likelihood[session, on]
        weights += now
    weights /= weights.sum()
    np.testing.assert_allclose(np.exp(belief.weights[-1]), weights, rtol=2e-3)
    np.testing.assert_allclose(mean[-1], weights @ grid, rtol=1e-3)


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
    assert (state.ago[:, 0] == 1).sum(-1).min() == 3


def test_who_seeks_is_shown_what_is_new():
    made = world.build(jax.random.key(2), pull=50.0)
    state, novel = world.reset(made, jax.random.key(3))
    assert novel[world.greedy(made, state, 1.0)].all()
    assert not novel[world.greedy(made, state, 0.0)].any()
    shown = np.asarray(made.items)[[3, 9, 20]]
    cosines = [shown[0] @ shown[1], shown[0] @ shown[2], shown[1] @ shown[2]]
    got = world.diversity(made, jnp.array([3, 9, 20]))
    np.testing.assert_allclose(got, 1 - np.mean(cosines), atol=1e-6)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: world.build(jax.random.key(0), genres=2), "genres is 2"),
        (lambda: world.build(jax.random.key(0), alpha=0.0), "alpha is 0"),
        (lambda: world.build(jax.random.key(0), pull=np.nan), "pull is nan"),
        (lambda: world.prior(MADE, points=0), "points is 0"),
        (lambda: world.diversity(MADE, jnp.array([1])), "number of items is 1"),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()
