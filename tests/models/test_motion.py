"""The motion network: its sites, its captures, and what is off is off."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.attention import emphasise, identity
from jaxlib_guidance.models import MotionCLR, from_config
from jaxlib_guidance.testing import randomise

MODULE = MotionCLR(width=8, heads=2, text=5)
X = jax.random.normal(jax.random.key(0), (2, 8, 3))
T = jnp.array([0.3, 0.8])
TEXT = jax.random.normal(jax.random.key(1), (2, 4, 5))
SITES = ("down0", "down1", "mid", "up1", "up0")


@pytest.fixture(scope="module")
def params():
    made = jax.eval_shape(MODULE.init, jax.random.key(0), X, T, TEXT)["params"]
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), made)
    return randomise(jax.random.key(2), zeros)


def test_sites_and_taps(params):
    kinds = ("attn", "cross")
    assert MODULE.sites == tuple(f"{p}/{kind}" for p in SITES for kind in kinds)
    call = lambda p: MODULE.apply({"params": p}, X, T, TEXT, capture=MODULE.taps)  # noqa: E731
    value, maps = jax.eval_shape(call, params)
    assert (value.shape, value.dtype) == (X.shape, jnp.float32)
    shapes = {name: a.shape for name, a in maps.items()}
    for place, frames in zip(SITES, (8, 4, 4, 4, 8), strict=True):
        assert shapes[f"{place}/attn"] == (2, 2, frames, frames)
        assert shapes[f"{place}/cross"] == (2, 2, frames, 4)
        assert shapes[place] == (2, frames, 8)
    plain, empty = (
        str(
            jax.make_jaxpr(lambda p, o=o: MODULE.apply({"params": p}, X, T, TEXT, **o))(
                params
            )
        )
        for o in ({}, {"control": {}, "capture": ()})
    )
    assert plain == empty


def test_edits_and_words_are_felt_and_padding_is_not(params):
    @jax.jit
    def run(text, mask, gates, amount):
        cond = {"text": text, "text_mask": mask}
        control = {f"{p}/attn": identity(g) for p, g in zip(SITES, gates, strict=True)}
        control["up0/cross"] = emphasise(jnp.eye(4)[1], amount)
        return MODULE.apply({"params": params}, X, T, cond, control=control)[0]

    mask, off = jnp.arange(4) < jnp.array([[3], [4]]), jnp.zeros(5)
    base = run(TEXT, mask, off, 0.0)
    others = [
        *(run(TEXT, mask, jnp.eye(5)[i], 0.0) for i in range(5)),
        run(TEXT, mask, off, 0.5),
        run(TEXT.at[:, 1].multiply(-1.0), mask, off, 0.0),
    ]
    for other in others:
        assert np.abs(other - base).max((1, 2)).min() > 1e-5
    padded = run(TEXT.at[0, 3].multiply(-9.0), mask, off, 0.0)
    np.testing.assert_array_equal(padded[0], base[0])


def test_it_is_built_of_its_configuration():
    config = {
        "network": {"kind": "motion", "width": 8, "heads": 2, "text": 5},
        "process": {"kind": "cosine"},
        "parametrize": {"predicts": "x0", "precondition": True},
        "shape": [8, 3],
    }
    model = from_config(config)
    assert model.null == {"text": 0.0, "text_mask": False}
    params = jax.eval_shape(model.init, jax.random.key(0))
    net = jax.eval_shape(lambda p: model.denoiser(p)(X, T, {"text": TEXT}).x0, params)
    assert net.shape == X.shape
    with pytest.raises(ValueError, match="T a multiple of 2"):
        MODULE.init(jax.random.key(0), X[:, :7], T, TEXT)
