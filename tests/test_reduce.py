"""Reductions against numpy, and against themselves however the batch is cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from jaxlib_guidance.reduce import (
    LossOut,
    Peak,
    aggregate,
    divide,
    finalize,
    hide,
    known_false,
    masked_mean,
    masked_var,
    merge,
)

GEN = np.random.default_rng(0)
HOW = {
    "token_mean": {},
    "seq_mean_token_mean": {},
    "seq_mean_token_sum": {},
    "seq_mean_token_scale": {"constant": 16.0},
    "sum_over_const": {"constant": 16.0},
}
# 32 rows of up to 6 tokens, some of them empty, and holes in the middle.
X = GEN.normal(size=(32, 6)).astype(np.float32)
MASK = (GEN.uniform(size=(32, 6)) < 0.6) & (GEN.uniform(size=(32, 1)) < 0.8)
assert not MASK.any(1).all()


@pytest.mark.parametrize(
    ("how", "expected"),
    # Lengths 2 and 8, loss +1 and -1, by hand: DAPO's mean of tokens (arXiv 2503.14476,
    # eq. 8), GRPO's of sequences (2402.03300, eq. 3), Dr.GRPO's (2503.20783).
    list(zip(HOW, (-0.6, 0.0, -3.0, -0.1875, -0.375), strict=True)),
)
def test_golden(how, expected):
    mask = np.arange(8) < np.array([[2], [8]])
    loss = jnp.array([[1.0], [-1.0]]) * jnp.ones((2, 8))
    got, _ = finalize(aggregate(loss, mask, how, **HOW[how]))
    np.testing.assert_allclose(got, expected, atol=1e-7)
    padded = [jnp.pad(a, ((0, 3), (0, 2))) for a in (loss, jnp.asarray(mask))]
    again, _ = finalize(aggregate(*padded, how, **HOW[how]))
    np.testing.assert_allclose(again, got, atol=1e-7)
    if how.startswith("seq"):
        all_rows, _ = finalize(aggregate(*padded, how, **HOW[how], empty_rows=True))
        np.testing.assert_allclose(all_rows, got * 2 / 5, atol=1e-7)


def loss_of(params, x, mask, how):
    loss = jnp.sin(params["a"] * x) + params["b"] * x**2
    aux = {"size": jnp.abs(x), "most": Peak(loss)}
    return aggregate(loss, mask, how, **HOW[how], aux=aux)


PARAMS = {"a": jnp.float32(1.3), "b": jnp.float32(-0.4)}


@pytest.mark.parametrize("how", HOW)
def test_micro_batches_equal_the_whole(how):
    def value(params, x, mask):
        out = loss_of(params, x, mask, how)
        return out.sum, out

    step = jax.jit(jax.value_and_grad(value, has_aux=True))
    (_, whole), slope = step(PARAMS, X, MASK)
    outs, slopes = [], []
    for part in np.split(np.arange(32), 4):
        (_, out), one = step(PARAMS, X[part], MASK[part])
        outs.append(out)
        slopes.append(one)
    merged = outs[0]
    for out in outs[1:]:
        merged = merge(merged, out)
    if how == "sum_over_const":
        merged = merged._replace(weight=merged.weight / 4)
    loss, report = finalize(whole)
    again, report_again = finalize(merged)
    np.testing.assert_allclose(again, loss, rtol=1e-6, atol=1e-6)
    for name in report:
        np.testing.assert_allclose(report_again[name], report[name], rtol=1e-6)
    added = jax.tree.map(lambda *g: sum(g) / merged.weight, *slopes)
    expected = jax.tree.map(lambda g: g / whole.weight, slope)
    for name in PARAMS:
        np.testing.assert_allclose(added[name], expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("check", [True, False])
def test_eight_devices_equal_one(check):
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",), axis_types=(AxisType.Auto,))
    hows = [how for how in HOW if how != "sum_over_const"]

    def parts(params, x, mask, axis_name):
        done = [finalize(loss_of(params, x, mask, h), axis_name) for h in hows]
        return jnp.stack([loss for loss, _ in done]), done[0][1]

    def sharded(params):
        fn = jax.shard_map(
            lambda p, x, m: parts(p, x, m, "data"),
            mesh=mesh,
            in_specs=(P(), P("data"), P("data")),
            out_specs=P(),
            check_vma=check,
        )
        return fn(params, X, MASK)

    # Rows of padding that only some devices hold.
    MASK_ROWS = MASK.any(1).reshape(8, 4)
    assert len(set(MASK_ROWS.sum(1))) > 1
    one = jax.jit(lambda p: parts(p, X, MASK, None))
    eight = jax.jit(sharded)
    np.testing.assert_allclose(eight(PARAMS)[0], one(PARAMS)[0], rtol=1e-6, atol=1e-6)
    for got, expected in zip(
        jax.tree.leaves((eight(PARAMS)[1], jax.jacrev(lambda p: eight(p)[0])(PARAMS))),
        jax.tree.leaves((one(PARAMS)[1], jax.jacrev(lambda p: one(p)[0])(PARAMS))),
        strict=True,
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", HOW)
def test_what_is_masked_does_not_leak(how):
    def value(x):
        return finalize(aggregate(jnp.exp(hide(x, MASK)), MASK, how, **HOW[how]))[0]

    both = jax.jit(jax.value_and_grad(value))
    clean, slope = both(X)
    assert not np.any(np.asarray(slope)[~MASK])
    for bad in (np.nan, np.inf, -np.inf):
        dirty, slope_dirty = both(np.where(MASK, X, np.float32(bad)))
        assert float(dirty) == float(clean)
        np.testing.assert_array_equal(slope_dirty, slope)
    hidden = np.where(MASK, X, np.float32(np.nan))
    assert np.isfinite(finalize(aggregate(hidden, MASK, how, **HOW[how]))[0])


@pytest.mark.parametrize("how", HOW)
def test_nothing_at_all_is_zero(how):
    def value(x):
        aux = {"x": x, "most": Peak(x)}
        out = aggregate(x, jnp.zeros_like(x), how, **HOW[how], aux=aux)
        loss, report = finalize(out)
        return loss + report["x"], report["most"]

    both = jax.jit(jax.value_and_grad(value, has_aux=True))
    (got, most), slope = both(np.full((2, 3), np.nan))
    assert float(got) == 0
    # A greatest value of nothing is not a number among others.
    assert float(most) == -np.inf
    assert not np.any(slope)


def test_statistics():
    x, m = X[MASK].astype(np.float64), MASK
    np.testing.assert_allclose(masked_mean(X, m), x.mean(), rtol=1e-5)
    for ddof in (0, 1):
        got = masked_var(jnp.asarray(X), m, ddof=ddof)
        np.testing.assert_allclose(got, x.var(ddof=ddof), rtol=1e-5)
    assert float(masked_var(jnp.array([3.0]), ddof=1)) == 0
    assert float(jax.grad(lambda b: divide(b, b))(0.0)) == 0
    # Fractional weights are weights.
    got = masked_mean(jnp.array([1.0, 4.0]), jnp.array([0.5, 1.5]))
    np.testing.assert_allclose(got, 3.25)


def test_bfloat16_is_accumulated_in_float32():
    # 4096 ones end at 256 when added in bfloat16.
    ones = jnp.ones((2, 4096), jnp.bfloat16)
    out = aggregate(ones, ones, "seq_mean_token_sum")
    assert out.sum.dtype == jnp.float32
    assert float(out.sum) == 8192
    assert float(masked_mean(ones, ones)) == 1


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"how": "mean"}, "how is 'mean'"),
        ({"mask": np.full((2, 3), np.inf)}, "mask has values from inf to inf"),
        ({"how": "seq_mean_token_scale"}, "constant is None"),
        ({"constant": 3.0}, "constant is 3.0 for 'token_mean'"),
        ({"empty_rows": True}, "empty_rows has no effect"),
        ({"mask": np.ones((2, 4))}, r"mask has shape \(2, 4\); expected \(2, 3\)"),
        ({"loss": np.ones(3), "how": "seq_mean_token_sum"}, r"expected \[B, T\]"),
        ({"aux": {"a": np.ones(2)}, "mask": np.ones((2, 3))}, "mask has shape"),
    ],
)
def test_bad_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        aggregate(**{"loss": np.ones((2, 3), np.float32)} | arguments)


def test_lists_are_refused_by_name():
    with pytest.raises(TypeError, match="x is a list; expected a number or an array"):
        masked_mean([1.0, 2.0])
    with pytest.raises(TypeError, match="mask is a list"):
        masked_mean(np.ones(2, np.float32), [1.0, 0.0])


def test_merge_wants_the_same_reports():
    one = jnp.ones(())
    with pytest.raises(ValueError, match=r"aux has \['a'\] and \[\]"):
        merge(LossOut(one, one, {"a": Peak(one)}), LossOut(one, one))


@pytest.mark.parametrize("mask", [[1.0, -1.0], [1.0, np.nan], [-1, 1]])
def test_a_mask_that_is_no_weight_is_refused(mask):
    with pytest.raises(ValueError, match="mask has values from .* expected weights"):
        masked_mean(jnp.ones(2), np.array(mask))


def test_known_false_is_of_what_is_known():
    """NaN fails whatever is asked; what is traced is not known to fail."""
    assert not known_false(lambda a: a > 0, jnp.array([1.0, 2.0]))
    assert known_false(lambda a: a > 0, np.array([1.0, np.nan]))
    assert known_false(lambda low, high: low < high, 2.0, 1)
    traced = []
    jax.jit(lambda a: traced.append(known_false(lambda a: a > 0, a)))(-1.0)
    assert traced == [False]


def test_only_a_loss_out_is_divided():
    with pytest.raises(TypeError, match="out is .*Array.*; expected a LossOut"):
        finalize(jnp.ones(3))
