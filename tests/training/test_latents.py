"""Losses of latents against numpy, and where gradients go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.reduce import masked_mean
from jaxlib_guidance.training import contrastive_loss, latent_loss, latent_targets

RNG = np.random.default_rng(0)
A, B = (2 * RNG.normal(size=(2, 4, 3, 6))).astype(np.float32)


def test_targets_have_mean_0_and_spread_1_and_no_gradient():
    got = latent_targets(A)
    wide = A.astype(np.float64)
    want = wide - wide.mean(-1, keepdims=True)
    want /= np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(got, want, atol=1e-5)
    # A teacher cannot shrink what is to be predicted, nor move it.
    np.testing.assert_allclose(latent_targets(7 * A + 3), got, atol=1e-4)
    slope = jax.grad(lambda x: jnp.sum(latent_targets(x) * B))(A)
    np.testing.assert_array_equal(slope, 0)
    np.testing.assert_array_equal(latent_targets(np.ones((2, 5), np.float32)), 0)
    assert latent_targets(jnp.asarray(A, jnp.bfloat16)).dtype == jnp.float32


def test_smooth_l1():
    far = np.abs(A - B)
    want = np.where(far < 1, far**2 / 2, far - 0.5).mean(-1)
    assert (far < 1).any()
    assert (far > 1).any()
    got = latent_loss(A, B)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    of_a, of_b = jax.grad(lambda a, b: latent_loss(a, b).sum(), (0, 1))(A, B)
    np.testing.assert_allclose(of_a, np.clip(A - B, -1, 1) / 6, rtol=1e-5)
    np.testing.assert_array_equal(of_b, 0)
    # Of masked patches alone.
    hidden = np.array([[1, 0, 1]] * 4)
    mean = masked_mean(got, hidden)
    np.testing.assert_allclose(mean, want[:, [0, 2]].mean(), rtol=1e-5)


def test_a_pair_among_all_rows():
    a, b = np.float64(A[:, 0]), np.float64(B[:, 0])
    rows = np.concatenate([a, b])
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    want = np.zeros(4)
    for i in range(8):
        score = {k: np.exp(rows[i] @ rows[k] / 0.5) for k in range(8) if k != i}
        want[i % 4] -= np.log(score[(i + 4) % 8] / sum(score.values())) / 2
    loss = jax.jit(contrastive_loss)
    got = loss(A[:, 0], B[:, 0], temperature=0.5)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    swapped = loss(B[:, 0], 3 * A[:, 0], temperature=0.5)
    np.testing.assert_allclose(swapped, got, rtol=1e-5)
    # What is told apart perfectly costs nothing, what is all alike log(2N - 1).
    np.testing.assert_allclose(loss(A[:, 0], A[:, 0], temperature=1e-3), 0, atol=1e-3)
    same = np.ones((4, 3), np.float32)
    np.testing.assert_allclose(loss(same, same), np.log(7), rtol=1e-6)
    slope = jax.jit(jax.grad(lambda a: contrastive_loss(a, a).sum()))(0 * same)
    assert jnp.isfinite(slope).all()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: latent_loss(A, B[:2]), r"targets has shape \(2, 3, 6\)"),
        (lambda: contrastive_loss(A, B), r"a has shape \(4, 3, 6\); expected \[N, D\]"),
        (lambda: contrastive_loss(A[:, 0], B[:2, 0]), r"b has shape \(2, 6\)"),
        (
            lambda: contrastive_loss(A[:, 0], B[:, 0], temperature=0.0),
            "temperature is 0.0; expected a number above 0",
        ),
    ],
)
def test_what_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
