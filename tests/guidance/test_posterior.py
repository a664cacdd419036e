"""Posteriors of linear observations against closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance import guidance as g
from jaxlib_guidance import testing as mixtures

PROCESS = jg.VPCosine()
RNG = np.random.default_rng(0)
B, D = 8, 4
T = jnp.repeat(jnp.array([0.05, 0.4, 0.7, 0.95]), 2)
X = jnp.asarray(RNG.normal(size=(B, D)), jnp.float32)
Y = jnp.asarray(RNG.normal(size=(B, D)), jnp.float32)
ROOT = RNG.normal(size=(D, D))
COVARIANCE = ROOT @ ROOT.T / D + 0.1 * np.eye(D)
MEAN = RNG.normal(size=D)
MATRIX = RNG.normal(size=(2, D))
MASK = jnp.asarray([1.0, 0.0, 1.0, 1.0])


def gaussian(covariance, mean=MEAN):
    return mixtures.gaussian_mixture([1.0], mean[None], covariance[None])


def dense(operator):
    """Its matrix ``[P, D]``."""
    return np.asarray(operator(jnp.eye(D))).reshape(D, -1).T


def exact(prior, matrix, y, noise):
    """The posterior mean of each sample given its state and its observation."""
    alpha, sigma = (
        np.asarray(f(T), np.float64) for f in (PROCESS.alpha, PROCESS.sigma)
    )
    covariance = np.einsum(
        "de,e,fe->df", prior.axes[0], prior.variances[0], prior.axes[0]
    )
    mean = np.asarray(prior.means[0], np.float64)
    wanted = []
    for i in range(B):
        precision = np.linalg.inv(covariance) + (alpha[i] / sigma[i]) ** 2 * np.eye(D)
        evidence = np.linalg.solve(covariance, mean)
        evidence = evidence + alpha[i] / sigma[i] ** 2 * np.asarray(X[i], np.float64)
        precision = precision + matrix.T @ matrix / noise**2
        evidence = evidence + matrix.T @ np.asarray(y[i], np.float64) / noise**2
        wanted.append(np.linalg.solve(precision, evidence))
    return np.stack(wanted)


def estimate(term, prior, context, guided, process=PROCESS):
    run = jax.jit(lambda x: guided(term, net, context(process, x, T))[0])
    net = mixtures.exact_denoiser(prior, process)
    return run(X)


OPERATORS = {
    "projection": g.projection(MATRIX),
    "mask": g.masking(MASK),
    "blur": g.blurring(g.gaussian_kernel(0.8, 1), (D,), axes=(0,)),
    "pool": g.pooling((2,), (D,)),
}


@pytest.mark.exact("The posterior mean of any Gaussian, whatever the operator")
@pytest.mark.parametrize("name", OPERATORS)
def test_mmps_is_exact_for_any_gaussian(name, context, guided):
    operator, prior = OPERATORS[name], gaussian(COVARIANCE)
    y, noise = operator(Y), 0.3
    seen = g.measurement(y, operator, noise)
    for symmetric in (True, False):
        term = g.mmps(seen, iterations=D, symmetric=symmetric)
        got = estimate(term, prior, context, guided)
        np.testing.assert_allclose(
            got, exact(prior, dense(operator), y, noise), rtol=2e-3, atol=1e-3
        )
    pigdm = estimate(g.pigdm(seen), prior, context, guided)
    assert np.abs(pigdm - got).max() > 0.03


@pytest.mark.exact("The posterior mean of Gaussian data of one variance, any operator")
@pytest.mark.parametrize("name", OPERATORS)
def test_pigdm_is_exact_for_one_variance(name, context, guided):
    operator, prior = OPERATORS[name], gaussian(0.7 * np.eye(D))
    y, noise = operator(Y), 0.3
    seen = g.measurement(y, operator, noise)
    got = estimate(g.pigdm(seen, data_variance=0.7), prior, context, guided)
    np.testing.assert_allclose(
        got, exact(prior, dense(operator), y, noise), rtol=1e-3, atol=1e-3
    )


@pytest.mark.exact("The posterior mean of independent Gaussian entries under a mask")
def test_tmpd_is_exact_for_independent_entries(context, guided):
    prior = gaussian(np.diag([0.2, 0.5, 1.0, 2.0]))
    seen = g.measurement(Y.at[:, 1].set(jnp.nan), g.masking(MASK), 0.3)
    got = estimate(g.tmpd(seen), prior, context, guided)
    want = exact(prior, np.diag(MASK), Y, 0.3)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


@pytest.mark.exact("What is known of unit Gaussian data is met at every level")
@pytest.mark.parametrize("process", [PROCESS, jg.RectifiedFlow(), jg.VE()], ids=repr)
def test_inpaint_flow_is_exact_for_unit_noise(process, context, guided):
    """The known entries are ``y``, the others the unguided posterior mean."""
    prior = gaussian(np.eye(D), np.zeros(D))
    term = g.inpaint_flow(Y, MASK, jnp.inf)
    got = estimate(term, prior, context, guided, process)
    plain = estimate(jg.chain(), prior, context, guided, process)
    np.testing.assert_allclose(got, np.where(MASK > 0, Y, plain), rtol=1e-3, atol=1e-4)
    flow = estimate(g.inpaint_flow(Y, MASK), prior, context, guided, process)
    seen = g.measurement(Y, g.masking(MASK), 0.0)
    other = estimate(g.pigdm(seen), prior, context, guided, process)
    np.testing.assert_allclose(other, got, rtol=1e-3, atol=1e-4)
    assert np.abs(flow - got).max() > 0.1  # The limit acts at low noise.


def test_chunk_weights_golden():
    """The example in the docstring of `get_prefix_weights` of
    github.com/Physical-Intelligence/real-time-chunking-kinetix, and eq. 5 of arXiv
    2506.07339 for the exponential form."""
    linear = [1, 1, 0.8, 0.6, 0.4, 0.2, 0, 0, 0, 0]
    np.testing.assert_allclose(g.chunk_weights(10, 2, 6, "linear"), linear, atol=1e-7)
    decay = [c * (math.exp(c) - 1) / (math.e - 1) for c in linear]
    np.testing.assert_allclose(g.chunk_weights(10, 2, 6), decay, atol=1e-7)
    np.testing.assert_allclose(
        g.chunk_weights(10, 2, 6)[2:6],
        [0.570589, 0.287072, 0.114492, 0.02577],
        atol=1e-6,
    )
    frozen = g.chunk_weights(4, 3, 2, "zeros")
    np.testing.assert_array_equal(frozen, [1, 1, 0, 0])
    np.testing.assert_array_equal(g.chunk_weights(4, 1, 3, "ones"), [1, 1, 1, 0])
    for wrong in ((4, 1, 5), (4, -1, 2), (0, 0, 0)):
        with pytest.raises(ValueError, match="expected delay >= 0 and 0 <= overlap"):
            g.chunk_weights(*wrong)
    with pytest.raises(ValueError, match="schedule is 'exp'; expected one of"):
        g.chunk_weights(4, 1, 2, "exp")


def test_inpaint_flow_is_the_published_velocity(context, guided):
    """``v + min(c / r^2, 5) J^T W (y - x1)`` with time from noise 0 to data 1, as in
    `realtime_action` of the released code, from a denoiser and its vector-Jacobian
    product alone."""
    flow = jg.RectifiedFlow()
    kernel = jnp.asarray(ROOT / 2, jnp.float32)
    weights = jnp.asarray(g.chunk_weights(4, 1, 3))
    y = jnp.asarray(RNG.normal(size=(B, 4, 1)), jnp.float32)

    def x1(x, tau):
        return jnp.tanh(x[:, 0] @ kernel)[:, None] * tau

    def apply(x, t, cond, *, control, capture):
        return jg.types.Denoised(jax.vmap(x1)(x, 1 - t))

    x, t = X[..., None], jnp.tile(jnp.asarray([0.9, 0.8, 0.5, 0.01]), 2)
    term = g.inpaint_flow(y, weights)
    x0, _ = guided(term, jg.Denoiser(apply), context(flow, x, t))
    got = (x0 - x) / t[:, None, None]  # From noise to data.
    for i, tau in enumerate(1 - np.asarray(t, np.float64)):
        clean, pull = jax.vjp(lambda x, tau=tau: x1(x, tau), x[i])
        push = pull((y[i] - clean) * weights[:, None])[0]
        raw = (1 - tau) / tau * ((1 - tau) ** 2 + tau**2) / (1 - tau) ** 2
        want = (clean - x[i]) / (1 - tau) + min(raw, 5.0) * push
        np.testing.assert_allclose(got[i], want, rtol=1e-6, atol=1e-5)
    raws = [9.1111, 4.25, 2.0]  # At .1, .2 and .5.
    for tau, raw in zip((0.1, 0.2, 0.5), raws, strict=True):
        weight = ((1 - tau) ** 2 + tau**2) / (tau * (1 - tau))
        assert weight == pytest.approx(raw, abs=1e-4)


def test_posterior_means_of_a_mixture(context, guided):
    """Each method as its own formula says, beside the exact mean, at one state of a
    mixture on the line; J is the closed form of the posterior's variance."""
    w, m, v = np.asarray([[0.5, 0.3, 0.2], [-1, 0.3, 1.2], [0.04, 0.09, 0.02]])
    prior = mixtures.gaussian_mixture(w, m[:, None], v[:, None, None])
    x, y, noise = 0.3, 1.0, 0.2
    seen = g.measurement(jnp.asarray([y]), g.masking(jnp.ones(1)), noise)
    energy = jg.energy(g.gaussian_energy, params=seen)
    terms = (g.mmps(seen), g.tmpd(seen), g.pigdm(seen), energy)
    net = mixtures.exact_denoiser(prior, PROCESS)
    ratios = jnp.asarray([0.9, 0.5, 0.1])
    t = PROCESS.t_of_logsnr(jnp.log(ratios / (1 - ratios)))
    state = jnp.full((3, 1), x)

    @jax.jit
    def all_of(state):
        ctx = context(PROCESS, state, t)
        means = [guided(term, net, ctx)[0][:, 0] for term in terms]
        at = ctx.alpha[:, 0], ctx.sigma[:, 0]
        joint = mixtures.given_observation(prior, np.eye(1), [y], noise)
        truth = mixtures.posterior_mean(joint, state, *at)
        return jnp.stack(means, 1), truth[:, 0]

    found, truths = all_of(state)
    for alpha2, got, truth in zip((0.9, 0.5, 0.1), found, truths, strict=True):
        a, s2 = math.sqrt(alpha2), 1 - alpha2
        total = a**2 * v + s2
        share = w * np.exp(-0.5 * (x - a * m) ** 2 / total) / np.sqrt(total)
        share = share / share.sum()
        means = m + a * v / total * (x - a * m)
        mean = share @ means
        variance = share @ (v * s2 / total + means**2) - mean**2
        slope, pull = variance, variance * (y - mean)
        r2 = s2 / (a**2 + s2)
        want = [
            mean + pull / (noise**2 + variance),
            mean + pull / (noise**2 + variance),
            mean + slope * (y - mean) / (noise**2 + r2),
            mean + slope * (y - mean) / noise**2,
        ]
        np.testing.assert_allclose(got, want, rtol=2e-3)
        gaps = [abs(float(each - truth)) for each in got]
        assert gaps[0] == min(gaps[0], gaps[2], gaps[3])  # MMPS is the closest.


