"""DiffusionNFT's identities: what a reward of 0, 1/2 and 1 teaches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.diffusion import RectifiedFlow, denoising_loss, perturb
from jaxlib_guidance.finetuning import nft_loss, old_decay, optimality
from jaxlib_guidance.types import Denoised, Denoiser

X0, OLD, TARGET = jax.random.normal(jax.random.key(0), (3, 4, 2, 3))
R = jnp.array([0.0, 0.25, 0.5, 1.0])


def velocities(x0, old, target, r, beta):
    """The loss as the paper writes it, in velocities of a flow at t = 0.4, float64."""
    x0, old, target, r = (np.asarray(a, np.float64) for a in (x0, old, target, r))
    t, eps = 0.4, 0.3
    x_t = (1 - t) * target + t * eps
    v, v_old = (x_t - x0) / t, (x_t - old) / t
    plus, minus = beta * v + (1 - beta) * v_old, (1 + beta) * v_old - beta * v
    total = 0
    for weight, each in ((r, plus), (1 - r, minus)):
        error = x_t - t * each - target
        scale = np.maximum(np.abs(error).mean((1, 2)), 1e-5)
        total += weight / beta * (error**2).mean((1, 2)) / scale
    return total


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_is_the_paper_s_loss_in_velocities(beta):
    got = nft_loss(X0, OLD, TARGET, R, beta=beta)
    want = velocities(X0, OLD, TARGET, R, beta)
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_where_networks_agree_the_gradient_is_2r_minus_1_times_the_regression_s(beta):
    def loss(x0):
        return nft_loss(x0, OLD, TARGET, R, beta=beta, adaptive=False).sum()

    got = jax.grad(loss)(OLD)
    plain = jax.grad(lambda x0: jnp.mean((x0 - TARGET) ** 2, axis=(1, 2)).sum())(OLD)
    want = (2 * R - 1)[:, None, None] * plain
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_golden_pull_and_push():
    """One element, 0.8 from its target, before ``1 / beta``; computed by hand."""
    target = jnp.zeros((2, 1))
    old = target + 0.8

    def loss(x0):
        each = nft_loss(
            x0, old, target, jnp.array([1.0, 0.0]), beta=0.1, adaptive=False
        )
        return 0.1 * each.sum()

    np.testing.assert_allclose(jax.grad(loss)(old)[:, 0], [0.16, -0.16], rtol=1e-5)


def test_all_good_at_beta_1_is_flow_matching_on_the_samples():
    process = RectifiedFlow()
    eps, t = jnp.ones_like(TARGET), jnp.full(4, 0.4)
    x_t = perturb(process, TARGET, eps, t)

    def denoiser(gain):
        return Denoiser(lambda x, t, cond, **_: Denoised(gain * x))

    def nft(gain):
        x0 = denoiser(gain)(x_t, t).x0
        return nft_loss(x0, OLD, TARGET, jnp.ones(4), adaptive=False).sum()

    def matching(gain):
        return denoising_loss(
            denoiser(gain), TARGET, eps, t, weighting="x0", process=process
        ).sum()

    got, want = (jax.value_and_grad(f)(0.7) for f in (nft, matching))
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_the_weight_and_the_old_network_are_constants():
    slopes = jax.grad(lambda *args: nft_loss(*args, R).sum(), argnums=(0, 1, 2))(
        X0, OLD, TARGET
    )
    assert slopes[0].any()
    assert not slopes[1].any()
    assert not slopes[2].any()
    # Differentiating w too would halve the gradient of a single element.
    one = jnp.ones((1, 1))
    slope = jax.grad(lambda x0: nft_loss(x0, one, 0 * one, jnp.ones(1)).sum())(3 * one)
    np.testing.assert_allclose(slope, 2 * one, rtol=1e-6)
    # A perfect estimate has w = 0, which is held off.
    value, slope = jax.value_and_grad(lambda x0: nft_loss(x0, TARGET, TARGET, R).sum())(
        TARGET
    )
    assert value == 0
    assert not slope.any()


def test_optimality():
    advantages = jnp.array([-9.0, -5, 0, 2.5, 5, 9], jnp.bfloat16)
    got = optimality(advantages)
    np.testing.assert_allclose(got, [0, 0, 0.5, 0.75, 1, 1])
    assert got.dtype == jnp.float32
    assert jax.grad(lambda a: optimality(a).sum())(jnp.float32(1.0)) == 0


def test_old_decay():
    """min(0.001 step, 0.5), and min(0.0075 (step - 75)+, 0.999)."""
    steps = jnp.array([0, 10, 500, 900])
    np.testing.assert_allclose(old_decay(steps), [0, 0.01, 0.5, 0.5], rtol=1e-6)
    later = old_decay(jnp.array([0, 75, 95, 900]), 0.0075, 75, 0.999)
    np.testing.assert_allclose(later, [0, 0, 0.15, 0.999], rtol=1e-6)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="x0_old has shape"):
        nft_loss(X0, OLD[:2], TARGET, R)
    with pytest.raises(ValueError, match="target has shape"):
        nft_loss(X0, OLD, TARGET[0], R)
    with pytest.raises(ValueError, match="reward has shape"):
        nft_loss(X0, OLD, TARGET, R[:, None])
