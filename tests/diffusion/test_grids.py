"""Time grids: their formulas, their ends, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.diffusion import (
    VE,
    RectifiedFlow,
    VPCosine,
    VPLinear,
    cosine_betas,
    discrete_grid,
    flow_grid,
    karras_grid,
    linear_betas,
    logsnr,
    logsnr_grid,
    shift_grid,
    uniform_grid,
    vp_discrete,
)
from jaxlib_guidance.rng import sample_keys
from jaxlib_guidance.sampling import ddim, sample
from jaxlib_guidance.types import Denoised, Denoiser

PROCESSES = [
    VPLinear(),
    VPCosine(),
    VE(),
    RectifiedFlow(),
    vp_discrete(linear_betas()),
    vp_discrete(cosine_betas()),
]
TABLE = vp_discrete(linear_betas())
SPACINGS = [uniform_grid, flow_grid, logsnr_grid, karras_grid]


@pytest.mark.parametrize("process", PROCESSES, ids=type)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_shape_ends_and_order(process, spacing):
    for n in (2, 50, 400):
        grid = np.asarray(spacing(process, n))
        assert grid.shape == (n + 1,)
        assert grid.dtype == np.float32
        assert grid[0] == np.float32(process.t_max)
        assert grid[-1] == 0
        assert (np.diff(grid) < 0).all()
    if spacing is not uniform_grid:
        assert grid[-2] >= np.float32(process.t_min)


def test_logsnr_is_even():
    for process in PROCESSES[:3]:
        grid = logsnr_grid(process, 12, final_zero=False)
        gaps = np.diff(logsnr(process, grid))
        np.testing.assert_allclose(gaps, gaps.mean(), rtol=2e-3)
        assert grid[-1] == np.float32(process.t_min)


def test_karras_is_edms():
    """Arxiv 2206.00364, eq. 5, with its defaults."""
    i = np.arange(18)
    ends = 80 ** (1 / 7), 0.002 ** (1 / 7)
    want = (ends[0] + i / 17 * (ends[1] - ends[0])) ** 7
    np.testing.assert_allclose(karras_grid(VE(), 18)[:-1], want, rtol=2e-5)
    # rho 1 is even in the noise ratio.
    grid = karras_grid(VPLinear(), 9, rho=1.0, final_zero=False)
    ratio = np.exp(-logsnr(VPLinear(), grid) / 2)
    np.testing.assert_allclose(np.diff(ratio), np.diff(ratio).mean(), rtol=1e-2)


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_flow_grid_is_a_shifted_flow(shift):
    """On a rectified flow it is the shift of arXiv 2403.03206; elsewhere its noise."""
    want = shift_grid(uniform_grid(RectifiedFlow(), 8), shift)
    np.testing.assert_allclose(flow_grid(RectifiedFlow(), 8, shift), want, atol=1e-6)
    for process in PROCESSES[:3]:
        grid = flow_grid(process, 8, shift)
        alpha, sigma = process.alpha(grid), process.sigma(grid)
        u = sigma / (shift * alpha + sigma)
        np.testing.assert_allclose(u, u[0] * (1 - np.arange(9) / 8), atol=1e-5)


def test_flow_grid_may_shrink_its_steps():
    """Even in the root of the shifted flow's time, down to the floor, then 0."""
    grid = flow_grid(RectifiedFlow(), 8, 2.0, t_min=1e-3, rho=3.0)
    root = np.asarray(grid / (2 + grid * (1 - 2))) ** (1 / 3)
    np.testing.assert_allclose(root, 1 - np.arange(9) / 8, atol=1e-6)
    low = flow_grid(RectifiedFlow(), 8, t_min=0.2, rho=2.0)
    root = np.sqrt(np.asarray(low)[:-1])
    np.testing.assert_allclose(root, np.linspace(1, np.sqrt(0.2), 8), atol=1e-6)
    assert flow_grid(RectifiedFlow(), 1, rho=2.0).tolist() == [1.0, 0.0]


def test_flow_grid_grows_to_its_last_step():
    """However high the floor and many the steps, none is much longer than the last."""
    rng = np.random.default_rng(0)
    for process in PROCESSES[1:5]:
        for n in (43, 1000):
            shift = float(np.exp(rng.uniform(np.log(0.3), np.log(3))))
            low = float(process.t_of_logsnr(jnp.float32(rng.uniform(5, 11))))
            low = max(low, process.t_min)
            grid = np.asarray(flow_grid(process, n, shift, t_min=low))
            assert (np.diff(grid) < 0).all()
            assert grid[0] == np.float32(process.t_max)
            assert grid[-1] == 0
            assert grid[-2] >= np.float32(low)
            alpha, sigma = process.alpha(grid), process.sigma(grid)
            u = np.asarray(sigma / (shift * alpha + sigma), np.float64)
            steps = -np.diff(u)
            ratios = steps[1:] / steps[:-1]
            assert 0.97 < ratios.min() <= ratios.max() < 1.3, (process, n)
    # A floor near the top leaves little room.
    grid = np.asarray(flow_grid(RectifiedFlow(), 43, t_min=0.8))
    np.testing.assert_allclose(grid[[0, -2, -1]], [1, 0.8, 0], rtol=1e-6)
    steps = -np.diff(grid)
    assert 0.99 < (steps[1:] / steps[:-1]).min() < (steps[1:] / steps[:-1]).max() < 7


