"""DDIM inversion: how well DDIM takes the noise back to what was inverted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance import rng
from jaxlib_guidance.diffusion import VE, RectifiedFlow, VPCosine, logsnr_grid
from jaxlib_guidance.guidance import cfg, chain
from jaxlib_guidance.sampling import ddim, ddim_inversion, invert, sample
from jaxlib_guidance.testing import (
    draw_exact,
    exact_denoiser,
    exact_flow,
    plane_mixture,
)
from jaxlib_guidance.types import Denoised, Denoiser

PLANE = plane_mixture()
KEYS = rng.sample_keys(jax.random.key(4), 16)
DATA = draw_exact(PLANE, jax.random.key(5), 16)
COSINE = VPCosine()


def round_trip(process, grid, iterations, guidance=None, cond=None):
    net = exact_denoiser(PLANE, process)
    back = invert(KEYS, net, grid, DATA, cond, iterations=iterations, guidance=guidance)
    again, states = sample(
        KEYS,
        net,
        ddim(),
        grid,
        back.x,
        cond,
        guidance=guidance,
        trace=lambda info: info.x,
    )
    return back, again, states


@pytest.mark.parametrize("process", [COSINE, VE()], ids=["cosine", "ve"])
def test_plain_inversion_is_first_order(process):
    @jax.jit
    def error(grid):
        return jnp.abs(round_trip(process, grid, 0)[1] - DATA).mean()

    coarse, fine = (
        float(error(logsnr_grid(process, n, final_zero=False))) for n in (40, 160)
    )
    assert 3 < coarse / fine < 5.5


@pytest.mark.parametrize("process", [COSINE, VE()], ids=["cosine", "ve"])
def test_unit_data_is_inverted_to_second_order(process):
    """The law of a unit Gaussian in closed form, and what DDIM makes of the noise."""

    def unit(x, t, cond, **_):
        alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
        return Denoised(alpha / (alpha**2 + sigma**2) * x)

    @jax.jit
    def both(grid):
        x = jnp.ones((16, 1))
        noise = invert(KEYS, Denoiser(unit), grid, x, process=process).x
        again, _ = sample(KEYS, Denoiser(unit), ddim(), grid, noise, process=process)
        return noise[0, 0], again[0, 0]

    gaps = []
    for n in (20, 40):
        grid = logsnr_grid(process, n, final_zero=False)
        a, s = (np.asarray(f(grid), np.float64) for f in (process.alpha, process.sigma))
        tau, norm, rate = s / (a + s), np.hypot(a, s), (s - a) / (a**2 + s**2)
        want = 1.0 / (a[-1] + s[-1])
        for i in range(n - 1, -1, -1):
            guess = want * (a[i + 1] + s[i + 1]) * norm[i] / norm[i + 1]
            want += (tau[i] - tau[i + 1]) * rate[i] * guess
        noise, again = both(grid)
        np.testing.assert_allclose(noise, want * (a[0] + s[0]), rtol=1e-4)
        gaps.append(abs(float(again) - 1))
    assert gaps[0] > 3.3 * gaps[1] > 1e-4


def test_a_step_towards_data_is_ddims():
    grid, net = logsnr_grid(COSINE, 5), exact_denoiser(PLANE, COSINE)
    one, other = (
        sample(KEYS, net, solver, grid, (2,))[0]
        for solver in (ddim_inversion(), ddim())
    )
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_inverts_the_probability_flow():
    grid = logsnr_grid(COSINE, 400, final_zero=False)
    net = exact_denoiser(PLANE, COSINE)
    back = jax.jit(lambda: invert(KEYS, net, grid, DATA).x)()
    ends = [tuple(float(f(t)) for f in (COSINE.alpha, COSINE.sigma)) for t in grid]
    exact = exact_flow(PLANE, DATA, ends[-1], ends[0], rtol=1e-8)
    assert np.abs(np.asarray(back) - exact).mean() < 0.02


def test_iteration_makes_ddim_invertible():
    grid = logsnr_grid(COSINE, 40, final_zero=False)
    errors = []
    for iterations in (0, 1, 3, 12):
        run = jax.jit(lambda n=iterations: round_trip(COSINE, grid, n))
        back, again, states = run()
        errors.append(float(jnp.abs(again - DATA).max()))
    assert errors[0] > 1e-2
    assert errors[1] < errors[0] / 2
    assert errors[2] < errors[1] / 4
    assert errors[3] < 2e-4
    # The reference at a step is the state that sampling is in, if nothing steers it.
    np.testing.assert_allclose(back.trajectory[:-1], states, atol=2e-3)
    assert back.trajectory.shape == (41, 16, 2)
    np.testing.assert_array_equal(back.trajectory[-1], DATA)
    np.testing.assert_array_equal(back.trajectory[0], back.x)


@pytest.mark.parametrize("process", [COSINE, RectifiedFlow()], ids=["cosine", "flow"])
def test_from_clean_data(process):
    # Log-SNR from 9: the last step of sampling, to 0, is a denoising.
    low = float(process.t_of_logsnr(jnp.float32(9)))
    high = float(process.t_of_logsnr(jnp.float32(-6)))
    grid = logsnr_grid(process, 40, t_min=low, t_max=high)
    plain, exact = (
        float(
            jnp.abs(jax.jit(lambda n=n: round_trip(process, grid, n)[1])() - DATA).max()
        )
        for n in (0, 12)
    )
    assert 1e-2 < plain < 0.5
    assert exact < 5e-4


def test_guided_inversion_undoes_guided_sampling():
    grid = logsnr_grid(COSINE, 60, final_zero=False)
    cond = jnp.arange(16) % 3
    term = chain(cfg(jnp.float32(0.5), jnp.int32(-1)))
    run = jax.jit(lambda: round_trip(COSINE, grid, 12, term, cond)[1])
    assert float(jnp.abs(run() - DATA).max()) < 2e-3


def test_arguments():
    grid, net = logsnr_grid(COSINE, 4), exact_denoiser(PLANE, COSINE)
    with pytest.raises(ValueError, match="grid increases"):
        invert(KEYS, net, grid[::-1], DATA)
    with pytest.raises(ValueError, match="iterations is -1"):
        ddim_inversion(-1)
    assert ddim_inversion(3).evaluations == 4
