"""Sparse maps, negatives and layer edits of attention, against numbers by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.attention import (
    Edit,
    attend,
    enter_layer,
    entmax15,
    fold_controls,
    leave_layer,
    move_away,
    shuffle,
    skip,
    sparse,
)


def by_bisection(logits):
    """1.5-entmax in float64: the threshold by bisection."""
    half = np.asarray(logits, np.float64) / 2
    low, high = half.max() - 1, half.max()
    for _ in range(100):
        tau = (low + high) / 2
        total = (np.maximum(half - tau, 0) ** 2).sum()
        low, high = (tau, high) if total > 1 else (low, tau)
    return np.maximum(half - tau, 0) ** 2


def test_entmax_is_the_root_of_its_equation():
    logits = np.random.default_rng(0).normal(size=(20, 7)) * 3
    got = entmax15(jnp.asarray(logits, jnp.float32))
    np.testing.assert_allclose(got, [by_bisection(row) for row in logits], atol=2e-6)
    assert (got == 0).any()
    np.testing.assert_allclose(entmax15(jnp.zeros(4)), 0.25)
    np.testing.assert_allclose(entmax15(jnp.array([5.0, 0.0])), [1, 0])
    # Far from 0, hidden keys, and nothing to attend to.
    moved = entmax15(jnp.asarray(logits + 500, jnp.float32))
    np.testing.assert_allclose(moved, got, atol=2e-4)
    row = jnp.array([1.0, -jnp.inf, 0.5, -jnp.inf])
    np.testing.assert_allclose(entmax15(row)[::2], entmax15(row[::2]), atol=1e-6)
    assert not entmax15(jnp.full(3, -jnp.inf)).any()
    slope = jax.jacobian(entmax15)(row)
    assert np.isfinite(slope).all()
    p = np.sqrt(entmax15(row[::2]))  # diag(s) - s s' / sum(s), s = sqrt(p).
    want = np.diag(p) - np.outer(p, p) / p.sum()
    np.testing.assert_allclose(slope[::2, ::2], want, atol=1e-5)


def test_a_sparse_map_goes_beyond_the_softmax():
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 5, 2, 4)) * 2
    soft = attend(q, k, v, capture=True)[1]
    whole = attend(q, k, v, sparse(1.0), capture=True)[1]
    logits = jnp.einsum("bqhd,bmhd->bhqm", q, k) / 2
    np.testing.assert_allclose(whole, entmax15(logits), atol=1e-5)
    out, probs = attend(q, k, v, sparse(jnp.array([2.0, 0.0])), capture=True)
    np.testing.assert_allclose(probs[0], 2 * whole[0] - soft[0], atol=1e-5)
    np.testing.assert_array_equal(probs[1], soft[1])
    want = jnp.einsum("bhqm,bmhd->bqhd", probs, v)
    np.testing.assert_allclose(out, want, atol=1e-5)


def outputs(edit, own, other):
    """What ``edit`` makes of outputs ``own`` beside a branch with ``other``.

    With one key an attention's output is that key's value.
    """
    values = jnp.asarray([own, other], jnp.float32).reshape(2, 1, 1, -1)
    control = fold_controls([{"a": edit}, {}], ["good", "bad"], 1)
    assert control["a"].negative[0][1] == (1, -1)
    out, _ = attend(jnp.ones_like(values), jnp.ones_like(values), values, control["a"])
    np.testing.assert_array_equal(out[1], values[1])
    return np.asarray(out[0]).ravel()


@pytest.mark.parametrize(
    ("rule", "numbers", "want"),
    [
        # f = 4: (-5, 11) of norm 16 is 16 / 3 times as long; 2.5 is allowed.
        ("nag", {"scale": 4.0, "limit": 2.5, "mix": 0.25}, (0.1640625, 2.7890625)),
        ("nag", {"scale": 4.0, "limit": 99.0}, (-5.0, 11.0)),
        ("nag", {"scale": 1.0, "limit": 2.5}, (1.0, 2.0)),
        ("nasa", {"scale": 0.5}, (-0.5, 2.5)),
        # <z, z'> = 1 and |z|^2 = 5.
        ("orthogonal", {"scale": 0.5}, (-0.4, 2.7)),
        ("orthogonal", {"scale": 0.5, "mix": 0.0}, (1.0, 2.0)),
    ],
)
def test_negatives_golden(rule, numbers, want):
    got = outputs(move_away("bad", rule, **numbers), (1.0, 2.0), (3.0, -1.0))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_negative_of_itself_changes_nothing():
    for rule, numbers in (("nag", {"limit": 2.5}), ("orthogonal", {})):
        edit = move_away("bad", rule, 4.0, **numbers)
        np.testing.assert_allclose(outputs(edit, (1.0, 2.0), (1.0, 2.0)), (1.0, 2.0))
    zero = outputs(move_away("bad", "nag", 4.0, limit=2.5), (0.0, 0.0), (0.0, 0.0))
    assert (zero == 0).all()


def test_branches_of_one_call_may_have_different_rules():
    edits = [move_away("bad", "nasa", 0.5), move_away("bad", "orthogonal", 0.5)]
    control = fold_controls([{"a": e} for e in edits] + [{}], ["x", "y", "bad"], 1)
    values = jnp.asarray([[1.0, 2.0], [1.0, 2.0], [3.0, -1.0]]).reshape(3, 1, 1, 2)
    out, _ = attend(jnp.ones_like(values), jnp.ones_like(values), values, control["a"])
    want = [(-0.5, 2.5), (-0.4, 2.7), (3.0, -1.0)]
    np.testing.assert_allclose(out.reshape(3, 2), want, rtol=1e-5)


def test_negatives_that_do_not_fit_are_refused():
    edit = move_away("bad", "nasa", 0.3)
    with pytest.raises(
        ValueError, match="negative of branch 'bad', which is not among"
    ):
        fold_controls([{"a": edit}], ["good"], 2)
    two = Edit(negative=(*edit.negative, ("nag", "bad")))
    with pytest.raises(ValueError, match="a branch has negatives.*give one"):
        fold_controls([{"a": two}, {}], ["good", "bad"], 2)
    with pytest.raises(ValueError, match="rule is 'vsf'"):
        move_away("bad", "vsf", 0.3)
    for rule, limit in (("nag", None), ("nasa", 2.0)):
        with pytest.raises(ValueError, match=f"limit is {limit}"):
            move_away("bad", rule, 0.3, limit=limit)
    values = jnp.ones((2, 1, 1, 2))
    with pytest.raises(ValueError, match="negative_mix has no effect"):
        attend(values, values, values, Edit(negative_mix=1.0))


def test_layers_are_left_out_and_shuffled_by_sample():
    x = jax.random.normal(jax.random.key(0), (4, 16, 3))
    seeds = jnp.array([0, 1, 2, 1])
    entered, rest = enter_layer(x, shuffle(seeds))
    assert rest == Edit()
    np.testing.assert_array_equal(entered[0], x[0])
    orders = np.argmax(
        (entered[:, :, None] == x[:, None]).all(-1), axis=-1
    )  # Which token came to each place.
    assert (np.sort(orders) == np.arange(16)).all()
    assert (orders[1] != orders[2]).any()
    assert (orders[1] != np.arange(16)).any()
    np.testing.assert_array_equal(orders[1], orders[3])
    gate = jnp.array([0.0, 1.0, 0.25, 1.0])
    got = leave_layer(2 * x, x, skip(gate))
    np.testing.assert_allclose(got, (2 - gate)[:, None, None] * x, rtol=1e-6)
    assert enter_layer(x, None)[0] is x
    assert leave_layer(x, x, Edit()) is x


def test_layer_edits_where_there_is_no_layer_are_refused():
    q = jnp.ones((2, 3, 1, 2))
    for edit in (skip(), shuffle(3)):
        with pytest.raises(ValueError, match="concerns a whole layer"):
            attend(q, q, q, edit)
    with pytest.raises(ValueError, match=r"seed is 0\.5; expected whole numbers"):
        shuffle(0.5)
    with pytest.raises(ValueError, match=r"edit\.skip has shape \(3,\)"):
        leave_layer(q, q, skip(jnp.ones(3)))
