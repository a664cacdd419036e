"""Refinement: towards the model, tied to its start, with and without noise."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance import rng
from jaxlib_guidance.diffusion import VPCosine
from jaxlib_guidance.guidance import Observed
from jaxlib_guidance.testing import (
    condition,
    gaussian_process,
    process_denoiser,
    seasonal_cov,
)
from jaxlib_guidance.timeseries import (
    Inputs,
    Layout,
    base_paths,
    completed,
    noise_errors,
    refine,
    representative_time,
)

CONTEXT, HORIZON = 16, 8
LENGTH = CONTEXT + HORIZON
PROCESS = VPCosine()
LAW = gaussian_process(seasonal_cov(LENGTH, period=8, memory=40, noise=0.05))
DENOISER = process_denoiser(LAW, PROCESS)
KNOWN = np.arange(LENGTH) < CONTEXT
T = 0.4


def draw(seed, paths=1):
    z = np.random.default_rng(seed).normal(size=(paths, LENGTH))
    return (z * np.sqrt(LAW.variances)) @ np.asarray(LAW.axes).T


@partial(jax.jit, static_argnames=("energy", "steps"))
def run(keys, start, energy, steps=20, step_size=0.1, noise=0.0, weight=1.0):
    return refine(
        keys,
        DENOISER,
        start,
        t=T,
        energy=energy,
        steps=steps,
        step_size=step_size,
        noise=noise,
        weight=weight,
    )


def begin(y, mask):
    shape = (len(y), LENGTH, 1)
    mask = jnp.broadcast_to(jnp.asarray(mask, jnp.float32)[:, None], shape)
    return Observed(jnp.asarray(y, jnp.float32)[..., None], mask, 0.5)


def test_one_descent_step_is_the_gradient():
    y = draw(0, 2)
    start = begin(y, KNOWN)
    keys = rng.sample_keys(jax.random.key(0), 2)
    eps = rng.normal(rng.fold(rng.fold(keys, 0), 0), (LENGTH, 1))[..., 0]
    alpha, sigma = float(PROCESS.alpha(T)), float(PROCESS.sigma(T))
    cov = np.asarray(LAW.cov, float)
    gain = alpha * cov @ np.linalg.inv(alpha**2 * cov + sigma**2 * np.eye(LENGTH))
    # eps - eps_hat is linear in y: A y + B eps.
    a = (alpha / sigma) * (alpha * gain - np.eye(LENGTH))
    error = y @ a.T + alpha * np.asarray(eps, float) @ gain.T
    np.testing.assert_allclose(
        noise_errors(DENOISER, start.y, eps[..., None], T),
        np.sum(error**2, 1),
        rtol=1e-3,
    )
    moved = run(keys, start, "square", steps=1)[..., 0]
    # At the start the tie pulls nowhere.
    np.testing.assert_allclose(moved, y - 0.1 * 2 * error @ a, atol=1e-4)


def test_a_wrong_forecast_moves_to_the_closed_form():
    y = np.repeat(draw(1), 200, 0)
    mean, _ = condition(LAW, KNOWN, y)
    off = np.where(KNOWN, y, mean + 1.5 * np.random.default_rng(3).normal(size=LENGTH))
    keys = rng.sample_keys(jax.random.key(1), 200)
    far = np.sqrt(np.mean((off - mean)[:, CONTEXT:] ** 2))
    start = begin(off, KNOWN)
    moved = run(keys, start, "square", steps=100, weight=5.0)[..., 0]
    left = np.sqrt(np.mean((np.mean(moved, 0) - mean[0])[CONTEXT:] ** 2))
    assert left < 0.4 * far
    # The quantile tie on the forecast too holds it back.
    tied = run(keys, begin(off, np.ones(LENGTH)), "quantile", steps=100, weight=5.0)
    held = np.sqrt(np.mean((np.mean(tied[..., 0], 0) - mean[0])[CONTEXT:] ** 2))
    assert left < held < far


def test_noise_is_langevin_at_its_temperature_and_without_it_is_descent():
    keys = rng.sample_keys(jax.random.key(1), 400)
    start = begin(np.repeat(draw(1), 400, 0), KNOWN)
    still = run(keys, start, "square", steps=1)
    noisy = run(keys, start, "square", steps=1, noise=0.3)
    np.testing.assert_allclose(np.std(noisy - still), 0.3 * np.sqrt(0.2), rtol=0.03)
    # A row has its own noise.
    alone = run(keys[:1], begin(draw(1), KNOWN), "square", steps=1, noise=0.3)
    np.testing.assert_allclose(alone[0], noisy[0], atol=1e-5)


def test_a_strong_tie_keeps_what_was_observed():
    keys = rng.sample_keys(jax.random.key(1), 4)
    start = begin(draw(2, 4), KNOWN)
    gone = []
    for weight in (4.0, 40.0, 400.0):
        end = run(
            keys, start, "square", steps=20, step_size=0.4 / weight, weight=weight
        )
        gone.append(np.abs(end - start.y)[:, :CONTEXT].max())
    np.testing.assert_allclose(np.array(gone[:-1]) / gone[1:], 10, rtol=0.5)


def test_the_representative_time_has_the_mean_loss():
    keys = rng.sample_keys(jax.random.key(5), 256)
    x0 = jnp.asarray(draw(4, 256)[..., None], jnp.float32)
    times = jnp.linspace(0.02, 0.98, 25)
    t = jax.jit(partial(representative_time, keys, DENOISER))(x0, times)
    # The expected loss of an exact denoiser in closed form, in the axes of the law.
    alpha, sigma = PROCESS.alpha(times)[:, None], PROCESS.sigma(times)[:, None]
    share = alpha**2 * LAW.variances / (alpha**2 * LAW.variances + sigma**2)
    losses = np.sum(share, 1)
    want = times[np.argmin(np.abs(losses - losses.mean()))]
    assert abs(float(t) - float(want)) < 0.05


def test_base_forecasts_become_paths():
    samples = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 3)))
    np.testing.assert_array_equal(base_paths(samples, 5), np.sort(samples, 1))
    seven = base_paths(samples, 7)
    assert seven.shape == (2, 7, 3)
    assert (np.diff(seven, axis=1) >= 0).all()
    np.testing.assert_allclose(seven[:, 3], np.median(samples, 1), rtol=1e-5)
    # Path i is the quantile at (i + 1) / (S + 1), of samples that are at theirs.
    ranked = np.sort(samples, 1)
    for i in range(7):
        at = np.clip((i + 1) / 8 * 6 - 1, 0, 4)
        low, share = int(at), at - int(at)
        want = ranked[:, low] * (1 - share) + ranked[:, min(low + 1, 4)] * share
        np.testing.assert_allclose(seven[:, i], want, rtol=1e-4, atol=1e-6)
    point = base_paths(samples[:, 0], 4)
    np.testing.assert_array_equal(point, np.repeat(samples[:, :1], 4, 1))
    joint = base_paths(jnp.stack([samples, -samples], -1), 7)
    np.testing.assert_array_equal(joint[..., 0], seven)
    assert (np.diff(joint[..., 1], axis=1) >= 0).all()
    with pytest.raises(ValueError, match=r"forecast has shape \(3,\)"):
        base_paths(samples[0, 0], 4)
    with pytest.raises(ValueError, match="samples is 0"):
        base_paths(samples, 0)
    for odd in (jnp.nan, jnp.inf):
        for given in (samples[:, 0].at[1, 2].set(odd), samples.at[1, 4, 0].set(odd)):
            with pytest.raises(ValueError, match="has 1 values .* first in window 1"):
                base_paths(given, 5)


def test_windows_are_completed_in_their_own_unit():
    layout = Layout(CONTEXT, HORIZON, values="root", centre=0.5, spread=2.0)
    mask = jnp.broadcast_to(jnp.asarray(KNOWN, jnp.float32)[:, None], (2, LENGTH, 1))
    inputs = Inputs(mask * 0.3, mask, None, jnp.array([2.0, 8.0]))
    paths = jnp.full((2, 3, HORIZON), 4.0)
    free = completed(inputs, layout, paths, whole=False)
    held = completed(inputs, layout, paths, whole=True)
    np.testing.assert_allclose(free.y[:, :CONTEXT], 0.3, rtol=1e-6)
    want = (np.sqrt(4 / np.array([2, 8])) - 0.5) / 2
    want = np.broadcast_to(np.repeat(want, 3)[:, None], (6, HORIZON))
    np.testing.assert_allclose(free.y[:, CONTEXT:, 0], want, rtol=1e-5)
    np.testing.assert_array_equal(free.mask, jnp.repeat(mask, 3, 0))
    np.testing.assert_array_equal(held.mask, 1)
    np.testing.assert_allclose(held.level, [0.25, 0.5, 0.75] * 2)
    with pytest.raises(ValueError, match=r"expected \[2, S, 8\]"):
        completed(inputs, layout, paths[..., 1:], whole=True)
    with pytest.raises(ValueError, match="paths has 1 values .* first in window 1"):
        completed(inputs, layout, paths.at[1, 0, 0].set(jnp.nan), whole=False)


def test_joint_series_are_completed_each_in_its_own_unit():
    layout = Layout(CONTEXT, HORIZON, lags=(3,), joint=2, diffuse_lags=True)
    inputs = layout.inputs(
        jnp.asarray(np.random.default_rng(0).uniform(1, 9, (3, 3 + LENGTH, 2)), "f"),
        jnp.asarray(KNOWN),
    )
    paths = jnp.asarray(np.random.default_rng(1).uniform(1, 9, (3, 4, HORIZON, 2)), "f")
    held = completed(inputs, layout, paths, whole=True)
    assert held.y.shape == (12, LENGTH, 4)
    want = paths / inputs.scale[:, None, None]
    future = held.y[:, CONTEXT:, :2].reshape(want.shape)
    np.testing.assert_allclose(future, want, rtol=1e-6)
    np.testing.assert_array_equal(held.mask[..., :2], 1)
    many = jnp.repeat(inputs.x, 4, 0)
    np.testing.assert_array_equal(held.y[:, :CONTEXT], many[:, :CONTEXT])
    np.testing.assert_array_equal(held.y[..., 2:], many[..., 2:])
    free = completed(inputs, layout, paths, whole=False)
    np.testing.assert_array_equal(free.mask, jnp.repeat(inputs.mask, 4, 0))
    with pytest.raises(ValueError, match=r"expected \[3, S, 8, 2\]"):
        completed(inputs, layout, paths[..., 0], whole=True)


def test_what_is_unknown_of_a_start_is_not_read():
    keys = rng.sample_keys(jax.random.key(0), 2)
    start = begin(np.where(KNOWN, draw(0, 2), 0), KNOWN)
    hidden = start._replace(y=jnp.where(start.mask > 0, start.y, jnp.nan))
    end = run(keys, hidden, "square", steps=3)
    np.testing.assert_array_equal(end, run(keys, start, "square", steps=3))
    assert np.isfinite(end).all()
    odd = start._replace(y=start.y.at[1, 0].set(jnp.nan))
    with pytest.raises(ValueError, match=r"start\.y has 1 values .* first in window 1"):
        refine(keys, DENOISER, odd, t=T)


def test_what_is_refused():
    keys = rng.sample_keys(jax.random.key(0), 1)
    go = partial(refine, keys, DENOISER, begin(draw(0), KNOWN), t=T)
    with pytest.raises(ValueError, match="steps is 0; expected a whole number"):
        go(steps=0)
    with pytest.raises(ValueError, match="energy is 'l2'"):
        go(energy="l2")
