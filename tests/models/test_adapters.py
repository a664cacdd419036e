"""Adapters give what the module gives, and gradients to its parameters."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlib_guidance.attention import identity
from jaxlib_guidance.diffusion import RectifiedFlow, parametrize
from jaxlib_guidance.models import from_linen, from_nnx
from jaxlib_guidance.testing import tiny_dit

X = jax.random.normal(jax.random.key(1), (3, 4))
TIMES, COND = jnp.array([0.2, 0.5, 0.9]), jnp.arange(3.0)


class Foreign(nn.Module):
    @nn.compact
    def __call__(self, x, t, cond, *, scale=1.0):
        inputs = jnp.concatenate([x, t[:, None], cond[:, None]], -1)
        return scale * nn.Dense(x.shape[-1])(nn.tanh(nn.Dense(8)(inputs)))


class ForeignNNX(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, x, t, cond, *, scale=1.0):
        inputs = jnp.concatenate([x, t[:, None], cond[:, None]], -1)
        return scale * jnp.tanh(self.dense(inputs))


def test_a_foreign_linen_module():
    module = Foreign()
    variables = module.init(jax.random.key(0), X, TIMES, COND)
    want = module.apply(variables, X, TIMES, COND)
    for given in (variables, variables["params"]):
        value, maps = from_linen(module, given)(X, TIMES, COND)
        np.testing.assert_array_equal(value, want)
        assert not maps
    twice, _ = from_linen(module, variables, scale=2.0)(X, TIMES, COND)
    np.testing.assert_allclose(twice, 2 * want, rtol=1e-6)


def test_gradients_reach_linen_parameters_inside_a_denoiser():
    module, process = Foreign(), RectifiedFlow()
    params = module.init(jax.random.key(0), X, TIMES, COND)["params"]

    @jax.jit
    @jax.grad
    def grad(params):
        denoiser = parametrize(from_linen(module, params), process, "velocity")
        return jnp.sum(denoiser(X, TIMES, COND).x0 ** 2)

    def by_hand(params):
        velocity = module.apply({"params": params}, X, TIMES, COND)
        return jnp.sum((X - TIMES[:, None] * velocity) ** 2)

    want, found = jax.grad(by_hand)(params), grad(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), want, found)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(found))


def test_an_nnx_module_and_its_state():
    module = ForeignNNX(nnx.Rngs(0))
    want = module(X, TIMES, COND)
    graph, state = nnx.split(module)
    for net in (from_nnx(module), from_nnx(graph, state), from_nnx(*nnx.split(module))):
        np.testing.assert_array_equal(net(X, TIMES, COND)[0], want)

    @jax.jit
    def loss(state):
        def step(x, t):
            return from_nnx(graph, state)(x, t * jnp.ones(3), COND)[0], None

        return jnp.sum(jax.lax.scan(step, X, jnp.array([0.1, 0.2]))[0] ** 2)

    grads = jax.tree.leaves(jax.grad(loss)(state))
    assert len(grads) == 2
    assert all(np.any(leaf) for leaf in grads)
    eps, slope = 1e-2, sum(jnp.vdot(g, g) for g in grads)
    grad = jax.grad(loss)(state)
    ahead, behind = (
        loss(jax.tree.map(lambda p, g, e=e: p + e * g, state, grad))
        for e in (eps, -eps)
    )
    np.testing.assert_allclose((ahead - behind) / (2 * eps), slope, rtol=2e-2)


def test_foreign_modules_have_nothing_to_control():
    module = Foreign()
    params = module.init(jax.random.key(0), X, TIMES, COND)
    for net in (from_linen(module, params), from_nnx(ForeignNNX(nnx.Rngs(0)))):
        assert net.sites == net.taps == ()
        with pytest.raises(ValueError, match="control names .* sites are: none"):
            net(X, TIMES, COND, control={"block0/attn": identity()})
        with pytest.raises(ValueError, match="capture names .* taps are: none"):
            net(X, TIMES, COND, capture=("block0",))


def test_our_networks_bring_their_sites():
    module, params = tiny_dit(jax.random.key(0), depth=1)
    net = from_linen(module, params)
    assert net.sites == module.sites
    assert net.taps == module.taps
    x = jnp.ones((3, 8, 8, 1))
    direct = jax.make_jaxpr(lambda x: module.apply({"params": params}, x, TIMES)[0])(x)
    assert str(jax.make_jaxpr(lambda x: net(x, TIMES)[0])(x)) == str(direct)
    with pytest.raises(ValueError, match="sites are: block0/attn"):
        net(x, TIMES, control={"block1/attn": identity()})
