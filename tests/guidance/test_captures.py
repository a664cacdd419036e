"""Captures reduced where they are made."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance._evaluate import evaluate
from jaxlib_guidance.models import from_linen
from jaxlib_guidance.testing import tiny_dit, tiny_unet
from jaxlib_guidance.types import Branch

PROCESS = jg.VPCosine()


def by_key(probs):
    """How much each token is looked at."""
    return jnp.mean(probs, axis=(1, 2))


def norms(tokens):
    return jnp.sum(tokens**2, axis=-1)


@pytest.mark.parametrize("kind", ["dit", "scan", "unet", "foreign"])
def test_what_is_captured_may_be_a_function_of_it(kind, context):
    """The same as of the whole array, in a call of two branches; networks of ours
    return nothing larger."""
    if kind == "unet":
        (module, params), site, place = tiny_unet(jax.random.key(0)), "mid/attn", "up0"
    else:
        options = {"scan": True} if kind == "scan" else {}
        module, params = tiny_dit(jax.random.key(0), **options)
        site, place = "block1/attn", "block2"
    denoiser = jg.parametrize(from_linen(module, params), PROCESS, "v")
    if kind == "foreign":
        denoiser = dataclasses.replace(denoiser, reduces=False)
    x = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))
    t, labels = jnp.full(3, 0.4), jnp.arange(3)
    ctx = context(PROCESS, x, 0.4, labels)

    def seen(x, t, cond, *, control, capture):
        out = denoiser.apply(x, t, cond, control=control, capture=capture)
        sizes.extend(array.size for array in out.maps.values())
        return out

    sizes = []
    watched = dataclasses.replace(denoiser, apply=seen)
    branches = {
        "cond": Branch(labels, capture=((site, by_key), (place, norms))),
        "other": Branch(labels + 1),
    }

    @jax.jit
    def both(x):
        whole = denoiser(x, t, labels, capture=(site, place)).maps
        return whole, evaluate((watched,), branches, ctx, x).maps["cond"]

    whole, maps = both(x)
    np.testing.assert_allclose(maps[site], by_key(whole[site]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(maps[place], norms(whole[place]), rtol=1e-4, atol=1e-4)
    large = max(whole[site].size, whole[place].size)
    assert (max(sizes) < large) == (kind != "foreign")


def test_branches_of_a_call_may_capture_other_functions_and_one_may_not(context):
    module, params = tiny_dit(jax.random.key(0))
    denoiser = jg.parametrize(from_linen(module, params), PROCESS, "v")
    x, labels = jax.random.normal(jax.random.key(1), (3, 8, 8, 1)), jnp.arange(3)
    ctx, site = context(PROCESS, x, 0.4, labels), "block1/attn"

    def found(*captures):
        branches = {str(i): Branch(labels, capture=c) for i, c in enumerate(captures)}
        return jax.jit(lambda x: evaluate((denoiser,), branches, ctx, x).maps)(x)

    maps = found(((site, by_key),), (site,), ((site, norms),), ())
    assert set(maps) == {"0", "1", "2"}
    whole = maps["1"][site]
    assert whole.ndim == 4
    np.testing.assert_allclose(maps["0"][site], by_key(whole), rtol=1e-6)
    np.testing.assert_allclose(maps["2"][site], norms(whole), rtol=1e-6)
    with pytest.raises(ValueError, match=f"two captures of '{site}' in one branch"):
        found(((site, by_key), site))
    with pytest.raises(ValueError, match=rf"captured of '{site}' has shape \(\)"):
        found(((site, jnp.sum),), ())
