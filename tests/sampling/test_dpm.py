"""DPM-Solver++ and its SDE variants against their published steps and exact laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance import rng
from jaxlib_guidance.diffusion import (
    VE,
    VPCosine,
    flow_grid,
    karras_grid,
    logsnr_grid,
)
from jaxlib_guidance.rng import sample_keys
from jaxlib_guidance.sampling import (
    ddim,
    dpm_2,
    dpmpp_2m,
    dpmpp_2s,
    dpmpp_3m,
    dpmpp_sde,
    sample,
)
from jaxlib_guidance.testing import (
    draw_exact,
    exact_denoiser,
    gaussian_mixture,
    plane_mixture,
)
from jaxlib_guidance.types import Denoised, Denoiser

PROCESS = VPCosine()
MIXTURE = plane_mixture()


def traced(sampler, grid, x):
    """The run's states, estimates and laws, step by step, in float64."""

    def look(info):
        return info.x, info.x0, info.transition.mean, info.transition.std, info.x_next

    keys = sample_keys(jax.random.key(0), x.shape[0])
    _, kept = jax.jit(
        lambda grid, x: sample(
            keys,
            exact_denoiser(MIXTURE, PROCESS),
            sampler,
            grid,
            x,
            trace=look,
        )
    )(grid, x)
    levels = [np.asarray(f(grid), np.float64) for f in (PROCESS.alpha, PROCESS.sigma)]
    return [np.asarray(leaf, np.float64) for leaf in kept], *levels


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("order", [2, 3])
def test_steps_are_k_diffusions(order, eta):
    """`sample_dpmpp_2m_sde` (midpoint) and `sample_dpmpp_3m_sde`, step for step.

    k-diffusion 0.1.1, written out for ``alpha != 1``, but for two things: the curvature
    counts in full (there by half, which is why its slope is 2), and the step before the
    last takes a straight line.
    """
    grid = karras_grid(PROCESS, 9)
    z = jax.random.normal(jax.random.key(1), (8, 2))
    make = dpmpp_2m if order == 2 else dpmpp_3m
    (xs, x0s, means, stds, _), a, s = traced(make(eta), grid, z)
    lam = np.log(a[:-1]) - np.log(s[:-1])
    for i in range(9):
        if i == 8:
            np.testing.assert_allclose(means[i], a[9] * x0s[i], rtol=1e-5)
            np.testing.assert_allclose(stds[i], 0)
            continue
        h = lam[i + 1] - lam[i]
        kept, new = np.exp(-eta * h), -np.expm1(-(1 + eta) * h)
        want = s[i + 1] / s[i] * kept * xs[i] + a[i + 1] * new * x0s[i]
        if i and (order == 2 or i == 1 or i == 7):
            slope = (x0s[i] - x0s[i - 1]) * h / (lam[i] - lam[i - 1])
            phi_2 = 1 - new / ((1 + eta) * h)
            want += a[i + 1] * (0.5 * new if order == 2 else phi_2) * slope
        elif i:
            r0, r1 = (lam[i] - lam[i - 1]) / h, (lam[i - 1] - lam[i - 2]) / h
            d0 = (x0s[i] - x0s[i - 1]) / r0
            d1 = (x0s[i - 1] - x0s[i - 2]) / r1
            first = d0 + (d0 - d1) * r0 / (r0 + r1)
            second = (d0 - d1) / (r0 + r1)
            phi_2 = 1 - new / ((1 + eta) * h)
            phi_3 = phi_2 / ((1 + eta) * h) - 0.5
            want += a[i + 1] * (phi_2 * first - 2 * phi_3 * second)
        np.testing.assert_allclose(means[i], want, rtol=2e-4, atol=2e-5)
        noise = s[i + 1] * np.sqrt(-np.expm1(-2 * eta * h))
        np.testing.assert_allclose(stds[i], noise, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_2s_step(eta):
    """Algorithm 1 of arXiv 2211.01095 at r = 1/2, to the lower noise of k-diffusion."""
    grid = logsnr_grid(PROCESS, 4)
    z = jax.random.normal(jax.random.key(1), (8, 2))
    (xs, x0s, means, stds, _), a, s = traced(dpmpp_2s(eta), grid, z)
    denoiser = exact_denoiser(MIXTURE, PROCESS)
    for i in range(3):
        ratio = a[i] * s[i + 1] / (a[i + 1] * s[i])
        up = eta * s[i + 1] * np.sqrt(1 - ratio**2)
        down = np.sqrt(s[i + 1] ** 2 - up**2)
        start, end = np.log(a[i] / s[i]), np.log(a[i + 1] / down)
        t = PROCESS.t_of_logsnr(jnp.float32(start + end))
        am, sm = float(PROCESS.alpha(t)), float(PROCESS.sigma(t))
        inner = sm / s[i] * xs[i] - am * np.expm1(-(end - start) / 2) * x0s[i]
        x0 = np.asarray(denoiser(jnp.asarray(inner, jnp.float32), t).x0, np.float64)
        want = down / s[i] * xs[i] - a[i + 1] * np.expm1(start - end) * x0
        np.testing.assert_allclose(means[i], want, rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(stds[i], up, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_dpm_2_step(eta):
    """k-diffusion's `sample_dpm_2` and `sample_dpm_2_ancestral`, for ``x / alpha``."""
    grid = logsnr_grid(PROCESS, 4)
    z = jax.random.normal(jax.random.key(1), (8, 2))
    (xs, x0s, means, stds, _), a, s = traced(dpm_2(eta), grid, z)
    denoiser = exact_denoiser(MIXTURE, PROCESS)
    sigmas = s / a
    for i in range(3):
        up = eta * np.sqrt(
            sigmas[i + 1] ** 2 * (1 - sigmas[i + 1] ** 2 / sigmas[i] ** 2)
        )
        down = np.sqrt(sigmas[i + 1] ** 2 - up**2)
        x = xs[i] / a[i]
        slope = (x - x0s[i]) / sigmas[i]
        middle = np.sqrt(sigmas[i] * down)
        inner = x + slope * (middle - sigmas[i])
        t = PROCESS.t_of_logsnr(jnp.float32(-2 * np.log(middle)))
        asked = jnp.asarray(inner * float(PROCESS.alpha(t)), jnp.float32)
        slope = (inner - np.asarray(denoiser(asked, t).x0, np.float64)) / middle
        want = a[i + 1] * (x + slope * (down - sigmas[i]))
        np.testing.assert_allclose(means[i], want, rtol=5e-4, atol=5e-5)
        np.testing.assert_allclose(stds[i], a[i + 1] * up, rtol=1e-4, atol=1e-7)


def test_dpm_2_is_k_diffusions():
    """What `sample_dpm_2` of k-diffusion 0.1.1 makes of five sigmas in float64."""
    grid = np.float32([10.0, 4.0, 1.5, 0.5, 0.1])
    want = [-0.802576819751927, -0.6429451164919313, -0.3650109028067427]
    want += [0.0657039223066163, 0.46151644742849496, 0.6968591637692663]

    def apply(x, t, cond, **_):
        return Denoised(jnp.tanh(x / (1 + t[:, None] ** 2)))

    x = jnp.linspace(-12, 9, 6)[:, None]
    keys = sample_keys(jax.random.key(0), 6)
    out, _ = jax.jit(
        lambda x: sample(keys, Denoiser(apply), dpm_2(), grid, x, process=VE())
    )(x)
    np.testing.assert_allclose(out[:, 0], want, atol=1e-6)


def inner_noise(index, batch, size):
    """What `dpmpp_sde` draws in the middle of a step, whose keys `sample` folds."""
    keys = rng.fold(sample_keys(jax.random.key(0), batch), jnp.uint32(index))
    return np.asarray(rng.normal(rng.fold(keys, rng.MIDDLE), (size,)), np.float64)


@pytest.mark.parametrize("eta", [0.6, 1.0])
def test_sde_step_is_k_diffusions(eta):
    """`sample_dpmpp_sde` of k-diffusion 0.1.1 with r = 1/2, for ``x / alpha``.

    Its second draw is ``c z + sqrt(1 - c^2) z'`` with the first draw z: the mean has
    the part that is known by then.
    """
    grid = logsnr_grid(PROCESS, 4)
    start = jax.random.normal(jax.random.key(1), (8, 2))
    (xs, x0s, means, stds, _), a, s = traced(dpmpp_sde(eta), grid, start)
    denoiser = exact_denoiser(MIXTURE, PROCESS)
    sigmas = s / a

    def ancestral(high, low):
        up = eta * np.sqrt(low**2 * (high**2 - low**2) / high**2)
        return np.sqrt(low**2 - up**2), up

    for i in range(3):
        z, x = inner_noise(i, 8, 2), xs[i] / a[i]
        middle = np.sqrt(sigmas[i] * sigmas[i + 1])
        down, up = ancestral(sigmas[i], middle)
        inner = down / sigmas[i] * x + (1 - down / sigmas[i]) * x0s[i] + up * z
        t = PROCESS.t_of_logsnr(jnp.float32(-2 * np.log(middle)))
        asked = jnp.asarray(inner * float(PROCESS.alpha(t)), jnp.float32)
        x0 = np.asarray(denoiser(asked, t).x0, np.float64)
        kept = ancestral(middle, sigmas[i + 1])[0] / middle * up
        down, up = ancestral(sigmas[i], sigmas[i + 1])
        want = down / sigmas[i] * x + (1 - down / sigmas[i]) * x0 + kept * z
        np.testing.assert_allclose(means[i], a[i + 1] * want, rtol=1e-3, atol=1e-4)
        want = a[i + 1] * np.sqrt(up**2 - kept**2)
        np.testing.assert_allclose(stds[i], want, rtol=1e-3)


def test_two_draws_of_one_path_are_of_second_order():
    """The variance of Gaussian samples, exactly: step by step, not from samples."""
    process, c = VE(t_min=0.2, t_max=5.0), 0.6

    def apply(x, t, cond, **_):
        return Denoised(x * (c**2 / (c**2 + t**2))[:, None])

    @jax.jit
    def look(grid, x):
        keys = sample_keys(jax.random.key(0), 8)
        return sample(
            keys,
            Denoiser(apply),
            dpmpp_sde(),
            grid,
            x,
            process=process,
            trace=lambda i: (i.x, i.transition.mean, i.transition.std),
        )[1]

    errors = []
    for n in (16, 32):
        grid = logsnr_grid(process, n, final_zero=False)
        start = jax.random.normal(jax.random.key(1), (8, 1))
        xs, means, stds = (np.asarray(a, np.float64) for a in look(grid, start))
        variance = apart = c**2 + 25.0
        for i in range(n):
            z = inner_noise(i, 8, 1)
            parts = np.stack([xs[i, :, 0], z[:, 0]], 1)
            (keep, own), *_ = np.linalg.lstsq(parts, means[i, :, 0])
            np.testing.assert_allclose(parts @ [keep, own], means[i, :, 0], atol=2e-5)
            variance = keep**2 * variance + own**2 + np.ravel(stds[i])[0] ** 2
            middle = np.sqrt(float(grid[i] * grid[i + 1]))
            up = middle * np.sqrt(1 - float(grid[i + 1] / grid[i]))
            known = (float(grid[i + 1]) / middle) ** 2 * up
            whole = np.ravel(stds[i])[0] ** 2 + known**2
            apart = keep**2 * apart + (own - known) ** 2 + whole
        exact = c**2 + 0.04
        errors.append([abs(variance - exact), abs(apart - exact)])
    slopes = np.log2(np.array(errors[0]) / errors[1])
    assert slopes[0] > 1.7, slopes
    # With independent draws, which the recursion above makes of the same steps.
    assert slopes[1] < 1.3, slopes
    assert errors[1][0] < 0.1 * errors[1][1]


def test_eta_may_be_traced():
    """One compilation sweeps eta; 0 is the ODE to the last bit that noise leaves."""
    grid = flow_grid(PROCESS, 3)
    keys = sample_keys(jax.random.key(0), 8)
    z = jax.random.normal(jax.random.key(1), (8, 2))
    denoiser = exact_denoiser(MIXTURE, PROCESS)

    def run(eta):
        return jnp.stack(
            [
                sample(keys, denoiser, make(eta), grid, z)[0]
                for make in (dpmpp_2m, dpmpp_2s)
            ]
        )

    @jax.jit
    def sweep(etas):
        swept, slopes = jax.vmap(lambda e: jax.jvp(run, (e,), (1.0,)))(etas)
        return swept, run(0.0), slopes

    swept, ode, slopes = sweep(jnp.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(swept[0], ode, atol=2e-5)
    assert np.abs(swept[1] - swept[0]).max() > 0.1
    assert np.isfinite(swept).all()
    assert np.isfinite(slopes).all()


def test_sde_of_first_order_is_ddpm():
    """SDE-DPM++ 1 = DDIM at eta 1: the first step of 2M, which has no history."""
    grid = jnp.array([0.9, 0.5])
    z = jax.random.normal(jax.random.key(1), (8, 2))
    (_, _, mean, std, x_next), *_ = traced(dpmpp_2m(1.0), grid, z)
    (_, _, want, wide, other), *_ = traced(ddim(1.0), grid, z)
    np.testing.assert_allclose(mean, want, atol=1e-6)
    np.testing.assert_allclose(std, wide, rtol=1e-5)
    np.testing.assert_allclose(x_next, other, atol=1e-6)


STOCHASTIC = {
    "ddim 1": (ddim(1.0), 0.2, 0.12),
    "2s": (dpmpp_2s(1.0), 0.1, 0.07),
    "2m": (dpmpp_2m(1.0), 0.1, 0.07),
    "two draws": (dpmpp_sde(), 0.1, 0.07),
    "3m": (dpmpp_3m(1.0), 0.1, 0.07),
}


def sliced_wasserstein(a, b, directions=32):
    """Root mean square over directions of the 1-D Wasserstein-2 distance."""
    u = np.random.default_rng(0).normal(size=(a.shape[1], directions))
    u /= np.linalg.norm(u, axis=0)
    levels = (np.arange(2000) + 0.5) / 2000
    qa, qb = (np.quantile(c @ u, levels, axis=0) for c in (a, b))
    return np.sqrt(np.mean((qa - qb) ** 2))


@pytest.mark.parametrize("name", STOCHASTIC)
def test_laws(name):
    """80 steps draw the Gaussian's mean and variance, and the mixture in SW2."""
    sampler, loose, bar = STOCHASTIC[name]
    keys = sample_keys(jax.random.key(0), 4000)
    gaussian = gaussian_mixture(
        [0.5, 0.5],
        np.tile([0.4, -1.0], (2, 1)),
        np.tile(np.diag([0.05, 0.8]), (2, 1, 1)),
    )
    # Two equal components, so that both laws share one compilation.
    other = gaussian_mixture(
        [0.6, 0.4], [[0.8, 0.5], [-1.0, -0.4]], [np.diag([0.1, 0.03]), np.eye(2) * 0.05]
    )
    grid = logsnr_grid(PROCESS, 80)

    @jax.jit
    def run(mixture):
        denoiser = exact_denoiser(mixture, PROCESS)
        return sample(keys, denoiser, sampler, grid, (2,))[0]

    out = np.asarray(run(gaussian))
    np.testing.assert_allclose(out.mean(0), [0.4, -1.0], atol=0.045)
    np.testing.assert_allclose(out.var(0), [0.05, 0.8], rtol=loose)
    exact = np.asarray(draw_exact(other, jax.random.key(3), 100_000))
    distance = sliced_wasserstein(np.asarray(run(other)), exact)
    print(name, out.mean(0), out.var(0), distance)
    assert distance < bar
