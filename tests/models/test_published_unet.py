"""The published U-Net whose backward pass recomputes its blocks, beside a plain one."""

import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.attention import identity, map_distance, queries_and_keys
from jaxlib_guidance.models import published
from jaxlib_guidance.testing import randomise


def network(remat):
    return published.UNet2DCondition(
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=6,
        attention_head_dim=2,
        remat=remat,
    )


X = jax.random.normal(jax.random.key(0), (2, 4, 6, 4))
TEXT = jax.random.normal(jax.random.key(1), (2, 3, 6))
PLAIN, OTHER = network(False), network(True)
SITE, FEATURE = "up0/1/0/attn", "down0/res0"


@pytest.fixture(scope="module")
def params():
    given = X, jnp.zeros(2), {"text": TEXT}
    plain, other = (published.parameter_shapes(n.init, *given) for n in (PLAIN, OTHER))
    assert jax.tree.map(jnp.shape, plain) == jax.tree.map(jnp.shape, other)
    return randomise(jax.random.key(2), plain)


def evaluate(net, x, params, text, gate, capture):
    given = {"params": params}, x, jnp.full(len(x), 30.0), {"text": text}
    control = {"mid/0/0/attn": identity(gate)}
    return net.apply(*given, control=control, capture=capture)


@pytest.mark.slow
def test_values_maps_and_gradients_are_those_of_the_plain_network(params):
    """Of states, parameters, the text and the strength of an edit."""
    capture = {SITE: queries_and_keys, "mid/0/0/cross": None, FEATURE: None}

    def energy(x, params, text, gate, net):
        value, maps = evaluate(net, x, params, text, gate, capture)
        still = jax.lax.stop_gradient(maps[SITE][::-1])
        away = map_distance(maps[SITE], still) + maps["mid/0/0/cross"][:, 0, :, 0].sum(
            1
        )
        total = (value**2).mean() + (away * jnp.arange(1.0, 3.0)).sum()
        return total + maps[FEATURE].mean(), (value, maps)

    @jax.jit
    def run(*given):
        def slopes(net):
            both = jax.value_and_grad(energy, range(4), has_aux=True)
            return both(*given, net)

        return slopes(PLAIN), slopes(OTHER)

    plain, other = run(X, params, TEXT, jnp.float32(0.4))
    for path, a in jax.tree.leaves_with_path(plain[1]):
        assert np.abs(a).max() > 1e-6, path
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), plain, other)


def operations(net, params):
    """How often each operation stands in the lowered program without a derivative."""
    run = jax.jit(lambda *given: evaluate(net, *given, (SITE,)))
    text = run.lower(X, params, TEXT, jnp.float32(0.4)).as_text()
    return Counter(re.findall(r"stablehlo[.]\w+", text))


def test_without_a_derivative_nothing_is_computed_twice(params):
    assert operations(OTHER, params) == operations(PLAIN, params)
