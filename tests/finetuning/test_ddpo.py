"""DDPO and DPOK: the policy-gradient theorem, limits, and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.diffusion import RectifiedFlow, VPCosine, from_x0, uniform_grid
from jaxlib_guidance.finetuning import (
    ddpo,
    dpok,
    prediction_gap,
    rescore,
    rollout,
    step_kl,
)
from jaxlib_guidance.policy import leave_one_out
from jaxlib_guidance.rng import sample_keys
from jaxlib_guidance.sampling import ddim, flow_sde
from jaxlib_guidance.types import Denoised, Denoiser

FLOW = RectifiedFlow()
GRID = uniform_grid(FLOW, 3)
GEN = np.random.default_rng(0)
LOGP, OLD = jnp.asarray(GEN.normal(size=(2, 4, 3)), jnp.float32) / 10
ADV = jnp.asarray(GEN.normal(size=4), jnp.float32)


def denoiser(params):
    """``x0 = gain x + shift``."""
    return Denoiser(lambda x, t, cond, **_: Denoised(params[0] * x + params[1]))


def expected_reward(params):
    """``E[-(x_K - 1)^2]``: mean and variance through the printed step."""
    t = jnp.linspace(1, 0, 4)
    mean, var = 0.0, 1.0
    for i in range(3):
        d, left = t[i + 1] - t[i], 1 - (t[1] if i == 0 else t[i])
        s = 0.7 * jnp.sqrt(t[i] / left)
        # v = (x - x0) / t, affine in x.
        slope, shift = (1 - params[0]) / t[i], -params[1] / t[i]
        by = (1 + s**2 * (1 - t[i]) / (2 * t[i])) * d
        a = 1 + s**2 * d / (2 * t[i]) + by * slope
        mean, var = a * mean + by * shift, a**2 * var - s**2 * d
    return -((mean - 1) ** 2) - var


def test_the_score_function_is_the_gradient_of_the_expected_reward():
    params = jnp.array([0.9, -0.2])
    keys = sample_keys(jax.random.key(0), 40_000)

    @jax.jit
    def estimate(params):
        first = rollout(
            keys, denoiser(params), flow_sde(), GRID, (), reduce="sum", process=FLOW
        )
        reward = -((first.states[:, -1] - 1) ** 2)

        def loss(params):
            again = rescore(
                keys,
                denoiser(params),
                flow_sde(),
                GRID,
                first.states,
                reduce="sum",
                process=FLOW,
            )
            each = ddpo(
                again.logp, None, leave_one_out(reward), again.mask, advantage_clip=1e9
            )
            return jnp.sum(each, axis=1)

        return reward, jax.jacfwd(loss)(params)

    reward, slopes = estimate(params)
    value, exact = jax.value_and_grad(expected_reward)(params)
    assert abs(reward.mean() - value) < 4 * reward.std() / 200
    error = np.asarray(-slopes.mean(0) - exact)
    assert (np.abs(error) < 4 * np.asarray(slopes.std(0)) / 200).all()
    # The bound is tight enough to see a step left out.
    assert (4 * np.asarray(slopes.std(0)) / 200 < 0.15 * np.abs(exact)).all()


def test_on_policy_both_kinds_have_one_gradient():
    mask = jnp.array([[1.0, 1, 0]] * 4)
    sf = jax.grad(lambda p: ddpo(p, None, ADV, mask).sum())(LOGP)
    ratios = jax.grad(lambda p: ddpo(p, LOGP, ADV, mask).sum())(LOGP)
    np.testing.assert_allclose(sf, ratios, rtol=1e-6)
    np.testing.assert_array_equal(sf[:, 2], 0)
    np.testing.assert_allclose(sf[:, 0], -ADV, rtol=1e-6)


def test_clips_ratios_and_advantages():
    logp = jnp.log(jnp.array([[1.5], [0.5], [1.5], [0.5]]))
    advantage = jnp.array([1.0, 1.0, -1.0, -30.0])

    def loss(p):
        return ddpo(p, jnp.zeros_like(p), advantage, clip=0.2)

    np.testing.assert_allclose(loss(logp)[:, 0], [-1.2, -0.5, 1.5, 8.0], rtol=1e-6)
    slope = jax.grad(lambda p: loss(p).sum())(logp)[:, 0]
    np.testing.assert_allclose(slope, [0, -0.5, 1.5, 0], atol=1e-6)


def test_dpok_is_ddpo_within_the_range_and_nothing_outside():
    gap = jnp.zeros((4, 3))

    def slopes(logp, clip):
        dpok_, ddpo_ = (
            jax.grad(lambda p, f=f: f(p).sum())(logp)
            for f in (
                lambda p: dpok(p, OLD, ADV, gap, clip=clip, weight=1.0),
                lambda p: ddpo(p, OLD, ADV, clip=clip),
            )
        )
        return dpok_, ddpo_

    inside = slopes(LOGP, 2.0)
    np.testing.assert_allclose(*inside, rtol=1e-6)
    outside = slopes(OLD + 0.1, 0.01)
    np.testing.assert_array_equal(outside[0], 0)
    assert outside[1][ADV < 0].all()
    pull = dpok(OLD, OLD, 0 * ADV, gap + 3, jnp.array([[1.0, 0, 1]] * 4), beta=0.5)
    np.testing.assert_array_equal(pull, [[1.5, 0, 1.5]] * 4)
    # A gap in half precision, and NaN where it is masked.
    mask = jnp.array([[1.0, 0, 1]] * 4)
    half = jnp.array([[3.0, jnp.nan, 3]] * 4, jnp.bfloat16)
    np.testing.assert_array_equal(dpok(OLD, OLD, 0 * ADV, half, mask, beta=0.5), pull)


def test_the_gap_is_the_kl_up_to_a_factor_of_time():
    process = VPCosine()
    keys = sample_keys(jax.random.key(1), 4)
    args = (ddim(1.0), uniform_grid(process, 3))

    @jax.jit
    def divergence():
        first = rollout(keys, denoiser((0.5, 0.0)), *args, (2,), process=process)
        other = rescore(
            keys, denoiser((0.5, 0.3)), *args, first.states, process=process
        )
        return step_kl(other.transition, first.transition)[:, :2]

    kl = divergence()
    # Shift 0.3 in x0 is the same gap at every state.
    x0 = jnp.full((4, 2), 0.3)
    gap = jnp.stack(
        [prediction_gap(process, t, x0, 0 * x0) for t in args[1][:2]], axis=1
    )
    factor = kl / gap
    np.testing.assert_allclose(factor, factor[:1].repeat(4, 0), rtol=2e-3)


@pytest.mark.parametrize("kind", ["x0", "eps", "v", "velocity", "score"])
def test_the_gap_is_the_error_of_the_prediction(kind):
    process, t = VPCosine(), jnp.array([0.3, 0.6])
    x, a, b = jax.random.normal(jax.random.key(2), (3, 2, 5))
    here, there = (from_x0(process, kind, x0, x, t) for x0 in (a, b))
    want = jnp.mean((here - there) ** 2, axis=1)
    got = prediction_gap(process, t, a, b, kind)
    np.testing.assert_allclose(got, want, rtol=1e-4)
    slope = jax.grad(lambda b: prediction_gap(process, t, a, b, kind).sum())(b)
    assert not slope.any()


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="gap has shape"):
        dpok(LOGP, OLD, ADV, jnp.zeros(4))
    with pytest.raises(ValueError, match="advantage has shape"):
        ddpo(LOGP, OLD, jnp.zeros(3))
    with pytest.raises(ValueError, match="x0_ref has shape"):
        prediction_gap(FLOW, 0.5, jnp.zeros((2, 3)), jnp.zeros((2, 1)))
