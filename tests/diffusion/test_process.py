"""Noise processes: their identities, their inverses, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.diffusion import (
    VE,
    RectifiedFlow,
    VPCosine,
    VPDiscrete,
    VPLinear,
    coefficients,
    cosine_betas,
    exponential_betas,
    laplace_betas,
    linear_betas,
    logsnr,
    perturb,
    rescale_zero_terminal_snr,
    scaled_linear_betas,
    sigmoid_betas,
    vp_discrete,
)

PROCESSES = {
    "vp_linear": VPLinear(),
    "vp_cosine": VPCosine(),
    "vp_cosine_shifted": VPCosine(shift=0.5),
    "vp_discrete": vp_discrete(linear_betas()),
    "ve": VE(),
    "flow": RectifiedFlow(),
    "vp_zero_terminal": vp_discrete(rescale_zero_terminal_snr(linear_betas())),
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


@pytest.mark.parametrize(
    "betas",
    [
        linear_betas,
        scaled_linear_betas,
        cosine_betas,
        sigmoid_betas,
        laplace_betas,
        exponential_betas,
    ],
)
def test_table_matches_the_cumulative_product(betas):
    table = betas(1000)
    process = vp_discrete(table)
    bar = np.cumprod(1 - table)
    t = jnp.arange(1, 1001, dtype=jnp.float32) / 1000
    np.testing.assert_allclose(process.alpha(t) ** 2, bar, rtol=2e-4, atol=1e-9)
    np.testing.assert_allclose(process.sigma(t) ** 2, 1 - bar, rtol=2e-4)
    np.testing.assert_allclose(process.index(t), np.arange(1000), atol=1e-3)


# Eight betas of each beta_schedule of diffusers 0.42.1's DDPMScheduler between .001 and
# .2; "exp" is its betas_for_alpha_bar, "zero snr" its rescale_zero_terminal_snr.
DIFFUSERS = {
    "linear": [
        *(0.001, 0.02942857, 0.05785714, 0.08628571),
        *(0.1147143, 0.1431429, 0.1715714, 0.2),
    ],
    "scaled_linear": [
        *(0.0009999999, 0.008279707, 0.02260904, 0.04398799),
        *(0.07241655, 0.1078947, 0.1504225, 0.2),
    ],
    "squaredcos_cap_v2": [
        *(0.04219541, 0.1156733, 0.192188, 0.2782455),
        *(0.3836209, 0.5260364, 0.7402689, 0.999),
    ],
    "sigmoid": [
        *(0.001492052, 0.003701807, 0.015129, 0.06028939),
        *(0.1407106, 0.185871, 0.1972982, 0.199508),
    ],
    "laplace": [
        *(0.1830955, 0.06262074, 0.04352948, 0.03407415),
        *(0.03656666, 0.05527444, 0.1029278, 0.9452552),
    ],
    "exp": [0.7768698] * 8,
    "zero snr": [
        *(0.0009999275, 0.08247894, 0.1642585, 0.2550631),
        *(0.3649998, 0.5123084, 0.7328504, 1.0),
    ],
}


@pytest.mark.parametrize("name", DIFFUSERS)
def test_tables_are_those_of_diffusers(name):
    table = {
        "linear": lambda: linear_betas(8, 0.001, 0.2),
        "scaled_linear": lambda: scaled_linear_betas(8, 0.001, 0.2),
        "squaredcos_cap_v2": lambda: cosine_betas(8),
        "sigmoid": lambda: sigmoid_betas(8, 0.001, 0.2),
        "laplace": lambda: laplace_betas(8),
        "exp": lambda: exponential_betas(8),
        "zero snr": lambda: rescale_zero_terminal_snr(linear_betas(8, 0.001, 0.2)),
    }[name]()
    np.testing.assert_allclose(table, DIFFUSERS[name], rtol=1e-4)


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


@pytest.mark.parametrize(
    "betas", [[], [[0.1]], [0.0, 0.1], [1.0, 0.5], [0.5, 1.1], [0.1, np.nan]]
)
def test_bad_tables_are_refused(betas):
    with pytest.raises(ValueError, match="betas"):
        vp_discrete(np.asarray(betas))


def test_processes_are_trees_whose_numbers_can_be_learned():
    slope = jax.grad(lambda p: p.alpha(jnp.float32(0.5)))(VPLinear())
    assert slope.beta_min < 0
    assert len(jax.tree.leaves(VPLinear())) == 2


def test_an_index_is_whole_on_the_table_however_times_are_rounded():
    for steps in (4, 100, 1000, 4000):
        process = vp_discrete(linear_betas(steps, 1e-5, 1e-3))
        want = np.arange(steps)

        def index(process=process, steps=steps):
            return process.index(jnp.arange(1, steps + 1) / steps)

        np.testing.assert_array_equal(index(), want)
        np.testing.assert_array_equal(jax.jit(index)(), want)
        # Rounding must not take the slope away, which consistency models need.
        assert jax.grad(process.index)(1.0) == steps


def test_zero_terminal_snr_rescales_as_the_algorithm_does():
    # Lin et al., arXiv 2305.08891, algorithm 1.
    betas = scaled_linear_betas()
    process = vp_discrete(rescale_zero_terminal_snr(betas))
    root = np.sqrt(np.cumprod(1 - betas))
    want = (root - root[-1]) * root[0] / (root[0] - root[-1])
    t = jnp.arange(1, 1001, dtype=jnp.float32) / 1000
    np.testing.assert_allclose(process.alpha(t), want, rtol=2e-4, atol=1e-7)
    assert process.alpha(jnp.float32(1)) == 0
    assert process.sigma(jnp.float32(1)) == 1
    for bad in ([0.1], [[0.1, 0.2]], [0.0, 0.1]):
        with pytest.raises(ValueError, match="betas has shape"):
            rescale_zero_terminal_snr(bad)


def test_the_last_step_to_zero_snr_is_continuous_and_inverted():
    process = vp_discrete([0.2, 0.5, 1.0])
    t = jnp.array([2 / 3, 0.75, 0.9, 1.0])
    root = np.sqrt(0.4)
    np.testing.assert_allclose(
        process.alpha(t), root * (1 - np.array([0, 0.25, 0.7, 1])), atol=1e-6
    )
    np.testing.assert_allclose(process.alpha(t) ** 2 + process.sigma(t) ** 2, 1, 1e-6)
    np.testing.assert_allclose(process.t_of_logsnr(logsnr(process, t)), t, rtol=1e-6)
    slope = jax.vmap(jax.grad(process.alpha))(t)
    np.testing.assert_allclose(slope[1:], -3 * root, rtol=1e-5)
    assert np.isfinite(jax.vmap(jax.grad(process.sigma))(t)).all()


def test_a_table_whose_last_beta_is_one_is_taken_as_it_is():
    assert vp_discrete(cosine_betas(10, max_beta=1.0)).alpha(1.0) == 0
    near = vp_discrete(np.float32([0.5, 1 - 1e-9]))
    assert near.alpha(1.0) == 0


def test_cumulative_products_and_alphas_are_no_betas():
    betas = linear_betas()
    for wrong in (np.cumprod(1 - betas), 1 - betas):
        with pytest.raises(ValueError, match="alphas or alphas_cumprod"):
            vp_discrete(wrong)


@pytest.mark.parametrize("name", PROCESSES)
def test_gradients_to_a_process_are_finite_where_there_is_no_noise(name):
    """`sqrt` of 0 has an infinite slope: times 0 it must be 0 and not NaN."""

    def loss(process):
        t = jnp.array([0.0, 0.5 * process.t_max])
        return jnp.sum(process.alpha(t) + process.sigma(t))

    for leaf in jax.tree.leaves(jax.grad(loss)(PROCESSES[name])):
        if leaf.ndim:  # The end of a table with zero terminal SNR is `-inf`.
            leaf = leaf[:-1]
        assert np.isfinite(leaf).all()


@pytest.mark.parametrize("solver", [jg.ddim(), jg.ddpm(), jg.heun(), jg.dpmpp_2m()])
def test_the_slope_of_a_sample_in_beta_is_its_finite_difference(solver):
    keys, grid = jg.sample_keys(jax.random.key(0), 2), jg.uniform_grid(VPCosine(), 3)

    @jax.jit
    def loss(beta):
        denoiser = jg.parametrize(lambda x, t, c: jnp.tanh(x), VPLinear(beta))
        return jnp.sum(jg.sample(keys, denoiser, solver, grid, (2,))[0] ** 2)

    slope = jax.grad(loss)(0.1)
    difference = (loss(0.12) - loss(0.08)) / 0.04
    np.testing.assert_allclose(slope, difference, rtol=0.02)


def test_a_learned_table_has_the_slope_of_its_finite_difference():
    keys, grid = jg.sample_keys(jax.random.key(0), 2), jnp.array([1.0, 0.4, 0.0])
    table = vp_discrete([0.1, 0.3, 0.5]).log_alpha_bar

    def loss(log_alpha_bar):
        process = VPDiscrete(log_alpha_bar)
        denoiser = jg.parametrize(lambda x, t, c: jnp.tanh(x), process)
        return jnp.sum(jg.sample(keys, denoiser, jg.ddim(), grid, (2,))[0] ** 2)

    slope = jax.grad(loss)(table)
    assert np.isfinite(slope).all()
    for i in range(1, 4):
        step = jnp.zeros(4).at[i].set(0.01)
        difference = (loss(table + step) - loss(table - step)) / 0.02
        np.testing.assert_allclose(slope[i], difference, rtol=0.02, atol=1e-4)


def test_what_is_no_process_is_named():
    for wrong, got in ((VPCosine, "the class VPCosine"), ("cosine", "'cosine'")):
        with pytest.raises(TypeError, match=f"process is {got}; expected a noise"):
            perturb(wrong, jnp.ones((1, 2)), jnp.ones((1, 2)), 0.5)
        with pytest.raises(TypeError, match=f"process is {got}; expected a noise"):
            jg.karras_grid(wrong, 4)
        denoiser = jg.parametrize(lambda x, t, c: x, VPCosine())
        with pytest.raises(TypeError, match=f"process is {got}; expected a noise"):
            jg.sample(
                jg.sample_keys(jax.random.key(0), 1), denoiser, jg.ddim(), [0.5, 0.0],
                (2,), process=wrong,
            )  # fmt: skip


@pytest.mark.parametrize(
    "grid",
    [
        lambda p: jg.discrete_grid(p, 40),
        lambda p: jg.uniform_grid(p, 40),
        lambda p: jg.flow_grid(p, 40),
        lambda p: jg.karras_grid(p, 40),
        lambda p: jg.logsnr_grid(p, 40),
    ],
)
def test_zero_terminal_snr_samples_data_from_pure_noise(grid):
    """Data N(0.7, 0.5^2) and the exact network, which predicts v."""
    process = vp_discrete(rescale_zero_terminal_snr(scaled_linear_betas()))

    def network(x, step, cond):
        a, b = coefficients(process, (step + 1) / 1000, x)
        gain = a * 0.25 / (a**2 * 0.25 + b**2)
        x0 = 0.7 + gain * (x - 0.7 * a)
        return jg.convert(process, "x0", "v", x0, x, (step + 1) / 1000)

    denoiser = jg.parametrize(network, process, "v")
    keys = jg.sample_keys(jax.random.key(0), 1000)
    x, _ = jax.jit(
        lambda keys: jg.sample(keys, denoiser, jg.dpmpp_2m(), grid(process), (1,))
    )(keys)
    assert abs(np.mean(x) - 0.7) < 0.05
    assert abs(np.std(x) - 0.5) < 0.03
