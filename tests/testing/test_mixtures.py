"""The oracle itself: densities integrate, scores are gradients, posteriors Bayes'."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.diffusion import VPCosine
from jaxlib_guidance.testing import _mixtures as mixtures
from jaxlib_guidance.testing import (
    component_log_density,
    draw_exact,
    exact_denoiser,
    gaussian_mixture,
    given_label,
    given_observation,
    label_log_prob,
    log_density,
    observation_log_prob,
    posterior_mean,
    score,
)

MIXTURE = gaussian_mixture(
    [1.0, 3.0],
    [[-1.0, 0.5], [0.8, -0.3]],
    [[[0.3, 0.1], [0.1, 0.2]], [[0.1, -0.04], [-0.04, 0.4]]],
)
ALPHA, SIGMA = 0.8, 0.6
AXIS = np.linspace(-7, 7, 281)
GRID = np.stack(np.meshgrid(AXIS, AXIS, indexing="ij"), -1).reshape(-1, 2)
CELL = (AXIS[1] - AXIS[0]) ** 2


def plain_density(x, alpha=1.0, sigma=0.0):
    """Of the noised mixture, written out in numpy."""
    total = np.zeros(len(x))
    for m in range(2):
        u, v = np.asarray(MIXTURE.axes[m]), np.asarray(MIXTURE.variances[m])
        cov = alpha**2 * (u * v) @ u.T + sigma**2 * np.eye(2)
        d = x - alpha * np.asarray(MIXTURE.means[m])
        form = np.einsum("nd,de,ne->n", d, np.linalg.inv(cov), d)
        weight = np.exp(MIXTURE.log_weights[m])
        total += (
            weight * np.exp(-0.5 * form) / (2 * np.pi * np.sqrt(np.linalg.det(cov)))
        )
    return total


def test_density_is_the_formula_and_integrates_to_one():
    for alpha, sigma in [(1.0, 0.0), (ALPHA, SIGMA), (0.1, 0.99)]:
        got = np.exp(log_density(MIXTURE, jnp.asarray(GRID, "float32"), alpha, sigma))
        np.testing.assert_allclose(
            got, plain_density(GRID, alpha, sigma), rtol=1e-3, atol=1e-7
        )
        np.testing.assert_allclose(got.sum() * CELL, 1, rtol=1e-3)


def test_weights_are_normalised():
    np.testing.assert_allclose(np.exp(MIXTURE.log_weights), [0.25, 0.75], rtol=1e-6)


POINTS = jnp.array([[0.2, 0.1], [-1.3, 0.9], [2.0, -1.5]])


def test_score_is_the_gradient_of_the_log_density():
    grad = jax.grad(lambda x: log_density(MIXTURE, x, ALPHA, SIGMA).sum())(POINTS)
    np.testing.assert_allclose(score(MIXTURE, POINTS, ALPHA, SIGMA), grad, rtol=2e-4)


def posterior_by_quadrature(x):
    prior = plain_density(GRID)
    likelihood = np.exp(-0.5 * ((x - ALPHA * GRID) ** 2).sum(1) / SIGMA**2)
    return prior * likelihood / (prior * likelihood).sum()


def test_posterior_mean_is_bayes_by_quadrature():
    got = posterior_mean(MIXTURE, POINTS, ALPHA, SIGMA)
    want = [posterior_by_quadrature(np.asarray(x)) @ GRID for x in POINTS]
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


def test_posterior_mean_has_its_limits():
    # No noise: x0 itself. No signal: the prior mean.
    np.testing.assert_allclose(
        posterior_mean(MIXTURE, POINTS, 1.0, 1e-4), POINTS, atol=1e-5
    )
    mean = np.exp(MIXTURE.log_weights) @ np.asarray(MIXTURE.means)
    np.testing.assert_allclose(
        posterior_mean(MIXTURE, POINTS, 0.0, 1.0), np.tile(mean, (3, 1)), rtol=1e-5
    )


def test_exact_draws_have_the_moments_of_the_mixture():
    n = 100_000
    x = np.asarray(draw_exact(MIXTURE, jax.random.key(0), n), np.float64)
    density = plain_density(GRID) * CELL
    mean = density @ GRID
    second = np.einsum("n,nd,ne->de", density, GRID, GRID)
    error = 4 * np.std(x, 0) / np.sqrt(n)
    assert (np.abs(x.mean(0) - mean) < error).all()
    np.testing.assert_allclose(x.T @ x / n, second, atol=0.02)


def test_given_label_is_that_component():
    only = given_label(MIXTURE, 1)
    got = np.exp(log_density(only, POINTS))
    want = np.exp(component_log_density(MIXTURE, POINTS)[:, 1]) / 0.75
    np.testing.assert_allclose(got, want, rtol=1e-5)
    unknown = given_label(MIXTURE, -1)
    np.testing.assert_allclose(unknown.log_weights, MIXTURE.log_weights, rtol=1e-6)


def test_label_log_prob_is_bayes():
    each = np.exp(component_log_density(MIXTURE, POINTS, ALPHA, SIGMA))
    want = np.log(each[:, 0] / each.sum(1))
    got = label_log_prob(MIXTURE, POINTS, 0, ALPHA, SIGMA)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_conditional_denoiser_tilts_by_the_classifier():
    # Tweedie, conditioned: D(x | y) = D(x) + sigma^2 / alpha grad log p(y | x).
    process, t = VPCosine(), jnp.full(3, 0.4)
    alpha, sigma = process.alpha(t), process.sigma(t)
    denoiser = exact_denoiser(MIXTURE, process)
    grad = jax.grad(lambda x: label_log_prob(MIXTURE, x, 1, alpha, sigma).sum())(POINTS)
    want = denoiser(POINTS, t).x0 + (sigma**2 / alpha)[:, None] * grad
    got = denoiser(POINTS, t, jnp.ones(3, jnp.int32)).x0
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)
    none = denoiser(POINTS, t, jnp.full(3, -1)).x0
    np.testing.assert_allclose(none, denoiser(POINTS, t).x0, rtol=1e-5)


def test_samples_may_have_any_shape():
    process = VPCosine()
    denoiser = exact_denoiser(MIXTURE, process)
    flat = denoiser(POINTS, jnp.float32(0.4)).x0
    shaped = denoiser(POINTS.reshape(3, 1, 2, 1), jnp.float32(0.4)).x0
    np.testing.assert_allclose(shaped.reshape(3, 2), flat, rtol=1e-6)


OPERATOR, Y, NOISE = np.array([[1.0, 0.5]]), np.array([0.4]), 0.3


def test_given_observation_is_bayes_by_quadrature():
    post = given_observation(MIXTURE, OPERATOR, Y, NOISE)
    misfit = ((Y - GRID @ OPERATOR.T) ** 2).sum(1) / NOISE**2
    want = plain_density(GRID) * np.exp(-0.5 * misfit)
    want /= want.sum() * CELL
    got = np.exp(log_density(post, jnp.asarray(GRID, "float32")))
    np.testing.assert_allclose(got, want, rtol=5e-3, atol=1e-4)


def test_given_observation_is_what_rejection_sampling_keeps():
    key, noise = jax.random.split(jax.random.key(1))
    x = np.asarray(draw_exact(MIXTURE, key, 400_000))
    y = x @ OPERATOR.T + NOISE * np.asarray(jax.random.normal(noise, (len(x), 1)))
    kept = x[np.abs(y[:, 0] - Y[0]) < 0.02]
    post = draw_exact(
        given_observation(MIXTURE, OPERATOR, Y, NOISE), jax.random.key(2), 100_000
    )
    error = 4 * np.std(kept, 0) / np.sqrt(len(kept))
    assert len(kept) > 2000
    assert (np.abs(kept.mean(0) - np.mean(post, 0)) < error).all()
    np.testing.assert_allclose(np.cov(kept.T), np.cov(np.asarray(post).T), atol=0.03)


def test_observation_log_prob_is_the_likelihood_of_the_noisy_state():
    got = observation_log_prob(MIXTURE, POINTS, OPERATOR, Y, NOISE, ALPHA, SIGMA)
    misfit = ((Y - GRID @ OPERATOR.T) ** 2).sum(1) / NOISE**2
    likelihood = np.exp(-0.5 * misfit) / np.sqrt(2 * np.pi * NOISE**2)
    want = [np.log(posterior_by_quadrature(np.asarray(x)) @ likelihood) for x in POINTS]
    np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-3)


def test_more_dimensions_than_components():
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(3, 16, 16)) * 0.2
    covs = roots @ roots.swapaxes(1, 2)
    big = gaussian_mixture([1, 1, 2], rng.normal(size=(3, 16)), covs)
    x = draw_exact(big, jax.random.key(0), 5)
    grad = jax.grad(lambda x: log_density(big, x, ALPHA, SIGMA).sum())(x)
    np.testing.assert_allclose(score(big, x, ALPHA, SIGMA), grad, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("weights", "means", "covs", "message"),
    [
        ([1.0], np.zeros((2, 2)), np.zeros((2, 2, 2)), "expected"),
        ([1.0], np.zeros((1, 2)), np.zeros((1, 3, 3)), "expected"),
        ([0.0], np.zeros((1, 2)), np.eye(2)[None], "positive"),
        ([1.0], np.zeros((1, 2)), [[[1.0, 2.0], [0.0, 1.0]]], "symmetric"),
        ([1.0], np.zeros((1, 2)), [[[1.0, 2.0], [2.0, 1.0]]], "negative eigenvalue"),
    ],
)
def test_refusals(weights, means, covs, message):
    with pytest.raises(ValueError, match=message):
        mixtures.gaussian_mixture(weights, means, covs)


def test_states_may_be_of_numpy():
    """Doubles of numpy are taken to float32 without a warning (an error in tests)."""
    x = np.zeros((3, len(MIXTURE.means[0])))
    for value in (log_density(MIXTURE, x), posterior_mean(MIXTURE, x, 1.0, 0.5)):
        assert value.dtype == jnp.float32
