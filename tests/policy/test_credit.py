"""Redistribution and attribution: what they sum to."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.policy import (
    belief_shift,
    hindsight_relabel,
    progress_loss,
    progress_redistribution,
    step_game,
    utterance_attribution,
)

pytestmark = pytest.mark.usefixtures("one_program")
GEN = np.random.default_rng(0)


def test_progress_sums_to_the_reward():
    c = np.array([0.5, -0.1, 0.9, jnp.nan])
    mask = np.array([1.0, 1, 1, 0])
    got = progress_redistribution(c, 2.0, mask=mask)
    np.testing.assert_allclose(got.sum(), 2.0, rtol=1e-6)
    np.testing.assert_allclose(got[:3] / got[0], [1, -0.2, 1.8], rtol=1e-5)
    # Equal contributions, and none at all, are equal shares.
    for same in (0.3, 0.0):
        even = progress_redistribution(np.full(4, same), 2.0, mask=mask)
        np.testing.assert_allclose(even, [2 / 3, 2 / 3, 2 / 3, 0], rtol=1e-6)
    grounded = np.array([1.0, 0, 1, 1])
    both = progress_redistribution(c, 2.0, grounded, mask, alpha=0.7, rescale=False)
    np.testing.assert_allclose(both, [0.85, -0.07, 1.13, 0], rtol=1e-5)
    np.testing.assert_allclose(progress_loss(c, jnp.float32(1), mask), 0.09, rtol=1e-5)


def test_attribution():
    a, mask = np.array([3.0, -1, 0, 1.5, 9]), np.array([1, 1, 1, 1, 0])
    got = utterance_attribution(a, 8.0, mask)
    np.testing.assert_allclose(got, [8, -1, 0, 4, 0])
    shares = utterance_attribution(a, 7.0, mask, kind="normalized")
    np.testing.assert_allclose(shares.sum(), 7.0, rtol=1e-6)
    none = utterance_attribution(0 * a, 7.0, mask, kind="normalized")
    np.testing.assert_array_equal(none, 0)
    late = utterance_attribution(a, 10.0, mask, kind="discounted")
    np.testing.assert_allclose(late, [7.29, 8.1, 9, 10, 0], rtol=1e-5)


def test_belief_shift():
    """Sarkar et al., arXiv 2502.06060: beliefs 1.0, 1.4, 1.2 are worth +.4, -.2."""
    beliefs = np.array([[0.5, 0.5], [0.8, 0.6], [0.7, 0.5]])
    for sign in (1, -1):
        got = belief_shift(beliefs, np.full(2, sign))
        np.testing.assert_allclose(got, [0.4 * sign, -0.2 * sign], rtol=1e-5)
    many = jnp.asarray(GEN.uniform(size=(7, 4)), jnp.float32)
    alive = np.array([1, 0, 1, 1])
    got = belief_shift(many.at[:, 1].set(jnp.nan), np.ones(6), alive)
    change = (many[-1] - many[0])[np.array([0, 2, 3])].sum()
    np.testing.assert_allclose(got.sum(), change, rtol=1e-4, atol=1e-6)
    silent = belief_shift(jnp.repeat(many[:1], 3, 0), np.ones(2))
    np.testing.assert_array_equal(silent, 0)


def test_hindsight():
    achieved = np.array([[0, 0, 1], [1, 0, 1], [1, 0, 0], [0, 1, 0]])
    got = hindsight_relabel(achieved, np.array([1, 1, 1, 0]))
    np.testing.assert_array_equal(got.reached, [1, 0, 1])
    np.testing.assert_array_equal(got.time, [1, 0, 0])
    np.testing.assert_array_equal(got.reward.sum(0), got.reached)
    np.testing.assert_array_equal(jnp.argmax(got.reward, 0), got.time)


def test_step_game_is_zero_sum():
    fooled, lowered = np.array([1.0, 0, 1]), np.array([1.0, 1, 0])
    got = step_game(fooled, lowered)
    np.testing.assert_array_equal(got, [[1, -1], [-1, 1], [0, 0]])
    np.testing.assert_array_equal(step_game(fooled).sum(-1), 0)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: progress_redistribution(np.ones(3), 1.0, np.ones(2)),
            "grounded has",
        ),
        (lambda: progress_redistribution(np.ones((2, 3)), 1.0), "use jax.vmap"),
        (lambda: progress_redistribution(np.ones(3), np.ones(3)), "reward has shape"),
        (lambda: utterance_attribution(np.ones((2, 3)), 1.0), "use jax.vmap"),
        (lambda: utterance_attribution(np.ones(3), np.ones(3)), "score has shape"),
        (lambda: progress_loss(np.ones(3), np.ones(3)), "reward has shape"),
        (lambda: utterance_attribution(np.ones(3), 1.0, kind="sum"), "kind is 'sum'"),
        (lambda: belief_shift(np.ones((3, 2)), np.ones(3)), "speaker_sign has"),
        (lambda: belief_shift(np.ones(3), np.ones(2)), r"expected \[T \+ 1, N\]"),
        (lambda: belief_shift(np.ones((3, 2)), np.ones(2), np.ones(3)), "alive has"),
        (lambda: hindsight_relabel(np.ones(3)), r"expected \[T, K\]"),
        (lambda: step_game(np.ones(3), np.ones(2)), "lowered has shape"),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()
