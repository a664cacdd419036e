"""Where guided probability flows of Gaussians end, in closed form.

The flow is linear, so two states give the mean and the variance exactly.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import (
    characteristic,
    epsilon_scaling,
    negation,
    nested,
    self_guidance,
    tsr,
)
from jaxlib_guidance.types import expand

VE = jg.VE(t_max=1000.0)
MEANS, VARIANCES = (1.0, 0.0, 0.0), (0.25, 1.0, 0.25)


def gaussians(x, t, cond, *, control, capture):
    """The exact denoiser of N(1, 1 / 4), N(0, 1) or N(0, 1 / 4), by label."""
    mean, variance = (jnp.asarray(a)[cond][:, None] for a in (MEANS, VARIANCES))
    gain = variance / (variance + expand(t, x) ** 2)
    return jg.types.Denoised(mean + gain * (x - mean))


@functools.partial(jax.jit, static_argnames=("high", "steps"))
def ends(term, labels, high, steps):
    """Ends of the flow from 0 and from 1 standard deviation of the noise."""
    count = labels.shape[0]
    x = jnp.tile(jnp.asarray([[0.0], [high]]), (count // 2, 1))
    grid = jg.karras_grid(VE, steps, t_min=2e-3, t_max=high)
    keys = jg.sample_keys(jax.random.key(0), count)
    net = jg.Denoiser(gaussians, process=VE)
    return jg.sample(keys, net, jg.heun(), grid, x, labels, guidance=term)[0][:, 0]


def moments(term, label=0, high=80.0, steps=200):
    low, top = np.asarray(ends(term, jnp.full(2, label), high, steps), np.float64)
    return low, (top - low) ** 2


@pytest.mark.exact("A contrast of Gaussians ends with the variance v_c (v_c / v_b)^w")
@pytest.mark.parametrize(
    ("weight", "null", "mean", "variance"),
    [
        (1.0, 1, 1.380168, 0.0625),
        (2.0, 1, 1.499996, 0.015625),
        (2.0, 2, 3.0, 0.25),
    ],
)
def test_cfg_ends_at_its_own_variance(weight, null, mean, variance):
    """v_c (v_c / v_b)^w, which is not the product's; equal variances only shift."""
    got_mean, got = moments(jg.cfg(jnp.float32(weight), jnp.int32(null)))
    np.testing.assert_allclose(got, variance, rtol=1e-2)
    # The means are those of noise without end.
    np.testing.assert_allclose(got_mean, mean, rtol=1e-2)


@pytest.mark.exact("Contrasts of Gaussians end at the product of powers of variances")
@pytest.mark.parametrize("method", ["negation", "nested"])
def test_sums_of_contrasts_end_at_products_of_variances(method):
    """``sum a_i D_i`` with ``sum a_i = 1`` ends at ``prod v_i^(a_i)``."""
    w, v = 1.0, 0.5
    if method == "negation":  # c + w (c - u) - v (n - u), n = N(0, 1 / 4).
        term = negation(jnp.float32(v), 1, 2)
        term = jg.chain(jg.cfg(jnp.float32(w), 1), term)
        power = 1 + w - v
    else:  # c + w (c - m) + v (m - u), m = N(0, 1 / 4).
        term = nested(jnp.float32(w), 1, 2, inner_weight=jnp.float32(v))
        power = 1 + v
    _, variance = moments(term)
    np.testing.assert_allclose(variance, 0.25**power, rtol=1e-2)


@pytest.mark.exact("Guidance in an interval moves the mean by its closed share")
def test_an_interval_moves_the_mean_by_its_share():
    """w (sqrt(v / (v + lo^2)) - sqrt(v / (v + hi^2))), equal variances v."""
    term = jg.during(jg.cfg(jnp.float32(2.0), jnp.int32(2)), 0.28, 5.42, unit="sigma")
    mean, variance = moments(term, steps=400)
    v, low, high = 0.25, 0.28, 5.42
    root = v**0.5 * ((v + low**2) ** -0.5 - (v + high**2) ** -0.5)
    assert abs(root * 2 + 1 - 2.561290) < 1e-6
    # The window's ends fall between steps.
    np.testing.assert_allclose(mean, 1 + 2 * root, rtol=3e-3)
    np.testing.assert_allclose(variance, v, rtol=1e-2)


@pytest.mark.exact("The variance of N(0, v) becomes v (1 + shift)^(2 w)")
@pytest.mark.parametrize(
    ("weight", "shift", "growth"), [(3.0, 0.01, 0.743064 / 0.7), (3.0, 0.1, 1.1**6)]
)
def test_self_guidance_widens_a_gaussian(weight, shift, growth):
    """v (1 + shift)^(2 w): it widens."""
    term = self_guidance(jnp.float32(weight), jnp.float32(shift))
    mean, variance = moments(term, label=1)
    assert abs((1 + shift) ** (2 * weight) - growth) < 1e-4
    np.testing.assert_allclose(variance, growth, rtol=1e-2)
    np.testing.assert_allclose(mean, 0, atol=1e-6)


@pytest.mark.exact("The variance grows as ((v + s^2) / v)^(1 - 1 / factor)")
def test_epsilon_scaling_widens_with_the_noise():
    """v ((v + sigma_max^2) / v)^(1 - 1 / factor), so it is no temperature."""
    for high in (80.0, 20.0):
        _, variance = moments(epsilon_scaling(jnp.float32(1.005)), 1, high)
        # The noise at the start stands for all of N(0, 1 + high^2).
        start = high**2 / (1 + high**2)
        want = (1 + high**2) ** (1 - 1 / 1.005) * start
        np.testing.assert_allclose(variance, want, rtol=5e-3)


@pytest.mark.exact("It is the denoiser of N(m, v / k) at every level")
@pytest.mark.parametrize("k", [0.5, 0.93, 2.0])
def test_tsr_is_the_denoiser_of_another_variance(k, context, guided):
    """Of N(m, v / k) at every level where s^2 = v, so a k below 1 widens."""
    process, v, mean = jg.VPCosine(), 0.7, 0.3
    x = jnp.linspace(-2, 2, 8).reshape(4, 2)
    t = jnp.asarray([0.05, 0.4, 0.8, 1.0])

    def normal(x, t, cond, *, control, capture, v=v):
        alpha, sigma = (expand(f(t), x) for f in (process.alpha, process.sigma))
        gain = alpha * v / (alpha**2 * v + sigma**2)
        return jg.types.Denoised(mean + gain * (x - alpha * mean))

    ctx = context(process, x, t)
    got, _ = guided(tsr(k, v**0.5), jg.Denoiser(normal), ctx)
    want = normal(x, t, None, control={}, capture=(), v=v / k).x0
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


@pytest.mark.exact("The flow of Gaussians ends at the product p_c^S p_u^(1 - S)")
def test_characteristic_guidance_samples_the_product():
    """p_c^S p_u^(1 - S): N(1.142857, 0.142857) at S = 2 and N(1.2, 0.1) at S = 3.

    CFG's variances are 0.0625 and 0.015625 (arXiv 2312.07586).
    """
    term = characteristic(jnp.asarray([1.0, 1.0, 2.0, 2.0]), jnp.int32(1))
    got = np.asarray(ends(term, jnp.zeros(4, int), 1000.0, 100), np.float64)
    low, top = got[::2], got[1::2]
    np.testing.assert_allclose(low, [1.142857, 1.2], rtol=2e-3)
    np.testing.assert_allclose((top - low) ** 2, [0.142857, 0.1], rtol=5e-3)
