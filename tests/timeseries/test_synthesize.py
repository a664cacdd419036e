"""Synthesis and the linear predictive score."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance import rng
from jaxlib_guidance.diffusion import VPCosine
from jaxlib_guidance.testing import gaussian_process, process_denoiser, seasonal_cov
from jaxlib_guidance.timeseries import (
    Layout,
    downstream_score,
    linear_predictive_score,
    synthesize,
    without_past,
)

LENGTH, HORIZON = 24, 8
LAW = gaussian_process(seasonal_cov(LENGTH, period=8, memory=40, noise=0.05))


def draw(seed, n):
    z = np.random.default_rng(seed).normal(size=(n, LENGTH))
    return 3 + (z * np.sqrt(LAW.variances)) @ np.asarray(LAW.axes).T


@pytest.mark.slow
def test_synthetic_windows_teach_a_ridge_as_much_as_real_ones():
    process = VPCosine()
    layout = Layout(LENGTH - HORIZON, HORIZON, centre=3.0)
    grid = jnp.linspace(0.999, 0.0, 101)
    made = jax.jit(
        lambda keys: synthesize(keys, process_denoiser(LAW, process), layout, grid=grid)
    )(rng.sample_keys(jax.random.key(0), 3000))
    assert made.shape == (3000, LENGTH)
    np.testing.assert_allclose(np.cov(made.T), LAW.cov, atol=0.2)

    # Real windows at another scale, which the score takes out and puts back.
    test = 7 * draw(1, 500)
    test = test / np.abs(test[:, :-HORIZON]).mean(1, keepdims=True)
    context, target = test[:, :-HORIZON], test[:, -HORIZON:]
    real = draw(2, 3000)
    real = real / np.abs(real[:, :-HORIZON]).mean(1, keepdims=True)
    made = made / np.abs(made[:, :-HORIZON]).mean(1, keepdims=True)
    score = float(linear_predictive_score(jnp.asarray(made), context, target))
    best = float(linear_predictive_score(jnp.asarray(real), context, target))
    noise = np.random.default_rng(5).permuted(real, axis=1)
    worst = float(linear_predictive_score(jnp.asarray(noise), context, target))
    assert abs(score - best) < 0.1 * best
    assert worst > 1.5 * best

    # The score itself, by hand.
    x, y = real[:, :-HORIZON], real[:, -HORIZON:]
    xc = x - x.mean(0)
    weight = np.linalg.solve(xc.T @ xc + np.eye(x.shape[1]), xc.T @ (y - y.mean(0)))
    scale = np.abs(context).mean(1, keepdims=True)
    forecast = ((context / scale - x.mean(0)) @ weight + y.mean(0)) * scale
    want = np.abs(forecast - target).sum() / np.abs(target).sum()
    np.testing.assert_allclose(best, want, rtol=1e-4)


def test_conditions_without_a_past_keep_the_calendar():
    layout = Layout(6, 2, lags=(3,), conditional=True, covariates=2)
    cond = jnp.ones((1, 8, layout.features))
    left = without_past(layout, cond)
    np.testing.assert_array_equal(left[0, 0], [0, 0, 0, 0, 1, 1])


def test_what_is_refused():
    with pytest.raises(ValueError, match="windows have 8 steps; expected more than"):
        linear_predictive_score(jnp.ones((3, 8)), jnp.ones((2, 9)), jnp.ones((2, 8)))
    with pytest.raises(ValueError, match="at most 17"):
        linear_predictive_score(jnp.ones((3, 18)), jnp.ones((2, 9)), jnp.ones((2, 8)))
    windows, context, target = jnp.ones((3, 12)), jnp.ones((2, 9)), jnp.ones((2, 8))
    with pytest.raises(ValueError, match=r"gave \(2, 4\); expected \[2, S, 8\]"):
        downstream_score(windows, context, target, lambda x, y: lambda x: x)


def test_any_forecaster_can_be_judged_by_what_it_learns_downstream():
    # One that knows the answer, in the unit of the scaled context.
    windows, context = jnp.asarray(draw(3, 50)), 5 * draw(4, 20)
    target = context[:, -HORIZON:]
    ask = context[:, :-HORIZON]
    scale = np.abs(ask[:, -10:]).mean(1)[:, None, None]

    def fit(x, y):
        assert x.shape == (50, 10)
        assert y.shape == (50, HORIZON)
        np.testing.assert_array_equal(np.concatenate([x, y], 1), windows[:, -18:])
        return lambda x: jnp.asarray(target[:, None] / scale + jnp.zeros((1, 5, 1)))

    short = windows[:, -18:]
    score = downstream_score(short, jnp.asarray(ask), jnp.asarray(target), fit)
    assert float(score) < 1e-6

    def naive(x, y):
        return lambda x: x[:, None, -HORIZON:]

    score = downstream_score(short, jnp.asarray(ask), jnp.asarray(target), naive)
    want = np.abs(ask[:, -HORIZON:] - target).sum() / np.abs(target).sum()
    np.testing.assert_allclose(score, want, rtol=1e-5)
