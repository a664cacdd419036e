import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance import testing as mixtures

PROCESS = jg.VPCosine()
PRIOR = mixtures.gaussian_mixture([1.0], [[0.0]], [[[1.0]]])


def test_exact_likelihood_golden(context, guided):
    """Prior N(0, 1), y = x0 + 0.1 n = 1, x_t = 0.3: the gradient of log p(y | x_t).

    x0 given x_t is N(a x, s^2), so it is a (1 - a x) / (s^2 + 0.01). The energy without
    the posterior's variance, that of DPS (Chung et al., arXiv 2209.14687, eq. 16, not
    normalised), has 0.01 there.
    """
    bars = np.array([0.9, 0.5, 0.1])
    slopes = np.sqrt(bars) * (1 - 0.3 * np.sqrt(bars))
    exact, plain = slopes / (1 - bars + 0.01), slopes / 0.01
    np.testing.assert_allclose(exact, (6.169848, 1.092366, 0.314536), rtol=1e-6)
    x = jnp.array([[0.3]])
    denoiser = mixtures.exact_denoiser(PRIOR, PROCESS)

    def likelihood(x0, ctx):
        variance = ctx.sigma[:, 0] ** 2 + 0.01
        return 0.5 * (1 - x0[:, 0]) ** 2 / variance

    def dps(x0, ctx):
        return 0.5 * (1 - x0[:, 0]) ** 2 / 0.01

    for alpha_bar, *expected in zip(bars, exact, plain, strict=True):
        t = PROCESS.t_of_logsnr(jnp.log(alpha_bar / (1 - alpha_bar)))
        ctx = context(PROCESS, x, t)
        base, _ = guided(jg.chain(), denoiser, ctx)
        for function, slope in zip((likelihood, dps), expected, strict=True):
            x0, _ = guided(jg.energy(function), denoiser, ctx)
            got = (x0 - base) * ctx.alpha / ctx.sigma**2
            np.testing.assert_allclose(got, [[slope]], rtol=2e-4)
        observed = mixtures.given_observation(PRIOR, [[1.0]], [1.0], 0.1)
        x0, _ = guided(jg.energy(likelihood), denoiser, ctx)
        mean = mixtures.posterior_mean(observed, x, ctx.alpha[:, 0], ctx.sigma[:, 0])
        np.testing.assert_allclose(x0, mean, rtol=1e-4)


def square(x0, ctx):
    return jnp.sum((x0 - 0.5) ** 2, axis=-1)


def absolute(x0, ctx):
    return jnp.sum(jnp.sqrt(1 + x0**2), axis=-1)


@pytest.fixture
def setting(counter, context):
    x = jnp.linspace(-1, 1, 12).reshape(3, 4)
    return counter, context(PROCESS, x, 0.4, jnp.arange(3))


def correction(guided, guidance, counter, ctx, **options):
    base, _ = guided(jg.chain(), counter.denoiser, ctx)
    return guided(guidance, counter.denoiser, ctx, **options)[0] - base


def test_what_is_differentiated(setting, guided):
    """Each `through` against `jax.grad` of the whole thing."""
    counter, ctx = setting

    def x0_of(x):
        return counter.denoiser(x, ctx.t, ctx.cond).x0

    def total(x0):
        return jnp.sum(square(x0, ctx))

    variance = ctx.sigma**2
    expected = {
        "network": variance / ctx.alpha * jax.grad(lambda x: total(x0_of(x)))(ctx.x),
        "noisy": variance / ctx.alpha * jax.grad(total)(ctx.x),
        "denoised": variance
        / (ctx.alpha**2 + variance)
        * jax.grad(total)(x0_of(ctx.x)),
    }
    for through, gradient in expected.items():
        term = jg.energy(square, 0.3, through=through)
        np.testing.assert_allclose(
            correction(guided, term, counter, ctx),
            -0.3 * gradient,
            rtol=1e-4,
            atol=1e-6,
        )


def test_an_energy_may_see_the_state_and_the_maps(context, guided, counter):
    """Gradients flow through ``ctx.x`` and through what the network captured."""
    x = jnp.linspace(-1, 1, 8).reshape(2, 4)
    ctx = context(PROCESS, x, 0.4, jnp.arange(2))

    class OfMaps:
        through = "network"

        def branches(self, ctx):
            return {"cond": jg.types.Branch(ctx.cond, grad=True, capture=("square",))}

        def energy(self, evals, ctx):
            return jnp.sum(evals.maps["cond"]["square"] + ctx.x**3, axis=-1)

        def update(self, delta, evals, state, ctx):
            return delta - evals.grad, state

    def total(x):
        out = counter.denoiser(x, ctx.t, ctx.cond, capture=("square",))
        return jnp.sum(out.maps["square"] + x**3)

    np.testing.assert_allclose(
        correction(guided, OfMaps(), counter, ctx), -jax.grad(total)(x), rtol=1e-4
    )


