"""Weights against exact numbers: products of Gaussians, evidence, exact twists."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance import rng
from jaxlib_guidance.diffusion import VE, VPCosine, karras_grid, logsnr_grid
from jaxlib_guidance.guidance import cfg, chain, during
from jaxlib_guidance.reduce import sqrt
from jaxlib_guidance.sampling import (
    Resampling,
    Sampler,
    Stepped,
    cfg_corrector,
    ddim,
    ddpm,
    flow_sde,
    posterior,
    sa_solver,
    sample,
    sample_particles,
    stateless,
    steering,
    twisted,
)
from jaxlib_guidance.sampling._population import Population
from jaxlib_guidance.testing import exact_denoiser, gaussian_mixture
from jaxlib_guidance.transition import Transition

# p_u = N(0, 1) and p_c = N(1, .25): labels 0 and 1.
PAIR = gaussian_mixture([0.5, 0.5], [[0.0], [1.0]], [[[1.0]], [[0.25]]])
SIGMAS = VE()
MEAN, VARIANCE = 8 / 7, 1 / 7  # Of p_c^2 / p_u.


def limit_law(steps, variance="small", weighed=True):
    """Mean and variance of infinitely many particles of `cfg_corrector`.

    Steps are affine and logarithms of factors are quadratic: three states of each step
    tell all, and a Gaussian stays one.
    """
    grid = np.asarray(karras_grid(SIGMAS, steps), np.float64)
    wide = np.sqrt(1 + grid[:-1] ** 2)
    probes = jnp.asarray(wide[:, None, None] * np.array([[-1.0], [0.0], [1.0]]))
    base, potential = ddpm(variance), cfg_corrector(1.0, jnp.int32(0))

    def step(denoise, x, state, guidance_state, interval):
        at = probes.astype(jnp.float32)[interval.index]
        return base.step(denoise, at, state, guidance_state, interval)

    alone = Population(
        base._replace(step=step), potential, Resampling(threshold=0), 1, True
    )
    _, (transition, log_z) = jax.jit(
        lambda: sample(
            rng.sample_keys(jax.random.key(0), 3),
            exact_denoiser(PAIR, SIGMAS),
            alone.sampler(lambda *_: None),
            np.asarray(grid, np.float32),
            (1,),
            jnp.ones(3, jnp.int32),
            guidance=chain(potential.term()),
            trace=lambda info: (info.transition, info.state.log_z),
        )
    )()
    to = np.asarray(transition.mean, np.float64)[..., 0]
    std = np.asarray(transition.std, np.float64)
    factor = np.diff(np.asarray(log_z, np.float64), axis=0, prepend=0) * weighed
    mean, variance = 0.0, grid[0] ** 2
    for i, w in enumerate(wide):
        slope, bend = (
            (factor[i, 2] - factor[i, 0]) / (2 * w),
            (factor[i, 2] - 2 * factor[i, 1] + factor[i, 0]) / w**2,
        )
        variance = 1 / (1 / variance - bend)
        mean = variance * (mean * (1 / variance + bend) + slope)
        gain = (to[i, 2] - to[i, 0]) / (2 * w)
        mean = gain * mean + to[i, 1]
        variance = gain**2 * variance + std[i] ** 2
    return mean, variance


@pytest.mark.exact("Feynman-Kac correctors of CFG end in the product p_c^S p_u^(1-S)")
def test_corrected_cfg_is_of_the_product_and_its_error_halves():
    """arXiv 2503.02819: weighted particles are of ``p_c^2 / p_u``; CFG's are not."""
    errors = np.array([limit_law(n) for n in (200, 400, 1600)]) / [MEAN, VARIANCE] - 1
    assert (np.abs(errors[-1]) < 0.01).all()
    np.testing.assert_allclose(errors[1] / errors[0], [0.5, 0.5], atol=0.05)
    # The variance between DDPM's two needs a sixteenth of the steps.
    middle = np.array(limit_law(100, "middle")) / [MEAN, VARIANCE] - 1
    assert (np.abs(middle) < 0.005).all()
    alone = np.array(limit_law(400, weighed=False)) / [MEAN, VARIANCE] - 1
    assert alone[0] > 0.09
    assert alone[1] < -0.2


