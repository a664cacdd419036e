"""Noise processes: their identities, their inverses, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.diffusion import (
    VE,
    RectifiedFlow,
    VPCosine,
    VPLinear,
    coefficients,
    cosine_betas,
    linear_betas,
    logsnr,
    perturb,
    scaled_linear_betas,
    vp_discrete,
)

PROCESSES = {
    "vp_linear": VPLinear(),
    "vp_cosine": VPCosine(),
    "vp_cosine_shifted": VPCosine(shift=0.5),
    "vp_discrete": vp_discrete(linear_betas()),
    "ve": VE(),
    "flow": RectifiedFlow(),
}


def times(process, n=64, top=None):
    return jnp.linspace(process.t_min, top or process.t_max, n, dtype=jnp.float32)


@pytest.mark.parametrize("name", PROCESSES)
def test_t_of_logsnr_inverts_logsnr(name):
    process = PROCESSES[name]
    top = 0.995 if process.t_max <= 1 else process.t_max
    t = times(process, top=top)
    back = process.t_of_logsnr(logsnr(process, t))
    np.testing.assert_allclose(back, t, rtol=2e-4)


@pytest.mark.parametrize("name", PROCESSES)
def test_noise_only_grows(name):
    process = PROCESSES[name]
    assert (np.diff(logsnr(process, times(process, top=0.995))) < 0).all()


@pytest.mark.parametrize("name", [n for n in PROCESSES if n.startswith("vp")])
def test_variance_is_preserved(name):
    process = PROCESSES[name]
    t = times(process)
    total = process.alpha(t) ** 2 + process.sigma(t) ** 2
    np.testing.assert_allclose(total, 1, atol=2e-6)


@pytest.mark.parametrize("name", PROCESSES)
def test_time_zero_is_data(name):
    process, zero = PROCESSES[name], jnp.float32(0)
    assert process.alpha(zero) == 1
    assert process.sigma(zero) == 0


def test_linear_is_the_integral_of_its_beta():
    process, t = VPLinear(), 0.7
    grid = np.linspace(0, t, 20001)
    beta = 0.1 + grid * 19.9
    integral = np.trapezoid(beta, grid)
    np.testing.assert_allclose(
        process.alpha(jnp.float32(t)), np.exp(-integral / 2), rtol=1e-6
    )


def test_sigma_keeps_its_digits_near_the_data():
    t = 1e-5
    exact = np.sqrt(-np.expm1(-0.1 * t - 0.5 * 19.9 * t**2))
    np.testing.assert_allclose(VPLinear().sigma(jnp.float32(t)), exact, rtol=1e-5)


@pytest.mark.parametrize("betas", [linear_betas, scaled_linear_betas, cosine_betas])
def test_table_matches_the_cumulative_product(betas):
    table = betas(1000)
    process = vp_discrete(table)
    bar = np.cumprod(1 - table)
    t = jnp.arange(1, 1001, dtype=jnp.float32) / 1000
    np.testing.assert_allclose(process.alpha(t) ** 2, bar, rtol=2e-4, atol=1e-9)
    np.testing.assert_allclose(process.sigma(t) ** 2, 1 - bar, rtol=2e-4)
    np.testing.assert_allclose(process.index(t), np.arange(1000), atol=1e-3)


def test_ddpm_table_ends_where_the_paper_says():
    # arXiv 2006.11239, section 4: D_KL(q(x_T) || N(0, 1)) is about 1e-5
    # bits a dimension.
    process = vp_discrete(linear_betas())
    bar = float(process.alpha(jnp.float32(1)) ** 2)
    kl_bits = 0.5 * (bar - bar - np.log1p(-bar) + bar) / np.log(2)
    assert 1e-6 < kl_bits < 1e-4


def test_edm_has_sigma_as_time():
    t = jnp.array([0.002, 1.0, 80.0])
    np.testing.assert_array_equal(VE().sigma(t), t)
    np.testing.assert_array_equal(VE().alpha(t), 1)


def test_cosine_shift_moves_logsnr_by_twice_its_log():
    t = times(VPCosine())
    moved = logsnr(VPCosine(shift=0.25), t) - logsnr(VPCosine(), t)
    np.testing.assert_allclose(moved, 2 * np.log(0.25), rtol=1e-4)


def test_perturb_broadcasts_over_samples():
    x0, eps = jnp.ones((2, 3, 4)), jnp.full((2, 3, 4), 2.0)
    out = perturb(RectifiedFlow(), x0, eps, jnp.array([0.25, 1.0]))
    np.testing.assert_allclose(out[0], 0.75 + 0.5)
    np.testing.assert_allclose(out[1], 2.0)
    alpha, _ = coefficients(RectifiedFlow(), jnp.float32(0.5), x0)
    assert alpha.shape == ()


def test_perturb_refuses_other_shapes():
    x0 = jnp.ones((2, 3))
    with pytest.raises(ValueError, match="eps has shape"):
        perturb(VE(), x0, jnp.ones((2, 4)), 1.0)
    with pytest.raises(ValueError, match="t has shape"):
        perturb(VE(), x0, x0, jnp.ones(3))


@pytest.mark.parametrize("betas", [[], [[0.1]], [0.0, 0.1], [0.5, 1.0]])
def test_bad_tables_are_refused(betas):
    with pytest.raises(ValueError, match="betas"):
        vp_discrete(np.asarray(betas))


def test_processes_are_trees_whose_numbers_can_be_learned():
    slope = jax.grad(lambda p: p.alpha(jnp.float32(0.5)))(VPLinear())
    assert slope.beta_min < 0
    assert len(jax.tree.leaves(VPLinear())) == 2
