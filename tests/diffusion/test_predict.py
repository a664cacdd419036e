"""Conversions among x0, eps, score, v and velocity, and EDM's scalings."""

import itertools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance import rng
from jaxlib_guidance.diffusion import (
    VE,
    Prediction,
    RectifiedFlow,
    VPCosine,
    VPLinear,
    convert,
    edm_scalings,
    from_x0,
    linear_betas,
    perturb,
    to_x0,
    vp_discrete,
)

KINDS = get_args(Prediction)
PROCESSES = {
    "vp_linear": VPLinear(),
    "vp_cosine": VPCosine(),
    "vp_discrete": vp_discrete(linear_betas()),
    "ve": VE(),
    "flow": RectifiedFlow(),
}


@pytest.fixture(scope="module", params=PROCESSES)
def case(request):
    process = PROCESSES[request.param]
    keys = rng.sample_keys(jax.random.key(0), 5)
    x0, eps = rng.normal(keys, (3,)), rng.normal(rng.fold(keys, 1), (3,))
    t = jnp.array([0.1, 0.3, 0.5, 0.7, 0.9])
    return process, x0, eps, perturb(process, x0, eps, t), t


def test_each_kind_means_what_it_says(case):
    process, x0, eps, x_t, t = case
    alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
    path = lambda s: perturb(process, x0, eps, s)  # noqa: E731
    step = 1e-3
    want = {
        "x0": x0,
        "eps": eps,
        "score": -(x_t - alpha * x0) / sigma**2,
        "v": alpha * eps - sigma * x0,
        "velocity": (path(t + step) - path(t - step)) / (2 * step),
    }
    for kind, value in want.items():
        tol = 1e-2 if kind == "velocity" else 1e-4
        got = from_x0(process, kind, x0, x_t, t)
        np.testing.assert_allclose(got, value, rtol=tol, atol=tol, err_msg=kind)


@pytest.mark.parametrize(("src", "dst"), list(itertools.permutations(KINDS, 2)))
def test_there_and_back(case, src, dst):
    process, x0, _, x_t, t = case
    value = from_x0(process, src, x0, x_t, t)
    there = convert(process, src, dst, value, x_t, t)
    np.testing.assert_allclose(
        there, from_x0(process, dst, x0, x_t, t), rtol=2e-3, atol=2e-3
    )
    back = convert(process, dst, src, there, x_t, t)
    np.testing.assert_allclose(back, value, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_affine_combinations_agree_in_every_space(case, kind):
    # Guidance is such a combination, which is why it may live in x0 alone.
    process, x0, _, x_t, t = case
    other = x0 * 0.3 + 0.1
    mix = lambda a, b: 3 * a - 2 * b  # noqa: E731
    a, b = (from_x0(process, kind, each, x_t, t) for each in (x0, other))
    got = to_x0(process, kind, mix(a, b), x_t, t)
    np.testing.assert_allclose(got, mix(x0, other), rtol=2e-3, atol=2e-3)


def test_gradients_of_a_round_trip_are_the_identity(case):
    process, x0, _, x_t, t = case

    def round_trip(x0, kind):
        return to_x0(process, kind, from_x0(process, kind, x0, x_t, t), x_t, t)

    for kind in KINDS:
        _, slope = jax.jvp(lambda x, k=kind: round_trip(x, k), (x0,), (x0 * 0 + 1,))
        np.testing.assert_allclose(slope, 1, rtol=2e-3)


def test_velocity_of_a_flow_is_noise_minus_data():
    x0, eps, t = jnp.full((2, 2), 3.0), jnp.full((2, 2), 5.0), jnp.array([0.2, 1.0])
    process = RectifiedFlow()
    x_t = perturb(process, x0, eps, t)
    np.testing.assert_allclose(from_x0(process, "velocity", x0, x_t, t), 2, rtol=1e-5)
    # Unlike eps, velocity and v say what x0 is even where alpha is 0.
    np.testing.assert_allclose(
        to_x0(process, "velocity", eps - x0, x_t, t), x0, rtol=1e-5
    )


def test_half_precision_predictions_are_raised_before_any_arithmetic():
    x_t = jnp.ones((1, 2))
    out = to_x0(VE(), "eps", jnp.ones((1, 2), jnp.bfloat16), x_t, jnp.array([0.5]))
    assert out.dtype == jnp.float32


def test_unknown_kinds_are_refused():
    x = jnp.ones((1, 2))
    with pytest.raises(ValueError, match="kind is 'noise'"):
        to_x0(VE(), "noise", x, x, 1.0)
    with pytest.raises(ValueError, match="kind is 'noise'"):
        from_x0(VE(), "noise", x, x, 1.0)
    with pytest.raises(ValueError, match="dst is 'noise'"):
        convert(VE(), "x0", "noise", x, x, 1.0)


def test_edm_scalings_at_alpha_one_are_those_of_the_paper():
    # arXiv 2206.00364, table 1, in float64.
    sigma, s = np.array([0.002, 0.5, 3.0, 80.0]), 0.5
    got = edm_scalings(VE(), jnp.asarray(sigma, jnp.float32), s)
    np.testing.assert_allclose(got.c_skip, s**2 / (sigma**2 + s**2), rtol=1e-6)
    np.testing.assert_allclose(got.c_out, sigma * s / np.hypot(sigma, s), rtol=1e-6)
    np.testing.assert_allclose(got.c_in, 1 / np.hypot(sigma, s), rtol=1e-6)
    np.testing.assert_allclose(got.c_noise, np.log(sigma) / 4, rtol=1e-6)


def test_edm_scalings_of_any_process_are_edm_in_the_rescaled_state(case):
    process, *_, t = case
    ratio = process.sigma(t) / process.alpha(t)
    got, want = edm_scalings(process, t, 0.7), edm_scalings(VE(), ratio, 0.7)
    np.testing.assert_allclose(got.c_skip * process.alpha(t), want.c_skip, rtol=1e-4)
    np.testing.assert_allclose(got.c_out, want.c_out, rtol=1e-4)
    np.testing.assert_allclose(got.c_in * process.alpha(t), want.c_in, rtol=1e-4)
    np.testing.assert_allclose(got.c_noise, want.c_noise, rtol=1e-3, atol=1e-4)


def test_edm_scalings_are_finite_at_both_ends():
    for process in (RectifiedFlow(), VPCosine(t_max=1.0)):
        assert all(
            np.isfinite(c).all() for c in edm_scalings(process, jnp.array([0.0, 1.0]))
        )


def test_edm_input_and_target_have_unit_variance():
    # The purpose of the scalings: for data of standard deviation s, c_in x_t and the
    # target (x0 - c_skip x_t) / c_out have variance 1.
    n, s, t = 200_000, 0.4, jnp.float32(0.6)
    keys = jax.random.split(jax.random.key(0))
    x0, eps = s * jax.random.normal(keys[0], (1, n)), jax.random.normal(keys[1], (1, n))
    process = VPLinear()
    x_t = perturb(process, x0, eps, t)
    scale = edm_scalings(process, t, s)
    np.testing.assert_allclose(jnp.std(scale.c_in * x_t), 1, rtol=1e-2)
    target = (x0 - scale.c_skip * x_t) / scale.c_out
    np.testing.assert_allclose(jnp.std(target), 1, rtol=1e-2)
