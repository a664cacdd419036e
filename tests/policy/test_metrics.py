"""Statistics of behaviour against scipy, counting and the specs' numbers."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxlib_guidance.policy.metrics import (
    balance_score,
    behaviour_rate,
    best_configuration,
    deception_rate,
    friction,
    mastered,
    pass_at_k,
    rate,
    reject_seen,
    self_prediction_gap,
    verdict_scores,
)

pytestmark = pytest.mark.usefixtures("one_program")


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (3, 10), (9, 10), (5, 5)])
def test_rate_against_scipy(hits, n):
    x = jnp.arange(n) < hits
    got = rate(jnp.concatenate([x, x]), jnp.arange(2 * n) < n, z=1.959964)
    exact = stats.binomtest(hits, n).proportion_ci(method="wilson")
    np.testing.assert_allclose(got, (hits / n, *exact), atol=1e-5)


def test_rate_of_nothing():
    np.testing.assert_array_equal(rate(np.ones(3), np.zeros(3)), [0, 0, 1])


def test_deception():
    stated, acted = np.array([1, 1, 0, 0, 1]), np.array([0, 1, 0, 1, 0])
    got = deception_rate(stated, acted, np.array([1, 1, 1, 1, 0]))
    np.testing.assert_allclose(got.value, 0.25)


def test_self_knowledge_and_friction():
    np.testing.assert_allclose(
        self_prediction_gap(0.6, 0.5, 0.3, 0.35), 0.15, rtol=1e-5
    )
    got = friction(np.array([[0.2, 0.5, 0.6], [0.1, 0.1, 0.1]]), 0.9)
    np.testing.assert_allclose(got.gap, [0.3, 0.8], rtol=1e-5)
    logits = reject_seen(
        np.array([[1.0, 2, 3], [1, 2, 3]]), np.array([[0, 0, 1], [1] * 3])
    )
    np.testing.assert_array_equal(logits, [[1, 2, -np.inf], [1, 2, 3]])


def test_behaviour_rate():
    counts = np.array([[1, 0], [3, 2], [9, 9]])
    got = behaviour_rate(counts, np.array([1, 1, 0]))
    np.testing.assert_allclose(got, [2, 1])
    np.testing.assert_array_equal(behaviour_rate(counts, np.zeros(3)), [0, 0])


def test_balance_golden():
    """specs/policy_llm.md, section 3.1."""
    n, m = np.array([4, 8, 16, 0, 0]), np.array([8, 8, 32, 4, 0])
    np.testing.assert_allclose(balance_score(n, m), [0.25, 1, 0.5, 0, 0])
    # The second configuration selects from one prompt only, and is judged by it.
    best, scores = best_configuration(
        np.array([[4, 4], [8, 0]]), np.array([[8, 8], [8, 0]])
    )
    np.testing.assert_allclose(scores, [0.25, 1])
    assert int(best) == 1


def test_pass_at_k_against_enumeration():
    for n, c, k in ((5, 2, 3), (6, 0, 2), (4, 4, 1), (5, 4, 2)):
        right = np.arange(n) < c
        draws = [right[list(s)].any() for s in itertools.combinations(range(n), k)]
        got = pass_at_k(np.array(n), np.array(c), k)
        np.testing.assert_allclose(got, np.mean(draws), rtol=1e-6)


def test_verdicts():
    said, truth = np.array([1, 1, 0, 0, 1]), np.array([1, 0, 1, 0, 1])
    got = verdict_scores(said, truth, np.array([1, 1, 1, 1, 0]))
    np.testing.assert_allclose(got, [0.5, 0.5, 0.5])
    np.testing.assert_array_equal(verdict_scores(0 * said, 0 * truth), [0, 0, 0])


def test_mastered():
    success = np.array([[1, 0, 1, 1], [1, 0, 0, 1], [1, 1, 0, 1]])
    tried = np.array([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0]])
    assert int(mastered(success, tried)) == 1
    assert int(mastered(success, tried, threshold=0.3)) == 3


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: deception_rate(np.ones(3), np.ones(2)), "acted has shape"),
        (lambda: friction(np.ones((2, 3)), np.ones(3)), "target has shape"),
        (lambda: behaviour_rate(np.ones(3)), r"expected \[N, K\]"),
        (lambda: balance_score(np.ones(3), np.ones(2)), "selected has shape"),
        (lambda: verdict_scores(np.ones(3), np.ones(2)), "correct has shape"),
        (lambda: reject_seen(np.ones(3), np.ones(2)), "seen has shape"),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()
