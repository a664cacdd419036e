"""Denoising losses against independent derivations and an exact oracle."""

from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance import rng
from jaxlib_guidance.diffusion import (
    VE,
    Prediction,
    RectifiedFlow,
    VPCosine,
    VPLinear,
    denoising_loss,
    edm_weight,
    elbo_weight,
    from_x0,
    logsnr,
    min_snr_weight,
    parametrize,
    perturb,
    prediction_weight,
    sigmoid_weight,
)
from jaxlib_guidance.testing import draw_exact, exact_denoiser, gaussian_mixture
from jaxlib_guidance.types import Denoised, Denoiser

PROCESSES = {
    "vp_linear": VPLinear(),
    "vp_cosine": VPCosine(),
    "ve": VE(),
    "flow": RectifiedFlow(),
}
T = jnp.array([0.1, 0.4, 0.7, 0.95])


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("kind", get_args(Prediction))
def test_the_weighted_x0_error_is_the_plain_error_of_the_prediction(name, kind):
    process = PROCESSES[name]
    keys = rng.sample_keys(jax.random.key(1), 4)
    x0, eps = rng.normal(keys, (3, 2)), rng.normal(rng.fold(keys, 1), (3, 2))
    guess = denoiser_with_error(0.3)
    got = denoising_loss(guess, x0, eps, T, weighting=kind, process=process)
    x_t = perturb(process, x0, eps, T)
    said = from_x0(process, kind, guess(x_t, T).x0, x_t, T)
    true = from_x0(process, kind, x0, x_t, T)
    want = np.mean((np.asarray(said) - np.asarray(true)) ** 2, axis=(1, 2))
    np.testing.assert_allclose(got, want, rtol=2e-3)
    assert got.shape == (4,)


def denoiser_with_error(scale):
    def apply(x, t, cond, *, control, capture):
        return Denoised(scale * jnp.tanh(x))

    return Denoiser(apply)


@pytest.mark.parametrize("name", PROCESSES)
def test_edm_weight_gives_the_raw_network_unit_weight(name):
    # With F's error e the preconditioned loss must be mean(e^2) at every noise level.
    process = PROCESSES[name]
    keys = rng.sample_keys(jax.random.key(2), 4)
    x0, eps = rng.normal(keys, (8,)), rng.normal(rng.fold(keys, 1), (8,))

    def loss(raw):
        made = parametrize(
            lambda x, level, c: raw, process, precondition=True, sigma_data=0.7
        )
        weight = partial(edm_weight, sigma_data=0.7)
        return denoising_loss(made, x0, eps, T, weighting=weight, process=process)

    zero = jnp.zeros((4, 8))
    # Quadratic in F, so its second derivative along ones is 2 mean(1) = 2.
    curve = loss(zero + 1) + loss(zero - 1) - 2 * loss(zero)
    np.testing.assert_allclose(curve, 2, rtol=1e-3)


def test_edm_weight_golden():
    # arXiv 2206.00364, table 1: (sigma^2 + sigma_data^2) / (sigma sigma_data)^2.
    sigma = np.array([0.01, 0.5, 10.0])
    got = edm_weight(VE(), jnp.asarray(sigma, jnp.float32))
    np.testing.assert_allclose(got, (sigma**2 + 0.25) / (sigma * 0.5) ** 2, rtol=1e-5)


def test_min_snr_has_its_two_limits():
    process = VPCosine()
    snr = jnp.exp(logsnr(process, T))
    np.testing.assert_allclose(min_snr_weight(process, T, jnp.inf), snr, rtol=1e-4)
    np.testing.assert_allclose(min_snr_weight(process, T, 1e-9), 1e-9)
    got = min_snr_weight(process, T, 5.0)
    np.testing.assert_allclose(got, np.minimum(snr, 5), rtol=1e-4)
    assert snr[0] > 5 > snr[-1]


def test_v_on_a_variance_preserving_process_is_snr_plus_one():
    process = VPLinear()
    snr = np.exp(logsnr(process, T))
    np.testing.assert_allclose(prediction_weight(process, T, "v"), snr + 1, rtol=1e-4)


@pytest.mark.parametrize("name", PROCESSES)
def test_elbo_and_sigmoid_weights_follow_from_the_slope_of_logsnr(name):
    process = PROCESSES[name]
    slope = jax.vmap(jax.grad(partial(logsnr, process)))(T)
    snr = np.exp(logsnr(process, T))
    np.testing.assert_allclose(elbo_weight(process, T), -0.5 * slope * snr, rtol=1e-3)
    # eps weight sigmoid(b - logsnr), taken to an x0 weight by the SNR.
    b = -1.5
    want = -0.5 * slope * snr / (1 + snr * np.exp(-b))
    np.testing.assert_allclose(sigmoid_weight(process, T, b), want, rtol=1e-3)