def test_an_indefinite_covariance_is_raised(context, guided):
    """A network whose Jacobian has a negative eigenvalue moves by a bounded step."""
    matrix = jnp.diag(jnp.asarray([1.0, -1.0, 0.5, -3.0]))

    def apply(x, t, cond, *, control, capture):
        return jg.types.Denoised(x @ matrix)

    seen = g.measurement(Y, g.masking(jnp.ones(D)), 0.5)
    ctx = context(PROCESS, X, 0.5)
    got, _ = guided(g.mmps(seen, iterations=8), jg.Denoiser(apply), ctx)
    assert np.isfinite(got).all()
    plain, _ = guided(jg.chain(), jg.Denoiser(apply), ctx)
    factor = float(ctx.sigma[0, 0] ** 2 / ctx.alpha[0, 0])
    # No eigenvalue of the solution is above 1 / noise^2.
    bound = factor * 3 * np.linalg.norm(Y - plain, axis=1) / 0.5**2
    assert (np.linalg.norm(got - plain, axis=1) <= bound).all()
    floor = jnp.full((1, 1), 0.25)
    raised = g.conjugate_gradient(
        lambda v: v * jnp.asarray([-2.0, 4.0]),
        jnp.asarray([[1.0, 0.0]]),
        iterations=3,
        floor=floor,
    )
    np.testing.assert_allclose(raised, [[4.0, 0.0]], rtol=1e-5)


