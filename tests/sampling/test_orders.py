"""Every deterministic solver against DOP853 on two mixtures: order, ends, gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.diffusion import (
    VE,
    RectifiedFlow,
    VPCosine,
    flow_grid,
    linear_betas,
    logsnr_grid,
    vp_discrete,
)
from jaxlib_guidance.rng import sample_keys
from jaxlib_guidance.sampling import (
    adams,
    ddim,
    deis,
    dpm_2,
    dpmpp_2m,
    dpmpp_2s,
    dpmpp_3m,
    dpmpp_sde,
    edm,
    euler,
    heun,
    lms,
    pndm,
    sample,
    unipc,
)
from jaxlib_guidance.testing import (
    GaussianMixture,
    draw_exact,
    exact_denoiser,
    exact_flow,
    plane_mixture,
    posterior_mean,
    posterior_mean64,
    space_mixture,
)
from jaxlib_guidance.types import Denoised, Denoiser

KEYS = sample_keys(jax.random.key(0), 32)
# What each solver claims, and what it must show between 32 and 64 steps.
ORDERS = {
    "euler": (euler(), 1),
    "heun": (heun(), 2),
    "heun sigma": (heun("sigma"), 2),
    "2s": (dpmpp_2s(), 2),
    "dpm 2": (dpm_2(), 2),
    "2m": (dpmpp_2m(), 2),
    "3m": (dpmpp_3m(), 3),
    "unipc 2": (unipc(2), 3),
    "deis 3": (deis(3), 3),
    "lms 3": (lms(3), 3),
    "adams 3": (adams(3, correct=False), 3),
    "adams 2 corrected": (adams(2), 3),
    "adams, adaptive": (adams(4, adaptive=True), 3),
}


@functools.cache
def problems():
    """The plane's mixture, padded by unit normals to 16-D, beside the 16-D one."""
    plane, space = plane_mixture(), space_mixture()
    extra = 14
    padded = GaussianMixture(
        plane.log_weights,
        jnp.pad(plane.means, ((0, 0), (0, extra))),
        jnp.pad(plane.variances, ((0, 0), (0, extra)), constant_values=1),
        jnp.stack([jnp.eye(16).at[:2, :2].set(axes) for axes in plane.axes]),
    )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), padded, space)


@functools.cache
def ladder():
    """Start, grid ends and exact ends of both problems, noise ratio 20 to .3."""
    process = VE(t_min=0.3, t_max=20.0)
    z = np.random.default_rng(0).normal(size=(32, 16))
    x = 20.0 * z
    ends = [
        exact_flow(mixture, x[:, :size], (1.0, 20.0), (1.0, 0.3))
        for mixture, size in ((plane_mixture(), 2), (space_mixture(), 16))
    ]
    return process, jnp.asarray(x, jnp.float32), ends


def errors(sampler, steps):
    process, x, ends = ladder()
    grid = logsnr_grid(process, steps, final_zero=False)

    def run(mixture):
        return sample(
            KEYS, exact_denoiser(mixture, process), sampler, grid, x, process=process
        )[0]

    plane, space = np.asarray(jax.jit(jax.vmap(run))(problems()), np.float64)
    return [
        np.linalg.norm(got[:, : want.shape[1]] - want, axis=1).mean()
        for got, want in zip((plane, space), ends, strict=True)
    ]


@pytest.mark.parametrize("name", ORDERS)
def test_order(name):
    sampler, order = ORDERS[name]
    coarse, fine = (np.array(errors(sampler, n)) for n in (32, 64))
    slopes = np.log2(coarse / fine)
    assert (slopes > order - 0.35).all(), slopes
    if order == 1:
        assert (slopes < 1.25).all(), slopes


SOLVERS = {
    "heun": heun(),
    "heun sigma": heun("sigma"),
    "unipc 3": unipc(3),
    "deis 3": deis(3),
    "lms 3": lms(3),
    "pndm": pndm(3),
    "adams 3 scaled": adams(3, scale=0.7),
    "adams adaptive": adams(4, adaptive=True),
    "ddim 1": ddim(1.0),
    "2s sde": dpmpp_2s(1.0),
    "two draws": dpmpp_sde(),
    "2m sde": dpmpp_2m(1.0),
    "edm churn": edm(12.0),
}