def test_sigmoid_loss_does_not_depend_on_the_schedule():
    # For an error that is a function of logsnr alone the uniform-t average must be the
    # integral over logsnr between the ends: compare three schedules with numpy's.
    low, high, b = -8.0, 6.0, -2.0
    lam = np.linspace(low, high, 40001)
    weight = np.exp(b) / (1 + np.exp(b - lam))
    error = 1 / (1 + np.exp(lam))
    want = 0.5 * np.trapezoid(weight * error, lam)
    for process in (VPLinear(), VPCosine(), RectifiedFlow()):
        first, last = (float(process.t_of_logsnr(jnp.float32(v))) for v in (high, low))
        t = jnp.linspace(first, last, 40001, dtype=jnp.float32)
        each = jax.jit(
            lambda t, p=process: sigmoid_weight(p, t, b) / (1 + jnp.exp(logsnr(p, t)))
        )(t)
        got = np.trapezoid(np.asarray(each, np.float64), np.asarray(t, np.float64))
        np.testing.assert_allclose(got, want, rtol=2e-3)


def test_weights_are_finite_where_the_data_is_gone():
    t = jnp.array([1.0])
    for kind in ("eps", "v", "velocity", "x0", "score"):
        assert np.isfinite(prediction_weight(RectifiedFlow(), t, kind)).all(), kind
    for weight in (min_snr_weight, edm_weight, elbo_weight, sigmoid_weight):
        assert np.isfinite(weight(RectifiedFlow(), t)).all()


MIXTURE = gaussian_mixture([0.4, 0.6], [[-1.5], [1.0]], [[[0.04]], [[0.09]]])


def test_the_loss_of_the_exact_denoiser_is_the_posterior_variance():
    # E (D(x_t) - x0)^2 = E Var[x0 | x_t], here by quadrature over x_t.
    process, t = VPCosine(), 0.6
    alpha, sigma = np.cos(0.3 * np.pi), np.sin(0.3 * np.pi)
    n = 60_000
    x0 = draw_exact(MIXTURE, jax.random.key(0), n)
    eps = jax.random.normal(jax.random.key(1), x0.shape)
    exact = exact_denoiser(MIXTURE, process)
    loss = partial(denoising_loss, exact, process=process, weighting="x0")
    each = jax.jit(loss)(x0, eps, jnp.full(n, t, jnp.float32))
    x = np.linspace(-5, 5, 8001)[:, None]
    w, mu, var = np.array([0.4, 0.6]), np.array([-1.5, 1.0]), np.array([0.04, 0.09])
    spread = alpha**2 * var + sigma**2
    density = (
        w * np.exp(-0.5 * (x - alpha * mu) ** 2 / spread) / np.sqrt(2 * np.pi * spread)
    )
    total = density.sum(1)
    mean = mu + alpha * var / spread * (x - alpha * mu)
    second = mean**2 + var * sigma**2 / spread
    post = density / total[:, None]
    variance = (post * second).sum(1) - (post * mean).sum(1) ** 2
    want = np.trapezoid(variance * total, x[:, 0])
    error = 4 * float(jnp.std(each)) / np.sqrt(n)
    np.testing.assert_allclose(jnp.mean(each), want, atol=error)
    assert error < 0.03 * want


@pytest.mark.parametrize("weighting", ["eps", "v", edm_weight, sigmoid_weight])
def test_the_exact_denoiser_minimises_every_weighting(weighting):
    process, n = VPCosine(), 4096
    x0 = draw_exact(MIXTURE, jax.random.key(0), n)
    eps = jax.random.normal(jax.random.key(1), x0.shape)
    t = jnp.linspace(0.05, 0.95, n, dtype=jnp.float32)
    exact = exact_denoiser(MIXTURE, process)

    def loss(shift, gain):
        def apply(x, t, cond, *, control, capture):
            return Denoised(gain * exact(x, t, cond).x0 + shift)

        each = denoising_loss(
            Denoiser(apply), x0, eps, t, weighting=weighting, process=process
        )
        return jnp.mean(each)

    shifts, gains = jnp.array([0, 0.1, -0.1, 0, 0]), jnp.array([1, 1, 1, 1.1, 0.9])
    best, *others = jax.jit(jax.vmap(loss))(shifts, gains)
    assert min(others) > best


def test_samples_do_not_meet():
    x0 = jnp.ones((4, 2))
    each = denoising_loss(denoiser_with_error(0.5), x0, x0, T, process=VE())
    alone = denoising_loss(
        denoiser_with_error(0.5), x0[2:3], x0[2:3], T[2:3], process=VE()
    )
    np.testing.assert_allclose(each[2:3], alone, rtol=1e-6)


def test_refusals():
    x0, guess = jnp.ones((4, 2)), denoiser_with_error(0.5)
    with pytest.raises(ValueError, match="weighting is 'snr'"):
        denoising_loss(guess, x0, x0, T, weighting="snr", process=VE())
    with pytest.raises(ValueError, match="t has shape"):
        denoising_loss(guess, x0, x0, T[0], process=VE())
    with pytest.raises(ValueError, match="eps has shape"):
        denoising_loss(guess, x0, x0[:, :1], T, process=VE())
    with pytest.raises(ValueError, match="weighting returned shape"):
        denoising_loss(
            guess, x0, x0, T, weighting=lambda p, t: t[:, None], process=VE()
        )
    with pytest.raises(ValueError, match="kind is 'snr'"):
        prediction_weight(VE(), T, "snr")
