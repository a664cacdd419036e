"""Votes against counting, and rules that self-agreement cannot fool."""

from collections import Counter

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.policy import (
    cross_view_reward,
    meta_vote,
    naive_vote,
    self_verdict_vote,
    weighted_vote,
)

pytestmark = pytest.mark.usefixtures("one_program")
GEN = np.random.default_rng(0)
ANSWERS = GEN.integers(0, 4, size=(20, 7))
MASK = GEN.uniform(size=(20, 7)) < 0.7


def test_majority_against_counting():
    """Counter breaks ties by who was seen first, and so do we."""
    got = weighted_vote(ANSWERS, mask=MASK)
    for i in range(20):
        seen = ANSWERS[i][MASK[i]]
        label, count = Counter(seen.tolist()).most_common(1)[0]
        assert (int(got.label[i]), float(got.weight[i])) == (label, count)
        assert ANSWERS[i, int(got.index[i])] == label
    none = weighted_vote(ANSWERS[:1], mask=np.zeros((1, 7)))
    assert (float(none.weight[0]), float(none.valid[0])) == (0, 0)


def test_weights():
    answers, weights = np.array([5, 6, 5, 7]), np.array([1.0, 2.5, 1, jnp.nan])
    got = weighted_vote(answers, weights, np.array([1, 1, 1, 0]))
    assert (int(got.label), int(got.index), float(got.weight)) == (6, 1, 2.5)


def test_self_verdict():
    """Accept all: majority. Accept none: majority. A perfect verdict: pass@k."""
    majority = weighted_vote(ANSWERS).label
    for verdict in (np.ones_like(ANSWERS), np.zeros_like(ANSWERS)):
        np.testing.assert_array_equal(
            self_verdict_vote(ANSWERS, verdict).label, majority
        )
    solved = (ANSWERS == 3).any(1)
    got = self_verdict_vote(ANSWERS, ANSWERS == 3).label == 3
    np.testing.assert_array_equal(got, solved)


def test_cross_views():
    """Co-Reward, arXiv 2508.00410: each phrasing is judged by the other's vote."""
    a, b = np.full((1, 4), 7), np.full((1, 4), 8)
    for reward in cross_view_reward(a, b):
        np.testing.assert_array_equal(reward, 0)
    same, _ = cross_view_reward(ANSWERS, ANSWERS)
    own = np.asarray(weighted_vote(ANSWERS).label)[:, None] == ANSWERS
    np.testing.assert_array_equal(same, own)
    # Missing answers match nothing, and a view without any rewards nobody.
    mask = np.array([[1, 1, 0, 0]])
    ra, rb = cross_view_reward(a, a, mask, np.zeros((1, 4)))
    np.testing.assert_array_equal(ra, 0)
    np.testing.assert_array_equal(rb, 0)
    ra, _ = cross_view_reward(a, a, mask)
    np.testing.assert_array_equal(ra, mask)


def test_judges_votes():
    scores = jnp.asarray(GEN.integers(1, 11, size=(3, 4, 5)), jnp.float32)
    np.testing.assert_allclose(naive_vote(scores), scores.sum(1))
    meta = np.array([[0.1, 0.9, 0.5, 0.2]] * 3)
    np.testing.assert_allclose(meta_vote(scores, meta, 4), naive_vote(scores))
    np.testing.assert_allclose(meta_vote(scores, meta, 2), scores[:, [1, 2]].sum(1))
    # Equal trust keeps the earlier runs.
    np.testing.assert_allclose(meta_vote(scores, 0 * meta, 2), scores[:, :2].sum(1))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: weighted_vote(ANSWERS, np.ones(7)), "weights has shape"),
        (lambda: weighted_vote(ANSWERS, mask=MASK[0]), "mask has shape"),
        (lambda: self_verdict_vote(ANSWERS, MASK[0]), "accepted has shape"),
        (lambda: naive_vote(np.ones((2, 3)), np.ones(3)), "mask has shape"),
        (lambda: meta_vote(np.ones((2, 3)), np.ones(3), 1), "meta has shape"),
        (lambda: meta_vote(np.ones((2, 3)), np.ones(2), 3), "keep is 3"),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()
