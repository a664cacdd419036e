"""DDIM and DDPM: the published formulas, and the marginals that they keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.diffusion import (
    VE,
    RectifiedFlow,
    VPCosine,
    VPLinear,
    linear_betas,
    vp_discrete,
)
from jaxlib_guidance.rng import sample_keys
from jaxlib_guidance.sampling import ddim, ddpm, posterior, sample
from jaxlib_guidance.sampling._prepare import make_interval
from jaxlib_guidance.types import Denoised, Denoiser

PROCESSES = [VPLinear(), VPCosine(), VE(), RectifiedFlow()]
KEYS = sample_keys(jax.random.key(0), 4)


def interval(process, t, t_next):
    times = (jnp.float32(t), jnp.float32(t_next))
    return make_interval(process, jnp.int32(0), *times, KEYS)


def test_eta_one_is_the_ddpm_posterior():
    """Ho et al., arXiv 2006.11239, eq. 7, on consecutive steps of the table."""
    betas = linear_betas()
    process = vp_discrete(betas)
    bar = np.cumprod(1 - betas)
    x, x0 = jax.random.normal(jax.random.key(1), (2, 4, 3))
    for i in (1, 40, 500, 999):
        got = posterior(x, x0, interval(process, (i + 1) / 1000, i / 1000), 1.0)
        keep = np.sqrt(1 - betas[i]) * (1 - bar[i - 1]) / (1 - bar[i])
        take = np.sqrt(bar[i - 1]) * betas[i] / (1 - bar[i])
        variance = betas[i] * (1 - bar[i - 1]) / (1 - bar[i])
        np.testing.assert_allclose(got.mean, keep * x + take * x0, rtol=0, atol=2e-3)
        # The table's steps are differences of float32 logarithms.
        np.testing.assert_allclose(got.std**2, variance, rtol=1e-2)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_is_song_et_als_step(eta):
    """arXiv 2010.02502, eq. 12 and 16."""
    process = VPCosine()
    x, x0 = jax.random.normal(jax.random.key(1), (2, 4, 3))
    step = interval(process, 0.8, 0.3)
    bar, bar_next = float(step.start.alpha) ** 2, float(step.end.alpha) ** 2
    eps = (x - np.sqrt(bar) * x0) / np.sqrt(1 - bar)
    std = eta * np.sqrt((1 - bar_next) / (1 - bar) * (1 - bar / bar_next))
    want = np.sqrt(bar_next) * x0 + np.sqrt(1 - bar_next - std**2) * eps
    got = posterior(x, x0, step, eta)
    np.testing.assert_allclose(got.mean, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got.std, std, rtol=1e-5)


@pytest.mark.parametrize("process", PROCESSES, ids=type)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_marginal_is_kept(process, eta):
    """From ``N(alpha x0, sigma^2)`` the step leads to ``N(alpha' x0, sigma'^2)``."""
    high, low = 0.9 * process.t_max, 0.2 * process.t_max
    step = interval(process, high, low)
    x0 = jnp.full((4, 1), 0.7)
    mean = posterior(step.start.alpha * x0, x0, step, eta).mean
    np.testing.assert_allclose(mean, step.end.alpha * x0, rtol=1e-5)
    shifted, std = posterior(step.start.alpha * x0 + step.start.sigma, x0, step, eta)
    total = (shifted - mean) ** 2 + std**2
    np.testing.assert_allclose(total, jnp.full((4, 1), step.end.sigma**2), rtol=1e-4)


@pytest.mark.parametrize("process", PROCESSES, ids=type)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_law_of_a_gaussian_in_closed_form(process, eta):
    """With linear estimates the law is Gaussian at each step; its variance is known.

    ``x0 ~ N(m, v)`` has the estimate ``m + alpha v (x - alpha m) / (alpha^2 v +
    sigma^2)``; the recursion of mean and variance through 10 steps is done here in
    float64, and 4000 samples must agree with it.
    """
    m, v, n = 0.5, 0.3, 10
    top = process.t_max
    grid = top * np.linspace(1, 0, n + 1) ** 2
    grid = np.asarray(jnp.float32(grid))
    a, s = (
        np.asarray(f(jnp.asarray(grid)), np.float64)
        for f in (process.alpha, process.sigma)
    )
    mean, variance = 0.0, s[0] ** 2
    for i in range(n):
        gain = a[i] * v / (a[i] ** 2 * v + s[i] ** 2)
        ratio = a[i] * s[i + 1] / (a[i + 1] * s[i])
        std = eta * s[i + 1] * np.sqrt(1 - ratio**2)
        keep = np.sqrt(s[i + 1] ** 2 - std**2) / s[i]
        take = a[i + 1] - keep * a[i]
        mean = keep * mean + take * (m + gain * (mean - a[i] * m))
        variance = (keep + take * gain) ** 2 * variance + std**2

    def apply(x, t, cond, **_):
        alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
        gain = alpha * v / (alpha**2 * v + sigma**2)
        return Denoised(m + gain * (x - alpha * m))

    keys = sample_keys(jax.random.key(7), 4000)
    out, _ = jax.jit(
        lambda grid: sample(
            keys, Denoiser(apply), ddim(eta), grid, (1,), process=process
        )
    )(grid)
    assert abs(out.mean() - mean) < 4 * np.sqrt(variance / 4000)
    assert abs(out.var() / variance - 1) < 4 * np.sqrt(2 / 4000)


def test_large_variance_is_the_noise_processs():
    """``beta_t`` of a table's step, and exact for unit normal data in any step."""
    betas = linear_betas(10, 0.01, 0.4)
    process = vp_discrete(betas)

    def unit(x, t, cond, **_):
        return Denoised(process.alpha(t)[:, None] * x)

    @jax.jit
    def look(grid, x):
        _, kept = sample(
            KEYS,
            Denoiser(unit),
            ddpm("large"),
            grid,
            x,
            process=process,
            trace=lambda info: (info.x, info.transition),
        )
        return kept

    grid = np.arange(11)[::-1] / 10
    for times in (grid, np.append(grid[::3], 0)):
        x, (mean, std) = look(jnp.float32(times), jnp.ones((4, 2)))
        keep = (mean / x)[:, 0, 0]
        np.testing.assert_allclose(keep[:-1] ** 2 + std[:-1] ** 2, 1, rtol=1e-4)
        assert (std[-1] == 0).all()
    _, (_, std) = look(jnp.float32(grid), jnp.ones((4, 2)))
    np.testing.assert_allclose(std[:-1] ** 2, betas[:0:-1], rtol=1e-3)
    with pytest.raises(ValueError, match="variance is 'fixed_large'"):
        ddpm("fixed_large")


