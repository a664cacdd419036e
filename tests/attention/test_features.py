"""Edits of features against the published formulas and against other branches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.attention import (
    FeatureEdit,
    edit_features,
    fold_controls,
    identity,
    inject,
    join_features,
    steer,
)
from jaxlib_guidance.models import from_linen
from jaxlib_guidance.testing import tiny_dit, tiny_unet

PROCESS = jg.VPCosine()
X = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))
T = jnp.full(3, 0.4)
LABELS = jnp.arange(3)
NETWORKS = {"unet": tiny_unet(jax.random.key(0)), "dit": tiny_dit(jax.random.key(0))}


def freeu(h, skip, b, s):
    """The authors' code, in numpy: a map of the backbone's mean, a box in Fourier."""
    h, skip = np.array(h, np.float64), np.asarray(skip, np.float64)
    mean = h.mean(-1, keepdims=True)
    low, high = mean.min((1, 2), keepdims=True), mean.max((1, 2), keepdims=True)
    half = h.shape[-1] // 2
    h[..., :half] *= (b - 1) * (mean - low) / (high - low) + 1
    spectrum = np.fft.fftshift(np.fft.fftn(skip, axes=(1, 2)), (1, 2))
    rows, columns = (n // 2 for n in skip.shape[1:3])
    spectrum[:, rows - 1 : rows + 1, columns - 1 : columns + 1] *= s
    skip = np.fft.ifftn(np.fft.ifftshift(spectrum, (1, 2)), axes=(1, 2)).real
    return np.concatenate([h, skip], -1)


@pytest.mark.parametrize("size", [(6, 4), (5, 7), (2, 2)])
def test_a_join_is_the_published_one(size):
    h, skip = (
        jax.random.normal(jax.random.key(i), (2, *size, c))
        for i, c in enumerate((6, 4))
    )
    edit = FeatureEdit(backbone=jnp.asarray([1.5, 1.0]), skip=jnp.asarray([0.2, 1.3]))
    got = join_features(h, skip, edit)
    for i, (b, s) in enumerate(((1.5, 0.2), (1.0, 1.3))):
        expected = freeu(h[i : i + 1], skip[i : i + 1], b, s)[0]
        np.testing.assert_allclose(got[i], expected, atol=2e-6)


def test_gains_of_one_and_no_edit_change_nothing():
    h, skip = jnp.ones((2, 3, 3, 4)), X[:2, :3, :3]
    for edit in (None, FeatureEdit(backbone=1.0, skip=1.0)):
        np.testing.assert_array_equal(
            join_features(h, skip, edit), jnp.concatenate([h, skip], -1)
        )


def test_half_precision_stays():
    h = X[..., :1].astype(jnp.bfloat16)
    edit = FeatureEdit(backbone=1.5, skip=0.2)
    assert join_features(h, h, edit).dtype == jnp.bfloat16
    assert edit_features(h, steer(jnp.ones(1), 0.5)).dtype == jnp.bfloat16


@functools.cache
def x0(kind):
    module, params = NETWORKS[kind]
    denoiser = jg.parametrize(from_linen(module, params), PROCESS, "v")

    @functools.partial(jax.jit, static_argnames="capture")
    def run(control, capture=()):
        out = denoiser(X, T, LABELS, control=control, capture=capture)
        return out.x0, out.maps

    return denoiser, run


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_feature_can_be_steered(kind):
    """What is captured at the place has moved by the direction, and by nothing else."""
    denoiser, run = x0(kind)
    places = tuple(name for name in denoiser.feature_sites if name in denoiser.taps)
    before, maps = run({}, places)
    strength = jnp.asarray([0.0, 1.0, -2.0])

    def steered(place):
        return {
            each: steer(jnp.linspace(-1, 1, maps[each].shape[-1]), on * strength)
            for each, on in ((each, float(each == place)) for each in places)
        }

    for place in places:
        after, moved = run(steered(place), places)
        by = strength.reshape(-1, *(1,) * (maps[place].ndim - 1))
        direction = jnp.linspace(-1, 1, maps[place].shape[-1])
        np.testing.assert_allclose(
            moved[place], maps[place] + by * direction, atol=2e-5
        )
        np.testing.assert_allclose(after[0], before[0], atol=1e-6)
        if place != "up0":  # Before a norm of single channels a shift is nothing.
            assert (np.abs(after - before)[1:].max((1, 2, 3)) > 1e-4).all(), place


def test_every_join_can_be_edited():
    denoiser, run = x0("unet")
    joins = [name for name in denoiser.feature_sites if name.endswith("/join")]
    assert joins == ["up1/join", "up0/join"]

    def edited(join=None, **gains):
        none = {"backbone": 1.0, "skip": 1.0}
        return run(
            {
                each: FeatureEdit(**none | (gains if each == join else {}))
                for each in joins
            }
        )[0]

    before = edited()
    np.testing.assert_allclose(before, run({})[0], atol=1e-6)
    for join in joins:
        for gains in ({"backbone": 2.0}, {"skip": 0.0}):
            assert np.abs(edited(join, **gains) - before).max() > 1e-4, join


def term(control, other):
    """Away from an edited branch, beside a branch to take from."""
    return jg.chain(
        jg.cfg(0.0 * jnp.ones(()), other),
        jg.guidance.Contrast(-1.0, control=control, worse="edited"),
    )


def test_injected_features_are_those_of_the_other_branch():
    """All that comes after the last place of a U-Net sees the features alone."""
    denoiser, _ = x0("unet")
    keys = jg.sample_keys(jax.random.key(2), 3)
    grid = jnp.asarray([0.4, 0.0])

    @jax.jit
    def end(control, cond):
        guidance = None if control is None else term(control, 7)
        sampled, _ = jg.sample(
            keys, denoiser, jg.ddim(), grid, X, cond, guidance=guidance
        )
        return sampled

    other = end(None, jnp.full(3, 7))
    own = end(None, LABELS)
    assert np.abs(own - other).max() > 1e-3
    np.testing.assert_allclose(end({"up0": inject("uncond")}, LABELS), other, atol=1e-5)
    np.testing.assert_allclose(
        end({"up0": inject("uncond", 0.0)}, LABELS), own, atol=1e-5
    )
    some = end({"up0": inject("uncond", jnp.asarray([1.0, 0.0, 1.0]))}, LABELS)
    np.testing.assert_allclose(some[1], own[1], atol=1e-5)
    np.testing.assert_allclose(some[2], other[2], atol=1e-5)


def test_an_absent_edit_leaves_the_program():
    module, params = NETWORKS["unet"]
    network = from_linen(module, params)
    bare, empty = (
        str(jax.make_jaxpr(lambda x, c=c: network(x, T, LABELS, control=c)[0])(X))
        for c in (None, {})
    )
    assert bare == empty


def test_what_does_not_fit_is_refused():
    denoiser, run = x0("unet")
    keys, grid = jg.sample_keys(jax.random.key(0), 3), jnp.asarray([0.4, 0.0])
    guidance = term({"up9": inject("uncond")}, 7)
    with pytest.raises(ValueError, match="'up9' matches nothing; there are: down0"):
        jg.sample(keys, denoiser, jg.ddim(), grid, X, LABELS, guidance=guidance)
    with pytest.raises(ValueError, match="concerns a join of backbone and skip"):
        run({"up0": FeatureEdit(skip=0.2)})
    with pytest.raises(ValueError, match=r"takes edit\.backbone and edit\.skip alone"):
        run({"up0/join": steer(jnp.ones(8))})
    with pytest.raises(ValueError, match=r"add has shape \(3,\); expected \(8,\)"):
        run({"up0": steer(jnp.ones(3))})
    with pytest.raises(TypeError, match="was given FeatureEdit; expected attention"):
        run({"mid/attn": steer(jnp.ones(8))})
    with pytest.raises(TypeError, match="were given Edit; expected attention"):
        run({"mid": identity()})
    with pytest.raises(ValueError, match="borrow from branch 'source', which is not"):
        fold_controls([{"mid": inject("source")}], ["cond"], 3)
    with pytest.raises(ValueError, match=r"mid: backbone has shape \(2,\); expected"):
        fold_controls([{"mid": FeatureEdit(backbone=jnp.ones(2))}, {}], ["a", "b"], 3)
    with pytest.raises(ValueError, match="expected one index for each"):
        run({"mid": inject("source")})
    with pytest.raises(ValueError, match="borrow_gate has no effect without"):
        run({"mid": FeatureEdit(borrow_gate=1.0)})
    with pytest.raises(ValueError, match=r"direction has shape \(2, 3\)"):
        steer(jnp.ones((2, 3)))
