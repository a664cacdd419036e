"""Rewards through linear samplers, whose gradients are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.diffusion import RectifiedFlow, uniform_grid
from jaxlib_guidance.finetuning import draft_lv, refl_loss, through_last, through_step
from jaxlib_guidance.guidance import apg, chain
from jaxlib_guidance.rng import sample_keys
from jaxlib_guidance.sampling import ddim, dpmpp_2m, sample
from jaxlib_guidance.types import Denoised, Denoiser

FLOW = RectifiedFlow()
N = 4
GRID = uniform_grid(FLOW, N)
KEYS = sample_keys(jax.random.key(0), 3)
START = jnp.array([[0.3], [-1.2], [0.9]])
PARAMS = jnp.array([0.4, 0.2])


def denoiser(params):
    """``x0 = g x + c``."""
    return Denoiser(lambda x, t, cond, **_: Denoised(params[0] * x + params[1]))


def reward(x):
    return -jnp.sum((x - 1) ** 2, axis=-1)


def run(params, sampler, **options):
    return sample(KEYS, denoiser(params), sampler, GRID, START, **options, process=FLOW)


def closed_form(k):
    """Gradient of the reward's sum: DDIM on a flow is ``x' = x + (x - x0) d / t``."""
    (g, c), x = np.float64(PARAMS), np.float64(START)
    t = np.linspace(1, 0, N + 1)
    by_g, by_c = np.zeros_like(x), np.zeros_like(x)
    for i in range(N):
        d = (t[i + 1] - t[i]) / t[i]
        if i < N - k:
            by_g, by_c = 0 * by_g, 0 * by_c
        else:
            slope = 1 + d * (1 - g)
            by_g, by_c = slope * by_g - d * x, slope * by_c - d
        x = x + d * (x - g * x - c)
    pull = -2 * (x - 1)
    return np.array([np.sum(pull * by_g), np.sum(pull * by_c)])


@pytest.fixture(scope="module")
def truncated():
    """``k -> gradient``, with k an argument, and a list that grows by each tracing."""
    traced = []

    def total(params, k):
        traced.append(k)
        return reward(run(params, through_last(ddim(), k), remat=True)[0]).sum()

    return jax.jit(jax.grad(total)), traced


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_draft_k_in_closed_form(truncated, k):
    gradient, traced = truncated
    before = len(traced)
    np.testing.assert_allclose(gradient(PARAMS, k), closed_form(k), rtol=1e-4)
    before_again = len(traced)
    gradient(PARAMS, k % 4 + 1)
    # The next number runs the program of this one; a full cache may forget the first.
    assert len(traced) == before_again <= before + 1


def test_draft_0_is_no_gradient_and_beyond_all_steps_is_all(truncated):
    np.testing.assert_array_equal(truncated[0](PARAMS, 0), 0)
    np.testing.assert_array_equal(truncated[0](PARAMS, 9), truncated[0](PARAMS, N))


def test_through_all_steps_is_autodiff_of_the_guided_sampler_with_memory():
    """Samples too are unchanged, to the last bit."""
    options = {
        "guidance": chain(apg(1.5, null=3.0, momentum=-0.5)),
        "cond": jnp.arange(3.0),
    }

    @jax.jit
    def both(params):
        def total(params, sampler):
            x, _ = sample(
                KEYS,
                Denoiser(
                    lambda x, t, cond, **_: Denoised(
                        jnp.tanh(params[0] * x + params[1] * cond[:, None])
                    )
                ),
                sampler,
                GRID,
                START,
                **options,
                process=FLOW,
            )
            return reward(x).sum(), x

        grad = jax.grad(total, has_aux=True)
        return grad(params, through_last(dpmpp_2m(), N)), grad(params, dpmpp_2m())

    (got, x), (want, x_plain) = both(PARAMS)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    np.testing.assert_allclose(x, x_plain, rtol=1e-6)


def networks(jaxpr):
    """How often each branch of each cond below a jaxpr has the network, a tanh."""
    found = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "cond":
            found.append([str(b).count(" tanh ") for b in eqn.params["branches"]])
        below = [getattr(p, "jaxpr", p) for p in jax.tree.leaves(eqn.params)]
        for each in below:
            if hasattr(each, "eqns"):
                found += networks(each)
    return found


def test_frozen_steps_are_not_computed_again():
    """On the backward pass only the branch that is differentiated has a network."""

    def total(params):
        x, _ = sample(
            KEYS,
            Denoiser(lambda x, t, cond, **_: Denoised(jnp.tanh(params[0] * x))),
            through_last(ddim(), 1),
            GRID,
            START,
            remat=True,
            process=FLOW,
        )
        return reward(x).sum()

    forward, *backward = networks(jax.make_jaxpr(jax.grad(total))(PARAMS).jaxpr)
    assert forward == [1, 1]
    assert np.sum(backward) == 1


def test_refl_goes_through_one_estimate_only():
    @jax.jit
    def slope(params, index):
        def total(params):
            guidance_state = through_step(ddim(), index)
            _, trace = run(params, guidance_state, trace=lambda info: (info.x, info.x0))
            return reward(trace[1][index]).sum(), trace

        return jax.grad(total, has_aux=True)(params)

    for index in (0, 2, 3):
        got, (x, x0) = slope(PARAMS, index)
        pull = -2 * (x0[index] - 1)
        want = [jnp.sum(pull * x[index]), jnp.sum(pull)]
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_refl_loss():
    r = jnp.array([-1.0, 1.5, 2.5], jnp.bfloat16)
    got, slope = jax.vmap(jax.value_and_grad(refl_loss))(r.astype(jnp.float32))
    np.testing.assert_allclose(got, [3e-3, 5e-4, 0], rtol=1e-6)
    np.testing.assert_allclose(slope, [-1e-3, -1e-3, 0])
    assert refl_loss(r).dtype == jnp.float32


def test_draft_lv_in_closed_form():
    """``E[-(g (alpha x + sigma eps) + c - 1)^2]``; its spread falls as ``1 / n``."""
    b, t, x0 = 4000, 0.25, 0.5
    keys = sample_keys(jax.random.key(1), b)
    x = jnp.full((b, 1), x0)

    @jax.jit
    def slopes(params):
        def values(params, n):
            return draft_lv(
                keys, denoiser(params), x, t, reward=reward, n=n, process=FLOW
            )

        return [jax.jacfwd(values)(params, n) for n in (1, 8)]

    (g, c), clean = np.float64(PARAMS), (1 - t) * x0
    miss = g * clean + c - 1
    want = -2 * np.array([miss * clean + g * t**2, miss])
    one, many = (np.float64(s) for s in slopes(PARAMS))
    for each in (one, many):
        error = each.mean(0) - want
        assert (np.abs(error) < 4 * each.std(0) / np.sqrt(b)).all()
    np.testing.assert_allclose(many.var(0) / one.var(0), 1 / 8, rtol=0.15)
    blind = jax.grad(
        lambda x: draft_lv(
            KEYS, denoiser(PARAMS), x, t, reward=reward, process=FLOW
        ).sum()
    )(START)
    assert not blind.any()


def test_bad_input_is_named():
    net = denoiser(PARAMS)
    with pytest.raises(ValueError, match="n is 0"):
        draft_lv(KEYS, net, START, 0.1, reward=reward, n=0, process=FLOW)
    with pytest.raises(ValueError, match=r"reward\(x\) has shape \(3, 1\)"):
        draft_lv(KEYS, net, START, 0.1, reward=lambda x: x, process=FLOW)
