"""Pairs in a batch: what an edit takes from the sample before, and where words go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.attention import (
    Before,
    FeatureEdit,
    align_words,
    attend,
    borrow,
    edit_features,
    fold_controls,
    inject,
)

# Two pairs, two branches, three queries, four keys, two heads.
Q, K, V = (
    jax.random.normal(jax.random.key(i), (8, n, 2, 4)) for i, n in enumerate((3, 4, 4))
)
BRANCHES = ["cond", "uncond"]


def attended(edits, names=BRANCHES, **options):
    edit = fold_controls([{"a": e} if e else {} for e in edits], names, 4)["a"]
    return attend(Q, K, V, edit, **options)


def by_branch(a):
    return a.reshape(2, 2, 2, *a.shape[1:])  # pair, place in it, branch


def test_the_second_of_a_pair_takes_from_the_first():
    out, _ = attended([borrow(("k", "v"), Before())] * 2)
    plain, q, k, v = (by_branch(a) for a in (attend(Q, K, V)[0], Q, K, V))
    got = by_branch(out)
    np.testing.assert_array_equal(got[:, 0], plain[:, 0])
    for pair in range(2):
        want, _ = attend(q[pair, 1], k[pair, 0], v[pair, 0])
        np.testing.assert_allclose(got[pair, 1], want, atol=1e-6)


def test_a_branch_may_take_from_another_of_the_sample_before():
    _, maps = attended([None, borrow("probs", Before("cond"))], capture=True)
    plain = by_branch(attend(Q, K, V, capture=True)[1])
    got = by_branch(maps)
    np.testing.assert_array_equal(got[:, :, 0], plain[:, :, 0])
    np.testing.assert_array_equal(got[:, 0, 1], plain[:, 0, 1])
    np.testing.assert_array_equal(got[:, 1, 1], plain[:, 0, 0])


def test_a_gate_opens_it_by_sample_and_the_first_keeps_its_own():
    gate = jnp.array([1.0, 0.5, 1.0, 0.0])
    _, maps = attended([borrow("probs", Before(), gate=gate), None], capture=True)
    plain = by_branch(attend(Q, K, V, capture=True)[1])
    got = by_branch(maps)
    np.testing.assert_array_equal(got[1], plain[1])
    mean = (plain[0, 0, 0] + plain[0, 1, 0]) / 2
    np.testing.assert_allclose(got[0, 1, 0], mean, atol=1e-6)


def test_columns_go_where_words_say():
    words = align_words(["abxd"], ["abcd"])[0]
    edit = borrow("probs", Before(), words=words, columns=words.any(0))
    _, maps = attended([edit, None], capture=True)
    plain = by_branch(attend(Q, K, V, capture=True)[1])
    got = by_branch(maps)
    np.testing.assert_array_equal(got[:, 0], plain[:, 0])
    np.testing.assert_array_equal(got[:, 1, 1], plain[:, 1, 1])
    kept, new = [0, 1, 3], [2]
    np.testing.assert_array_equal(got[:, 1, 0][..., kept], plain[:, 0, 0][..., kept])
    np.testing.assert_array_equal(got[:, 1, 0][..., new], plain[:, 1, 0][..., new])


def test_features_are_injected_from_the_sample_before():
    x = jax.random.normal(jax.random.key(0), (4, 3, 5))
    edit = fold_controls([{"a": inject(Before(), 0.25)}], ["cond"], 4)["a"]
    got = edit_features(x, edit)
    np.testing.assert_array_equal(got[::2], x[::2])
    want = 0.75 * x[1::2] + 0.25 * x[::2]
    np.testing.assert_allclose(got[1::2], want, atol=1e-6)


def test_words_are_aligned_by_common_runs():
    def where(source, target, **options):
        words = align_words([source], [target], **options)[0]
        return [(int(m), int(n), float(words[m, n])) for m, n in np.argwhere(words)]

    assert where("ab", "ab", size=3) == [(0, 0, 1.0), (1, 1, 1.0), (2, 2, 1.0)]
    assert where("ab", "aXb") == [(0, 0, 1.0), (1, 2, 1.0)]
    assert where("aXb", "ab") == [(0, 0, 1.0), (2, 1, 1.0)]
    assert where("aXb", "aYb") == [(0, 0, 1.0), (2, 2, 1.0)]
    replaced = where("aXb", "aYb", replaced=True)
    assert replaced == [(0, 0, 1.0), (1, 1, 1.0), (2, 2, 1.0)]
    # One word becomes two, which share its columns.
    longer = where("aXb", "aYZb", replaced=True)
    assert longer == [(0, 0, 1.0), (1, 1, 0.5), (1, 2, 0.5), (2, 3, 1.0)]
    assert align_words([[1, 2], [3]], [[1], [3]], 77).shape == (2, 77, 77)


def test_what_has_no_meaning_is_told():
    with pytest.raises(ValueError, match="a batch of 3; expected pairs"):
        fold_controls([{"a": borrow("q", Before())}], ["cond"], 3)
    with pytest.raises(ValueError, match="borrow from branch 'x', which is not among"):
        fold_controls([{"a": borrow("q", Before("x"))}], ["cond"], 4)
    with pytest.raises(ValueError, match="borrow from branch 'x', which is not among"):
        fold_controls([{"a": FeatureEdit(borrow=Before("x"))}], ["cond"], 4)
    with pytest.raises(ValueError, match="words has no effect on"):
        borrow("q", "a", words=jnp.eye(4))
    with pytest.raises(
        ValueError, match=r"borrow_words has shape .*; expected \(4, 4\)"
    ):
        attended([borrow("probs", Before(), words=jnp.eye(3)), None])
    with pytest.raises(ValueError, match="2 texts and target 1; expected as many"):
        align_words(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="a text has 3 words; expected at most 2"):
        align_words(["abc"], ["a"], 2)
