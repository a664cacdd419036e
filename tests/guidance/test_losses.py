"""Losses of the estimate, as released, and Monte Carlo guidance by a pool."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance import guidance as g
from jaxlib_guidance import testing as mixtures

PROCESS = jg.VPCosine()
GRID = jg.uniform_grid(PROCESS, 5, t_max=0.8)
RNG = np.random.default_rng(0)
B, D = 4, 3
TARGET = jnp.asarray(RNG.normal(size=(B, D)), jnp.float32)
KERNEL = jnp.asarray(RNG.normal(size=(D, D)) / D**0.5, jnp.float32)
X = jnp.asarray(RNG.normal(size=(B, D)), jnp.float32)


def clean(x):
    return jnp.tanh(x @ KERNEL)


def network(x, t, cond, *, control, capture):
    return jg.types.Denoised(clean(x))


def distance(x0, ctx):
    return jnp.sqrt(jnp.sum((x0 - TARGET) ** 2, axis=1))


def half_square(x0, ctx):
    return 0.5 * jnp.sum((x0 - TARGET) ** 2, axis=1)


@pytest.fixture(scope="module")
def steps():
    """``term -> (coefficients, x, mean, gradient, plain mean)`` of a DDPM trajectory,
    each step by itself; coefficients are (alpha, sigma, alpha', sigma')."""

    def steps(term):
        @jax.jit
        def run():
            return jg.sample(
                jg.sample_keys(jax.random.key(0), B),
                jg.Denoiser(network),
                jg.ddpm(),
                GRID,
                (D,),
                guidance=term,
                process=PROCESS,
                trace=lambda info: (info.x, info.transition.mean),
            )[1]

        alpha, sigma = (np.asarray(f(GRID)) for f in (PROCESS.alpha, PROCESS.sigma))
        for i, (x, mean) in enumerate(zip(*run(), strict=True)):
            levels = alpha[i], sigma[i], alpha[i + 1], sigma[i + 1]
            # DDPM's mean of x0 and x, in the coefficients of FreeDoM's code.
            ratio = (levels[0] / levels[2]) ** 2
            c1 = levels[2] * (1 - ratio) / levels[1] ** 2
            c2 = levels[0] / levels[2] * levels[3] ** 2 / levels[1] ** 2
            yield levels, c1, x, mean, c1 * clean(x) + c2 * x

    return steps


def rms(a):
    return np.sqrt(np.mean(np.square(a), axis=1, keepdims=True))


def through(loss, x):
    return jax.grad(lambda x: loss(clean(x), None).sum())(x)


def test_freedom_moves_the_mean_as_released(steps):
    """``x' -= rho g``, ``rho = w rms(eps) sigma / alpha c1 / rms(g)``."""
    for (alpha, sigma, _, _), c1, x, mean, plain in steps(g.freedom(distance, 0.2)):
        grad = through(distance, x)
        eps = (x - alpha * clean(x)) / sigma
        rho = 0.2 * rms(eps) * sigma / alpha * c1 / rms(grad)
        np.testing.assert_allclose(mean, plain - rho * grad, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("size", ["alpha", "noise"])
def test_mpgd_moves_the_estimate_as_released(size, steps):
    """``x0 -= w g / alpha`` for linear measurements; else ``x0 -= rho / alpha' g`` with
    FreeDoM's rho; the gradient at the estimate."""
    term = g.mpgd(distance, 0.2, size=size)
    for (alpha, sigma, later, _), c1, x, mean, plain in steps(term):
        grad = jax.grad(lambda x0: distance(x0, None).sum())(clean(x))
        eps = (x - alpha * clean(x)) / sigma
        rho = 0.2 / alpha
        if size == "noise":
            rho = 0.2 * rms(eps) * sigma / alpha * c1 / rms(grad) / later
        np.testing.assert_allclose(mean, plain - c1 * rho * grad, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("growth", ["increase", "decrease", "constant"])
def test_tfg_moves_the_mean_as_published(growth, steps):
    """``x' += Delta_t alpha' / alpha + alpha' Delta_0`` without smoothing."""
    term = g.tfg(
        half_square, 0.3, 0.2, 0.0, iterations=2, samples=1, schedules=(growth, growth)
    )
    kept = np.asarray(PROCESS.alpha(GRID), np.float64)
    kept = (kept[:-1] / kept[1:]) ** 2
    values = {"increase": kept, "decrease": 1 - kept, "constant": np.ones(5)}[growth]
    for i, ((alpha, _, later, _), _, x, mean, plain) in enumerate(steps(term)):
        size = values[i] / values.mean()
        near = clean(x)
        for _ in range(2):
            near = near - 0.2 * size * (near - TARGET)
        move = -0.3 * size * through(half_square, x) * later / alpha
        move = move + later * (near - clean(x))
        np.testing.assert_allclose(mean, plain + move, rtol=2e-3, atol=3e-4)


def test_tfg_holds_the_others(context, guided):
    """Without steps on the estimate and without smoothing it moves like DPS's energy;
    smoothing with many draws lowers the slope of a parabola's likelihood."""

    def moved(*args, **options):
        ctx = context(PROCESS, X, 0.5)
        one = jnp.float32(1)

        def kernel(x0):
            return jg.transition.Transition(0.5 * x0, one)

        grid = jnp.linspace(1, 0, ctx.steps + 1)
        ctx = ctx._replace(kernel=kernel, grid=grid)
        net = jg.Denoiser(network)
        term = g.tfg(half_square, *args, **options, schedules=("constant",) * 2)
        return jax.jit(lambda: guided(term, net, ctx)[0])() - clean(X), ctx

    got, ctx = moved(0.3, 0.0, 0.0, samples=1)
    later = PROCESS.alpha(ctx.t_next)
    want = -0.3 * through(half_square, X) * later / ctx.alpha / 0.5
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    smooth, _ = moved(0.0, 1.0, 1.0, samples=4000)
    # E_z exp(-|x + s z|^2 / 2) is a Gaussian of variance 1 + s^2.
    want = later * (TARGET - clean(X)) / (1 + ctx.sigma**2) / 0.5
    np.testing.assert_allclose(smooth, want, atol=0.25)


def test_lgd_mc_becomes_pigdm(context, guided):
    """The likelihood averaged over N(D, r^2 I) is that of PiGDM: unit Gaussian data."""
    prior = mixtures.gaussian_mixture([1.0], np.zeros((1, 1)), np.ones((1, 1, 1)))
    net = mixtures.exact_denoiser(prior, PROCESS)
    seen = g.measurement(jnp.ones(1), g.masking(jnp.ones(1)), 0.7)
    ctx = context(PROCESS, X[:, :1], jnp.asarray([0.1, 0.4, 0.6, 0.9]))
    exact, _ = guided(g.pigdm(seen), net, ctx)

    def gap(samples):
        term = g.lgd_mc(g.gaussian_energy, params=seen, samples=samples)
        return np.abs(guided(term, net, ctx)[0] - exact).max()

    assert gap(5_000) < 0.05
    assert gap(1) > 0.1


@pytest.mark.exact("A pool that is the data gives the tilted mean at every level")
def test_a_pool_that_is_the_data_is_exact(context, guided):
    points = RNG.normal(size=(5, D))
    energies = RNG.normal(size=5)
    none = np.zeros((5, D, D))
    plain = mixtures.gaussian_mixture(np.ones(5), points, none)
    tilted = mixtures.gaussian_mixture(np.exp(-energies), points, none)
    ctx = context(PROCESS, X, jnp.asarray([0.2, 0.4, 0.6, 0.95]))
    net = mixtures.exact_denoiser(plain, PROCESS)
    got, _ = guided(g.pool_guidance(points, energies), net, ctx)
    at = ctx.alpha[:, 0], ctx.sigma[:, 0]
    want = mixtures.posterior_mean(tilted, X, *at)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_a_pool_converges_as_it_grows(context, guided):
    """To the posterior mean of a mixture given a measurement, as n^(-1/2)."""
    columns = np.asarray([[0.04], [0.09], [0.02]])[..., None]
    prior = mixtures.gaussian_mixture([0.5, 0.3, 0.2], [[-1], [0.3], [1.2]], columns)
    joint = mixtures.given_observation(prior, [[1.0]], [0.5], 0.5)
    net = mixtures.exact_denoiser(prior, PROCESS)
    x = jnp.linspace(-1, 1, 16)[:, None]
    ctx = context(PROCESS, x, jnp.full(16, 0.6))
    want = mixtures.posterior_mean(joint, x, ctx.alpha[:, 0], ctx.sigma[:, 0])

    def gap(count):
        pool = mixtures.draw_exact(prior, jax.random.key(1), count)
        energies = 0.5 * (pool[:, 0] - 0.5) ** 2 / 0.5**2
        got, _ = guided(g.pool_guidance(pool, energies), net, ctx)
        return np.sqrt(np.mean((got - want) ** 2))

    small, large = gap(100), gap(40_000)
    assert large < 0.02
    assert large < 0.3 * small


def test_losses_say_what_is_wrong(context, guided):
    with pytest.raises(TypeError, match="freedom's function is 3; expected a function"):
        g.freedom(3)
    with pytest.raises(ValueError, match="lgd_mc's samples is 0; expected a whole"):
        g.lgd_mc(distance, samples=0)
    with pytest.raises(ValueError, match="data_variance is 0.0; expected above 0"):
        g.lgd_mc(distance, data_variance=0.0)
    with pytest.raises(ValueError, match="size is 'sigma'; expected 'alpha' or"):
        g.mpgd(distance, size="sigma")
    with pytest.raises(ValueError, match="smoothing is -1.0; expected at least 0"):
        g.tfg(distance, smoothing=-1.0)
    with pytest.raises(ValueError, match=r"schedules are \('up', 'constant'\)"):
        g.tfg(distance, schedules=("up", "constant"))
    with pytest.raises(ValueError, match=r"energies have shape \(3,\)"):
        g.pool_guidance(jnp.ones((4, D)), jnp.ones(3))
    net, ctx = jg.Denoiser(network), context(PROCESS, X, 0.5)
    wrong = {
        r"the loss returned shape \(4, 3\)": g.freedom(lambda x0, ctx: x0),
        r"the pool has samples \(2,\)": g.pool_guidance(jnp.ones((4, 2)), jnp.ones(4)),
        "tfg needs the t": g.tfg(distance),
    }
    for message, term in wrong.items():
        with pytest.raises(ValueError, match=message):
            guided(term, net, ctx)
