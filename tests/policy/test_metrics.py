"""Statistics of behaviour against scipy, counting and formulas by hand."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxlib_guidance.policy import (
    balance_score,
    behaviour_rate,
    best_configuration,
    best_of_k,
    calibration_error,
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
GEN = np.random.default_rng(0)


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (3, 10), (9, 10), (5, 5)])
def test_rate_against_scipy(hits, n):
    x = jnp.arange(n) < hits
    got = rate(jnp.concatenate([x, x]), jnp.arange(2 * n) < n, z=1.959964)
    exact = stats.binomtest(hits, n).proportion_ci(method="wilson")
    np.testing.assert_allclose(got, (hits / n, *exact), atol=1e-5)


def test_rate_of_nothing():
    np.testing.assert_array_equal(rate(np.ones(3), np.zeros(3)), [np.nan, 0, 1])


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
    """B-STaR, arXiv 2412.17256: ``min(n / 8, 1) n / m``, by hand."""
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
    # Too few samples, where nothing can raise.
    got = pass_at_k(np.array([2, 5, 0]), np.array([1, 5, 0]), 3)
    np.testing.assert_array_equal(got, [np.nan, 1, np.nan])


def test_best_of_k_against_enumeration():
    values, scores = GEN.normal(size=(2, 6)).astype(np.float32)
    for k in (1, 2, 5, 6):
        draws = [
            values[max(s, key=lambda i: scores[i])]
            for s in itertools.combinations(range(6), k)
        ]
        got = best_of_k(values, scores, k)
        np.testing.assert_allclose(got, np.mean(draws), rtol=1e-5, atol=1e-6)
    # A verifier that is always right.
    right = np.array([1.0, 0, 0, 1, 0, 0], np.float32)
    np.testing.assert_allclose(
        best_of_k(right, right, 3), pass_at_k(np.array(6), np.array(2), 3), rtol=1e-6
    )
    # Binomials beyond float32: of n values 0, ..., n-1 it is k (n + 1) / (k + 1) - 1.
    many = np.arange(2000, dtype=np.float32)
    got = best_of_k(many, many, 1000)
    np.testing.assert_allclose(got, 1000 * 2001 / 1001 - 1, rtol=1e-5)


def quantile_bins(predicted, actual, bins):
    """The authors' curve: ``pandas.qcut`` with duplicates dropped, by hand."""
    places = np.arange(bins + 1) * (actual.size - 1) / bins
    edges = np.unique(np.interp(places, np.arange(actual.size), np.sort(actual)))
    gaps = []
    for i in range(len(edges) - 1):
        own = (actual > edges[i]) | ((i == 0) & (actual == edges[0]))
        own &= actual <= edges[i + 1]
        if own.any():
            gaps.append(abs(actual[own].mean() - predicted[own].mean()))
    return np.mean(gaps)


@pytest.mark.parametrize("bins", [1, 4, 10])
def test_calibration_error_against_a_loop(bins):
    actual = GEN.uniform(size=41)
    predicted = np.clip(actual + 0.3 * GEN.normal(size=41), 0, 1)
    # Many shares of a few samples are equal: one behaviour that is always shown.
    twenty = np.round(np.maximum(actual * 4 - 2, 0)) / 2
    for at in (actual, twenty):
        want = quantile_bins(predicted, at, bins)
        at, guess = (np.asarray(x, np.float32) for x in (at, predicted))
        np.testing.assert_allclose(
            calibration_error(guess, at, bins=bins), want, rtol=1e-4, atol=1e-6
        )
        order = GEN.permutation(60)
        padded = [np.append(x, np.full(19, np.nan, "f4"))[order] for x in (guess, at)]
        got = calibration_error(*padded, np.arange(60)[order] < 41, bins=bins)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_calibration_error_golden():
    # Four pairs in two bins: means .15 against .35, and .85 against .75.
    predicted, actual = np.array([0.3, 0.7, 0.4, 0.8]), np.array([0.1, 0.8, 0.2, 0.9])
    got = calibration_error(predicted, actual, bins=2)
    np.testing.assert_allclose(got, (0.2 + 0.1) / 2, rtol=1e-6)
    assert float(calibration_error(actual, actual)) == 0
    # No pair is not a perfect calibration.
    assert np.isnan(calibration_error(actual, actual, np.zeros(4)))
    # One bin cannot see that errors of two questions cancel; two can.
    cross, half = np.array([0.5, 0.5]), np.array([0.1, 0.9])
    np.testing.assert_allclose(calibration_error(cross, half, bins=1), 0, atol=1e-7)
    np.testing.assert_allclose(calibration_error(cross, half, bins=2), 0.4, rtol=1e-6)
    # All equal: one bin.
    same = np.full(5, 0.4, np.float32)
    np.testing.assert_allclose(calibration_error(same + 0.1, same), 0.1, rtol=1e-5)


def test_verdicts():
    said, truth = np.array([1, 1, 0, 0, 1]), np.array([1, 0, 1, 0, 1])
    got = verdict_scores(said, truth, np.array([1, 1, 1, 1, 0]))
    np.testing.assert_allclose(got, [0.5, 0.5, 0.5])
    np.testing.assert_array_equal(verdict_scores(0 * said, 0 * truth), [0, 0, 0])
    nothing = verdict_scores(said, truth, np.zeros(5))
    np.testing.assert_array_equal(nothing, [np.nan] * 3)


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
        (lambda: pass_at_k(2, 1, 3), "samples has 2; expected at least k = 3"),
        (lambda: pass_at_k(2, 1, 0), "k is 0"),
        (lambda: best_of_k(np.ones(3), np.ones(2), 1), "scores has shape"),
        (lambda: best_of_k(np.ones(3), np.ones(3), 4), "k is 4; expected 1 to"),
        (lambda: calibration_error(np.ones(2), np.ones(3)), "predicted has shape"),
        (lambda: calibration_error(*np.ones((2, 1, 3))), r"expected \[N\]"),
        (lambda: calibration_error(*np.ones((2, 3)), bins=0), "bins is 0"),
        (lambda: rate(np.ones(3), z=1001.0), "z is 1001.0; expected"),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()
