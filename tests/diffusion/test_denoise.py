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


def levels(process, t, **options):
    """What a network receives as its noise level."""
    found = []

    def network(x, level, cond):
        found.append(level)
        return x

    parametrize(network, process, **options)(X, t)
    return found[0]


def test_a_table_gives_the_network_the_index_that_ddpm_networks_expect():
    # diffusers' schedulers and k-diffusion's CompVisDenoiser hand over the timestep.
    process = vp_discrete(linear_betas())
    np.testing.assert_array_equal(levels(process, jnp.float32(0.501)), 500)
    np.testing.assert_allclose(levels(process, jnp.float32(0.5005)), 499.5, rtol=1e-5)
    own = levels(process, T, predicts="eps", c_noise=lambda t: t)
    np.testing.assert_array_equal(own, T)
    np.testing.assert_array_equal(levels(VPCosine(), T), T)
    scaled = edm_scalings(process, T).c_noise
    np.testing.assert_array_equal(levels(process, T, precondition=True), scaled)


def test_a_network_trained_on_timesteps_denoises_without_being_asked():
    """An exact eps network in the units of DDPM's steps, wrapped as the README does."""
    process = vp_discrete(linear_betas())
    exact = exact_denoiser(MIXTURE, process)

    def network(x, step, cond):
        t = (step + 1) / 1000
        return from_x0(process, "eps", exact(x, t).x0, x, t)

    got = parametrize(network, process, "eps")(X, T).x0
    np.testing.assert_allclose(got, exact(X, T).x0, atol=1e-4)


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
    with pytest.raises(ValueError, match="learned variance.*first half"):
        parametrize(lambda x, t, c: jnp.concatenate([x, x], -1), VE())(X, T)
    with pytest.raises(TypeError, match="network returned tuple; expected an array"):
        parametrize(lambda x, t, c: (x, x), VE())(X, T)
    with pytest.raises(TypeError, match="the class VPCosine; expected a noise process"):
        parametrize(lambda x, t, c: x, VPCosine)
    with pytest.raises(TypeError, match="process is 'cosine'"):
        parametrize(lambda x, t, c: x, "cosine")

    def bare(x, c_noise, cond, *, control=None, capture=()):
        return x

    bare.sites, bare.taps = ("mid",), ("mid",)
    with pytest.raises(TypeError, match="network with sites returned"):
        parametrize(bare, VE())(X, T)
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
