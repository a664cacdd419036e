"""Gaussian steps against scipy and against their own samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxlib_guidance import rng
from jaxlib_guidance.transition import Transition, draw, kl, log_prob

GEN = np.random.default_rng(0)
MEAN = jnp.asarray(GEN.normal(size=(5, 2, 3)), jnp.float32)
X = jnp.asarray(GEN.normal(size=(5, 2, 3)), jnp.float32)
STD = jnp.asarray(GEN.uniform(0.1, 2, size=5), jnp.float32)


@pytest.mark.parametrize("std", [jnp.float32(0.7), STD])
def test_log_prob(std):
    got = log_prob(Transition(MEAN, std), X)
    scale = np.broadcast_to(np.asarray(std), (5,))[:, None, None]
    exact = stats.norm.logpdf(X, MEAN, scale).sum((1, 2))
    np.testing.assert_allclose(got, exact, rtol=1e-5)


def test_a_point_has_no_density():
    got = log_prob(Transition(MEAN, STD.at[2].set(0)), X)
    np.testing.assert_array_equal(jnp.isnan(got), np.arange(5) == 2)
    slope = jax.grad(
        lambda m: jnp.nansum(log_prob(Transition(m, STD.at[2].set(0)), X))
    )(MEAN)
    assert bool(jnp.isfinite(slope).all())


def test_scalar_samples():
    got = log_prob(Transition(MEAN[:, 0, 0], STD), X[:, 0, 0])
    exact = stats.norm.logpdf(X[:, 0, 0], MEAN[:, 0, 0], STD)
    np.testing.assert_allclose(got, exact, rtol=1e-5)


def test_kl():
    p, q = Transition(MEAN, STD), Transition(X, STD[::-1])
    np.testing.assert_allclose(kl(p, p), 0, atol=1e-6)
    assert float(kl(p, q).min()) > 0
    # KL is the mean of the log-ratio under p: here by Gauss-Hermite, exact for it.
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    weights = weights / weights.sum()
    s, m = np.asarray(STD)[:, None, None, None], np.asarray(MEAN)[..., None]
    at = m + s * nodes
    ratio = stats.norm.logpdf(at, m, s) - stats.norm.logpdf(
        at, np.asarray(X)[..., None], np.asarray(STD[::-1])[:, None, None, None]
    )
    np.testing.assert_allclose(kl(p, q), (ratio @ weights).sum((1, 2)), rtol=1e-4)
    same = Transition(X, STD)
    squared = jnp.sum((MEAN - X) ** 2, axis=(1, 2)) / (2 * STD**2)
    np.testing.assert_allclose(kl(p, same), squared, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_accumulated_in_float32(dtype):
    """Of the numbers as they are given: in half, 3628 would be 3600."""
    mean = GEN.normal(size=(3, 4096))
    x = mean + 0.1 * GEN.normal(size=mean.shape)
    mean, x, std = (jnp.asarray(a, dtype) for a in (mean, x, [0.1, 0.2, 0.3]))
    wide = [np.asarray(a, np.float64) for a in (mean, x, std[:, None])]
    exact = stats.norm.logpdf(wide[1], wide[0], wide[2]).sum(1)
    got = log_prob(Transition(mean, std), x)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, exact, rtol=1e-5)
    # One of them in half precision is enough to have failed under strict promotion.
    mixed = log_prob(Transition(mean.astype(jnp.float32), std), x)
    np.testing.assert_array_equal(mixed, got)
    gap = kl(Transition(mean, std), Transition(x, std))
    assert gap.dtype == jnp.float32
    squared = ((wide[0] - wide[1]) ** 2 / (2 * wide[2] ** 2)).sum(1)
    np.testing.assert_allclose(gap, squared, rtol=1e-5)


def test_draw_has_the_law():
    keys = rng.sample_keys(jax.random.key(0), 20_000)
    mean = jnp.broadcast_to(jnp.array([2.0, -1.0]), (20_000, 2))
    std = jnp.where(jnp.arange(20_000) < 10_000, 0.5, 3.0)
    x = np.asarray(draw(Transition(mean, std), keys))
    for part, s in ((x[:10_000], 0.5), (x[10_000:], 3.0)):
        np.testing.assert_allclose(part.mean(0), [2, -1], atol=4 * s / 100)
        np.testing.assert_allclose(part.std(0), s, rtol=0.03)
    # Its log-density has the entropy's mean.
    values = log_prob(Transition(mean, std), jnp.asarray(x))
    entropy = 2 * (np.log(np.asarray(std)) + 0.5 * np.log(2 * np.pi * np.e))
    assert abs(float(values.mean()) + entropy.mean()) < 0.03
    point = draw(Transition(mean, jnp.float32(0)), keys)
    np.testing.assert_array_equal(point, mean)
