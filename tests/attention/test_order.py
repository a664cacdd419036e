"""Queries and keys in another order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.attention import (
    Before,
    attend,
    borrow,
    combine,
    fold_controls,
    reorder,
    shift,
)

Q, K, V = jax.random.normal(jax.random.key(0), (3, 4, 6, 2, 3))
ORDER = np.array([2, 0, 1, 5, 4, 3])
OWN = np.arange(6)


def test_it_is_attention_of_reordered_arrays():
    got, _ = attend(Q, K, V, reorder(ORDER))
    np.testing.assert_array_equal(got, attend(Q[:, ORDER], K, V)[0])
    each = np.stack([ORDER, OWN, OWN[::-1], ORDER])
    got, _ = attend(Q, K, V, reorder(keys=each))
    keys, values = (
        np.stack([b[o] for b, o in zip(a, each, strict=True)]) for a in (K, V)
    )
    np.testing.assert_allclose(got, attend(Q, keys, values)[0], atol=1e-6)
    got, _ = attend(Q, K, V, reorder(keys=ORDER))
    np.testing.assert_allclose(got, attend(Q, K, V)[0], atol=1e-6)


def test_a_rolled_order_is_a_shift():
    rolled = (OWN - 2) % 6
    got, _ = attend(Q, K, V, reorder(rolled, rolled))
    np.testing.assert_array_equal(got, attend(Q, K, V, shift(2))[0])
    np.testing.assert_allclose(got, np.roll(attend(Q, K, V)[0], 2, 1), atol=1e-6)


def test_in_pairs_each_has_its_order():
    """The second of a pair takes the first's, reordered; the first is as it was."""
    order = np.stack([OWN, ORDER, OWN, OWN[::-1]])
    edit = combine(borrow(("q", "k", "v"), Before()), reorder(order, order))
    folded = fold_controls([{"a": edit}], ["cond"], 4)["a"]
    got, _ = attend(Q, K, V, folded)
    plain = attend(Q, K, V)[0]
    np.testing.assert_allclose(got[::2], plain[::2], atol=1e-6)
    np.testing.assert_allclose(got[1], plain[0][ORDER], atol=1e-6)
    np.testing.assert_allclose(got[3], plain[2][::-1], atol=1e-6)


def test_branches_without_one_keep_their_order():
    two = [jnp.repeat(a, 2, 0) for a in (Q, K, V)]
    edits = [{}, {"a": reorder(ORDER)}]
    got, _ = attend(*two, fold_controls(edits, ["cond", "other"], 4)["a"])
    np.testing.assert_allclose(got[::2], attend(Q, K, V)[0], atol=1e-6)
    np.testing.assert_allclose(got[1::2], attend(Q[:, ORDER], K, V)[0], atol=1e-6)


def test_mistakes_are_named():
    for wrong, told in (
        ({}, "got no order"),
        ({"queries": np.ones(3)}, "expected whole numbers"),
        ({"keys": np.array([0, 1, 6, 2])}, "expected 0 to 3"),
    ):
        with pytest.raises(ValueError, match=told):
            reorder(**wrong)
    with pytest.raises(ValueError, match=r"edit.query_order has shape \(3,\)"):
        attend(Q, K, V, reorder(OWN[:3]))
    with pytest.raises(ValueError, match="a: key_order has shape"):
        fold_controls([{"a": reorder(keys=OWN)}, {"a": reorder(keys=OWN[:3])}], "ab", 4)
