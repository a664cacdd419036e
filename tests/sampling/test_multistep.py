"""The multistep core: moments, Newton's polynomial, and the classical weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from jaxlib_guidance.diffusion import RectifiedFlow
from jaxlib_guidance.rng import sample_keys
from jaxlib_guidance.sampling import adams, ddim, deis, lms, multistep, pndm, sample
from jaxlib_guidance.sampling._spaces import (
    Level,
    clock,
    decay,
    moments,
    predicted,
    stretch,
)
from jaxlib_guidance.types import Denoised, Denoiser

SPACES = ("logsnr", "logsigma", "sigma", "flow")
KEYS = sample_keys(jax.random.key(0), 3)


def level(*pair):
    return Level(*(jnp.float32(a) for a in pair))


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_moments_in_logsnr_are_the_integrals(eta):
    start, end = level(0.4, 0.9), level(0.7, 0.6)
    a, b = np.log(0.4 / 0.9), np.log(0.7 / 0.6)
    for k, got in enumerate(moments("logsnr", start, end, 4, eta)):
        kernel = quad(
            lambda c, k=k: (1 + eta) * np.exp((1 + eta) * (c - b)) * (c - a) ** k, a, b
        )
        np.testing.assert_allclose(got, 0.7 * kernel[0], rtol=2e-5)


@pytest.mark.parametrize("end", [level(0.7, 0.6), level(1.0, 0.0)], ids=["on", "data"])
def test_moments_elsewhere_are_the_integrals(end):
    """Also on the step to data, where the clocks of eps stay integrable."""
    start = level(0.4, 0.9)
    alpha, sigma = float(end.alpha), float(end.sigma)
    a, b = 0.9 / 0.4, sigma / alpha
    want = {
        "logsigma": lambda k: quad(lambda r: np.log(r / a) ** k, a, b)[0] * alpha,
        "sigma": lambda k: quad(lambda r: (r - a) ** k, a, b)[0] * alpha,
        "flow": lambda k: (
            quad(lambda u: (u - 0.9 / 1.3) ** k, 0.9 / 1.3, sigma / (alpha + sigma))[0]
            * (alpha + sigma)
        ),
        "step": lambda k: (sigma - alpha * a) / (k + 1),
    }
    for space, integral in want.items():
        for k, got in enumerate(moments(space, start, end, 4)):
            np.testing.assert_allclose(got, integral(k), rtol=2e-5)


@pytest.mark.parametrize("space", SPACES)
def test_constant_prediction_is_ddim(space):
    """``x n'/n + M_0 f`` is ``alpha' x0 + sigma' eps``: what the moments add to."""
    start, end = level(0.4, 0.9), level(0.7, 0.6)
    x0, eps = jnp.float32(0.3), jnp.float32(-1.2)
    x = start.alpha * x0 + start.sigma * eps
    n = {"logsnr": lambda a, s: s, "flow": lambda a, s: a + s}.get(
        space, lambda a, s: a
    )
    got = n(end.alpha, end.sigma) / n(start.alpha, start.sigma) * x
    got += moments(space, start, end, 1)[0] * predicted(space, x0, eps)
    np.testing.assert_allclose(got, end.alpha * x0 + end.sigma * eps, rtol=1e-6)


@pytest.mark.parametrize("space", SPACES)
def test_a_correction_goes_on_as_ddim_takes_it(space):
    """With the estimate held that was made before it: x0, or eps where eps is it."""
    start, end = level(0.4, 0.9), level(0.7, 0.6)
    x, x0, eps, change = (jnp.float32(a) for a in (-0.96, 0.3, -1.2, 0.05))

    def ddim_step(x):
        if space in ("logsnr", "flow"):
            return end.alpha * x0 + end.sigma * (x - start.alpha * x0) / start.sigma
        return end.alpha * (x - start.sigma * eps) / start.alpha + end.sigma * eps

    want = ddim_step(x + change) - ddim_step(x)
    np.testing.assert_allclose(stretch(space, start, end) * change, want, rtol=1e-5)


def test_clocks_hold_still_at_the_ends():
    for space in SPACES:
        for pair in ((0.0, 1.0), (1.0, 0.0)):
            assert np.isfinite(clock(space, level(*pair)))
    assert decay(level(0.0, 1.0), level(0.5, 0.5), 1.0) == 0
    assert decay(level(0.0, 1.0), level(0.5, 0.5), 0.0) == 1


