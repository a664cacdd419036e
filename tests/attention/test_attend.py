"""Attention: the edits against their definitions, the two paths against each other."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxlib_guidance.attention import (
    Edit,
    attend,
    blur,
    borrow,
    fold_controls,
    identity,
)

B, T, H, D = 4, 6, 2, 3


def qkv(seed=0, batch=B, queries=T, keys=T, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    shapes = [(batch, n, H, D) for n in (queries, keys, keys)]
    return [jnp.asarray(rng.normal(size=s), dtype) for s in shapes]


def plain(q, k, v, bias=0.0):
    """Softmax attention in float64 numpy, the oracle of this file."""
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    logits = np.einsum("bqhd,bmhd->bhqm", q, k) / math.sqrt(q.shape[-1]) + bias
    probs = np.exp(logits - logits.max(-1, keepdims=True))
    probs /= probs.sum(-1, keepdims=True)
    return np.einsum("bhqm,bmhd->bqhd", probs, v), probs


def close(a, b, tol=2e-6):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=tol, rtol=tol)


@pytest.mark.parametrize("keys", [T, 5])
def test_both_paths_are_softmax_attention(keys):
    q, k, v = qkv(keys=keys)
    want, probs = plain(q, k, v)
    fused, none = attend(q, k, v)
    explicit, seen = attend(q, k, v, capture=True)
    assert none is None
    close(fused, want)
    close(explicit, want)
    close(seen, probs)
    assert seen.dtype == jnp.float32


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_keeps_its_type_and_a_float32_softmax(dtype):
    q, k, v = qkv(dtype=dtype)
    want, probs = plain(q, k, v)
    for edit in (None, identity(0.0), blur(0.0), Edit(logit_scale=1.0)):
        out, _ = attend(q, k, v, edit)
        assert out.dtype == dtype
        close(out.astype(jnp.float32), want, 2e-2)
    close(attend(q, k, v, capture=True)[1], probs, 1e-6)


def test_identity_is_v_exactly_and_equals_an_eye_mask():
    q, k, v = qkv()
    out, probs = attend(q, k, v, identity(), capture=True)
    np.testing.assert_array_equal(out, v)
    np.testing.assert_array_equal(attend(q, k, v, identity())[0], v)
    close(probs, np.broadcast_to(np.eye(T), probs.shape), 0)
    eye = jnp.where(jnp.eye(T, dtype=bool), 0.0, -jnp.inf)[None, None]
    np.testing.assert_array_equal(attend(q, k, v, Edit(logit_bias=eye))[0], v)


def test_identity_gate_is_per_sample_and_mixes():
    q, k, v = qkv()
    gate = jnp.array([0.0, 1.0, 0.25, 0.0])
    out, _ = attend(q, k, v, identity(gate))
    base, _ = attend(q, k, v)
    g = gate[:, None, None, None]
    close(out, (1 - g) * base + g * v)
    np.testing.assert_array_equal(out[0], base[0])
    np.testing.assert_array_equal(out[1], v[1])


def test_no_temperature_is_the_mean_of_the_values():
    q, k, v = qkv()
    out, _ = attend(q, k, v, Edit(logit_scale=0.0))
    close(out, jnp.broadcast_to(v.mean(1, keepdims=True), out.shape))


def test_tables_follow_their_definition():
    q, k, v = qkv()
    rng = np.random.default_rng(1)
    tables = {
        name: jnp.asarray(rng.uniform(0.5, 1.5, shape), jnp.float32)
        for name, shape in {
            "logit_scale": (1, H, T, 1),
            "logit_bias": (B, 1, 1, T),
            "prob_gain": (1, 1, T, T),
            "prob_offset": (B, H, T, T),
        }.items()
    }
    out, probs = attend(q, k, v, Edit(**tables), capture=True)
    t = {name: np.asarray(table, np.float64) for name, table in tables.items()}
    scaled = np.einsum("bqhd,bmhd->bhqm", q, k) / math.sqrt(D) * t["logit_scale"]
    each = np.exp(scaled + t["logit_bias"])
    want = each / each.sum(-1, keepdims=True) * t["prob_gain"] + t["prob_offset"]
    close(probs, want)
    close(out, np.einsum("bhqm,bmhd->bqhd", want, v), 1e-5)
    again, renormalised = attend(q, k, v, Edit(**tables, renormalise=1.0), capture=True)
    close(renormalised, want / want.sum(-1, keepdims=True))
    assert not np.allclose(again, out)


def test_hidden_rows_are_zero_with_finite_gradients():
    q, k, v = qkv()
    nothing = Edit(logit_bias=-jnp.inf)
    out, probs = attend(q, k, v, nothing, capture=True)
    assert not np.any(out)
    assert not np.any(probs)
    half = jnp.where(jnp.arange(T) < 3, -jnp.inf, 0.0).reshape(1, 1, T, 1)

    def loss(q, k, v, bias):
        return jnp.sum(attend(q, k, v, Edit(logit_bias=bias))[0] ** 2)

    grads = jax.grad(loss, (0, 1, 2, 3))(q, k, v, half)
    assert all(np.isfinite(g).all() for g in grads)
    assert not np.any(grads[0][:, :3])
    assert np.any(grads[0][:, 3:])


def test_mask_agrees_on_both_paths_also_where_nothing_is_left():
    q, k, v = qkv(keys=5)
    mask = jnp.arange(5) < jnp.array([[5], [2], [0], [1]])
    fused, _ = attend(q, k, v, mask=mask)
    explicit, probs = attend(q, k, v, mask=mask, capture=True)
    close(fused, explicit)
    close(fused[1], plain(q[1:2, :], k[1:2, :2], v[1:2, :2])[0][0])
    assert not np.any(fused[2])
    assert not np.any(probs[2])
    assert np.isfinite(jax.grad(lambda q: attend(q, k, v, mask=mask)[0].sum())(q)).all()


def test_shift_rolls_the_output():
    q, k, v = qkv()
    base, _ = attend(q, k, v)
    close(attend(q, k, v, Edit(shift=2))[0], jnp.roll(base, 2, 1))
    out, _ = attend(q, k, v, Edit(shift=(0, -1)))
    close(out[::2], base[::2])
    close(out[1::2], jnp.roll(base[1::2], -1, 1))


@pytest.mark.parametrize("grid", [(T,), (2, 3), (3, 2)])
def test_blur_is_a_gaussian_on_the_grid(grid):
    q, k, v = qkv()
    sigma = jnp.array([0.0, 0.8, 2.0, jnp.inf])
    found, _ = attend(q, k, v, blur(sigma), grid=grid, capture=True)
    points = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1)
    points = points.reshape(-1, len(grid))
    square = ((points[:, None] - points) ** 2).sum(-1)
    for b, s in enumerate(np.asarray(sigma)):
        weight = np.eye(T) if s == 0 else np.exp(-0.5 * square / s**2)
        weight = weight / weight.sum(-1, keepdims=True)
        blurred = np.einsum("ij,jhd->ihd", weight, np.asarray(q[b], np.float64))
        close(found[b], plain(blurred[None], k[b][None], v[b][None])[0][0])
    np.testing.assert_array_equal(
        attend(q, k, v, blur(0.0), grid=grid)[0], attend(q, k, v)[0]
    )
    flat, _ = attend(q, k, v, blur(jnp.inf), grid=grid)
    close(flat, jnp.broadcast_to(flat[:, :1], flat.shape), 1e-6)


def test_blur_width_can_be_learned():
    q, k, v = qkv()

    def out(sigma):
        return jnp.sum(attend(q, k, v, blur(sigma))[0] * q)

    eps = 1e-2
    slope = (out(1.0 + eps) - out(1.0 - eps)) / (2 * eps)
    close(jax.grad(out)(1.0), slope, 1e-3)
    assert all(np.isfinite(jax.grad(out)(s)) for s in (0.0, jnp.inf))


def folded(*edits, names=("a", "b"), batch=B):
    return fold_controls([{"s": e} for e in edits], names, batch)["s"]


@pytest.mark.parametrize("what", ["q", "k", "v"])
def test_borrowing_takes_the_other_branch(what):
    q, k, v = qkv(batch=3 * B)
    edit = folded(Edit(), borrow(what, "c"), borrow(what, "a"), names="abc")
    out, _ = attend(q, k, v, edit)
    own = {"q": q, "k": k, "v": v}
    mixed = own[what].at[1::3].set(own[what][2::3]).at[2::3].set(own[what][::3])
    np.testing.assert_array_equal(out, attend(**own | {what: mixed})[0])


def test_borrowing_everything_is_the_source_in_every_form():
    q, k, v = qkv(batch=2 * B)
    base, probs = attend(q, k, v, capture=True)
    out, _ = attend(q, k, v, folded(Edit(), borrow(("q", "k", "v"), "a")))
    close(out[1::2], base[::2])
    edit = folded(Edit(), borrow("probs", "a", columns=jnp.ones(T)))
    out, seen = attend(q, k, v, edit, capture=True)
    close(seen[1::2], probs[::2])
    close(seen[::2], probs[::2])
    half = jnp.asarray([1.0, 0, 1, 0, 0, 1])
    edit = folded(Edit(), borrow("probs", "a", columns=half))
    _, seen = attend(q, k, v, edit, capture=True)
    close(seen[1::2], jnp.where(half > 0, probs[::2], probs[1::2]))
    gate = jnp.array([1.0, 0.0, 0.5, 1.0])
    out, _ = attend(q, k, v, folded(Edit(), borrow("v", "a", gate=gate)))
    g = gate[:, None, None, None]
    mixed = v.at[1::2].set(g * v[::2] + (1 - g) * v[1::2])
    close(out, attend(q, k, mixed)[0])


def test_borrowed_content_is_shifted():
    # MotionCLR moves the source's motion in time: its q, k, v, rolled.
    q, k, v = qkv(batch=2 * B)
    moved = Edit(borrow=(("q", "a"), ("k", "a"), ("v", "a")), shift=2)
    out, _ = attend(q, k, v, folded(Edit(), moved))
    close(out[1::2], jnp.roll(attend(q, k, v)[0][::2], 2, 1))


def test_folded_branches_equal_separate_calls():
    q, k, v = qkv(batch=3 * B)
    rng = np.random.default_rng(2)
    edits = [
        Edit(identity=jnp.array([1.0, 0.0, 1.0, 0.5])),
        Edit(query_blur=1.5, logit_scale=0.5),
        Edit(prob_gain=jnp.asarray(rng.uniform(size=(1, 1, 1, T)), jnp.float32)),
    ]
    out, probs = attend(
        q, k, v, folded(*edits, names=("a", "b", "c")), grid=(2, 3), capture=True
    )
    for i, edit in enumerate(edits):
        part = [a[i::3] for a in (q, k, v)]
        one, seen = attend(*part, edit, grid=(2, 3), capture=True)
        close(out[i::3], one)
        close(probs[i::3], seen)


def test_only_edits_of_the_map_leave_the_fused_path(monkeypatch):
    q, k, v = qkv()
    kernel, calls = jax.nn.dot_product_attention, []

    def counted(*args, **kwargs):
        calls.append(kwargs["implementation"])
        return kernel(*args, **kwargs)

    monkeypatch.setattr(jax.nn, "dot_product_attention", counted)

    def jaxpr(edit, **options):
        return str(jax.make_jaxpr(lambda q: attend(q, k, v, edit, **options)[0])(q))

    assert jaxpr(None) == jaxpr(Edit())
    calls.clear()
    taken = Edit(borrow=(("v", (0, 0)),), borrow_gate=0.5)
    for edit in (None, identity(), blur(1.0), Edit(shift=1), taken):
        jaxpr(edit)
    assert calls == [None] * 5
    for edit in (Edit(logit_scale=1.0), Edit(prob_offset=0.0), Edit(renormalise=1.0)):
        jaxpr(edit)
    jaxpr(None, capture=True)
    assert len(calls) == 5
    jaxpr(identity(), kernel="xla")
    assert calls[-1] == "xla"
    with pytest.raises(ValueError, match="kernel is 'flash'"):
        jaxpr(None, kernel="flash")


def test_borrowing_under_a_sharded_batch_moves_nothing():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    q, k, v = (
        jax.device_put(a.reshape(8, 2, T, H, D), sharding) for a in qkv(batch=16)
    )

    def branches(q, k, v, gate):
        edits = [Edit(shift=1), borrow(("q", "v", "probs"), "a", gate=gate)]
        edit = folded(*edits, batch=8)
        out, probs = attend(
            *(a.reshape(16, T, H, D) for a in (q, k, v)), edit, capture=True
        )
        return out.reshape(q.shape), probs.reshape(8, 2, H, T, T)

    gate = jax.device_put(jnp.linspace(0.0, 1.0, 8), sharding)
    text = jax.jit(branches).lower(q, k, v, gate).compile().as_text()
    for collective in ("all-gather", "all-to-all", "collective-permute", "all-reduce"):
        assert collective not in text


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (identity(), "cross-attention"),
        (Edit(shift=1), "cross-attention"),
        (identity(jnp.ones(3)), "identity has shape"),
        (blur(jnp.ones(3)), "query_blur has shape"),
        (Edit(logit_bias=jnp.zeros((T, T))), "logit_bias has shape"),
        (Edit(prob_gain=jnp.zeros((3, 1, 1, 1))), "prob_gain has shape"),
        (Edit(borrow_gate=1.0), "no effect without"),
        (Edit(borrow=(("v", (0, 0)),), borrow_columns=jnp.ones(5)), "no effect unless"),
        (Edit(borrow=(("v", "a"),)), "one index for each"),
        (Edit(borrow=(("v", (0, 0, 0)),)), "not a multiple"),
        (Edit(borrow=(("probs", (0, 0)),), borrow_columns=jnp.ones(T + 9)), "columns"),
    ],
)
def test_edits_without_meaning_raise(edit, message):
    keys = 5 if "cross" in message else T
    with pytest.raises(ValueError, match=message):
        attend(*qkv(keys=keys), edit)


def test_shapes_that_do_not_fit_raise():
    q, k, v = qkv()
    with pytest.raises(ValueError, match="expected \\[B, Q, H, D\\]"):
        attend(q, k, v[:, :3])
    with pytest.raises(ValueError, match="differ in batch"):
        attend(q[:2], k, v)
    with pytest.raises(ValueError, match="mask is float32"):
        attend(q, k, v, mask=jnp.ones((B, T)))
    with pytest.raises(ValueError, match="grid is \\(2, 2\\)"):
        attend(q, k, v, blur(1.0), grid=(2, 2))
