"""Grids of other packages: their published numbers, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.diffusion import (
    VE,
    RectifiedFlow,
    VPCosine,
    VPLinear,
    align_your_steps_grid,
    beta_grid,
    discrete_grid,
    kl_optimal_grid,
    linear_betas,
    linear_quadratic_grid,
    logsnr,
    logsnr_grid,
    scaled_linear_betas,
    sigmas_grid,
    uniform_grid,
    vp_discrete,
)
from jaxlib_guidance.rng import sample_keys
from jaxlib_guidance.sampling import ddim, sample
from jaxlib_guidance.types import Denoised, Denoiser

TABLE = vp_discrete(linear_betas())
LATENT = vp_discrete(scaled_linear_betas())


def ratios(process, grid):
    return np.exp(-0.5 * np.asarray(logsnr(process, grid)))


# Timesteps of diffusers 0.42.1 for 1000 linear betas, steps_offset 1 and 7 steps.
# "ddim" is DDIMScheduler, "euler" EulerDiscreteScheduler and "dpm" each of
# DPMSolverMultistep-, UniPCMultistep-, DEISMultistep- and SASolverScheduler.
DIFFUSERS = {
    ("leading", "ddim"): [853, 711, 569, 427, 285, 143, 1],
    ("leading", "euler"): [853, 711, 569, 427, 285, 143, 1],
    ("leading", "dpm"): [876, 751, 626, 501, 376, 251, 126],
    ("linspace", "ddim"): [999, 832, 666, 500, 333, 166, 0],
    ("linspace", "euler"): [999, 832.5, 666, 499.5, 333, 166.5, 0],
    ("linspace", "dpm"): [999, 856, 714, 571, 428, 285, 143],
    ("trailing", "ddim"): [999, 856, 713, 570, 428, 285, 142],
    ("trailing", "euler"): [999, 856, 713, 570, 428, 285, 142],
    ("trailing", "dpm"): [999, 856, 713, 570, 428, 285, 142],
}


@pytest.mark.parametrize(("spacing", "solver"), DIFFUSERS)
def test_timesteps_are_those_of_diffusers(spacing, solver):
    grid = discrete_grid(TABLE, 7, spacing, solver=solver)
    got = TABLE.index(grid[:-1])
    np.testing.assert_allclose(got, DIFFUSERS[spacing, solver], atol=1e-3)
    assert grid[-1] == 0


def test_a_discrete_grid_may_end_at_the_table():
    """The last two sigmas of diffusers 0.42.1 for final_sigmas_type="sigma_min"."""
    grid = discrete_grid(TABLE, 6, "linspace", solver="dpm", final_zero=False)
    want = [0.5836406350135803, 0.010001329705119133]
    np.testing.assert_allclose(ratios(TABLE, grid)[-2:], want, rtol=1e-4)


@pytest.mark.parametrize(
    ("n", "options"),
    [
        (5, {"spacing": "linspace", "final_zero": False}),
        (5, {"spacing": "leading", "offset": 0, "final_zero": False}),
        (1000, {"spacing": "linspace", "solver": "dpm"}),
        (1000, {"spacing": "leading", "solver": "dpm"}),
    ],
)
def test_no_step_of_the_table_is_taken_twice(n, options):
    with pytest.raises(ValueError, match="takes a step of the table's 1000 twice"):
        discrete_grid(TABLE, n, **options)


def test_sigmas_are_noise_ratios():
    """On EDM's process they are the times; elsewhere the same ratios, 0 included."""
    levels = [80.0, 9.0, 0.5, 0.002, 0.0]
    np.testing.assert_allclose(sigmas_grid(VE(), levels), levels, rtol=1e-6)
    for process in (VPLinear(), VPCosine(), RectifiedFlow(), LATENT):
        grid = sigmas_grid(process, [9.0, 0.5, 0.05, 0.0])
        np.testing.assert_allclose(ratios(process, grid), [9, 0.5, 0.05, 0], rtol=1e-3)
    # Rounded ends are those of the process, and sigmas may be traced.
    assert sigmas_grid(LATENT, [14.615, 1.0, 0.0292])[0] == 1.0
    slope = jax.grad(lambda s: sigmas_grid(VE(), s).sum())(jnp.array([3.0, 1.0]))
    np.testing.assert_allclose(slope, [1, 1], rtol=1e-5)


