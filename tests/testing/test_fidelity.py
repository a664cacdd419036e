"""Frechet and kernel distances against closed forms."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from jaxlib_guidance.models import Classified
from jaxlib_guidance.testing import frechet_distance, judge_samples, kernel_distance

RNG = np.random.default_rng(0)


def test_frechet_is_the_formula_with_scipys_matrix_root():
    a = RNG.normal(size=(500, 6)) @ RNG.normal(size=(6, 6))
    b = RNG.normal(size=(400, 6)) @ RNG.normal(size=(6, 6)) + 0.5
    ca, cb = np.cov(a.T), np.cov(b.T)
    want = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(
        ca + cb - 2 * sqrtm(ca @ cb).real
    )
    np.testing.assert_allclose(frechet_distance(a, b), want, rtol=1e-6)
    np.testing.assert_allclose(frechet_distance(b, a), want, rtol=1e-6)
    np.testing.assert_allclose(frechet_distance(a, a), 0, atol=1e-6)


def test_frechet_of_a_shift_and_a_scale():
    a = RNG.normal(size=(1000, 3))
    np.testing.assert_allclose(
        frechet_distance(a, a + np.array([1, 2, 0])), 5, rtol=1e-9
    )
    # Variances v and 4 v in each axis: v (1 + 4 - 2 * 2) = v, and the mean's shift.
    want = np.trace(np.cov(a.T)) + np.sum(a.mean(0) ** 2)
    np.testing.assert_allclose(frechet_distance(a, 2 * a), want, rtol=1e-9)


def test_frechet_of_degenerate_features_is_finite():
    a = RNG.normal(size=(50, 1)) @ np.ones((1, 80))
    assert np.isfinite(frechet_distance(a, 2 * a))


def test_kernel_distance_is_the_double_sum():
    a, b = RNG.normal(size=(7, 4)), RNG.normal(size=(5, 4)) + 1

    def k(x, y):
        return (x @ y / 4 + 1) ** 3

    within_a = np.mean([k(x, y) for i, x in enumerate(a) for y in np.delete(a, i, 0)])
    within_b = np.mean([k(x, y) for i, x in enumerate(b) for y in np.delete(b, i, 0)])
    across = np.mean([k(x, y) for x in a for y in b])
    np.testing.assert_allclose(
        kernel_distance(a, b), within_a + within_b - 2 * across, rtol=1e-9
    )


def test_kernel_distance_is_unbiased_at_any_count():
    each = [
        kernel_distance(RNG.normal(size=(8, 3)), RNG.normal(size=(6, 3)))
        for _ in range(3000)
    ]
    assert abs(np.mean(each)) < 4 * np.std(each) / np.sqrt(len(each))
    assert np.min(each) < 0


def test_refusals():
    with pytest.raises(ValueError, match="features have shapes"):
        frechet_distance(np.ones((3, 2)), np.ones((3, 4)))
    with pytest.raises(ValueError, match="at least 2"):
        kernel_distance(np.ones((1, 2)), np.ones((3, 2)))


def test_what_a_judge_says_of_four_samples():
    features = RNG.normal(size=(4, 2))
    chances = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.1, 0.9, 1e-30]]
    judged = Classified(np.log(chances), features)
    scores = judge_samples(judged, judged, np.array([0, 1, 1, 1]))
    assert scores["accuracy"] == 0.75
    np.testing.assert_allclose(scores["confidence"], (0.7 + 0.8 + 0.6 + 0.9) / 4)
    # Two classes of three, evenly.
    np.testing.assert_allclose(scores["coverage"], 2)
    assert scores["frechet"] == frechet_distance(features, features)
    assert scores["kernel"] == kernel_distance(features, features)
    assert np.isnan(judge_samples(judged, judged)["accuracy"])
