"""Mates and novelty against enumeration and distances by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.policy import choose_mate, emitter_gain, knn_novelty, tournament

GEN = np.random.default_rng(0)
KEYS = jax.random.split(jax.random.key(0), 4000)
FITNESS = np.array([0.3, -1.0, 2.0, 0.5], np.float32)


def share(draw):
    return np.bincount(np.asarray(jax.vmap(draw)(KEYS)), minlength=4) / len(KEYS)


@pytest.mark.parametrize("size", [1, 3])
def test_a_tournament_is_won_by_rank(size):
    """The best of k draws has rank r or less with ``(r / N)^k``."""
    ladder = (np.arange(5) / 4) ** size
    want = np.diff(ladder)[FITNESS.argsort().argsort()]
    np.testing.assert_allclose(
        share(lambda key: tournament(key, FITNESS, size=size)), want, atol=0.03
    )


def test_the_nearest_to_the_ideal_is_chosen():
    distance = np.array([0.9, 0.2, 0.1, 0.5], np.float32)
    ladder = (np.arange(5) / 4) ** 2
    want = np.diff(ladder)[(-distance).argsort().argsort()]
    got = share(lambda key: choose_mate(key, FITNESS, distance, size=2))
    np.testing.assert_allclose(got, want, atol=0.03)
    # Without a choice, chance; fitness has no say but in a tournament.
    for kwargs in ({"kind": "random", "size": 7}, {"kind": "tournament", "size": 1}):
        even = share(lambda key, kw=kwargs: choose_mate(key, FITNESS, **kw))
        np.testing.assert_allclose(even, 0.25, atol=0.03)
    won = share(lambda key: choose_mate(key, FITNESS, kind="tournament", size=3))
    np.testing.assert_allclose(won[2], 1 - 0.75**3, atol=0.03)


def test_novelty():
    """By hand, against a plain loop, and what cannot change it."""
    line = np.array([[0.0], [1], [2], [10]])
    np.testing.assert_allclose(knn_novelty(line, line, k=2), [1.5, 1, 1.5, 8.5])
    same = np.zeros((3, 2))
    np.testing.assert_array_equal(knn_novelty(same, same, k=2), 0)
    x, y = GEN.normal(size=(5, 3)), GEN.normal(size=(9, 3))
    keep = np.array([1, 0, 1, 1, 1, 0, 1, 1, 1])
    apart = np.linalg.norm(x[:, None] - y[None, keep > 0], axis=-1)
    want = np.sort(apart)[:, :4].mean(1)
    np.testing.assert_allclose(knn_novelty(x, y, keep, k=4), want, rtol=1e-5)
    turn, _ = np.linalg.qr(GEN.normal(size=(3, 3)))
    moved = knn_novelty(x @ turn + 1, y @ turn + 1, keep, k=4)
    np.testing.assert_allclose(moved, want, rtol=1e-4)
    few = knn_novelty(x, y, np.arange(9) < 2, k=15)
    np.testing.assert_allclose(
        few, np.linalg.norm(x[:, None] - y[None, :2], axis=-1).mean(1), rtol=1e-5
    )
    np.testing.assert_array_equal(knn_novelty(x, y, np.zeros(9)), 0)


def test_an_emitter_is_worth_what_it_gained():
    assert float(emitter_gain(jnp.array([0.0, 1, 2, 3, 4, 5]))) == pytest.approx(3)
    assert float(emitter_gain(jnp.array([3.0, 2, 1]), window=1)) == 0


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: tournament(KEYS[0], FITNESS, size=0), "size is 0"),
        (lambda: tournament(KEYS[0], np.float32(1)), "fitness has shape"),
        (lambda: choose_mate(KEYS[0], FITNESS), "distance is None for kind 'ideal'"),
        (
            lambda: choose_mate(KEYS[0], FITNESS, FITNESS, kind="random"),
            "distance is given for kind 'random'",
        ),
        (lambda: choose_mate(KEYS[0], FITNESS, kind="best"), "kind is 'best'"),
        (lambda: choose_mate(KEYS[0], FITNESS, FITNESS[:2]), "distance has shape"),
        (lambda: knn_novelty(np.ones((2, 3)), np.ones((2, 2))), "points and others"),
        (lambda: knn_novelty(np.ones((2, 3)), np.ones((2, 3)), k=0), "k is 0"),
        (lambda: emitter_gain(np.ones((2, 2))), r"expected \[T\]"),
        (lambda: emitter_gain(np.ones(2)), "window is 3; expected 1 to 2"),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_who_is_not_known_never_wins():
    fitness = jnp.array([1.0, jnp.nan, 3.0])
    keys = jax.random.split(jax.random.key(0), 50)
    won = jax.vmap(lambda k: tournament(k, fitness, size=32))(keys)
    assert not (won == 1).any()
    spread = jax.grad(lambda x: knn_novelty(x, x, k=1).sum())(jnp.eye(3))
    assert jnp.isfinite(spread).all()