def test_middle_variance_is_between():
    """In the geometric mean; a step to zero noise draws nothing."""
    process = VPCosine()
    for t, t_next in ((0.9, 0.6), (0.4, 0.1), (0.2, 0.0)):
        step = make_interval(process, 0, jnp.float32(t), jnp.float32(t_next), KEYS)

        def std(solver, step=step):
            estimate = lambda x, t, state: (x, state)  # noqa: E731
            return float(solver.step(estimate, jnp.ones((4, 2)), (), (), step)[0].std)

        small, middle, large = map(std, (ddpm(), ddpm("middle"), ddpm("large")))
        np.testing.assert_allclose(middle, np.sqrt(small * large), rtol=1e-6)
        assert (small < middle < large) == (t_next > 0)


def test_flags():
    assert ddim().reversible
    assert not ddim().stochastic
    assert ddpm().stochastic
    assert not ddpm().reversible
    # A traced eta might be anything: noise is drawn, and scaled by what eta says.
    assert ddim(jnp.float32(0)).stochastic


def test_inversion_has_finite_gradients():
    """Up to pure noise, with respect to the grid too: no infinite root at eta 0."""
    process = RectifiedFlow()
    denoiser = Denoiser(lambda x, t, cond, **_: Denoised(jnp.tanh(x)))

    def run(grid):
        return sample(KEYS, denoiser, ddim(), grid, jnp.ones((4, 2)), process=process)[
            0
        ].sum()

    assert np.isfinite(jax.grad(run)(jnp.array([0.1, 0.4, 0.8, 1.0]))).all()
