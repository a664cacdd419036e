"""Few-step sampling, accepted only with a true consistency function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance import rng
from jaxlib_guidance.diffusion import VPCosine, logsnr_grid
from jaxlib_guidance.sampling import consistency, ddim, sample
from jaxlib_guidance.testing import (
    exact_denoiser,
    exact_flow,
    plane_mixture,
    posterior_mean,
)
from jaxlib_guidance.types import Denoised, Denoiser, expand

PLANE = plane_mixture()
PROCESS = VPCosine()
KEYS = rng.sample_keys(jax.random.key(2), 4000)


def flow(x, alpha, sigma, alpha_end, sigma_end, steps=40):
    """The probability flow by RK4, evenly in log-SNR of ``y = x / (alpha + sigma)``."""

    def slope(y, clock):
        tau = jax.nn.sigmoid(clock)
        x0 = posterior_mean(PLANE, y, 1 - tau, tau)
        return expand(1 - tau, y) * (y - x0)  # dtau/dclock / tau = 1 - tau.

    start, end = (jnp.log(s / a) for a, s in ((alpha, sigma), (alpha_end, sigma_end)))
    h = (end - start) / steps

    def step(y, i):
        c = start + i * h
        k1 = slope(y, c)
        k2 = slope(y + expand(h, y) / 2 * k1, c + h / 2)
        k3 = slope(y + expand(h, y) / 2 * k2, c + h / 2)
        k4 = slope(y + expand(h, y) * k3, c + h)
        return y + expand(h, y) / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    y = x / expand(alpha + sigma, x)
    y, _ = jax.lax.scan(step, y, jnp.arange(steps, dtype=jnp.float32))
    return expand(alpha_end + sigma_end, y) * y


def to_data(x, t):
    tiny = jnp.full_like(t, 1e-3)
    return flow(x, PROCESS.alpha(t), PROCESS.sigma(t), jnp.ones_like(t), tiny)


# f(x, t): the end point of the flow.
ORACLE = Denoiser(lambda x, t, cond, **_: Denoised(to_data(x, t)))


def trajectory_oracle(grid, gamma):
    """The estimate from which a TCD step lands on the flow, at ``(1 - gamma) t'``."""

    def apply(x, t, cond, **_):
        t_next = grid[jnp.argmin(jnp.abs(grid - t[0])) + 1]
        s = jnp.broadcast_to(jnp.maximum((1 - gamma) * t_next, 1e-3), t.shape)
        alpha, sigma = PROCESS.alpha(t), PROCESS.sigma(t)
        a, b = PROCESS.alpha(s), PROCESS.sigma(s)
        at_s = flow(x, alpha, sigma, a, b)
        keep = b / sigma
        x0 = (at_s - expand(keep, x) * x) / expand(a - keep * alpha, x)
        return Denoised(x0)

    return Denoiser(apply)


def test_the_oracle():
    t = jnp.full(32, PROCESS.t_max, jnp.float32)
    x = rng.normal(KEYS[:32], (2,))
    start = (float(PROCESS.alpha(t[0])), float(PROCESS.sigma(t[0])))
    exact = exact_flow(PLANE, x, start, rtol=1e-8)
    assert np.abs(np.asarray(ORACLE(x, t).x0) - exact).mean() < 2e-3


@pytest.mark.share(2)
@pytest.mark.parametrize("gamma", [0.3, 1.0])
def test_exact_at_every_number_of_steps(gamma, judge):
    @jax.jit
    def run(grid):
        net = ORACLE if gamma == 1 else trajectory_oracle(grid, gamma)
        return sample(KEYS, net, consistency(gamma), grid, (2,), process=PROCESS)[0]

    for times in ([0.999, 0.0], [0.999, 0.8, 0.6, 0.4, 0.0]):
        law = judge(PLANE, run(jnp.array(times)))
        assert law.distance < 0.06
        assert abs(law.gap) < 0.04


def test_a_posterior_mean_is_not_a_consistency_function(judge):
    grid = jnp.array([0.999, 0.75, 0.5, 0.25, 0.0])
    net = exact_denoiser(PLANE, PROCESS)
    x, _ = sample(KEYS, net, consistency(), grid, (2,), process=PROCESS)
    assert judge(PLANE, x).distance > 0.15


def test_limits():
    grid, net = logsnr_grid(PROCESS, 5), exact_denoiser(PLANE, PROCESS)
    keep = lambda info: (info.x0, info.transition, info.x)  # noqa: E731
    zero, _ = sample(KEYS[:8], net, consistency(0.0), grid, (2,), process=PROCESS)
    plain, _ = sample(KEYS[:8], net, ddim(), grid, (2,), process=PROCESS)
    np.testing.assert_allclose(zero, plain, atol=1e-5)
    _, (x0, law, _) = sample(
        KEYS[:8], net, consistency(1.0), grid, (2,), trace=keep, process=PROCESS
    )
    alpha, sigma = PROCESS.alpha(grid[1:]), PROCESS.sigma(grid[1:])
    np.testing.assert_allclose(law.mean, expand(alpha, x0) * x0, atol=1e-6)
    np.testing.assert_allclose(law.std, sigma, atol=1e-6)
    # Whatever gamma, signal and noise add up to the process at the next time.
    _, (x0, law, x) = sample(
        KEYS[:8], net, consistency(0.3), grid, (2,), trace=keep, process=PROCESS
    )
    eps = (x - expand(PROCESS.alpha(grid[:-1]), x) * x0) / expand(
        PROCESS.sigma(grid[:-1]), x
    )
    kept = (law.mean - expand(alpha, x) * x0)[:-1] / eps[:-1]
    np.testing.assert_allclose(
        kept**2 + expand(law.std[:-1] ** 2, kept),
        expand(sigma[:-1] ** 2, kept) * jnp.ones_like(kept),
        atol=1e-4,
    )


def test_gamma_out_of_range():
    with pytest.raises(ValueError, match=r"gamma is 1\.5"):
        consistency(1.5)