def test_energies_of_a_measurement():
    """Their gradients by hand; the norm's is finite where the error is 0."""
    seen = g.measurement(Y, g.masking(MASK), 0.5)
    square, norm = (
        jax.grad(lambda x, f=f: f(seen, x, None).sum())(X)
        for f in (g.gaussian_energy, g.norm_energy)
    )
    error = np.where(MASK > 0, np.asarray(X - Y), 0)
    np.testing.assert_allclose(square, error / 0.25, rtol=1e-5)
    size = np.linalg.norm(error, axis=1, keepdims=True)
    np.testing.assert_allclose(norm, error / size, rtol=1e-5)
    met = jax.grad(lambda x: g.norm_energy(seen, x, None).sum())(Y)
    np.testing.assert_array_equal(met, 0 * Y)


def test_posteriors_say_what_is_wrong(context, guided):
    mask = g.masking(jnp.ones(D))
    with pytest.raises(ValueError, match=r"mask has values from 0.0 to 255.0"):
        g.masking(np.asarray([0.0, 255.0]))
    with pytest.raises(ValueError, match=r"noise is -0.1; expected at least 0"):
        g.measurement(Y, mask, -0.1)
    with pytest.raises(TypeError, match="operator is <function"):
        g.measurement(Y, lambda x: x)
    with pytest.raises(TypeError, match="mmps's seen is tuple; expected a measurement"):
        g.mmps((Y, mask))
    with pytest.raises(ValueError, match="iterations is 0; expected a whole number"):
        g.mmps(g.measurement(Y, mask), iterations=0)
    with pytest.raises(ValueError, match="data_variance is 0.0; expected above 0"):
        g.pigdm(g.measurement(Y, mask), data_variance=0.0)
    with pytest.raises(ValueError, match="w_max is -1.0; expected at least 0"):
        g.inpaint_flow(Y, MASK, -1.0)
    with pytest.raises(ValueError, match="weights are from 0.0 to 2.0; expected"):
        g.inpaint_flow(Y, np.asarray([0.0, 2.0]))
    net = mixtures.exact_denoiser(gaussian(COVARIANCE), PROCESS)
    ctx = context(PROCESS, X, T)
    wrong = {
        r"y has shape \(3,\); expected what the operator observes, \(8, 4\)": g.mmps(
            g.measurement(jnp.ones(3), mask)
        ),
        r"inpaint_flow's y has shape \(2, 4\)": g.inpaint_flow(jnp.ones((2, D)), MASK),
        r"weights have shape \(3,\); expected \(4,\)": g.inpaint_flow(Y, jnp.ones(3)),
        "noise is 0.0; expected above 0 for a likelihood": jg.energy(
            g.gaussian_energy, params=g.measurement(Y, mask)
        ),
        r"noise has shape \(3,\)": g.tmpd(g.measurement(Y, mask, jnp.ones(3))),
    }
    for message, term in wrong.items():
        with pytest.raises(ValueError, match=message):
            guided(term, net, ctx)
