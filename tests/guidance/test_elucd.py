"""Guidance by a clean classifier, against the published change of DDPM's mean."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import elucd, elucd_edm, softplus
from jaxlib_guidance.models import Classifier

PROCESS = jg.VPCosine()
N = 6
GRID = jg.uniform_grid(PROCESS, N)
WEIGHTS = jnp.asarray([[1.0, -0.5, 0.2], [0.3, 0.8, -1.0]])


def logits(x, t):
    return x @ WEIGHTS


def smooth(x, t, cond, *, control, capture):
    return jg.types.Denoised(jnp.tanh(x))


@pytest.mark.exact("The mean of DDPM's step moves by its variance times the gradient")
def test_elucd_moves_the_mean_as_published():
    """By ``(S + gamma sin(pi t / T) max S) grad``, S the variance that `ddpm` draws
    with; the gradient of ``tau1 f_y - log sum exp(tau2 f)`` by hand."""
    weight, gamma, tau2 = jnp.asarray([0.0, 1.0, 2.0]), 0.3, 0.5
    labels = jnp.asarray([2, 0, 1])

    @jax.jit
    def run(weight):
        return jg.sample(
            jg.sample_keys(jax.random.key(0), 3),
            jg.Denoiser(smooth),
            jg.ddpm(),
            GRID,
            (2,),
            labels,
            guidance=elucd(logits, weight, tau2=tau2, gamma=gamma),
            process=PROCESS,
            trace=lambda info: (info.x, info.transition),
        )[1]

    x, transition = run(weight)
    alpha = np.asarray(PROCESS.alpha(GRID), np.float64)
    sigma = np.asarray(PROCESS.sigma(GRID), np.float64)
    top = 0.0
    for i in range(N):
        ratio = (alpha[i] * sigma[i + 1] / (alpha[i + 1] * sigma[i])) ** 2
        variance = sigma[i + 1] ** 2 * (1 - ratio)
        std = np.broadcast_to(transition.std[i], (3,))
        np.testing.assert_allclose(std**2, variance, rtol=1e-3, atol=1e-6)
        top = max(top, variance)
        here = np.asarray(x[i], np.float64)
        x0 = np.tanh(here)
        plain = alpha[i + 1] * (1 - ratio) * x0 + alpha[i + 1] / alpha[i] * ratio * here
        values = np.exp(tau2 * x0 @ WEIGHTS)
        share = values / values.sum(1, keepdims=True)
        slope = np.asarray(WEIGHTS)[:, labels].T - tau2 * share @ np.asarray(WEIGHTS).T
        size = variance + gamma * np.sin(np.pi * (1 - i / N)) * top
        want = plain + np.asarray(weight)[:, None] * size * slope
        np.testing.assert_allclose(transition.mean[i], want, rtol=2e-3, atol=1e-4)


def test_softplus_golden():
    """``ln 2 / beta`` at 0; ReLU in the limit, and no overflow."""
    for beta, want in ((3.0, 0.231049), (5.0, 0.138629)):
        np.testing.assert_allclose(softplus(jnp.zeros(2), beta), want, rtol=1e-5)
    x = jnp.asarray([-300.0, -1.0, 1.0, 300.0])
    np.testing.assert_allclose(softplus(x, 200.0), jnp.maximum(x, 0), atol=1e-5)
    np.testing.assert_allclose(softplus(x)[3], 300)
    assert softplus(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_a_smooth_classifier_has_gradients_where_relus_have_none():
    def dead(smoothed):
        act = softplus if smoothed else jax.nn.relu
        return lambda x: jnp.sum(act(x - 1.0))

    x = jnp.zeros(3)
    assert (jax.grad(dead(False))(x) == 0).all()
    np.testing.assert_allclose(jax.grad(dead(True))(x), 1 / (1 + np.e**3), rtol=1e-4)


def test_what_does_not_fit_is_refused(context, guided):
    with pytest.raises(ValueError, match=r"gamma is -0\.1; expected at least 0"):
        elucd(logits, gamma=-0.1)
    with pytest.raises(ValueError, match="beta is 0; expected above 0"):
        softplus(jnp.zeros(2), 0)
    ctx = context(PROCESS, jnp.zeros((3, 2)), 0.4, jnp.arange(3))
    with pytest.raises(ValueError, match="elucd needs the time grid"):
        guided(elucd(logits), jg.Denoiser(smooth), ctx)


def test_elucd_edm_is_the_published_loop():
    """Euler steps from states moved first; VE, gradients of ``f_y`` by hand."""
    weight, labels = np.asarray([0.0, 0.1, 0.2]), np.asarray([2, 0, 1])
    grid, start = (
        np.asarray([4.0, 2.0, 0.7, 0.1]),
        np.asarray([[3.0, -1], [0.3, 2], [-4, 1]]),
    )

    def tanh(x, t, cond, *, control, capture):
        return jg.types.Denoised(jnp.tanh(x))

    got, _ = jg.sample(
        jg.sample_keys(jax.random.key(0), 3),
        jg.Denoiser(tanh),
        jg.ddim(),
        jnp.asarray(grid),
        jnp.asarray(start, jnp.float32),
        jnp.asarray(labels),
        guidance=elucd_edm(logits, jnp.asarray(weight)),
        process=jg.VE(),
    )
    x = start
    for i in range(3):
        rms = np.sqrt((x**2).mean(1, keepdims=True))
        slope = np.asarray(WEIGHTS)[:, labels].T
        slope = slope / np.sqrt((slope**2).mean(1, keepdims=True))
        size = (4 - i) / 4 + 0.3 * np.sin(np.pi * i / 3)
        moved = x + weight[:, None] * size * rms * slope
        x = moved + (grid[i + 1] - grid[i]) * (moved - np.tanh(moved)) / grid[i]
    np.testing.assert_allclose(got, x, rtol=1e-4, atol=1e-5)


def test_our_classifier_is_softened_with_the_same_weights():
    """A sharp softplus is the ReLU it was trained with; a soft one is not."""
    x = jax.random.normal(jax.random.key(0), (3, 4))
    classifier = Classifier(2, (5,), activation="relu")
    params = classifier.init(jax.random.key(1), x)
    want = classifier.apply(params, x).logits
    for beta, near in ((1e4, True), (3.0, False)):
        soft = dataclasses.replace(classifier, activation="softplus", beta=beta)
        got = soft.apply(params, x).logits
        assert (np.abs(got - want).max() < 1e-3) == near
    with pytest.raises(ValueError, match="activation is 'gelu'; expected one of"):
        Classifier(2, (5,), activation="gelu").init(jax.random.key(1), x)
    with pytest.raises(ValueError, match="beta is 0; expected above 0"):
        Classifier(2, (5,), beta=0).init(jax.random.key(1), x)