@pytest.mark.parametrize(
    ("levels", "match"),
    [
        ([1.0], r"expected \[N \+ 1\]"),
        ([1.0, 2.0], "expected numbers that decrease"),
        ([1.0, 1.0, 0.0], "expected numbers that decrease"),
        ([1.0, np.nan], "expected numbers that decrease"),
        ([1.0, -1.0], "expected numbers that decrease"),
        ([81.0, 1.0, 0.0], "expected noise ratios from 80.0 to 0.002"),
        ([8.0, 0.001, 0.0], "goes from 8.0 to 0.001.* before its last"),
    ],
)
def test_bad_sigmas(levels, match):
    with pytest.raises(ValueError, match=match):
        sigmas_grid(VE(), levels)


# Of diffusers 0.42.1's AysSchedules: timesteps of Stable Diffusion and of SDXL.
@pytest.mark.parametrize(
    ("model", "steps"),
    [
        ("sd15", [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]),
        ("sdxl", [999, 845, 730, 587, 443, 310, 193, 116, 53, 13]),
    ],
)
def test_aligned_steps_are_the_published_ones(model, steps):
    grid = align_your_steps_grid(LATENT, 10, model)
    np.testing.assert_allclose(LATENT.index(grid[:-1]), steps, atol=1.5)
    assert grid[-1] == 0


def test_aligned_steps_interpolate_in_log_noise():
    process = VE(t_max=700.0)
    grid = align_your_steps_grid(process, 20, "svd")
    np.testing.assert_allclose(grid[:4:2], [700.0, 54.5], rtol=1e-5)
    np.testing.assert_allclose(grid[1], np.sqrt(700 * 54.5), rtol=1e-5)
    with pytest.raises(ValueError, match="sigmas goes from 700.0"):
        align_your_steps_grid(LATENT, 20, "svd")
    with pytest.raises(ValueError, match="model is 'sd3'"):
        align_your_steps_grid(LATENT, 20, "sd3")


def test_kl_optimal_is_optimal_for_a_gaussian():
    """Each step of DDIM keeps cos(step in angle) of the exact standard deviation."""
    process, c, n = VE(), 0.5, 8
    times = kl_optimal_grid(process, n, scale=c, final_zero=False)
    angles = np.arctan(np.asarray(times) / c)
    np.testing.assert_allclose(angles, np.linspace(angles[0], angles[-1], n + 1), 1e-6)

    def apply(x, t, cond, **_):
        return Denoised(x * (c**2 / (c**2 + t**2))[:, None])

    @jax.jit
    def end(grid):
        x = jnp.full((1, 1), jnp.hypot(c, grid[0]))
        keys = sample_keys(jax.random.key(0), 1)
        return sample(keys, Denoiser(apply), ddim(), grid, x, process=process)[0][0, 0]

    want = np.hypot(c, process.t_min) * np.cos(angles[0] - angles[1]) ** n
    np.testing.assert_allclose(end(times), want, rtol=1e-5)
    for i in (1, 4, 7):
        for factor in (0.9, 1.1):
            assert end(times.at[i].multiply(factor)) < end(times)


def test_kl_optimal_is_comfyuis():
    """Its sigmas are tan(i / (n - 1) atan(low) + (1 - i / (n - 1)) atan(high))."""
    i = np.arange(10) / 9
    want = np.tan(i * np.arctan(0.0292) + (1 - i) * np.arctan(14.6146))
    grid = kl_optimal_grid(LATENT, 10)
    np.testing.assert_allclose(ratios(LATENT, grid[:-1]), want, rtol=2e-3)


def test_beta_is_diffusers_and_comfyuis():
    """Sigmas of diffusers 0.42.1 with use_beta_sigmas; ComfyUI's unrounded steps."""
    want = [157.4072723388672, 138.05972290039062, 100.31912994384766]
    want += [57.098148345947266, 19.3575496673584, 0.010001329705119133, 0.0]
    grid = beta_grid(TABLE, 6, space="sigma")
    np.testing.assert_allclose(ratios(TABLE, grid), want, rtol=1e-3)
    # scipy.stats.beta.ppf(1 - i / 6, 0.6, 0.6) * 999
    want = [999, 907.6046912455049, 723.8621225131542]
    want += [499.5, 275.13787748684587, 91.39530875449523]
    np.testing.assert_allclose(TABLE.index(beta_grid(TABLE, 6)[:-1]), want, atol=2e-3)


