"""Guidance towards rebalanced features, against the edited network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.attention import FeatureEdit
from jaxlib_guidance.guidance import freeu
from jaxlib_guidance.models import from_linen
from jaxlib_guidance.testing import tiny_unet

PROCESS = jg.VPCosine()
X = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))


def test_freeu_is_its_formula(context):
    module, params = tiny_unet(jax.random.key(0))
    ctx = context(PROCESS, X, 0.4, jnp.arange(2))
    joins = {"up1/join": (1.5, 0.9), "up0/join": (1.6, 0.2)}

    @jax.jit
    def run(params, weight):
        denoiser = jg.parametrize(from_linen(module, params), PROCESS, "v")
        guided = jg.guided(denoiser, freeu(weight, joins))
        edits = {k: FeatureEdit(backbone=b, skip=s) for k, (b, s) in joins.items()}
        plain, free = (
            denoiser(X, 0.4, jnp.arange(2), control=c).x0 for c in ({}, edits)
        )
        return guided(ctx, guided.init(X))[0], plain, free

    got, plain, free = run(params, 0.7)
    np.testing.assert_allclose(got, plain + 0.7 * (free - plain), atol=1e-5)
    assert np.abs(free - plain).max() > 1e-2


def test_gains_are_leaves_and_arguments_are_checked():
    term = freeu(1.0, {"up0/join": (jnp.asarray(1.5), jnp.asarray(0.2))})
    assert len(jax.tree.leaves(term.control)) == 2
    assert term.worse == "freeu:up0/join"
    with pytest.raises(ValueError, match="joins is empty"):
        freeu(1.0, {})
    with pytest.raises(TypeError, match="up0/join's skip"):
        freeu(1.0, {"up0/join": (1.5, "low")})
