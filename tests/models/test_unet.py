"""The U-Net: sites, taps, sizes and types."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.attention import identity
from jaxlib_guidance.models import UNet, from_linen
from jaxlib_guidance.testing import tiny_unet

KEY = jax.random.key(0)
MODULE, PARAMS = tiny_unet(KEY)
X = jax.random.normal(jax.random.key(1), (2, 8, 4, 1))
TIMES, LABELS = jnp.array([0.1, 0.9]), jnp.array([0, 10])


@functools.cache
def compiled(module, capture):
    return jax.jit(
        lambda params, times, labels, control: from_linen(module, params)(
            X, times, labels, control=control, capture=capture
        )
    )


def call(module, params, control, capture=(), times=TIMES, labels=LABELS):
    return compiled(module, capture)(params, times, labels, control)


def test_sites_and_taps_follow_the_levels():
    assert MODULE.sites == ("down1/attn", "mid/attn", "up1/attn")
    assert set(MODULE.taps) - set(MODULE.sites) == {
        "down0",
        "down1",
        "mid",
        "up1",
        "up0",
    }
    both = UNet(multipliers=(1, 1, 1), attention=(2, 0), text=4)
    places = ("down0", "down2", "mid", "up2", "up0")
    assert both.sites == tuple(f"{p}/{k}" for p in places for k in ("attn", "cross"))


def test_an_edit_acts_from_its_site_onwards():
    base, maps = call(MODULE, PARAMS, {}, MODULE.taps)
    control = {"mid/attn": identity(jnp.array([1.0, 0.0]))}
    out, edited = call(MODULE, PARAMS, control, MODULE.taps)
    same = ("down0", "down1", "down1/attn")
    assert all(np.array_equal(maps[n], edited[n]) for n in same)
    np.testing.assert_array_equal(edited["mid/attn"][0, 0], np.eye(8))
    assert np.abs(edited["mid"] - maps["mid"])[0].max() > 1e-3
    moved = np.abs(out - base).max((1, 2, 3))
    assert moved[0] > 1e-4
    assert moved[1] < 1e-6
    assert maps["up0"].shape == (2, 8, 4, 8)
    assert maps["mid"].shape == (2, 4, 2, 16)


def test_remat_and_bfloat16():
    want, _ = call(MODULE, PARAMS, {})
    remat = dataclasses.replace(MODULE, remat=True)
    jaxpr = jax.make_jaxpr(lambda p: remat.apply({"params": p}, X, TIMES)[0])(PARAMS)
    assert sum(e.primitive.name in ("remat2", "checkpoint") for e in jaxpr.eqns) == 6
    half, _ = call(dataclasses.replace(MODULE, dtype=jnp.bfloat16), PARAMS, {})
    assert half.dtype == jnp.float32
    assert np.abs(half - want).max() < 0.1 * np.abs(want).max()
    assert np.any(half != half.astype(jnp.bfloat16).astype(jnp.float32))


def test_labels_and_times_matter():
    def out(t, label):
        return call(MODULE, PARAMS, {}, times=t, labels=label)[0]

    base = out(TIMES, LABELS)
    assert np.abs(out(TIMES, LABELS[::-1]) - base).max() > 1e-4
    assert np.abs(out(TIMES[::-1], LABELS) - base).max() > 1e-4
    np.testing.assert_array_equal(out(TIMES, None)[1], base[1])


def test_bad_input_raises():
    with pytest.raises(ValueError, match="H and W multiples of 2"):
        MODULE.apply({"params": PARAMS}, jnp.ones((2, 7, 4, 1)), TIMES)
    with pytest.raises(ValueError, match="sites are: down1/attn, mid/attn"):
        call(MODULE, PARAMS, {"down0/attn": identity()})
    with pytest.raises(ValueError, match="taps are"):
        call(MODULE, PARAMS, {}, ("down2",))
    wrong = dataclasses.replace(MODULE, attention=(2,))
    with pytest.raises(ValueError, match="attention at levels \\[2\\]"):
        jax.eval_shape(wrong.init, KEY, X, TIMES)
