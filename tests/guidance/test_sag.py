"""Self-attention guidance, against its steps written down."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import sag
from jaxlib_guidance.models import from_linen
from jaxlib_guidance.testing import tiny_dit

PROCESS = jg.VPCosine()
MODULE, PARAMS = tiny_dit(jax.random.key(0), depth=2, patch=2)
NET = jg.parametrize(from_linen(MODULE, PARAMS), PROCESS, "v")
X = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))
LABELS, SITE = jnp.arange(3), "block1/attn"


def gaussian(size, sigma):
    place = np.arange(size)
    if sigma == 0:
        return np.eye(size)
    weight = np.exp(-0.5 * ((place[:, None] - place) / sigma) ** 2)
    return weight / weight.sum(1, keepdims=True)


def test_sag_is_its_formula(context, guided):
    ctx = context(PROCESS, X, 0.5, LABELS)
    weight, sigma = jnp.array([0.0, 0.5, 1.0]), jnp.array([2.0, 2.0, 0.7])

    @jax.jit
    def run(term):
        return guided(term, NET, ctx)[0]

    @jax.jit
    def plain(x):
        out = NET(x, ctx.t, LABELS, capture=(SITE,))
        return out.x0, out.maps[SITE]

    x0, probs = (np.asarray(a, np.float64) for a in plain(X))
    received = probs.mean(1).sum(1)
    np.testing.assert_allclose(received.mean(1), 1, rtol=1e-5)
    where = np.kron((received > 1).reshape(3, 4, 4), np.ones((2, 2)))[..., None]
    assert 0 < where.mean() < 1
    mix = [gaussian(8, float(s)) for s in sigma]
    blurred = np.stack(
        [np.einsum("ij,kl,jlc->ikc", m, m, one) for m, one in zip(mix, x0, strict=True)]
    )
    blurred = where * blurred + (1 - where) * x0
    alpha, noise = np.asarray(ctx.alpha), np.asarray(ctx.sigma)
    eps = (np.asarray(X) - alpha * x0) / noise
    x = jnp.asarray(alpha * blurred + noise * eps, jnp.float32)
    again = np.asarray(plain(x)[0])
    want = x0 + np.asarray(weight)[:, None, None, None] * (blurred - again)
    assert np.abs(want - x0).max() > 1e-2
    np.testing.assert_allclose(
        run(sag(weight, SITE, sigma)), want, rtol=1e-3, atol=1e-4
    )
    # The same as the contrast of the noise predictions.
    eps_again = (np.asarray(x) - alpha * again) / noise
    steered = eps + np.asarray(weight)[:, None, None, None] * (eps - eps_again)
    same = (np.asarray(X) - noise * steered) / alpha
    np.testing.assert_allclose(same, want, rtol=1e-3, atol=1e-3)
    # Nothing is above a high threshold: what is degraded is the estimate itself.
    np.testing.assert_allclose(
        run(sag(weight, SITE, sigma, jnp.float32(99.0))), x0, rtol=1e-3, atol=1e-3
    )


def test_what_does_not_fit_is_refused(context, guided):
    ctx = context(PROCESS, X, 0.5, LABELS)

    def trace(term):
        jax.eval_shape(lambda: guided(term, NET, ctx)[0])

    with pytest.raises(ValueError, match=r"sag's site is 'block1/\*'; expected the"):
        trace(sag(1.0, "block1/*"))
    with pytest.raises(ValueError, match="'mid/attn' matches nothing.*block1/attn"):
        trace(sag(1.0, "mid/attn"))
    with pytest.raises(ValueError, match=r"a map of shape \(3, 16, .*self-attention"):
        trace(sag(1.0, "block1"))
    with pytest.raises(ValueError, match="sigma is -1"):
        sag(1.0, SITE, -1)
