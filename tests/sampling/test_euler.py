"""Heun and EDM's stochastic sampler against the algorithms as printed."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.diffusion import (
    VE,
    RectifiedFlow,
    flow_grid,
    karras_grid,
    logsnr_grid,
)
from jaxlib_guidance.rng import sample_keys
from jaxlib_guidance.sampling import ddim, edm, euler, euler_ancestral, heun, sample
from jaxlib_guidance.testing import (
    draw_exact,
    exact_denoiser,
    plane_mixture,
    posterior_mean64,
)
from jaxlib_guidance.types import Denoiser

MIXTURE = plane_mixture()


def traced(sampler, process, grid, x):
    def look(info):
        return info.x, info.transition.mean, info.transition.std, info.x_next

    keys = sample_keys(jax.random.key(0), x.shape[0])
    denoiser = exact_denoiser(MIXTURE, process)
    _, kept = jax.jit(
        lambda grid, x: sample(
            keys, denoiser, sampler, grid, x, trace=look, process=process
        )
    )(grid, x)
    return [np.asarray(leaf, np.float64) for leaf in kept]


def d(x, sigma):
    return posterior_mean64(MIXTURE, x, 1.0, sigma)


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("churn", [0.0, 0.3])
def test_is_edms_algorithm(churn, second_order):
    """Algorithm 2 of arXiv 2206.00364, fed with the noise that was drawn.

    Two differences, both stated: the first state is not raised, and the last step's
    second slope is taken half-way instead of not at all.
    """
    process, n, low, high = VE(), 8, 0.05, 5.0
    t = np.asarray(karras_grid(process, n), np.float64)
    x = 80 * jax.random.normal(jax.random.key(1), (8, 2))
    sampler = edm(n * churn, low, high, 1.1, second_order=second_order)
    states, means, stds, nexts = traced(sampler, process, jnp.float32(t), x)
    gamma = [churn if i and low <= s <= high else 0 for i, s in enumerate(t)]
    raised = t * (1 + np.array(gamma))
    assert (np.array(gamma) > 0).sum() == (3 if churn else 0)
    for i in range(n):
        x, hat, end = states[i], raised[i], t[i + 1]
        slope = (x - d(x, hat)) / hat
        want = x + (end - hat) * slope
        if second_order and end:
            other = (want - d(want, end)) / end
            want = x + (end - hat) * (slope + other) / 2
        elif second_order:
            middle = x - hat / 2 * slope
            want = x - hat * (middle - d(middle, hat / 2)) / (hat / 2)
        # float32 carries eps (x - x0) / sigma to about 1e-6 / sigma.
        np.testing.assert_allclose(means[i], want, rtol=5e-4, atol=5e-5)
        up = 1.1 * np.sqrt(raised[i + 1] ** 2 - end**2)
        np.testing.assert_allclose(stds[i], up, rtol=2e-3, atol=1e-7)
        if not up:
            np.testing.assert_allclose(nexts[i], means[i], rtol=3e-7)


def test_churn_is_bounded():
    """``gamma = min(s_churn / N, sqrt(2) - 1)``, as in k-diffusion's `sample_heun`."""
    process, n = VE(), 6
    grid = karras_grid(process, n)
    x = 80 * jax.random.normal(jax.random.key(1), (8, 2))
    most = traced(edm(n * (np.sqrt(2) - 1)), process, grid, x)
    for s_churn in (1e3, jnp.float32(1e6)):
        for got, want in zip(traced(edm(s_churn), process, grid, x), most, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    assert most[2][:-1].max() > 1


def test_churn_stays_within_the_networks_times():
    """Fine grids would raise their first times above t_max; those are left alone."""
    seen = []
    process = VE(t_max=2.0, t_min=0.1)

    def apply(x, t, cond, **_):
        jax.debug.callback(lambda t: seen.append(float(t.max())), t)
        return exact_denoiser(MIXTURE, process)(x, t, cond)

    grid = logsnr_grid(process, 12)
    keys = sample_keys(jax.random.key(0), 4)
    out, _ = sample(keys, Denoiser(apply), edm(12 * 0.4), grid, (2,), process=process)
    jax.block_until_ready(out)
    jax.effects_barrier()
    assert max(seen) <= 2.0 + 1e-5
    assert min(seen) > 0
    assert any(not np.isclose(grid, s, rtol=1e-3).any() for s in seen)


def test_heun_of_the_flow_is_heun_in_time():
    """For a rectified flow, space "flow" is Heun's method on dx/dt = eps - x0."""
    process = RectifiedFlow()
    grid = np.linspace(1, 0, 6)
    x = jax.random.normal(jax.random.key(1), (8, 2))
    states, means, _, _ = traced(heun(), process, jnp.float32(grid), x)

    def velocity(x, t):
        return (x - posterior_mean64(MIXTURE, x, 1 - t, t)) / t

    for i in range(5):
        x, t, h = states[i], grid[i], grid[i + 1] - grid[i]
        v = velocity(x, t)
        want = x + h * (v + velocity(x + h * v, t + h)) / 2 if i < 4 else None
        if i == 4:
            want = x + h * velocity(x + h / 2 * v, t + h / 2)
        np.testing.assert_allclose(means[i], want, rtol=1e-4, atol=1e-5)


def test_euler_is_ddim_and_its_ancestral_form_too():
    """k-diffusion's `get_ancestral_step`, written out."""
    process = VE()
    grid = jnp.array([3.0, 1.0, 0.4])
    x = 3 * jax.random.normal(jax.random.key(1), (8, 2))
    for eta in (0.0, 0.6, 1.0):
        sampler = euler_ancestral(eta) if eta else euler()
        states, means, stds, _ = traced(sampler, process, grid, x)
        for i, (s, end) in enumerate(itertools.pairwise(grid)):
            s, end = float(s), float(end)
            up = min(end, eta * np.sqrt(end**2 * (s**2 - end**2) / s**2))
            down = np.sqrt(end**2 - up**2)
            slope = (states[i] - d(states[i], s)) / s
            np.testing.assert_allclose(
                means[i], states[i] + (down - s) * slope, rtol=1e-4, atol=1e-5
            )
            np.testing.assert_allclose(stds[i], up, rtol=1e-5)
    assert euler().reversible
    assert not euler_ancestral().reversible
    assert ddim().reversible


@pytest.mark.share(2)
@pytest.mark.parametrize("process", [VE(), RectifiedFlow()], ids=type)
def test_churn_keeps_the_law(process):
    """Noise up and noise down draws the mixture still, for any process."""
    keys = sample_keys(jax.random.key(0), 4000)
    denoiser = exact_denoiser(MIXTURE, process)
    grid = flow_grid(process, 25)
    out, _ = jax.jit(
        lambda grid: sample(
            keys, denoiser, edm(25 * 0.25, space="flow"), grid, (2,), process=process
        )
    )(grid)
    exact = np.asarray(draw_exact(MIXTURE, jax.random.key(3), 100_000))
    u = np.random.default_rng(0).normal(size=(2, 32))
    u /= np.linalg.norm(u, axis=0)
    levels = (np.arange(1000) + 0.5) / 1000
    a, b = (np.quantile(np.asarray(c) @ u, levels, axis=0) for c in (out, exact))
    assert np.sqrt(np.mean((a - b) ** 2)) < 0.06


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: edm(-0.1), "s_churn is -0.1"),
        (lambda: edm(float("nan")), "s_churn is nan"),
        (lambda: heun("logsnr"), "space is 'logsnr'"),
    ],
)
def test_bad_arguments(make, match):
    with pytest.raises(ValueError, match=match):
        make()