def test_linear_quadratic_is_mochis():
    """The closed form of Mochi's linear_quadratic_schedule, for 8 steps to .025."""
    i, even, quick = np.arange(9), 4, 0.025
    bend = (even - quick * 8) / (even * 4**2)
    slope = quick / even - 2 * (even - quick * 8) / 4**2
    way = np.where(i < even, i * quick / even, bend * i**2 + slope * i + bend * even**2)
    grid = linear_quadratic_grid(RectifiedFlow(), 8)
    np.testing.assert_allclose(grid, 1 - way, atol=1e-6)
    assert linear_quadratic_grid(VE(), 1).tolist() == [80.0, 0.0]
    ratio = ratios(VPLinear(), linear_quadratic_grid(VPLinear(), 8))
    top = ratio[0] / (1 + ratio[0])
    np.testing.assert_allclose(ratio / (1 + ratio), top * (1 - way), atol=1e-4)


def test_k_diffusions_other_spacings():
    """get_sigmas_polyexponential(5, .1, 10, rho=2) and get_sigmas_vp(5)."""
    want = [10, 10 ** (2 * 0.75**2 - 1), 10**-0.5, 10 ** (2 * 0.25**2 - 1), 0.1, 0]
    grid = logsnr_grid(VE(), 5, t_min=0.1, t_max=10.0, rho=2.0)
    np.testing.assert_allclose(grid, want, rtol=1e-5)
    t = np.linspace(1, 1e-3, 5)
    want = np.sqrt(np.expm1(19.9 * t**2 / 2 + 0.1 * t))
    grid = uniform_grid(VPLinear(), 5, t_min=1e-3)
    np.testing.assert_allclose(ratios(VPLinear(), grid), [*want, 0], rtol=1e-4)


@pytest.mark.parametrize("process", [VPCosine(), VE(), RectifiedFlow(), TABLE])
def test_ends_and_order(process):
    spacings = (
        kl_optimal_grid,
        beta_grid,
        lambda p, n: beta_grid(p, n, space="sigma"),
        linear_quadratic_grid,
        lambda p, n: logsnr_grid(p, n, rho=2.0),
        lambda p, n: uniform_grid(p, n, t_min=p.t_min),
    )
    for spacing in spacings:
        for n in (3, 60):
            grid = np.asarray(spacing(process, n))
            assert grid.shape == (n + 1,)
            assert grid.dtype == np.float32
            assert grid[0] == np.float32(process.t_max)
            assert grid[-1] == 0
            assert (np.diff(grid) < 0).all()
            assert grid[-2] >= np.float32(process.t_min)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: kl_optimal_grid(VE(), 1), "at least 2"),
        (lambda: kl_optimal_grid(VE(), 5, scale=0.0), "scale is 0.0"),
        (lambda: beta_grid(VE(), 5, alpha=0.0), "alpha is 0.0"),
        (lambda: beta_grid(VE(), 5, beta=-1.0), "beta is -1.0"),
        (lambda: beta_grid(VE(), 5, space="t"), "space is 't'"),
        (lambda: linear_quadratic_grid(VE(), 5, linear_steps=5), "from 1 to n - 1 = 4"),
        (lambda: linear_quadratic_grid(VE(), 5, threshold=0.0), "threshold is 0.0"),
        (lambda: linear_quadratic_grid(VE(), 5, threshold=1.5), "threshold is 1.5"),
        (lambda: logsnr_grid(VE(), 5, rho=0.0), "rho is 0.0"),
        (lambda: uniform_grid(VE(), 5, t_min=0.0), "expected 0 < t_min"),
        (lambda: uniform_grid(VE(), 1, t_min=0.1), "at least 2"),
        (lambda: discrete_grid(TABLE, 5, solver="heun"), "solver is 'heun'"),
        # Neighbouring times that float32 does not tell apart.
        (lambda: beta_grid(VPCosine(), 1000, space="sigma"), "n is too large"),
        (lambda: logsnr_grid(VPCosine(), 1000, rho=3.0), "n is too large"),
    ],
)
def test_bad_arguments(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_scale_may_be_traced():
    made = jax.jit(lambda scale: kl_optimal_grid(VE(), 5, scale))(0.5)
    np.testing.assert_allclose(made, kl_optimal_grid(VE(), 5, 0.5), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda a: beta_grid(VE(), 5, alpha=a), "alpha"),
        (lambda a: beta_grid(VE(), 5, beta=a), "beta"),
        (lambda a: uniform_grid(VE(), 5, t_min=a), "t_min"),
        (lambda a: uniform_grid(VE(), 5, t_max=a), "t_max"),
    ],
)
def test_what_may_not_be_traced_is_named(make, name):
    with pytest.raises(ValueError, match=f"{name} is traced; expected a number known"):
        jax.eval_shape(make, 0.5)