def weights_of(sampler, process, grid, steps):
    """What the last of ``steps`` steps multiplies each prediction of eps by.

    The network answers step i with eps = the i-th unit vector, so ``x / alpha`` grows
    by ``(rho' - rho)`` times the vector of weights.
    """

    def apply(x, t, cond, **_):
        i = jnp.argmin(jnp.abs(grid[:-1] - t[0]))
        eps = jax.nn.one_hot(i, x.shape[1])
        alpha, sigma = process.alpha(t), process.sigma(t)
        return Denoised((x - sigma[:, None] * eps) / alpha[:, None])

    x = jnp.zeros((1, 8))
    _, states = sample(
        KEYS[:1],
        Denoiser(apply),
        sampler,
        grid[: steps + 1],
        x,
        trace=lambda info: info.x_next,
        process=process,
    )
    states = np.asarray(states, np.float64)[:, 0]
    alpha, sigma = (
        np.asarray(f(grid), np.float64) for f in (process.alpha, process.sigma)
    )
    y, rho = states / alpha[1 : steps + 1, None], sigma / alpha
    return (y[-1] - y[-2]) / (rho[steps] - rho[steps - 1])


ADAMS_BASHFORTH = {
    2: np.array([3, -1]) / 2,
    3: np.array([23, -16, 5]) / 12,
    4: np.array([55, -59, 37, -9]) / 24,
}


@pytest.mark.parametrize("order", [2, 3, 4])
def test_classical_weights(order):
    """PNDM on any grid and LMS on an even one have Adams-Bashforth's weights.

    Liu et al., arXiv 2202.09778, eq. 9, and Butcher, table 244(I).
    """
    process = RectifiedFlow()
    uneven = jnp.linspace(0.8, 0.2, 7) ** 2 + 0.1
    rho = jnp.linspace(3.0, 0.3, 7)
    for sampler, grid in ((pndm(order), uneven), (lms(order), rho / (1 + rho))):
        got = weights_of(sampler, process, grid, 5)[4 - order + 1 : 5][::-1]
        np.testing.assert_allclose(got, ADAMS_BASHFORTH[order], atol=2e-4)


def test_first_order_is_ddim():
    process = RectifiedFlow()
    grid = jnp.array([1.0, 0.7, 0.2, 0.0])
    x = jax.random.normal(jax.random.key(1), (3, 2))
    denoiser = Denoiser(lambda x, t, cond, **_: Denoised(jnp.tanh(2 * x) - 0.2))

    def end(sampler):
        return sample(KEYS, denoiser, sampler, grid, x, process=process)[0]

    want = end(ddim())
    first = [multistep(space, 1) for space in SPACES] + [pndm(1), adams(1, False)]
    for sampler in first:
        np.testing.assert_allclose(end(sampler), want, rtol=1e-5, atol=1e-6)
    # One step has no history, corrected or not.
    one = jnp.array([1.0, 0.0])
    want = sample(KEYS, denoiser, ddim(), one, x, process=process)[0]
    for sampler in (adams(4), deis(3), lms(4), multistep("logsnr", 3, True)):
        got = sample(KEYS, denoiser, sampler, one, x, process=process)[0]
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_scale_is_a_change_of_units():
    """Adams with ``scale`` s on data s y is Adams with scale 1 on data y."""
    process, s = RectifiedFlow(), 3.0
    grid = jnp.array([0.9, 0.7, 0.4, 0.2, 0.0])
    unit = grid / (grid + s * (1 - grid))  # same sigma / (s alpha)
    x = jax.random.normal(jax.random.key(1), (3, 2))
    net = jnp.tanh

    def big(x, t, cond, **_):
        return Denoised(s * net(x / (s * (1 - t) + t)[:, None]))

    def small(x, t, cond, **_):
        return Denoised(net(x))

    start = x * (s * 0.1 + 0.9)
    got, _ = sample(
        KEYS, Denoiser(big), adams(3, scale=s), grid, start, process=process
    )
    want, _ = sample(KEYS, Denoiser(small), adams(3), unit, x, process=process)
    np.testing.assert_allclose(got, s * want, rtol=2e-5, atol=2e-5)


def test_one_network_in_the_compiled_loop():
    traces = []

    def apply(x, t, cond, **_):
        traces.append(1)
        return Denoised(x * 0.5)

    grid = jnp.linspace(1.0, 0.0, 9)
    jax.jit(
        lambda x: sample(
            KEYS, Denoiser(apply), adams(4), grid, x, process=RectifiedFlow()
        )[0]
    ).lower(jnp.ones((3, 2)))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: multistep("snr", 2), "space is 'snr'"),
        (lambda: adams(0), "order is 0"),
        (lambda: lms(5), "order is 5"),
        (lambda: deis(True), "order is True"),
        (lambda: multistep("flow", 2, eta=1.0), "eta and midpoint need"),
        (lambda: multistep("sigma", 2, midpoint=True), "eta and midpoint need"),
        (lambda: adams(2, scale=0.0), "scale is 0.0"),
        (lambda: adams(2, scale=np.inf), "scale is inf; expected a finite number"),
        (lambda: multistep("logsnr", 2, scale=2.0), "scale is 2.0"),
    ],
)
def test_bad_arguments(make, match):
    with pytest.raises(ValueError, match=match):
        make()
