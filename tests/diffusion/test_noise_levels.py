"""Training noise levels: quantiles, evenness, indifference to how a batch is cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxlib_guidance.diffusion import (
    VE,
    RectifiedFlow,
    VPCosine,
    log_normal_t,
    logit_normal_t,
    logsnr,
    stratified,
    uniform_t,
)

U = jnp.linspace(0.001, 0.999, 999, dtype=jnp.float32)


def test_uniform_spans_the_process():
    process = VPCosine()
    np.testing.assert_allclose(
        uniform_t(process, jnp.array([0.0, 0.5, 1.0])), [0.001, 0.5, 0.999], rtol=1e-5
    )


@pytest.mark.parametrize("process", [VE(), VPCosine(), RectifiedFlow()])
def test_log_normal_is_normal_in_log_sigma_over_alpha(process):
    t = log_normal_t(process, U, mean=-0.4, std=1.0)
    got = -0.5 * logsnr(process, t)
    want = stats.norm.ppf(np.asarray(U, np.float64), -0.4, 1.0)
    np.testing.assert_allclose(got, want, atol=2e-3)


def test_logit_normal_is_normal_in_logit_t():
    t = np.asarray(logit_normal_t(RectifiedFlow(), U, mean=0.5, std=0.8), np.float64)
    want = stats.norm.ppf(np.asarray(U, np.float64), 0.5, 0.8)
    np.testing.assert_allclose(np.log(t / (1 - t)), want, atol=1e-3)


def test_times_stay_inside_whatever_u():
    ends = jnp.array([0.0, 1.0])
    for process in (VE(), VPCosine(), RectifiedFlow()):
        t = log_normal_t(process, ends, 0.0, 3.0)
        np.testing.assert_allclose(t, [process.t_min, process.t_max], rtol=1e-6)
    with pytest.raises(ValueError, match="t_max 80"):
        logit_normal_t(VE(), ends)


def test_stratified_is_even_and_uniform():
    n = 64
    u = np.asarray(stratified(jax.random.key(3), jnp.arange(n), n))
    # One in each of n equal strata, up to the common offset.
    gaps = np.diff(np.sort(u))
    np.testing.assert_allclose(gaps, 1 / n, atol=1e-6)
    assert ((u >= 0) & (u < 1)).all()
    # Each one alone is uniform over steps.
    first = jax.vmap(lambda k: stratified(k, 0, n))(
        jax.random.split(jax.random.key(0), 4000)
    )
    assert stats.kstest(np.asarray(first), "uniform").pvalue > 1e-3


def test_stratified_lowers_the_variance():
    n = 32
    keys = jax.random.split(jax.random.key(0), 500)
    even = jax.vmap(lambda k: jnp.mean(stratified(k, jnp.arange(n), n) ** 2))(keys)
    plain = jax.vmap(lambda k: jnp.mean(jax.random.uniform(k, (n,)) ** 2))(keys)
    # The offset alone is left, of order 1 / n where plain draws have 1 / sqrt(n).
    assert np.std(even) < 0.25 * np.std(plain)
    np.testing.assert_allclose(np.mean(even), 1 / 3, atol=1e-3)


def test_stratified_does_not_depend_on_how_the_batch_is_cut():
    key, n = jax.random.key(1), 16
    whole = stratified(key, jnp.arange(n), n)
    parts = [stratified(key, jnp.arange(a, a + 4), n) for a in range(0, n, 4)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    with pytest.raises(ValueError, match="n is 0"):
        stratified(key, jnp.arange(n), 0)