@pytest.mark.share(3)
@pytest.mark.parametrize("name", SOLVERS)
def test_from_pure_noise_to_data(name):
    """alpha = 0 first, sigma = 0 last: exact, finite, and so are the gradients."""
    process, sampler = RectifiedFlow(), SOLVERS[name]
    x0 = jnp.arange(6.0).reshape(3, 2) - 2
    mixture = plane_mixture()

    def run(x, grid, known):
        # One network serves both checks: known -> constant x0, else the mixture's.
        def apply(x, t, cond, **_):
            a, s = process.alpha(t), process.sigma(t)
            mean = posterior_mean(mixture, x, a, s)
            return Denoised(jnp.where(known, x0, mean))

        keys = KEYS[:3]
        out, _ = sample(keys, Denoiser(apply), sampler, grid, x, process=process)
        return jnp.sum(out**2), out

    grad = jax.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True))
    x = jax.random.normal(jax.random.key(1), (3, 2))
    grid = flow_grid(process, 5)
    assert process.alpha(grid[0]) == 0
    assert process.sigma(grid[-1]) == 0
    (_, out), _ = grad(x, grid, True)
    np.testing.assert_allclose(out, x0, rtol=2e-6, atol=2e-6)
    (_, out), slopes = grad(x, grid, False)
    assert np.isfinite(out).all()
    for slope in slopes:
        assert np.isfinite(slope).all()
    assert np.abs(slopes[0]).max() > 0


@pytest.mark.parametrize(
    "process", [RectifiedFlow(), VPCosine(), vp_discrete(linear_betas())], ids=type
)
def test_flow_of_every_process_is_one(process):
    """Adams-4 comes to .003 of the exact end in 20 steps, whatever the process."""
    mixture, z = space_mixture(), np.random.default_rng(2).normal(size=(32, 16))
    top = jnp.float32(process.t_max)
    level = float(process.alpha(top)), float(process.sigma(top))
    x = jnp.asarray(level[1] * z, jnp.float32)
    want = exact_flow(mixture, x, level, rtol=1e-7)
    grid, sampler = flow_grid(process, 20, shift=0.7), adams(4, scale=0.7)
    denoiser = exact_denoiser(mixture, process)
    got, _ = jax.jit(
        lambda x: sample(KEYS, denoiser, sampler, grid, x, process=process)
    )(x)
    assert np.linalg.norm(got - want, axis=1).mean() < 3e-3


def test_more_steps_above_a_floor_do_no_harm():
    """The last step, which the floor fixes, is reached without extrapolating far."""
    process, mixture = RectifiedFlow(), plane_mixture()
    x = np.random.default_rng(6).normal(size=(32, 2)).astype(np.float32)
    want = exact_flow(mixture, x, (0.0, 1.0))
    denoiser = exact_denoiser(mixture, process)
    run = jax.jit(lambda x, grid: sample(KEYS, denoiser, adams(4), grid, x)[0])
    few, many = (
        np.linalg.norm(run(x, flow_grid(process, n, t_min=0.02)) - want, axis=1).mean()
        for n in (100, 500)
    )
    assert many < 1.1 * few < 1e-4


def test_reference_agrees_with_the_score():
    """The oracle's float64 posterior mean is the library's; its end is on the data."""
    mixture = plane_mixture()
    x = np.random.default_rng(3).normal(size=(8, 2))
    want = posterior_mean(mixture, jnp.asarray(x, jnp.float32), 0.6, 0.8)
    np.testing.assert_allclose(posterior_mean64(mixture, x, 0.6, 0.8), want, atol=1e-5)
    whole = exact_flow(mixture, x, (0.0, 1.0))
    half = exact_flow(mixture, x, (0.0, 1.0), (0.5, 0.5))
    np.testing.assert_allclose(exact_flow(mixture, half, (0.5, 0.5)), whole, atol=1e-8)
    total = np.sqrt(
        np.mean(
            exact_flow(
                mixture,
                np.random.default_rng(4).normal(size=(2000, 2)),
                (0.0, 1.0),
                rtol=1e-4,
            )
            ** 2
        )
    )
    assert abs(total - 0.87) < 0.03


@pytest.mark.parametrize("name", ["heun", "2m", "unipc 2", "lms 3", "adams 3"])
def test_inversion_and_back(name):
    """Deterministic solvers run the flow both ways, and the round trip closes."""
    process, mixture = VE(t_min=0.1, t_max=20.0), plane_mixture()
    grid = logsnr_grid(process, 60, final_zero=False)
    sampler, _ = ORDERS[name]
    noise = np.random.default_rng(5).normal(size=(32, 2))
    start = draw_exact(mixture, jax.random.key(5), 32) + 0.1 * noise.astype(np.float32)

    @jax.jit
    def both(x):
        run = functools.partial(sample, KEYS, exact_denoiser(mixture, process))
        up, _ = run(sampler, grid[::-1], x)
        return up, run(sampler, grid, up)[0]

    up, down = both(start)
    exact = exact_flow(mixture, start, (1.0, 0.1), (1.0, 20.0), rtol=1e-7)
    assert np.linalg.norm(up - exact, axis=1).mean() / 20 < 0.003
    assert np.linalg.norm(down - start, axis=1).mean() < 0.003


@pytest.mark.parametrize("name", ["ddim 1", "2m sde", "edm churn", "2s sde"])
def test_stochastic_solvers_do_not_invert(name):
    process = VE()
    denoiser = exact_denoiser(plane_mixture(), process)
    with pytest.raises(ValueError, match="cannot run backwards"):
        sample(KEYS[:2], denoiser, SOLVERS[name], [0.1, 1.0], jnp.ones((2, 2)))
