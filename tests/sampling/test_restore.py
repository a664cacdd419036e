"""Solvers that hold a measurement, against closed forms and published formulas."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance import guidance as g
from jaxlib_guidance import rng, sampling
from jaxlib_guidance import testing as mixtures
from jaxlib_guidance.sampling import d_flow, daps, diffpir, dsg, pnp_flow, red_diff
from jaxlib_guidance.sampling._start_noise import _minimise

PROCESS = jg.VPCosine()
FLOW = jg.RectifiedFlow()
RNG = np.random.default_rng(0)
D = 3
MATRIX = RNG.normal(size=(2, D))
KERNEL = jnp.asarray(RNG.normal(size=(D, D)) / D**0.5, jnp.float32)
MASK = jnp.asarray([1.0, 0.0, 1.0])
Y = jnp.asarray(RNG.normal(size=(4, D)), jnp.float32)
KEYS = jg.sample_keys(jax.random.key(0), 4)


def clean(x):
    return jnp.tanh(x @ KERNEL)


def network(x, t, cond, *, control, capture):
    return jg.types.Denoised(clean(x))


NET = jg.Denoiser(network)


def trajectory(sampler, grid, process=PROCESS):
    def kept(info):
        return info.x, info.x0, info.transition.mean, info.transition.std

    @jax.jit
    def run():
        return jg.sample(KEYS, NET, sampler, grid, (D,), process=process, trace=kept)

    end, traced = run()
    grid = jnp.asarray(grid)
    alpha, sigma = np.asarray(process.alpha(grid)), np.asarray(process.sigma(grid))
    levels = alpha[:-1], sigma[:-1], alpha[1:], sigma[1:]
    return end, list(zip(*levels, *traced, strict=True))


@pytest.mark.exact("DAPS with one step of the flow samples the posterior, any levels")
@pytest.mark.parametrize("levels", [1, 3])
def test_daps_samples_the_posterior_of_a_gaussian(levels):
    """Mean and covariance within four standard errors; the paper's r^2 is not."""
    mean, v, noise, count = np.asarray([0.5, -1.0, 0.2]), 0.6, 0.3, 4000
    prior = mixtures.gaussian_mixture([1.0], mean[None], v * np.eye(D)[None])
    y = MATRIX @ np.asarray([1.0, 0.3, -0.5])
    seen = g.measurement(jnp.asarray(y, jnp.float32), g.projection(MATRIX), noise)
    grid = jnp.linspace(0.9999, 0, levels + 1)
    net = mixtures.exact_denoiser(prior, PROCESS)
    keys = jg.sample_keys(jax.random.key(0), count)

    @jax.jit
    def run(variance):
        solver = daps(seen, ode_steps=1, data_variance=variance, iterations=3)
        return jg.sample(keys, net, solver, grid, (D,))[0]

    def misfit(samples):
        precision = np.eye(D) / v + MATRIX.T @ MATRIX / noise**2
        covariance = np.linalg.inv(precision)
        want = covariance @ (mean / v + MATRIX.T @ y / noise**2)
        root = np.linalg.cholesky(precision)
        unit = (np.asarray(samples, np.float64) - want) @ root
        return np.abs(unit.mean(0)).max(), np.abs(np.cov(unit.T) - np.eye(D)).max()

    off, spread = misfit(run(v))
    assert off < 4 / count**0.5
    assert spread < 4 * (2 / count) ** 0.5
    _, spread = misfit(run(jnp.inf))
    assert spread > 0.3


def test_daps_flows_to_the_data():
    """Five DDIM steps in time, Karras-spaced, where nothing is observed."""
    grid = jnp.asarray([0.8, 0.0])
    seen = g.measurement(Y, g.masking(jnp.zeros(D)), 0.1)
    solver = daps(seen, ode_steps=5, data_variance=1e-12)
    end, rows = trajectory(solver, grid)
    x = rows[0][4]
    share = np.arange(5) / 5
    times = 0.8 ** (1 / 7) * (1 - share) + PROCESS.t_min ** (1 / 7) * share
    times = jnp.asarray(times**7, jnp.float32)
    for t, later in itertools.pairwise(times):
        eps = (x - PROCESS.alpha(t) * clean(x)) / PROCESS.sigma(t)
        x = PROCESS.alpha(later) * clean(x) + PROCESS.sigma(later) * eps
    np.testing.assert_allclose(end, clean(x), atol=1e-4)


