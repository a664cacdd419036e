"""State spaces: the convolution is the recurrence, in both directions."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.models import (
    S4D,
    convolve,
    discretise,
    impulse_response,
    layer_spectrum,
    spectrum,
)
from jaxlib_guidance.models.layers._s4 import initial_poles

WIDTH, STATE, LENGTH = 3, 4, 21


@contextlib.contextmanager
def float64():
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", False)


@pytest.fixture(scope="module")
def system():
    """Poles, step sizes, output weights of two directions and an input, in float64."""
    draw = np.random.default_rng(0)
    poles = np.stack([initial_poles(kind, STATE) for kind in ("lin", "inv", "legs")])
    log_dt = np.log(draw.uniform(0.01, 0.1, WIDTH))
    c = draw.normal(size=(2, WIDTH, STATE)) + 1j * draw.normal(size=(2, WIDTH, STATE))
    return poles, log_dt, c, draw.normal(size=(2, LENGTH, WIDTH))


def recurrence(a, b, c, u):
    """``s_l = a s_{l-1} + b u_l``, ``y_l = 2 Re(c s_l)``, step by step."""
    state, out = np.zeros((len(u), *a.shape), complex), []
    for l in range(u.shape[1]):
        state = a * state + b * u[:, l, :, None]
        out.append(2 * np.sum(c * state, -1).real)
    return np.stack(out, 1)


def sampled(rule, poles, log_dt):
    """``a`` and ``b`` from the definition, with the state matrix as a matrix."""
    a, b = np.empty(poles.shape, complex), np.empty(poles.shape, complex)
    for h, dt in enumerate(np.exp(log_dt)):
        for n, pole in enumerate(poles[h]):
            if rule == "zoh":
                # exp of [[A, 1], [0, 0]] dt holds exp(dt A) and its integral.
                power, total = np.eye(2, dtype=complex), np.eye(2, dtype=complex)
                for k in range(1, 60):
                    power = power @ np.array([[pole, 1], [0, 0]]) * dt / k
                    total = total + power
                a[h, n], b[h, n] = total[0]
            else:
                a[h, n] = (1 + dt * pole / 2) / (1 - dt * pole / 2)
                b[h, n] = dt / (1 - dt * pole / 2)
    return a, b


@pytest.mark.parametrize("rule", ["zoh", "bilinear"])
def test_convolution_is_the_recurrence_in_both_directions(rule, system):
    poles, log_dt, c, u = system
    a, b = sampled(rule, poles, log_dt)
    past = recurrence(a, b, c[0], u)
    # The future's kernel starts at the next step.
    future = recurrence(a, b, c[1], u[:, ::-1])[:, ::-1]
    future = np.concatenate([future[:, 1:], np.zeros_like(future[:, :1])], 1)
    with float64():
        kernels = impulse_response(
            discretise(jnp.asarray(poles), jnp.asarray(log_dt), rule), c, LENGTH
        )
        both = convolve(jnp.asarray(u), spectrum(kernels))
        causal = convolve(jnp.asarray(u), spectrum(kernels[:1]))
    np.testing.assert_allclose(causal, past, atol=1e-13)
    np.testing.assert_allclose(both, past + future, atol=1e-13)


def test_poles():
    legs = initial_poles("legs", 8)
    row = np.sqrt(2 * np.arange(16) + 1)
    hippo = -np.tril(np.outer(row, row), -1) - np.diag(np.arange(1, 17))
    normal = hippo + np.outer(row, row) / 2
    eigenvalues = np.linalg.eigvals(normal)
    want = eigenvalues[eigenvalues.imag > 0]
    np.testing.assert_allclose(
        np.sort(legs.imag), np.sort(want.imag), rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(want.real, -0.5, atol=1e-9)
    np.testing.assert_allclose(initial_poles("lin", 3).imag, np.pi * np.arange(3))
    np.testing.assert_allclose(
        initial_poles("inv", 2).imag, 4 / np.pi * np.array([3, 1 / 3])
    )
    for kind in ("lin", "inv", "legs"):
        np.testing.assert_array_equal(initial_poles(kind, 5).real, -0.5)


def test_what_is_refused():
    with pytest.raises(ValueError, match="poles is 'hippo'; expected one of"):
        initial_poles("hippo", 4)
    with pytest.raises(ValueError, match="state is 0"):
        initial_poles("lin", 0)
    with pytest.raises(ValueError, match="rule is 'euler'"):
        discretise(jnp.ones((1, 1), jnp.complex64), jnp.zeros(1), "euler")
    with pytest.raises(ValueError, match=r"spectrum has shape \(3, 9\)"):
        convolve(jnp.zeros((1, 9, 3)), jnp.zeros((3, 9), jnp.complex64))
    with pytest.raises(ValueError, match=r"u has shape \(9, 3\); expected \[B, L, H\]"):
        convolve(jnp.zeros((9, 3)), jnp.zeros((3, 10), jnp.complex64))
    for ways in (0, 3):
        with pytest.raises(ValueError, match=rf"kernels have shape \({ways}, 3, 9\)"):
            spectrum(jnp.zeros((ways, 3, 9)))
    key, u = jax.random.key(0), jnp.zeros((1, 9, 3))
    with pytest.raises(ValueError, match=r"u has shape \(9, 3\)"):
        S4D(state=STATE).init(key, u[0])
    for low, high in ((0.1, 0.01), (0.0, 0.1)):
        with pytest.raises(ValueError, match=f"dt_min and dt_max are {low} and {high}"):
            S4D(state=STATE, dt_min=low, dt_max=high).init(key, u)


@pytest.fixture(scope="module")
def layer():
    module = S4D(state=STATE, poles="inv", rule="bilinear")
    u = jax.random.normal(jax.random.key(0), (2, LENGTH, WIDTH))
    return jax.jit(module.apply), u, jax.jit(module.init)(jax.random.key(1), u)


def test_the_layer_is_its_parts_and_takes_kernels_made_before(layer):
    apply, u, variables = layer
    assert set(variables) == {"params"}
    params = jax.tree.map(np.asarray, variables["params"])
    assert {leaf.dtype for leaf in params.values()} == {np.dtype("float32")}
    assert ((np.exp(params["log_dt"]) > 1e-3) & (np.exp(params["log_dt"]) < 0.1)).all()
    poles = -np.exp(params["log_neg_re"]) + 1j * params["im"]
    c = params["c"] @ np.array([1, 1j])
    a, b = sampled("bilinear", poles, params["log_dt"])
    past = recurrence(a, b, c[0], np.asarray(u))
    future = recurrence(a, b, c[1], np.asarray(u)[:, ::-1])[:, ::-1]
    want = past + params["d"] * u
    want = want.at[:, :-1].add(future[:, 1:])
    np.testing.assert_allclose(apply(variables, u), want, atol=1e-4)
    held = layer_spectrum(params, LENGTH, "bilinear")
    given = apply({**variables, "kernels": {"spectrum": held}}, u)
    np.testing.assert_allclose(given, want, atol=1e-4)
    # They are used, in place of the parameters'.
    doubled = apply({**variables, "kernels": {"spectrum": 2 * held}}, u)
    np.testing.assert_allclose(doubled, 2 * want, atol=2e-4)


def test_half_precision_comes_back(layer):
    apply, u, variables = layer
    half = apply(variables, u.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    whole = apply(variables, u)
    np.testing.assert_allclose(half.astype(jnp.float32), whole, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_causal_layer_sees_no_future(bidirectional):
    u = jax.random.normal(jax.random.key(0), (1, LENGTH, WIDTH))
    module = S4D(state=STATE, bidirectional=bidirectional)

    @jax.jit
    def both(u):
        params = module.init(jax.random.key(1), u)
        later = u.at[:, 12:].add(1)
        return module.apply(params, later) - module.apply(params, u)

    moved = np.abs(both(u)).max((0, 2))
    assert (moved[:12] > 1e-4).any() == bidirectional
    assert moved[12:].min() > 1e-4