def test_discrete_is_diffusers():
    """Timesteps that diffusers 0.42.1 gives a DDPM-trained network for n = 4 and 10."""

    def steps(spacing, n, **more):
        grid = discrete_grid(TABLE, n, spacing, **more)
        return np.asarray(TABLE.index(grid[:-1]))

    np.testing.assert_allclose(steps("leading", 4), [751, 501, 251, 1], atol=1e-3)
    np.testing.assert_allclose(
        steps("leading", 4, offset=0), [750, 500, 250, 0], atol=1e-3
    )
    np.testing.assert_allclose(steps("trailing", 4), [999, 749, 499, 249], atol=1e-3)
    np.testing.assert_allclose(steps("linspace", 4), [999, 666, 333, 0], atol=1e-3)
    for spacing in ("leading", "trailing", "linspace"):
        grid = discrete_grid(TABLE, 1000, spacing)
        np.testing.assert_allclose(grid, np.linspace(1, 0, 1001), atol=1e-6)


def test_shift_is_the_identity_at_one():
    grid = uniform_grid(RectifiedFlow(), 5)
    np.testing.assert_allclose(shift_grid(grid, 1.0), grid)
    np.testing.assert_allclose(shift_grid(grid, 3.0)[2], 3 * 0.6 / (1 + 2 * 0.6))


def test_grids_are_constants_under_jit():
    """Values are known while tracing, so that windows stay static."""

    @jax.jit
    def inside(x):
        assert isinstance(np.asarray(flow_grid(VPCosine(), 4)), np.ndarray)
        return x

    inside(jnp.ones(1))


def test_a_shift_may_be_traced_and_an_exponent_may_not():
    made = jax.jit(lambda shift: flow_grid(VPCosine(), 4, shift))(3.0)
    np.testing.assert_allclose(made, flow_grid(VPCosine(), 4, 3.0), rtol=1e-5)
    made = jax.jit(shift_grid)(uniform_grid(RectifiedFlow(), 2), 3.0)
    np.testing.assert_allclose(made, [1.0, 0.75, 0.0])
    with pytest.raises(ValueError, match="rho is traced; expected a number known"):
        jax.eval_shape(lambda rho: flow_grid(VE(), 5, rho=rho), 2.0)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("n", [0, -3, 2.5, True])
def test_bad_count(spacing, n):
    with pytest.raises(ValueError, match=r"n is .*expected a whole number"):
        spacing(VPCosine(), n)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: logsnr_grid(VE(), 1), "at least 2"),
        (lambda: karras_grid(VE(), 1), "at least 2"),
        (lambda: karras_grid(VE(), 5, rho=0), "rho is 0"),
        (lambda: logsnr_grid(VE(), 5, t_min=0.0), "expected 0 < t_min"),
        (lambda: karras_grid(VE(), 5, t_min=3.0, t_max=2.0), "t_min is 3.0 and t_max"),
        (lambda: flow_grid(VE(), 5, shift=0.0), "shift is 0.0"),
        (lambda: flow_grid(VE(), 5, rho=0.5), "rho is 0.5"),
        (lambda: flow_grid(VE(), 5, rho=np.inf), "rho is inf; expected a finite"),
        (lambda: flow_grid(VE(), 5, shift=np.inf), "shift is inf; expected a finite"),
        (lambda: karras_grid(VE(), 5, rho=np.inf), "rho is inf; expected a finite"),
        (lambda: shift_grid(jnp.ones(2), -1.0), "shift is -1.0"),
        (lambda: uniform_grid(VE(), 5, t_max=-1.0), "t_max -1.0"),
        (lambda: discrete_grid(TABLE, 1001), "at most the table's 1000"),
        (lambda: discrete_grid(TABLE, 5, "even"), "spacing is 'even'"),
    ],
)
def test_bad_arguments(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_a_shift_is_for_the_times_of_a_flow():
    with pytest.raises(ValueError, match=r"grid goes from 80.* expected times in \["):
        shift_grid(karras_grid(VE(), 3), 3.0)
    with pytest.raises(ValueError, match="grid goes from"):
        shift_grid(np.array([1.0, np.nan, 0.0]), 3.0)


def test_steps_of_a_table_need_one():
    with pytest.raises(TypeError, match="expected one with a table, from vp_discrete"):
        discrete_grid(VPCosine(), 5)


@pytest.mark.parametrize(
    ("grid", "match"),
    [
        ([], "expected \\[N \\+ 1\\]"),
        ([1.0], "expected \\[N \\+ 1\\]"),
        ([[1.0, 0.0]], "expected \\[N \\+ 1\\]"),
        ([1.0, 0.5, 0.5, 0.0], "strictly monotonic"),
        ([1.0, 0.2, 0.5, 0.0], "strictly monotonic"),
        ([1.0, np.nan, 0.0], "not finite"),
    ],
)
def test_sampling_refuses_bad_grids(grid, match):
    keys = sample_keys(jax.random.key(0), 2)
    denoiser = Denoiser(lambda x, t, cond, **_: Denoised(x))
    with pytest.raises(ValueError, match=match):
        sample(keys, denoiser, ddim(), np.array(grid), (2,), process=VPCosine())
