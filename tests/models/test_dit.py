"""The transformer: sites and taps do what they say, however its blocks are run."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.attention import Edit, emphasise, fold_controls, identity
from jaxlib_guidance.models import (
    DiT,
    from_linen,
    patchify,
    stack_blocks,
    unpatchify,
    unstack_blocks,
)
from jaxlib_guidance.testing import tiny_dit

KEY = jax.random.key(0)
MODULE, PARAMS = tiny_dit(KEY, depth=2)
ONE, ONE_PARAMS = tiny_dit(KEY, depth=1)
X = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))
TIMES, LABELS = jnp.array([0.1, 0.5, 0.9]), jnp.array([0, 3, 10])


@functools.cache
def compiled(module, capture):
    return jax.jit(
        lambda params, x, cond, control: from_linen(module, params)(
            x, TIMES[: len(x)], cond, control=control, capture=capture
        )
    )


def run(module, params, control=None, capture=(), x=X, cond=LABELS):
    return compiled(module, tuple(capture))(params, x, cond, control or {})


def close(a, b, tol=2e-6):
    def check(a, b):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=tol, rtol=tol)

    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(check, a, b)


CONTROL = {
    "block1/attn": dataclasses.replace(
        identity(jnp.array([1.0, 0.0, 0.5])), query_blur=jnp.array([0.0, 0.0, 1.0])
    )
}


def test_edits_act_at_their_site_only():
    base, maps = run(MODULE, PARAMS, capture=MODULE.taps)
    out, edited = run(MODULE, PARAMS, CONTROL, capture=MODULE.taps)
    assert set(edited) == set(MODULE.taps)
    close(edited["block0"], maps["block0"])
    gate = np.asarray(CONTROL["block1/attn"].identity)
    changed = [np.abs(edited["block1"] - maps["block1"])[i].max() for i in range(3)]
    assert [c > 1e-3 for c in changed] == list(gate > 0)
    eye = jnp.broadcast_to(jnp.eye(16), maps["block1/attn"][0].shape)
    close(edited["block1/attn"][0], eye)
    assert np.abs(out - base).max() > 1e-2
    close(run(MODULE, PARAMS, CONTROL)[0], out, 1e-5)


def test_scan_and_remat_change_nothing():
    taps = ("block0", "block1/attn")

    def gradient(module, params):
        def loss(params):
            net = from_linen(module, params)
            out, maps = net(X, TIMES, LABELS, control=CONTROL, capture=taps)
            return jnp.sum(out**2) + sum(jnp.sum(m**2) for m in maps.values()), maps

        return jax.jit(jax.grad(loss, has_aux=True))(params)

    grads, maps = gradient(MODULE, PARAMS)
    other = dataclasses.replace(MODULE, scan=True, remat=True)
    found, seen = gradient(other, stack_blocks(PARAMS))
    close(seen, maps, 1e-5)
    close(unstack_blocks(found), grads, 2e-4)


def test_a_whole_scan_has_the_values_and_gradients_of_its_blocks():
    other = dataclasses.replace(MODULE, scan=True)

    def gradient(module, params):
        def loss(p):
            return jnp.sum(from_linen(module, p)(X, TIMES, LABELS)[0] ** 2)

        return jax.jit(jax.value_and_grad(loss))(params)

    value, grads = gradient(MODULE, PARAMS)
    found, stacked = gradient(other, stack_blocks(PARAMS))
    close(found, value, 1e-4)
    close(unstack_blocks(stacked), grads, 2e-4)


def test_scanned_blocks_start_as_unscanned_ones_do():
    scanned = DiT(width=16, depth=2, heads=2, scan=True)
    params = jax.jit(scanned.init)(KEY, X, TIMES)["params"]
    single = jax.eval_shape(
        dataclasses.replace(scanned, scan=False).init, KEY, X, TIMES
    )
    shapes = jax.tree.map(lambda p: p.shape, unstack_blocks(params))
    assert shapes == jax.tree.map(lambda p: p.shape, single["params"])
    assert jax.tree.structure(stack_blocks(unstack_blocks(params)))
    kernels = params["blocks"]["attn"]["q"]["kernel"]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.01
    assert not np.any(run(scanned, params, cond=None)[0])
    with pytest.raises(ValueError, match="params have no 'block0'"):
        run(dataclasses.replace(scanned, scan=False), params, cond=None)


def test_an_absent_control_leaves_the_jaxpr_unchanged():
    def jaxpr(**kwargs):
        net = from_linen(ONE, ONE_PARAMS)
        return str(jax.make_jaxpr(lambda x: net(x, TIMES, LABELS, **kwargs)[0])(X))

    bare = jax.make_jaxpr(
        lambda x: ONE.apply({"params": ONE_PARAMS}, x, TIMES, LABELS)[0]
    )
    assert jaxpr() == jaxpr(control={}) == jaxpr(control=None) == str(bare(X))
    assert jaxpr() != jaxpr(control={"block0/attn": identity()})


def test_an_edited_scan_unrolls_only_the_block_that_is_edited():
    single, params = tiny_dit(KEY, depth=3)
    scanned, params = dataclasses.replace(single, scan=True), stack_blocks(params)

    def scans(control):
        net = from_linen(scanned, params)
        jaxpr = jax.make_jaxpr(lambda x: net(x, TIMES, LABELS, control=control)[0])(X)
        return [e.params["length"] for e in jaxpr.eqns if e.primitive.name == "scan"]

    assert scans({}) == [3]
    assert scans({"block1/attn": identity()}) == [1, 1]
    assert scans({"block2/attn": identity()}) == [2]
    control = {"block0/attn": identity()}
    assert scans(control) == [2]
    want, _ = run(single, unstack_blocks(params), control)
    close(run(scanned, params, control)[0], want, 1e-5)


def test_folded_branches_equal_separate_calls():
    site = "block0/attn"
    edits = [Edit(), identity(jnp.array([1.0, 0.0, 0.5])), Edit(query_blur=1.0)]
    folded = fold_controls([{site: edit} for edit in edits], "abc", 3)
    inputs = {"x": jnp.repeat(X, 3, 0), "cond": jnp.repeat(LABELS, 3)}
    together = jax.jit(
        lambda p: from_linen(ONE, p)(
            inputs["x"], jnp.repeat(TIMES, 3), inputs["cond"], control=folded
        )[0]
    )(ONE_PARAMS)
    for i, edit in enumerate(edits):
        close(together[i::3], run(ONE, ONE_PARAMS, {site: edit})[0], 1e-5)


def test_bfloat16_has_a_float32_head_and_is_close():
    half = dataclasses.replace(ONE, dtype=jnp.bfloat16)
    want, _ = run(ONE, ONE_PARAMS)
    for dtype in (jnp.bfloat16, jnp.float16):
        out, maps = run(half, ONE_PARAMS, capture=half.taps, x=X.astype(dtype))
        assert out.dtype == jnp.float32
        assert all(m.dtype == jnp.float32 for m in maps.values())
        assert np.abs(out - want).max() < 0.05 * np.abs(want).max()
    # The output is not a rounded bfloat16 in disguise.
    assert np.any(out != out.astype(jnp.bfloat16).astype(jnp.float32))
    jaxpr = jax.make_jaxpr(lambda x: half.apply({"params": ONE_PARAMS}, x, TIMES)[0])(X)
    products = [
        e.outvars[0].aval.dtype for e in jaxpr.eqns if e.primitive.name == "dot_general"
    ]
    assert products[-1] == jnp.float32
    assert products.count(jnp.bfloat16) >= 4


def test_text_is_a_context_with_padding():
    module, params = tiny_dit(KEY, (6, 2), classes=None, text=5, depth=1, qk_norm=True)
    assert module.sites == ("block0/attn", "block0/cross")
    x = jax.random.normal(KEY, (3, 6, 2))
    text = jax.random.normal(jax.random.key(2), (3, 4, 5))
    mask = jnp.arange(4) < jnp.array([[4], [2], [0]])

    def call(text, mask, **kwargs):
        cond = None if text is None else {"text": text, "text_mask": mask}
        capture = ("block0/cross",)
        return run(module, params, x=x, cond=cond, capture=capture, **kwargs)

    out, maps = call(text, mask)
    assert maps["block0/cross"].shape == (3, 2, 3, 4)
    close(maps["block0/cross"].sum(-1)[:, 0, 0], jnp.array([1.0, 1.0, 0.0]))
    padding = jnp.where(mask[..., None], text, 100.0)
    close(call(padding, mask)[0], out, 1e-5)
    close(call(None, None)[0][2], out[2], 1e-5)
    word = {"block0/cross": emphasise(jnp.array([1.0, 0, 0, 0]), 1.0)}
    moved = np.abs(call(text, mask, control=word)[0] - out).max((1, 2))
    assert (moved > 1e-3).all()
    with pytest.raises(ValueError, match="cross-attention site"):
        call(text, mask, control={"block0/cross": identity()})


@pytest.mark.parametrize(
    ("shape", "patch", "channels", "positions"),
    [
        ((6, 10, 3), 2, 5, "learned"),
        ((5, 3, 1), 1, None, "sincos"),
        ((9, 2), 3, 1, "sincos"),
    ],
)
def test_shapes(shape, patch, channels, positions):
    module, params = tiny_dit(
        KEY, shape, depth=1, patch=patch, channels=channels, positions=positions
    )
    out, _ = run(module, params, x=jnp.ones((1, *shape)), cond=None)
    assert out.shape == (1, *shape[:-1], channels or shape[-1])


def test_patches_round_trip_and_keep_places():
    x = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    tokens, grid = patchify(x, 2)
    assert grid == (2, 3)
    np.testing.assert_array_equal(tokens[1, 5], x[1, 2:, 4:].reshape(-1))
    np.testing.assert_array_equal(unpatchify(tokens, grid, 2), x)


def test_positions_tell_tokens_apart():
    flat = jnp.ones((1, 8, 8, 1))
    out, _ = run(ONE, ONE_PARAMS, x=flat, cond=None)
    assert np.abs(out - jnp.flip(out, 1)).max() > 1e-2


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"control": {"block9/attn": identity()}}, r"block9/attn.*sites are: block0"),
        ({"control": {"block": identity()}}, r"control names \['block'\]"),
        ({"capture": ("block4",)}, r"block4.*taps are: block0/attn"),
        ({"x": jnp.ones((3, 7, 8, 1))}, "multiples of patch=2"),
        ({"x": jnp.ones((3, 64))}, "expected .B, H, W, C"),
        ({"cond": jnp.ones((3, 4))}, "vector=None"),
    ],
)
def test_bad_input_raises(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ONE.apply(
            {"params": ONE_PARAMS},
            *(kwargs.pop("x", X), TIMES, kwargs.pop("cond", LABELS)),
            **kwargs,
        )


def test_bad_options_raise():
    for options, message in (
        ({"positions": "rope"}, "positions is 'rope'"),
        ({"heads": 3}, "heads=3 does not divide"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(dataclasses.replace(ONE, **options).init, KEY, X, TIMES)
    learned, params = tiny_dit(KEY, depth=1, positions="learned")
    with pytest.raises(ValueError, match="learned positions are for tokens"):
        run(learned, params, x=jnp.ones((3, 4, 8, 1)))
