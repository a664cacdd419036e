"""Self-guidance against Gaussian processes, whose forecasts are known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance import rng
from jaxlib_guidance.diffusion import linear_betas, vp_discrete
from jaxlib_guidance.guidance import Observed, observation, spread_levels
from jaxlib_guidance.sampling import ddim, ddpm, guided_after, sample
from jaxlib_guidance.testing import (
    condition,
    gaussian_process,
    process_denoiser,
    seasonal_cov,
)
from jaxlib_guidance.timeseries import Inputs, Layout, forecast, infill, paths_of

CONTEXT, HORIZON, STEPS = 16, 8, 50
LENGTH = CONTEXT + HORIZON
PROCESS = vp_discrete(linear_betas(STEPS, 1e-4, 0.2))
GRID = jnp.linspace(1.0, 0.0, STEPS + 1)
LAW = gaussian_process(seasonal_cov(LENGTH, period=8, memory=40, noise=0.05))
DENOISER = process_denoiser(LAW, PROCESS)
KNOWN = np.arange(LENGTH) < CONTEXT


def observed(y, paths, known=KNOWN):
    shape = (paths, LENGTH, 1)
    level = jnp.tile(spread_levels(50), paths // 50) if paths >= 50 else 0.3
    return Observed(
        jnp.broadcast_to(jnp.asarray(y, jnp.float32)[..., None], shape),
        jnp.broadcast_to(jnp.asarray(known, jnp.float32)[:, None], shape),
        level,
    )


@pytest.fixture(scope="module")
def truth():
    return np.asarray(
        LAW.axes
        @ (np.sqrt(LAW.variances) * np.random.default_rng(2).normal(size=LENGTH))
    )


@pytest.fixture(scope="module")
def run():
    @partial(jax.jit, static_argnames=("energy", "form"))
    def run(known, scale, energy, form):
        keys = rng.sample_keys(jax.random.key(0), len(known.y))
        return infill(
            keys,
            DENOISER,
            known,
            grid=GRID,
            energy=energy,
            scale=scale,
            form=form,
        )[..., 0]

    return run


def jacobian(alpha, sigma):
    """Of the exact estimate, float64."""
    cov = np.asarray(LAW.cov, np.float64)
    eye = np.eye(LENGTH)
    return alpha * cov @ np.linalg.inv(alpha**2 * cov + sigma**2 * eye)


def chain_law(steps):
    """Covariance that the ancestral chain ends with, float64: each step is linear."""
    bar = np.concatenate([[1], np.cumprod(1 - np.linspace(1e-4, 10 / steps, steps))])
    cov, eye = (1 - bar[-1]) * np.eye(LENGTH), np.eye(LENGTH)
    for now, before in zip(bar[:0:-1], bar[-2::-1], strict=True):
        beta = 1 - now / before
        gain = jacobian(np.sqrt(now), np.sqrt(1 - now))
        eps = (eye - np.sqrt(now) * gain) / np.sqrt(1 - now)
        step = (eye - beta * eps / np.sqrt(1 - now)) / np.sqrt(1 - beta)
        tilde = beta * (1 - before) / (1 - now)
        cov = step @ cov @ step.T + tilde * eye
    return cov


def test_unguided_samples_have_the_covariance(run, truth):
    x = np.asarray(run(observed(truth, 4000), 0.0, "square", "posterior"))
    np.testing.assert_allclose(np.cov(x.T), chain_law(STEPS), atol=0.1)
    assert np.abs(x.mean(0)).max() < 0.08
    # What remains is the price of 50 steps.
    np.testing.assert_allclose(chain_law(STEPS), LAW.cov, atol=0.2)
    np.testing.assert_allclose(chain_law(16 * STEPS), LAW.cov, atol=0.02)


@pytest.mark.parametrize("form", ["posterior", "estimate", "after"])
@pytest.mark.parametrize(("energy", "scale"), [("square", 3.0), ("quantile", 8.0)])
def test_guided_forecasts_approach_the_closed_form(form, energy, scale, run, truth):
    mean, cov = condition(LAW, KNOWN, truth)
    x = np.asarray(run(observed(truth, 500), jnp.float32(scale), energy, form))
    free = np.sqrt(np.mean((mean[CONTEXT:]) ** 2))
    error = np.sqrt(np.mean((x.mean(0) - mean)[CONTEXT:] ** 2))
    assert error < 0.35 * free
    spread = x.std(0)[CONTEXT:] / np.sqrt(np.diag(cov)[CONTEXT:])
    # Without guidance it is between 1.6 and 2.5. The scale is a choice: with a larger
    # one paths of a "square" energy draw together, and in the end they diverge.
    assert 0.8 < spread.min() < spread.max() < 1.25


@pytest.mark.parametrize("form", ["posterior", "estimate", "after"])
def test_a_path_is_as_high_as_its_level(form, run, truth):
    x = np.asarray(run(observed(truth, 500), jnp.float32(8.0), "quantile", form))
    # Ten paths at each of 50 levels, in five classes, where they were guided. In the
    # horizon of this law, one whole season, a shift of all steps all but vanishes.
    guided = x[:, :CONTEXT].mean(1)
    classes = guided.reshape(10, 5, 10).mean((0, 2))
    assert (np.diff(classes) > 0.05).all()
    assert np.corrcoef(np.tile(spread_levels(50), 10), guided)[0, 1] > 0.8


def test_any_mask_is_filled(run, truth):
    known = np.arange(LENGTH) % 3 > 0
    mean, _ = condition(LAW, known, truth)
    x = np.asarray(run(observed(truth, 500, known), 3.0, "square", "posterior"))
    error = np.sqrt(np.mean((x.mean(0) - mean)[~known] ** 2))
    assert error < 0.25 * np.sqrt(np.mean(mean[~known] ** 2))


@pytest.mark.parametrize("form", ["posterior", "estimate", "after"])
def test_one_step_is_the_printed_formula(form, truth):
    betas = np.linspace(1e-4, 0.2, STEPS)
    bar = np.cumprod(1 - betas)
    i, scale = 30, 0.7
    known, keys = observed(truth, 3), rng.sample_keys(jax.random.key(1), 3)
    start = jax.random.normal(jax.random.key(2), (3, LENGTH, 1))
    sampler, guidance = ddpm(), None
    if form == "after":
        sampler = guided_after(sampler, known, "square", scale)
    else:
        guidance = observation(known, "square", scale, form)
    end, law = sample(
        keys,
        DENOISER,
        sampler,
        jnp.array([(i + 1) / STEPS, i / STEPS]),
        start,
        guidance=guidance,
        trace=lambda info: info.transition,
    )
    x, y = np.asarray(start[..., 0], float), np.where(KNOWN, truth, 0)
    beta, now, before = betas[i], bar[i], bar[i - 1]
    gain = jacobian(np.sqrt(now), np.sqrt(1 - now))
    # DDPM in terms of eps, with the posterior variance.
    tilde = beta * (1 - before) / (1 - now)

    def mean_of(eps):
        return (x - beta * eps / np.sqrt(1 - now)) / np.sqrt(1 - beta)

    def slope(x):
        return (2 * KNOWN * (x @ gain.T - y)) @ gain

    eps = (x - np.sqrt(now) * x @ gain.T) / np.sqrt(1 - now)
    if form == "posterior":
        want = mean_of(eps) - scale * tilde * slope(x)
    elif form == "estimate":
        want = mean_of(eps + scale * np.sqrt(1 - now) * slope(x))
    else:
        noise = rng.normal(rng.fold(keys, 0), (LENGTH, 1))[..., 0]
        want = mean_of(eps) + np.sqrt(tilde) * np.asarray(noise, float)
        want = want - scale * tilde * slope(want)
    np.testing.assert_allclose(law.mean[0, ..., 0], want, atol=3e-4)
    std = 0 if form == "after" else np.sqrt(tilde)
    np.testing.assert_allclose(law.std[0], std, rtol=1e-3)
    assert end.shape == start.shape


def test_a_scale_for_each_path_is_as_many_scales(truth):
    keys, known = rng.sample_keys(jax.random.key(1), 2), observed(truth, 2)
    grid = jnp.array([0.6, 0.5, 0.4])

    @partial(jax.jit, static_argnames="form")
    def fill(scale, form):
        options = {"grid": grid, "energy": "square", "form": form, "scale": scale}
        return infill(keys, DENOISER, known, **options)

    for form in ("estimate", "after"):
        each = fill(jnp.array([0.0, 2.0]), form)
        np.testing.assert_allclose(each[0], fill(0.0, form)[0], atol=1e-5)
        np.testing.assert_allclose(each[1], fill(2.0, form)[1], atol=1e-5)
    # Unguided, any solver does.
    infill(keys, DENOISER, known, grid=grid, scale=0.0, sampler=ddim())


def test_the_posterior_form_leaves_the_last_step_alone(truth):
    keys, start = rng.sample_keys(jax.random.key(1), 2), jnp.ones((2, LENGTH, 1))

    @jax.jit
    def end(y):
        guidance = observation(observed(y, 2), "square", 1.0)
        return [
            sample(keys, DENOISER, ddpm(), grid, start, guidance=guidance)[0]
            for grid in (jnp.array([0.5, 0.0]), jnp.array([0.5, 0.1]))
        ]

    (last, inner), (same, other) = end(truth), end(truth + 3)
    np.testing.assert_array_equal(last, same)
    assert np.abs(inner - other).max() > 0.01


def test_your_own_energy_and_paths_of_windows(truth):
    layout = Layout(CONTEXT, HORIZON, values="plain", centre=0.0)
    scale = jnp.array([2.0, 5.0])
    y = jnp.where(jnp.asarray(KNOWN), jnp.asarray(truth, jnp.float32), 0)
    x = jnp.stack([y, -y])[..., None]
    mask = jnp.broadcast_to(jnp.asarray(KNOWN, jnp.float32)[:, None], x.shape)
    inputs = Inputs(x, mask, None, scale)
    keys = rng.sample_keys(jax.random.key(3), 2)

    @partial(jax.jit, static_argnames=("samples", "sampler"))
    def run(keys, inputs, samples, sampler=ddim()):
        # The last step is to be at 4, whatever was observed.
        def energy(x0, observed):
            return (x0[:, -1, 0] - 4.0) ** 2

        return forecast(
            keys,
            DENOISER,
            layout,
            inputs,
            samples,
            grid=GRID,
            energy=energy,
            scale=4.0,
            form="estimate",
            sampler=sampler,
        )

    paths = run(keys, inputs, 6)
    assert paths.shape == (2, 6, LENGTH)
    last = np.asarray(paths)[..., -1] / np.asarray(scale)[:, None]
    assert np.abs(last - 4).max() < 0.5
    # A path knows neither the other windows nor how many paths there are.
    alone = run(keys[1:], jax.tree.map(lambda leaf: leaf[1:], inputs), 6)
    np.testing.assert_allclose(alone[0], paths[1], atol=1e-4)

    known, cond = paths_of(inputs, 3)
    assert cond is None
    np.testing.assert_array_equal(known.y[3:], jnp.repeat(x[1:], 3, 0))
    np.testing.assert_allclose(known.level, [0.25, 0.5, 0.75] * 2)


def test_what_is_refused(truth):
    known, keys = observed(truth, 2), rng.sample_keys(jax.random.key(1), 2)
    fill = partial(infill, keys, DENOISER, known, grid=GRID)
    with pytest.raises(ValueError, match="form is 'post'; expected one of"):
        fill(form="post")
    with pytest.raises(ValueError, match="energy is 'mse'"):
        fill(energy="mse")
    with pytest.raises(ValueError, match="form is 'after'; expected 'posterior' or"):
        observation(known, form="after")
    with pytest.raises(ValueError, match="needs a stochastic sampler"):
        fill(form="after", sampler=ddim())
    with pytest.raises(ValueError, match="'posterior' moves by a step's variance"):
        fill(form="posterior", sampler=ddim())
    for form in ("posterior", "estimate", "after"):
        for scale in (jnp.arange(3.0), jnp.ones((2, LENGTH, 1))):
            with pytest.raises(ValueError, match=r"scale has shape .* \(\) or \(2,\)"):
                fill(form=form, scale=scale)
    inputs = Inputs(known.y, known.mask, None, jnp.ones(2))
    draw = partial(forecast, keys, DENOISER, grid=GRID, samples=2)
    with pytest.raises(ValueError, match=r"inputs have shape \(2, 24, 1\); expected"):
        draw(Layout(CONTEXT, 12), inputs)
    right = Layout(CONTEXT, HORIZON)
    for samples in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match=f"samples is {samples}; expected a whole"):
            draw(right, inputs, samples=samples)
    with pytest.raises(ValueError, match=r"keys has shape \(\); expected \[B\]"):
        forecast(keys[0], DENOISER, right, inputs, 2, grid=GRID)
    with pytest.raises(
        ValueError, match="scale must be 0: this network is conditional"
    ):
        draw(Layout(CONTEXT, HORIZON, conditional=True), inputs)
