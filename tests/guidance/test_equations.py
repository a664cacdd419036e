"""Fixed points with the gradient of the solution, and the denoiser's Jacobian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import conjugate_gradient, fixed_point
from jaxlib_guidance.types import Branch, per_sample, pytree_dataclass, static

PROCESS = jg.VPCosine()
RNG = np.random.default_rng(0)
B, D = 3, 4
ROOT = RNG.normal(size=(D, D))
COVARIANCE = jnp.asarray(ROOT @ ROOT.T / D + 0.1 * np.eye(D), jnp.float32)
MEANS = jnp.asarray(RNG.normal(size=(2, D)), jnp.float32)
LABELS = jnp.asarray([0, 1, 1])
X = jnp.asarray(RNG.normal(size=(B, D)), jnp.float32)


def gaussian(scale=1.0):
    """The exact denoiser of N(mean of the label, C)."""

    def apply(x, t, cond, *, control, capture):
        alpha, sigma = PROCESS.alpha(t)[0], PROCESS.sigma(t)[0]
        total = alpha**2 * COVARIANCE + sigma**2 * jnp.eye(D)
        gain = alpha * COVARIANCE @ jnp.linalg.inv(total)
        mean = scale * MEANS[cond]
        return jg.types.Denoised(mean + (x - alpha * mean) @ gain.T)

    return jg.Denoiser(apply)


@pytest.mark.exact("A fixed point and its gradient are the solution's")
def test_a_fixed_point_and_its_gradient():
    """z = A z + b: the solution, and its derivatives in A and b, in closed form."""
    a = 0.3 * jnp.asarray(RNG.normal(size=(D, D)) / D**0.5, jnp.float32)
    direction = jnp.asarray(RNG.normal(size=(B, D)), jnp.float32)

    def solved(a, b):
        return fixed_point(lambda z: z @ a.T + b, 0 * b, iterations=40, damping=0.9)

    def exact(a, b):
        return jnp.linalg.solve(jnp.eye(D) - a, b.T).T

    def total(solution, a, b):
        return jnp.sum(solution(a, b) * direction)

    np.testing.assert_allclose(solved(a, X), exact(a, X), rtol=1e-5, atol=1e-6)
    grad, want = (
        jax.jit(jax.grad(lambda a, b, f=f: total(f, a, b), (0, 1)))(a, X)
        for f in (solved, exact)
    )
    for one, other in zip(grad, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    many = jax.vmap(solved, (0, None))(jnp.stack([a, 0.5 * a]), X)
    np.testing.assert_allclose(many[1], exact(0.5 * a, X), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="iterations is 0; expected at least 1"):
        fixed_point(jnp.sin, X, iterations=0)
    with pytest.raises(ValueError, match="damping has shape"):
        fixed_point(jnp.sin, X, iterations=1, damping=jnp.ones(2))


@pytree_dataclass
class Implicit:
    """The correction z with z = w (D(x + z; cond) - D(x; cond))."""

    weight: float

    def branches(self, ctx):
        return {}

    def update(self, delta, evals, state, ctx):
        weight = per_sample(self.weight, delta)

        def moved(z):
            there = evals.evaluate({"there": Branch(ctx.cond, x=ctx.x + z)}).x0["there"]
            return weight * (there - 0.9 * evals.x0["cond"])

        return delta + fixed_point(moved, delta, iterations=30), state


def test_a_term_may_be_a_fixed_point_of_the_network(context, guided):
    """Solved in closed form for a Gaussian, with its slope in weight and network."""
    ctx = context(PROCESS, X, 0.5, LABELS)
    alpha, sigma = ctx.alpha[0, 0], ctx.sigma[0, 0]
    gain = COVARIANCE @ jnp.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * jnp.eye(D))

    def got(weight, scale):
        return guided(Implicit(weight), gaussian(scale), ctx)[0]

    def want(weight, scale):
        base = gaussian(scale)(X, ctx.t, LABELS).x0
        matrix = jnp.eye(D) - weight * alpha * gain
        return base + 0.1 * weight * jnp.linalg.solve(matrix, base.T).T

    np.testing.assert_allclose(got(0.4, 1.0), want(0.4, 1.0), rtol=1e-4, atol=1e-5)
    slopes, exact = (
        jax.jit(jax.grad(lambda *a, f=f: jnp.sum(jnp.sin(f(*a))), (0, 1)))(0.4, 1.0)
        for f in (got, want)
    )
    np.testing.assert_allclose(slopes, exact, rtol=1e-3)


def test_a_fixed_point_obeys_the_laws_and_its_evaluations_are_counted():
    laws = ("acts", "gradient", "batch", "devices", "weight_sweep", "evaluations")
    jg.testing.check_term(Implicit(0.3), evaluations=31, only=laws)


@pytree_dataclass
class Observe:
    """The mean of the posterior given y = A x0 + s n, with Tweedie's covariance."""

    y: jax.Array
    operator: jax.Array
    noise: float
    jacobian: str = static(default="both")

    def branches(self, ctx):
        return {}

    def update(self, delta, evals, state, ctx):
        factor = ctx.sigma**2 / ctx.alpha
        jacobian, a = evals.jacobian, self.operator

        def covariance(v):
            moved = factor * jacobian.matvec(v @ a)
            return self.noise**2 * v + moved @ a.T

        error = self.y - evals.x0["cond"] @ a.T
        weights = conjugate_gradient(covariance, error, iterations=2)
        return delta + factor * jacobian.transpose(weights @ a), state


