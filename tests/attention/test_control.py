"""Selecting sites by pattern, and folding the controls of branches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.attention import (
    Edit,
    borrow,
    fold_controls,
    identity,
    match,
    match_sites,
)

NAMES = ("block1/attn", "block1/cross", "block10/attn", "block1", "block10")


@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [
        ("block1/attn", ("block1/attn",)),
        ("block1", ("block1",)),
        ("block*/attn", ("block1/attn", "block10/attn")),
        ("*/cross", ("block1/cross",)),
    ],
)
def test_patterns(pattern, chosen):
    assert match([pattern], NAMES, "site") == chosen


def test_a_leading_part_selects_what_is_below_it_but_not_its_namesakes():
    assert match(["block1"], NAMES[:3], "site") == ("block1/attn", "block1/cross")


def test_unknown_patterns_list_what_there_is():
    with pytest.raises(ValueError, match="'block2' matches nothing.*block1/attn"):
        match(["block2"], NAMES, "site")


def test_folding_is_sample_major_with_neutral_values():
    gate = jnp.array([0.25, 0.5])
    folded = fold_controls(
        [{}, {"s": identity(gate)}, {"s": Edit(logit_scale=2.0)}], "abc", 2
    )["s"]
    np.testing.assert_array_equal(folded.identity, [0, 0.25, 0, 0, 0.5, 0])
    np.testing.assert_array_equal(folded.logit_scale.ravel(), [1, 1, 2, 1, 1, 2])
    assert folded.query_blur is None
    assert not folded.shift


def test_an_untouched_site_has_no_entry_and_one_branch_is_left_alone():
    edit = identity(0.5)
    assert fold_controls([{}, {}], "ab", 2) == {}
    assert fold_controls([{"s": edit}], "a", 2)["s"] is edit


def test_borrowing_names_branches_of_the_call():
    folded = fold_controls([{}, {"s": borrow(("q", "v"), "a")}], "ab", 2)["s"]
    assert folded.borrow == (("q", (0, 0)), ("v", (0, 0)))
    with pytest.raises(ValueError, match="'c', which is not among"):
        fold_controls([{}, {"s": borrow("q", "c")}], "ab", 2)


@pytest.mark.parametrize(
    "edit", [identity(jnp.ones(3)), Edit(logit_bias=jnp.ones((3, 1, 1, 1)))]
)
def test_leaves_that_do_not_fit_raise(edit):
    with pytest.raises(ValueError, match="s: .* has shape \\(3"):
        fold_controls([{}, {"s": edit}], "ab", 2)


def test_gates_are_data_and_sources_are_structure():
    assert len(jax.tree.leaves(identity(0.5))) == 1
    one, two = (jax.tree.structure(borrow("q", name)) for name in "ab")
    assert one != two


@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [
        ("block1", ("block1/attn",)),
        ("mid", ("mid/attn",)),
        ("block*", ("block1/attn", "block10/attn")),
        ("block1/cross", ("block1/cross",)),
        ("block1/*", ("block1/attn", "block1/cross")),
        ("*/cross", ("block1/cross", "mid/cross", "up1/0/1/cross")),
        ("attn3", ("attn3",)),
        ("up1/0", ("up1/0/1/attn",)),
        ("up1/0/*/cross", ("up1/0/1/cross",)),
    ],
)
def test_a_place_means_its_self_attention(pattern, chosen):
    sites = (
        "block1/attn", "block1/cross", "block10/attn", "mid/attn", "mid/cross", "attn3",
        "up1/0/1/attn", "up1/0/1/cross",
    )  # fmt: skip
    assert match_sites(pattern, sites) == chosen


def test_a_place_without_self_attention_lists_its_sites():
    with pytest.raises(ValueError, match="no self-attention; name its sites: up/cross"):
        match_sites("up", ("up/cross", "down/attn"))


def test_an_edit_says_what_it_changes():
    assert repr(Edit(identity=1.0, shift=2)) == "Edit(shift=2, identity=1.0)"
    assert repr(Edit()) == "Edit()"