def product_estimate(groups, particles, steps, batch=None):
    """Mean and variance of the product by particles, each with its standard error."""
    grid = np.asarray(karras_grid(SIGMAS, steps))
    potential = cfg_corrector(1.0, jnp.int32(0))
    batch = batch or groups

    @jax.jit
    def run(keys):
        out = sample_particles(
            *(keys, exact_denoiser(PAIR, SIGMAS), ddpm("middle"), grid, (1,)),
            jnp.ones(batch, jnp.int32),
            potential=potential,
            particles=particles,
            # Early: the product is wider than what proposes.
            resampling=Resampling(threshold=0.9),
        )
        w, x = jnp.exp(out.log_weights), out.x[..., 0]
        moments = [jnp.sum(w * x**k, axis=1) for k in range(3)]
        return jnp.stack(moments) * jnp.exp(out.log_z)

    keys = rng.sample_keys(jax.random.key(1), groups)
    found = [run(keys[i : i + batch]) for i in range(0, groups, batch)]
    z, first, second = np.concatenate(np.asarray(found, np.float64), axis=1)
    mean = first.sum() / z.sum()
    spread = second.sum() / z.sum() - mean**2
    # By the delta method: what each group adds to the ratios' numerators.
    gap = (first - mean * z) / z.mean()
    square = (second - 2 * mean * first + (mean**2 - spread) * z) / z.mean()
    error = [each.std() / np.sqrt(groups) for each in (gap, square)]
    return np.array([mean, spread]), np.array(error)


def test_particles_are_of_the_product():
    got, error = product_estimate(32, 256, 50)
    assert (np.abs(got - [MEAN, VARIANCE]) < 4 * error).all()
    # Unweighted, the same chain is .1 too high.
    assert abs(got[0] - MEAN) < 0.04


@pytest.mark.slow
def test_particles_are_of_the_product_within_a_hundredth():
    got, error = product_estimate(1408, 1024, 64, batch=64)
    assert (error < 0.01 / 3 * np.array([MEAN, VARIANCE])).all()
    np.testing.assert_allclose(got, [MEAN, VARIANCE], rtol=0.01)


def test_without_a_contrast_nothing_is_weighed():
    keys, net = rng.sample_keys(jax.random.key(0), 4), exact_denoiser(PAIR, SIGMAS)
    grid, labels = np.asarray(karras_grid(SIGMAS, 5)), jnp.ones(4, jnp.int32)

    @jax.jit
    def run(weight):
        return sample_particles(
            *(keys, net, ddpm(), grid, (1,), labels),
            potential=cfg_corrector(weight, jnp.int32(0)),
            particles=4,
        )

    for weight in (0.0, -1.0):
        out = run(weight)
        np.testing.assert_array_equal(out.log_z, np.zeros(4))
        np.testing.assert_allclose(out.ess, 4, rtol=1e-5)


@pytest.mark.parametrize(
    ("sampler", "fits"),
    [
        (ddpm("large"), True),
        (ddpm("middle"), True),
        (sa_solver(1.0), True),
        (flow_sde(np.sqrt(2)), True),
        (flow_sde(0.7), False),
        (ddim(0.8), False),
        (sa_solver(0.5), False),
    ],
)
def test_corrector_asks_for_the_noise_of_the_reverse_sde(sampler, fits):
    process, potential = VPCosine(), cfg_corrector(1.0, 0)
    grid = np.asarray(logsnr_grid(process, 20))
    if fits:
        potential.require(sampler, process, grid, None)
        return
    with pytest.raises(ValueError, match="hold for the reverse SDE alone"):
        potential.require(sampler, process, grid, None)


PROCESS = VPCosine()
TIMES = np.array([0.98, 0.8, 0.6, 0.4, 0.2, 0.0], np.float32)
MIXTURES = {
    "gaussian": gaussian_mixture([0.5, 0.5], [[0.3], [0.3]], 2 * [[[0.4]]]),
    "mixture": gaussian_mixture([0.3, 0.7], [[-1.0], [0.8]], [[[0.05]], [[0.2]]]),
}


