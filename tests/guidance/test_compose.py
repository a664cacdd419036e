"""Two networks in score space, against the exact flow of two Gaussians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import compose

V, S = (0.5, 2.0), 10.0


def denoiser(v):
    """Of the Gaussian N(0, v); a label moves its mean to ``0.3 label``."""

    def apply(x, t, cond, *, control, capture):
        t, m = t[:, None], 0.3 * cond[:, None]
        return jg.types.Denoised(m + v / (v + t**2) * (x - m))

    return jg.Denoiser(apply)


def draw(guidance, cond, n=400):
    grid = jnp.concatenate([jnp.geomspace(S, 1e-3, n), jnp.zeros(1)])
    nets, keys = (denoiser(V[0]), denoiser(V[1])), jg.sample_keys(jax.random.key(0), 3)
    x = jnp.asarray([[4.0], [-3.0], [8.0]])
    cond = jnp.full(3, cond)
    out, _ = jg.sample(
        *(keys, nets, jg.heun(), grid, x, cond), guidance=guidance, process=jg.VE()
    )
    return np.asarray(out / x)[:, 0]


def test_composed_networks_contract_by_both_variances():
    """``x' = s (x / (v_0 + s^2) + w x / (v_1 + s^2))``, so the end over the start is
    ``(v_0 / (v_0 + S^2))^(1/2) (v_1 / (v_1 + S^2))^(w/2)``."""
    for w in (0.0, 0.5, 1.0):
        want = np.prod(
            [(v / (v + S**2)) ** (k / 2) for v, k in zip(V, (1, w), strict=True)]
        )
        np.testing.assert_allclose(draw(compose(w), 0.0), want, rtol=5e-3)


def test_adaptation_golden(context, guided):
    """``d_0 + s (d_c + g p_c - d_0)`` in eps; g = 0 is CFG of the base network."""
    process = jg.VPCosine()
    x, t = jnp.asarray([[0.4], [-1.2]]), 0.4
    ctx = context(process, x, t, jnp.ones(2))
    alpha, sigma = process.alpha(t), process.sigma(t)

    def eps(net, cond):
        x0 = net(x, ctx.t, jnp.full(2, cond)).x0
        return (x - alpha * x0) / sigma

    d, p = (denoiser(v) for v in V)
    scale, gamma = 2.5, 0.1
    wanted = eps(d, 0.0) + scale * (eps(d, 1.0) + gamma * eps(p, 1.0) - eps(d, 0.0))
    for g, want in ((gamma, wanted), (0.0, None)):
        chain = jg.chain(jg.cfg(scale - 1, 0.0), compose(scale * g))
        x0, _ = guided(chain, (d, p), ctx)
        if want is None:
            want = eps(d, 0.0) + scale * (eps(d, 1.0) - eps(d, 0.0))
        np.testing.assert_allclose((x - alpha * x0) / sigma, want, rtol=1e-4)


def test_the_base_network_is_refused():
    with pytest.raises(ValueError, match="net is 0; expected 1 or more"):
        compose(1.0, net=0)