def test_diffpir_is_the_published_step():
    """``(m y + rho D) / (m + rho)``, ``rho = l s^2 alpha^2 / sigma^2``, at a mask."""
    noise, trust, zeta = 0.2, 3.0, 0.4
    seen = g.measurement(Y.at[:, 1].set(jnp.nan), g.masking(MASK), noise)
    grid = jg.uniform_grid(PROCESS, 4)
    solver = diffpir(seen, trust=trust, zeta=zeta)
    for alpha, sigma, later, left, x, x0, mean, std in trajectory(solver, grid)[1]:
        rho = trust * noise**2 * alpha**2 / sigma**2
        want = (MASK * Y + rho * clean(x)) / (MASK + rho)
        np.testing.assert_allclose(x0, want, rtol=2e-4, atol=1e-5)
        eps = (x - alpha * want) / sigma
        want = later * want + left * np.sqrt(1 - zeta) * eps
        np.testing.assert_allclose(mean, want, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(std, np.sqrt(zeta) * left, rtol=1e-5)
    assert not diffpir(seen, zeta=0.0).stochastic


def test_dsg_keeps_to_the_sphere():
    """The released step, with the noise that DDPM would have drawn, on its sphere."""
    seen, rate = g.measurement(Y, g.masking(MASK)), 0.2
    grid = jg.uniform_grid(PROCESS, 4)
    solver = dsg(jg.ddpm(), g.norm_energy, seen, rate=rate)
    plain = jg.ddpm()
    _, rows = trajectory(solver, grid)
    for i, (alpha, sigma, later, left, x, _, arrived, std) in enumerate(rows):
        level = [sampling.Level(a, s) for a, s in ((alpha, sigma), (later, left))]
        keys = rng.fold(KEYS, i)
        here = sampling.Interval(i, grid[i], grid[i + 1], *level, keys, PROCESS)
        made = plain.step(lambda x, t, s: (clean(x), s), x, (), (), here)
        mean, width = made.transition
        np.testing.assert_allclose(std, 0)
        radius = D**0.5 * width
        off = arrived - mean
        np.testing.assert_allclose(
            np.linalg.norm(off, axis=1), radius, rtol=1e-3, atol=1e-6
        )
        if radius == 0:
            continue
        grad = jax.grad(lambda x: g.norm_energy(seen, clean(x)).sum())(x)
        against = -radius * grad / np.linalg.norm(grad, axis=1, keepdims=True)
        noise = width * rng.normal(keys, (D,))
        mixed = noise + rate * (against - noise)
        want = radius * mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
        np.testing.assert_allclose(off, want, rtol=1e-3, atol=1e-4)
    assert float(rows[-1][7].max()) == 0


def test_red_diff_begins_at_the_pseudoinverse_and_steps_by_its_rate():
    """Adam's first step is the rate, against the sign of the gradient."""
    operator, grid = g.projection(MATRIX), jg.uniform_grid(PROCESS, 3)
    y = operator(Y)
    solver = red_diff(g.measurement(y, operator), weight=0.5, rate=0.05)
    _, rows = trajectory(solver, grid)
    alpha, sigma, later, left, x, x0, mean, std = rows[0]
    begin = np.asarray(y) @ np.linalg.pinv(MATRIX).T
    eps, own = (x - alpha * clean(x)) / sigma, (x - alpha * begin) / sigma
    grad = 0.5 * sigma / alpha * (eps - own) + (begin @ MATRIX.T - y) @ MATRIX
    np.testing.assert_allclose(x0, begin - 0.05 * np.sign(grad), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(mean, later * x0, rtol=1e-5)
    np.testing.assert_allclose(std, left, rtol=1e-5)


def test_pnp_flow_is_the_published_step():
    """``z = x + rate (1 - t)^a A^T (y - A x)``, noised, and denoised in the next."""
    seen = g.measurement(Y, g.masking(MASK))
    grid = jnp.asarray([1.0, 0.6, 0.3, 0.0])
    solver = pnp_flow(seen, rate=0.7, power=0.5)
    end, rows = trajectory(solver, grid, FLOW)
    for _, _, later, left, x, x0, mean, std in rows:
        np.testing.assert_allclose(x0, clean(x), rtol=1e-4, atol=1e-5)
        moved = clean(x) + 0.7 * left**0.5 * MASK * (Y - clean(x))
        np.testing.assert_allclose(mean, later * moved, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(std, left, atol=1e-6)
    np.testing.assert_allclose(end, x0, atol=1e-6)
    many = pnp_flow(seen, samples=3)
    assert many.evaluations == 3
    one, three = (
        np.asarray(trajectory(solver, grid, FLOW)[0])
        for solver in (pnp_flow(seen), many)
    )
    assert np.isfinite(three).all()
    assert np.abs(one - three).max() > 1e-3


@functools.cache
def linear(weight, steps):
    """D-Flow of data N(0, V) under an operator, and its objective at the solution."""
    variances = np.asarray([0.3, 1.0, 2.0])
    prior = mixtures.gaussian_mixture([1.0], np.zeros((1, D)), np.diag(variances)[None])
    net = mixtures.exact_denoiser(prior, FLOW)
    operator, grid = g.projection(MATRIX), jg.uniform_grid(FLOW, 4)
    seen = g.measurement(operator(Y), operator)
    run = jax.jit(
        lambda: d_flow(
            KEYS, net, jg.ddim(), grid, (D,), seen=seen, weight=weight, steps=steps
        )
    )
    return (*run(), seen)


@pytest.mark.slow
def test_d_flow_meets_the_measurement_and_never_grows():
    x, value, seen = linear(0.0, 12)
    np.testing.assert_allclose(seen.error(x), 0, atol=2e-3)
    np.testing.assert_allclose(value, 0, atol=1e-5)
    _, weighted, _ = linear(0.1, 12)
    _, fewer, _ = linear(0.1, 3)
    assert (weighted <= fewer + 1e-6).all()


def test_minimise_finds_the_minimum_of_each_sample():
    """Of quadratics of another curvature and place for each sample."""
    curves = jnp.asarray([[1.0, 2.0, 30.0], [0.2, 5.0, 1.0]])
    place = jnp.asarray([[1.0, -2.0, 0.5], [3.0, 0.0, 1.0]])

    def objective(z):
        return jnp.sum(curves * (z - place) ** 2, axis=1)

    z, value = jax.jit(lambda z: _minimise(objective, z, steps=25))(0 * place)
    np.testing.assert_allclose(z, place, atol=2e-2)
    assert float(value.max()) < 1e-3


def test_restoring_solvers_say_what_is_wrong():
    seen = g.measurement(Y, g.masking(MASK), 0.1)
    calls = {
        "trust is 0": lambda: diffpir(seen, trust=0.0),
        "zeta is 2": lambda: diffpir(seen, zeta=2.0),
        "ode_steps is 0": lambda: daps(seen, ode_steps=0),
        "data_variance is 0": lambda: daps(seen, data_variance=0.0),
        "dsg needs a stochastic sampler": lambda: dsg(jg.ddim(), g.norm_energy, seen),
        "rate is -1": lambda: dsg(jg.ddpm(), g.norm_energy, seen, rate=-1.0),
        "weight is -1": lambda: red_diff(seen, weight=-1.0),
        "samples is 0": lambda: pnp_flow(seen, samples=0),
        "d_flow needs a deterministic sampler": lambda: d_flow(
            KEYS, NET, jg.ddpm(), [1.0, 0.0], (D,), seen=seen, process=FLOW
        ),
        r"y has shape \(4, 3\); expected what the operator": lambda: jg.sample(
            KEYS[:2], NET, daps(seen), [0.9, 0.0], (D,), process=PROCESS
        ),
    }
    for message, call in calls.items():
        with pytest.raises(ValueError, match=message):
            call()
    for make in (diffpir, daps, red_diff, pnp_flow):
        with pytest.raises(TypeError, match="seen is tuple; expected a measurement"):
            make((Y, MASK))