def reward(x0, ctx):
    """Nowhere positive: released code would clip it at 0."""
    return -2 * (x0[:, 0] - 0.9) ** 2


@functools.cache
def evidence(name):
    """``E exp(r)`` of DDPM's last state, and its mean under that weight, by a grid."""
    mixture = MIXTURES[name]
    x = np.linspace(-6, 6, 1201)
    law = None
    for t, t_next in itertools.pairwise(TIMES):
        a, s, b, r = (
            float(f(jnp.float32(u)))
            for u in (t, t_next)
            for f in (PROCESS.alpha, PROCESS.sigma)
        )
        if law is None:
            law = np.exp(-0.5 * (x / s) ** 2)
            law /= law.sum()
        m, v = np.asarray(mixture.means)[:, 0], np.asarray(mixture.variances)[:, 0]
        total = a * a * v + s * s
        off = x[:, None] - a * m
        share = np.exp(-0.5 * off**2 / total) / np.sqrt(total)
        share *= np.exp(np.asarray(mixture.log_weights))
        share /= share.sum(1, keepdims=True)
        x0 = np.sum(share * (m + a * v / total * off), 1)
        if r == 0:
            tilt = law * np.exp(-2 * (x0 - 0.9) ** 2)
            return tilt.sum(), (tilt * x0).sum() / tilt.sum()
        ratio = a * r / (b * s)
        std = r * np.sqrt(1 - ratio**2)
        eps = (x - a * x0) / s
        mean = b * x0 + np.sqrt(r * r - std * std) * eps
        kernel = np.exp(-0.5 * ((x - mean[:, None]) / std) ** 2)
        law = law @ (kernel / kernel.sum(1, keepdims=True))
    raise AssertionError


@functools.partial(jax.jit, static_argnames="window")
@functools.partial(jax.vmap, in_axes=(None, 0, None, None))
def weighed(keys, mixture, potential, window):
    # Says nothing, but cuts the trajectory in two.
    term = during(cfg(1.0, jnp.int32(-1)), 0.0, 0.5) if window else None
    out = sample_particles(
        *(keys, exact_denoiser(mixture, PROCESS), ddpm(), TIMES, (1,)),
        jnp.full(keys.shape, -1, jnp.int32) if window else None,
        potential=potential,
        particles=8,
        guidance=term,
    )
    return out.log_z, jnp.sum(jnp.exp(out.log_weights) * out.x[..., 0], 1)


@pytest.mark.exact("The evidence by particles is unbiased, twisted and steered")
@pytest.mark.parametrize(
    ("potential", "window"),
    [
        (steering(reward), False),
        (steering(reward, kind="max", resampling=Resampling("multinomial")), False),
        (
            steering(reward, kind="add", resampling=Resampling("residual", 0.9, 2)),
            False,
        ),
        (twisted(reward, 0.5), False),
        (twisted(reward, 0.5, through="denoised"), True),
        (twisted(reward, 0.5, tempering=0.5), False),
    ],
    ids=["diff", "max", "add", "twisted", "window", "tempered"],
)
def test_evidence_is_unbiased(potential, window):
    """Whether groups are resampled or weights kept, whatever moves the particles."""
    keys = rng.sample_keys(jax.random.key(3), 3000)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *MIXTURES.values())
    log_z, mean = np.asarray(weighed(keys, both, potential, window), np.float64)
    for i, name in enumerate(MIXTURES):
        z, (want, center) = np.exp(log_z[i]), evidence(name)
        assert abs(z.mean() / want - 1) < 3 * z.std() / want / np.sqrt(z.size), name
        off = z * (mean[i] - center) / want
        assert abs(off.mean()) < 3 * off.std() / np.sqrt(z.size), name