@pytest.mark.exact("J as covariance gives the posterior mean of any Gaussian")
def test_the_jacobian_gives_the_posterior_mean_of_any_gaussian(context, guided):
    """Exact for a Gaussian of any covariance (Rozet et al., arXiv 2405.13712)."""
    ctx = context(PROCESS, X, 0.5, LABELS)
    a = jnp.asarray(RNG.normal(size=(2, D)), jnp.float32)
    y, noise = jnp.asarray(RNG.normal(size=(B, 2)), jnp.float32), 0.3
    got, _ = guided(Observe(y, a, noise), gaussian(), ctx)
    wide = np.float64
    alpha, sigma = wide(ctx.alpha[0, 0]), wide(ctx.sigma[0, 0])
    prior, a, mean = wide(COVARIANCE), wide(a), wide(MEANS)[np.asarray(LABELS)]
    precision = np.linalg.inv(prior) + alpha**2 / sigma**2 * np.eye(D)
    precision += a.T @ a / noise**2
    evidence = np.linalg.solve(prior, mean.T) + alpha / sigma**2 * wide(X).T
    evidence += a.T @ wide(y).T / noise**2
    want = np.linalg.solve(precision, evidence).T
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)


@pytree_dataclass
class Slope:
    """Adds a product with the transpose of the Jacobian alone."""

    jacobian: str = static(default="transpose")

    def branches(self, ctx):
        return {}

    def update(self, delta, evals, state, ctx):
        assert (evals.jacobian.matvec is None) == (self.jacobian == "transpose")
        return delta + evals.jacobian.transpose(evals.x0["cond"]), state


def half_square(x0, ctx):
    return -0.5 * jnp.sum(x0**2, axis=-1)


@pytest.mark.parametrize("both", [False, True])
def test_the_jacobian_costs_one_call_and_goes_with_energies(both, context, guided):
    """J^T x0 is the gradient of |x0|^2 / 2; other branches stay in a call apart."""
    calls = []

    def apply(x, t, cond, **options):
        calls.append(x.shape[0])
        return gaussian().apply(x, t, cond, **options)

    ctx = context(PROCESS, X, 0.5, LABELS)
    slope = Slope("both" if both else "transpose")
    plain, _ = guided(jg.chain(), gaussian(), ctx)
    energy = jg.energy(half_square)
    by_energy = guided(energy, gaussian(), ctx)[0] - plain
    terms = jg.chain(jg.cfg(1.0, 0), jg.during(slope, 0.0, 1.0), energy)
    got, _ = guided(terms, jg.Denoiser(apply), ctx)
    assert calls == [B, B]
    contrast = guided(jg.cfg(1.0, 0), gaussian(), ctx)[0] - plain
    factor = ctx.sigma**2 / ctx.alpha
    want = plain + contrast + by_energy + by_energy / factor
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="jacobian is one of .*'all'"):
        guided(Slope("all"), gaussian(), ctx)


def test_conjugate_gradients_of_singular_and_solved_systems():
    """Zero right-hand sides and identities stay finite, and so do their gradients."""
    b = X.at[0].set(0)
    slope = jax.grad(lambda b: jnp.sum(solve(b) ** 2))

    def solve(b):
        return conjugate_gradient(lambda v: 2 * v, b, iterations=5)

    np.testing.assert_allclose(solve(b), b / 2, rtol=1e-6)
    np.testing.assert_allclose(slope(b), b / 2, rtol=1e-5)
