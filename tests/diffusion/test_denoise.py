"""`parametrize`: from a network to a denoiser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.diffusion import (
    VE,
    VPCosine,
    edm_scalings,
    from_x0,
    linear_betas,
    parametrize,
    vp_discrete,
)
from jaxlib_guidance.testing import exact_denoiser, gaussian_mixture

MIXTURE = gaussian_mixture(
    [0.3, 0.7], [[-1.0, 0.5], [1.0, -0.2]], [np.eye(2) * 0.1, np.eye(2) * 0.3]
)
X = jnp.array([[0.3, -0.8], [1.4, 0.1]])
T = jnp.array([0.2, 0.8])


@pytest.mark.parametrize("kind", ["x0", "eps", "v", "velocity", "score"])
def test_a_perfect_network_of_any_kind_is_the_perfect_denoiser(kind):
    process = VPCosine()
    exact = exact_denoiser(MIXTURE, process)

    def network(x, t, cond):
        return from_x0(process, kind, exact(x, t, cond).x0, x, t)

    got = parametrize(network, process, kind)(X, T).x0
    np.testing.assert_allclose(got, exact(X, T).x0, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("process", [VE(), VPCosine()])
def test_preconditioning_undoes_its_own_target(process):
    exact = exact_denoiser(MIXTURE, process)
    scale = edm_scalings(process, T, 0.6)
    seen = {}

    def network(inputs, level, cond):
        seen.update(inputs=inputs, level=level)
        x = inputs / scale.c_in[:, None]
        return (exact(x, T).x0 - scale.c_skip[:, None] * x) / scale.c_out[:, None]

    made = parametrize(network, process, precondition=True, sigma_data=0.6)
    np.testing.assert_allclose(made(X, T).x0, exact(X, T).x0, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(seen["inputs"], scale.c_in[:, None] * X, rtol=1e-6)
    np.testing.assert_allclose(seen["level"], scale.c_noise, rtol=1e-6)


def test_the_network_is_told_the_time_it_was_trained_with():
    process, seen = vp_discrete(linear_betas()), {}

    def network(x, level, cond):
        seen["level"] = level
        return x

    parametrize(network, process, "eps", c_noise=process.index)(X, jnp.float32(0.5))
    np.testing.assert_allclose(seen["level"], 499, rtol=1e-5)
    parametrize(network, process, "eps")(X, T)
    np.testing.assert_allclose(seen["level"], T)


def test_bfloat16_networks_give_float32_estimates():
    made = parametrize(lambda x, t, c: x.astype(jnp.bfloat16), VE(), "eps")
    assert made(X, T).x0.dtype == jnp.float32


def test_refusals():
    with pytest.raises(ValueError, match="predicts is 'noise'"):
        parametrize(lambda x, t, c: x, VE(), "noise")
    with pytest.raises(ValueError, match="precondition needs predicts='x0'"):
        parametrize(lambda x, t, c: x, VE(), "eps", precondition=True)
    made = parametrize(lambda x, t, c: x[:, :1], VE())
    with pytest.raises(ValueError, match="network returned shape"):
        made(X, T)
    with pytest.raises(ValueError, match=r"control names \['block9'\]"):
        parametrize(lambda x, t, c: x, VE())(X, T, control={"block9": None})
    with pytest.raises(ValueError, match=r"capture names \['map'\]"):
        parametrize(lambda x, t, c: x, VE())(X, T, capture=("map",))


def test_gradients_reach_the_network():
    def loss(w):
        made = parametrize(lambda x, t, c: w * x, VPCosine(), "v")
        return jnp.sum(made(X, T).x0)

    sigma = VPCosine().sigma(T)[:, None]
    np.testing.assert_allclose(
        jax.grad(loss)(jnp.float32(0.3)), -jnp.sum(sigma * X), rtol=1e-5
    )