def test_neighbours_share_a_backward_pass(setting, guided):
    """The sum of energies is the energy of the sum, at the price of one."""
    counter, ctx = setting
    terms = [jg.energy(square, 0.3), jg.energy(absolute, jnp.array([0.1, 0.2, 0.0]))]
    apart = sum(correction(guided, term, counter, ctx) for term in terms)

    both, _ = guided(jg.chain(*terms), counter.denoiser, ctx)
    base, _ = guided(jg.chain(), counter.denoiser, ctx)
    np.testing.assert_allclose(both - base, apart, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("terms", "passes"),
    [
        ([jg.energy(square), jg.energy(absolute)], 1),
        ([jg.energy(square), jg.energy(absolute, through="denoised")], 1),
        ([jg.energy(square), jg.cfg(1.0, 0), jg.energy(absolute)], 2),
        ([jg.energy(f, normalize="rms") for f in (square, absolute)], 2),
        ([jg.energy(square), jg.scheduled(jg.energy(absolute), jnp.ones(10))], 2),
        ([jg.energy(square, 0.0), jg.energy(absolute, through="noisy")], 0),
    ],
)
def test_backward_passes(terms, passes, setting, guided):
    _, ctx = setting
    seen = []

    @jax.custom_vjp
    def network(x):
        return x

    network.defvjp(lambda x: (x, None), lambda _, g: (seen.append(1) or g,))

    def apply(x, t, cond, *, control, capture):
        return jg.types.Denoised(network(x))

    guided(jg.chain(*terms), jg.Denoiser(apply), ctx)
    assert len(seen) == passes


@pytest.mark.parametrize(
    "wrap",
    [
        lambda term: jg.during(term, 0.0, 0.5),
        lambda term: jg.during(term, jnp.float32(0.0), jnp.float32(0.5)),
        lambda term: jg.scheduled(term, jnp.full(10, 0.5)),
        lambda term: jg.scheduled(jg.during(term, 0.0, 0.5), lambda ctx: 0.5),
        lambda term: jg.during(jg.chain(term, jg.scheduled(term, jnp.ones(10))), 0, 1),
    ],
)
def test_wrappers_hand_the_gradient_on(wrap, setting, guided):
    counter, ctx = setting
    term = jg.energy(square, 0.3)
    plain = correction(guided, term, counter, ctx)
    wrapped = correction(guided, wrap(term), counter, ctx)
    ratio = np.asarray(wrapped / plain)
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-3)
    assert ratio[0, 0] == pytest.approx(0.5, rel=1e-3) or ratio[0, 0] >= 0.999


def test_rms_normalisation(setting, guided):
    """Unit root mean square per sample, times the weight; zero stays zero."""
    counter, ctx = setting
    weight = jnp.array([1.0, 2.0, 0.0])
    term = jg.energy(square, weight, normalize="rms", through="denoised")
    move = correction(guided, term, counter, ctx)
    variance = float(ctx.sigma[0, 0]) ** 2 / float(
        ctx.alpha[0, 0] ** 2 + ctx.sigma[0, 0] ** 2
    )
    rms = np.sqrt(np.mean(np.asarray(move) ** 2, axis=1))
    np.testing.assert_allclose(rms, variance * np.asarray(weight), rtol=1e-5)
    flat = jg.energy(lambda x0, ctx: 0 * x0[:, 0], normalize="rms", through="denoised")
    np.testing.assert_array_equal(correction(guided, flat, counter, ctx), 0)


def test_parameters_are_leaves(setting):
    """One compilation serves other parameters, and gradients reach them."""
    counter, ctx = setting

    def matched(params, x0, ctx):
        return jnp.sum((x0 - params) ** 2, axis=-1)

    @jax.jit
    def loss(params, weight):
        term = jg.energy(matched, weight, params)
        return jnp.sum(jg.guided(counter.denoiser, term)(ctx, ())[0] ** 2)

    by_params, by_weight = jax.grad(loss, (0, 1))(jnp.arange(4.0), 0.2)
    assert np.abs(by_params).min() > 0
    assert np.abs(by_weight) > 0
    assert len(counter.rows) == 1


@pytest.mark.parametrize(
    ("function", "weight", "message"),
    [
        (lambda x0, ctx: jnp.sum(x0), 1.0, r"returned shape \(\); .* \(3,\)"),
        (lambda x0, ctx: jnp.sum(x0), jnp.ones(3), r"returned shape \(\); .* \(3,\)"),
        (lambda x0, ctx: x0, 1.0, r"returned shape \(3, 4\)"),
        (square, jnp.ones(2), r"energy's weight has shape \(2,\)"),
    ],
)
def test_energies_that_couple_samples_raise(function, weight, message, setting, guided):
    counter, ctx = setting
    with pytest.raises(ValueError, match=message):
        guided(jg.energy(function, weight), counter.denoiser, ctx)


def test_arguments_that_make_no_sense():
    with pytest.raises(ValueError, match="through is 'x0'"):
        jg.energy(square, through="x0")
    with pytest.raises(ValueError, match="normalize is 'l2'"):
        jg.energy(square, normalize="l2")