def test_tempering_leads_by_the_exponent_that_the_next_state_has():
    """DAS, arXiv 2501.05803: ``min((1 + gamma)^i - 1, 1)``, 0 at the first state."""
    keys = rng.sample_keys(jax.random.key(0), 8)
    net = exact_denoiser(MIXTURES["mixture"], PROCESS)

    @jax.jit
    @jax.vmap
    def alone(scale, tempering):
        potential = twisted(reward, scale, tempering=tempering)
        run = (keys, net, ddpm(), TIMES[3:], (1,))
        return sample_particles(*run, potential=potential, particles=1).x

    # Of two steps the first is guided, to a state whose exponent is gamma or 1.
    x = alone(jnp.full(4, 0.4), jnp.array([0.0, 0.5, 1.0, 7.0]))
    same = alone(jnp.array([0.0, 0.2, 0.4, 0.4]), jnp.ones(4))
    np.testing.assert_allclose(x, same, atol=1e-6)
    assert np.abs(x[1] - x[2]).max() > 1e-3


def exact_gaussian_sampler(variance):
    """The reverse step of Gaussian data, its width included."""

    def step(denoise, x, state, guidance_state, interval):
        x0, guidance_state = denoise(x, interval.t, guidance_state)
        mean, std = posterior(x, x0, interval, 1.0)
        take = posterior(jnp.zeros((1, 1)), jnp.ones((1, 1)), interval, 1.0).mean[0, 0]
        alpha, sigma, _ = interval.start
        left = variance * sigma**2 / (alpha**2 * variance + sigma**2)
        std = sqrt(std**2 + take**2 * left)
        return Stepped(Transition(mean, std), x0, state, guidance_state)

    return Sampler(stateless, step, stochastic=True)


@pytest.mark.exact("An exact twist leaves the weights of particles equal")
def test_an_exact_twist_leaves_all_weights_equal():
    """``psi = exp(3 x)`` of ``N(.3, .4)``: its posterior has the prior's width."""
    mean, variance, slope = 0.3, 0.4, 3.0
    net = exact_denoiser(MIXTURES["gaussian"], PROCESS)

    def log_psi(x0, ctx):
        a, s = ctx.alpha[:, 0] ** 2, ctx.sigma[:, 0] ** 2
        return slope * x0[:, 0] + slope**2 / 2 * variance * s / (a * variance + s)

    keys = rng.sample_keys(jax.random.key(0), 500)
    grid = np.append(np.float32(0.999), TIMES)
    out = jax.jit(
        lambda keys: sample_particles(
            *(keys, net, exact_gaussian_sampler(variance), grid, (1,)),
            potential=twisted(log_psi),
            particles=8,
        )
    )(keys)
    np.testing.assert_allclose(out.ess[1:], 8, rtol=1e-3)
    assert not out.resamplings.any()
    # Of the start, whose noise knows of the data what alpha = .0016 lets through.
    log_z = slope * mean + slope**2 * variance / 2
    np.testing.assert_allclose(out.log_z, log_z, atol=0.02)
    x = np.asarray(out.x).ravel()
    assert abs(x.mean() - mean - slope * variance) < 4 * np.sqrt(variance / x.size)
    assert abs(x.var() / variance - 1) < 4 * np.sqrt(2 / x.size)


def test_a_potential_of_ones_own_is_taken_at_each_step():
    keys = rng.sample_keys(jax.random.key(0), 4)
    net = exact_denoiser(MIXTURES["mixture"], PROCESS)
    each = steering(lambda x0, ctx: 0 * x0[:, 0] + ctx.t, 2.0, kind="each")
    out = jax.jit(
        lambda: sample_particles(
            *(keys, net, ddpm(), TIMES, (1,)), potential=each, particles=2
        )
    )()
    np.testing.assert_allclose(out.log_z, 2 * TIMES.sum(), rtol=1e-5)


def test_a_reward_that_is_not_known_counts_as_nothing():
    keys = rng.sample_keys(jax.random.key(0), 4)
    net = exact_denoiser(MIXTURES["mixture"], PROCESS)

    holes = steering(lambda x0, ctx: jnp.where(x0[:, 0] > 1, jnp.nan, 0), kind="max")
    out = jax.jit(
        lambda: sample_particles(
            *(keys, net, ddpm(), TIMES, (1,)), potential=holes, particles=8
        )
    )()
    weights, x = np.exp(np.asarray(out.log_weights)), np.asarray(out.x)[..., 0]
    some = np.isfinite(out.log_z)
    assert some.any()
    assert not weights[some][x[some] > 1].any()
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
