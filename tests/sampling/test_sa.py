"""SA-Solver: its order, its law, and the textbook algorithm it rearranges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from jaxlib_guidance import rng
from jaxlib_guidance.diffusion import RectifiedFlow, VPLinear, logsnr_grid
from jaxlib_guidance.sampling import ddim, sa_solver, sample
from jaxlib_guidance.testing import (
    exact_denoiser,
    exact_flow,
    plane_mixture,
    space_mixture,
)
from jaxlib_guidance.transition import Transition

KEYS = rng.sample_keys(jax.random.key(0), 64)
PLANE = plane_mixture()
VP = VPLinear()


@pytest.mark.parametrize(
    ("order", "corrector", "expected", "bar"),
    [(1, False, 1, 0.1), (2, False, 2, 6e-3), (2, True, 3, 1.5e-3), (3, True, 4, 3e-4)],
)
def test_order_of_the_deterministic_solver(order, corrector, expected, bar):
    flow, mixture = RectifiedFlow(), space_mixture()
    x = rng.normal(rng.fold(KEYS, rng.INITIAL), (16,))
    exact = exact_flow(mixture, x, (0.0, 1.0), rtol=1e-8)

    @jax.jit
    def run(grid):
        sampler = sa_solver(0.0, order, corrector)
        return sample(KEYS, exact_denoiser(mixture, flow), sampler, grid, (16,))[0]

    errors = [
        np.linalg.norm(np.asarray(run(logsnr_grid(flow, n))) - exact, axis=1).mean()
        for n in (50, 100)
    ]
    assert np.log2(errors[0] / errors[1]) > expected - 0.35
    assert errors[1] < bar


def test_first_order_is_ddim_and_ddpm():
    grid = logsnr_grid(VP, 12)
    net = exact_denoiser(PLANE, VP)

    @jax.jit
    def run(tau, eta):
        one = sample(KEYS, net, sa_solver(tau, 1, False), grid, (2,))[0]
        two = sample(KEYS, net, ddim(eta), grid, (2,))[0]
        return one, two

    for level in (0.0, 1.0):
        one, two = run(jnp.float32(level), jnp.float32(level))
        np.testing.assert_allclose(one, two, atol=2e-5)


def textbook(net, process, grid, x, keys, tau, order):
    """Algorithm 1 of the paper: draw, evaluate, then correct with the same noise."""

    def coefficients(t):
        a, s = (float(f(jnp.float32(t))) for f in (process.alpha, process.sigma))
        return a, s, np.log(a / s)

    def adams(lambdas, here, there, alpha):
        """Weights of the values at ``lambdas``, by quadrature of Lagrange's basis."""
        found = []
        for j, node in enumerate(lambdas):
            others = [other for k, other in enumerate(lambdas) if k != j]

            def integrand(at, node=node, others=others):
                basis = np.prod([(at - o) / (node - o) for o in others])
                return (1 + tau**2) * np.exp(-(1 + tau**2) * (there - at)) * basis

            found.append(alpha * quad(integrand, here, there, epsabs=1e-12)[0])
        return found

    x = np.asarray(x, np.float64)
    past, places = [], []

    def evaluate(x, t):
        x0 = net(jnp.asarray(x, jnp.float32), jnp.full(len(x), t, jnp.float32)).x0
        return np.asarray(x0, np.float64)

    past.append(evaluate(x, grid[0]))
    places.append(coefficients(grid[0])[2])
    for i in range(len(grid) - 2):
        _, sigma, here = coefficients(grid[i])
        alpha_next, sigma_next, there = coefficients(grid[i + 1])
        h = there - here
        z = rng.normal(rng.fold(keys, i), x.shape[1:])
        noise = sigma_next * np.sqrt(-np.expm1(-2 * tau**2 * h)) * np.asarray(z)
        linear = sigma_next / sigma * np.exp(-(tau**2) * h) * x + noise
        # Here as in diffusers ("lower_order_final"): two estimates on the step before
        # the last, which reaches far in log-SNR, and one on the last.
        used = min(i + 1, order, max(len(grid) - 1 - i, 2))
        weights = adams(places[-used:], here, there, alpha_next)
        values = zip(weights, past[-used:], strict=True)
        predicted = linear + sum(w * v for w, v in values)
        past.append(evaluate(predicted, grid[i + 1]))
        places.append(there)
        weights = adams(places[-used - 1 :], here, there, alpha_next)
        values = zip(weights, past[-used - 1 :], strict=True)
        x = linear + sum(w * v for w, v in values)
    return past[-1]


@pytest.mark.parametrize("order", [2, 3])
def test_is_the_textbook_predictor_corrector(order):
    grid, keys = logsnr_grid(VP, 9), KEYS[:4]
    net = exact_denoiser(PLANE, VP)
    x = rng.normal(rng.fold(keys, rng.INITIAL), (2,))
    exact = textbook(net, VP, np.asarray(grid), x, keys, 0.7, order)
    got, _ = sample(keys, net, sa_solver(0.7, order), grid, x)
    np.testing.assert_allclose(got, exact, atol=2e-4)


@pytest.mark.parametrize(
    "tau", [1.0, 0.4, lambda t: jnp.where((t > 0.2) & (t < 0.8), 1.0, 0.0)]
)
def test_samples_the_law(tau, judge):
    keys, grid = rng.sample_keys(jax.random.key(1), 4000), logsnr_grid(VP, 50)
    base = sa_solver(tau)

    def step(scale, *args):
        out = base.step(*args)
        law = out.transition
        return out._replace(transition=Transition(law.mean, scale * law.std))

    @jax.jit
    def run(scale):
        sampler = base._replace(step=lambda *args: step(scale, *args))
        return sample(keys, exact_denoiser(PLANE, VP), sampler, grid, (2,))[0]

    law = judge(PLANE, run(1.0))
    assert law.distance < 0.06
    assert abs(law.gap) < 0.04
    assert judge(PLANE, run(1.1)).gap < -0.1


def test_bad_order():
    with pytest.raises(ValueError, match="order is 5"):
        sa_solver(order=5)
