"""Attention control is data: an `Edit` says what to change at one attention site.

An edit is a pytree, so it is an argument of the compiled function like any other; an
absent field leaves the jaxpr of the site untouched.
"""

import dataclasses
import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jaxlib_guidance.attention._before import Before
from jaxlib_guidance.attention._features import FeatureEdit
from jaxlib_guidance.types import Array, Captures, pytree_dataclass, static

BORROWABLE = ("q", "k", "v", "probs")
LAYER = ("skip", "shuffle")
PIXELS = ". A mask of pixels becomes one of tokens by attention.token_mask(mask, grid)"


@pytree_dataclass
class Edit:
    """What to change in ``softmax(q k^T / sqrt(d)) v`` at one site.

    Gates are scalars or ``[B]``; tables are scalars or broadcast against the map
    ``[B, H, Q, M]`` (rank 4). Fields apply in the order below.

    Attributes:
      borrow: Pairs ``(what, branch)`` with ``what`` among "q", "k", "v", "probs":
        takes that quantity from another branch of the same call, or from the sample
        `Before` (static).
      borrow_gate: 1 takes, 0 keeps the branch's own; scalar or ``[B]``.
      borrow_columns: ``[B, M]`` or ``[M]``; 1 where borrowed probabilities replace the
        branch's own columns. None means all.
      borrow_words: ``[M, M]`` or ``[B, M, M]``; row ``m`` says to which columns the
        borrowed column ``m`` goes. None leaves each at its place.
      query_order: Order in which queries are taken, borrowed ones included, ``[Q]`` or
        ``[B, Q]``; see `reorder`.
      key_order: The same of keys and values, ``[M]`` or ``[B, M]``.
      shift: Rolls queries, keys and values, borrowed ones included, by this many
        tokens (static).
      query_blur: Standard deviation, in tokens, of a Gaussian blur of the queries over
        the site's token grid; ``inf`` gives every query the mean.
      logit_scale: Multiplies the logits.
      logit_bias: Added to the logits; ``-inf`` hides a key.
      sparse: Share of the sparse map (1.5-entmax) in place of the softmax; beyond 1 it
        extrapolates.
      prob_gain: Multiplies the probabilities, own or borrowed.
      prob_offset: Added to the probabilities.
      renormalise: 1 divides the edited probabilities by their row sums.
      identity: 1 replaces the map by the identity, so that the output is ``v``.
      negative: One pair ``(rule, branch)``, or none: the output moves away from the
        attention to another branch's keys and values; see `move_away` (static).
      negative_scale: How far it moves, in the rule's terms.
      negative_limit: Largest growth of the output's norm, under the rule "nag".
      negative_bias: Added to the logits of the negative's keys, under the rule "flip".
      negative_mix: Share of the moved output; 0 keeps the branch's own.
      skip: 1 leaves the whole layer out that the site is part of, MLP included: its
        input is its output. For networks whose layers use `enter_layer`.
      shuffle: Seed, a whole number below 2^24, of a permutation of the tokens that
        enter the layer; 0 is none. For networks whose layers use `enter_layer`.
    """

    borrow: tuple[tuple[str, Any], ...] = static(default=())
    borrow_gate: Array | float | None = None
    borrow_columns: Array | None = None
    borrow_words: Array | None = None
    query_order: Array | None = None
    key_order: Array | None = None
    shift: int | tuple[int, ...] = static(default=0)
    query_blur: Array | float | None = None
    logit_scale: Array | float | None = None
    logit_bias: Array | float | None = None
    sparse: Array | float | None = None
    prob_gain: Array | float | None = None
    prob_offset: Array | float | None = None
    renormalise: Array | float | None = None
    identity: Array | float | None = None
    negative: tuple[tuple[str, Any], ...] = static(default=())
    negative_scale: Array | float | None = None
    negative_limit: Array | float | None = None
    negative_bias: Array | float | None = None
    negative_mix: Array | float | None = None
    skip: Array | float | None = None
    shuffle: Array | float | None = None

    def __repr__(self) -> str:
        """The fields that change something."""
        values = ((f, getattr(self, f.name)) for f in dataclasses.fields(self))
        used = [
            f"{f.name}={value!r}"
            for f, value in values
            if not (value is f.default or (f.default in ((), 0) and value == f.default))
        ]
        return f"Edit({', '.join(used)})"


def match(patterns: Iterable[str], names: Sequence[str], what: str) -> tuple[str, ...]:
    """The names that the patterns select, in the network's order.

    A pattern is a name; or else a leading part of one ("block2" selects "block2/attn"
    where nothing is called "block2"); or a shell pattern ("block*/attn").

    Args:
      patterns: Names, leading parts of names, or shell patterns.
      names: All names, in the network's order.
      what: What the names are, for the error.

    Returns:
      Names, without repeats.

    Raises:
      ValueError: A pattern selects nothing; the message lists what there is.
    """
    chosen = set()
    for pattern in patterns:
        hits = [name for name in names if name == pattern] or [
            name
            for name in names
            if name.startswith(pattern + "/") or fnmatch.fnmatchcase(name, pattern)
        ]
        if not hits:
            have = ", ".join(names) if names else "none"
            raise ValueError(f"{what} {pattern!r} matches nothing; there are: {have}")
        chosen.update(hits)
    return tuple(name for name in names if name in chosen)


def match_sites(pattern: str, sites: Sequence[str]) -> tuple[str, ...]:
    """The attention sites to edit that a pattern selects, in the network's order.

    A place, "mid", "block*" or "up1/0", selects the self-attention there, whatever it
    attends to besides. What ends as the sites do names sites: ``block2/cross``,
    ``*/cross``, ``up1/*``.

    Args:
      pattern: A site, a place or a shell pattern.
      sites: All sites of the network.

    Returns:
      Names of sites.

    Raises:
      ValueError: The pattern selects nothing; the message lists what there is.
    """
    chosen = match([pattern], sites, "attention site")
    place, _, kind = pattern.rpartition("/")
    ends = [site.rpartition("/")[2] for site in chosen]
    if chosen == (pattern,) or (place and fnmatch.filter(ends, kind) == ends):
        return chosen
    own = tuple(site for site in chosen if not site.endswith("/cross"))
    if not own:
        raise ValueError(
            f"{pattern!r} has no self-attention; name its sites: {', '.join(chosen)}"
        )
    return own


def capture_at(name: str, capture: Captures) -> bool | Callable[[Array], Array]:
    """What to capture at one tap, as `attend` takes it.

    Args:
      name: The tap.
      capture: Names of taps, or a function for each name, None for the array itself.

    Returns:
      False for a tap that is not captured, True for the array as it is, or the function
      of it to return instead.
    """
    if name not in capture:
        return False
    function = capture[name] if isinstance(capture, Mapping) else None
    return True if function is None else function


def captured(array: Array, wanted: bool | Callable[[Array], Array]) -> Array:
    """The array, or the function of it that is wanted.

    Args:
      array: What the network made.
      wanted: True, or a function, from `capture_at`.

    Returns:
      What to return of it.
    """
    return wanted(array) if callable(wanted) else array


def match_edit(
    pattern: str,
    edit: Edit | FeatureEdit,
    sites: Sequence[str],
    features: Sequence[str],
) -> tuple[str, ...]:
    """What a pattern of a control selects: sites for an `Edit`, else features.

    Args:
      pattern: Name, place or shell pattern.
      edit: What stands under it.
      sites: All attention sites of the network, for `match_sites`.
      features: All features of the network that can be edited, for `match`.

    Returns:
      Names, in the network's order.

    Raises:
      ValueError: The pattern selects nothing; the message lists what there is.
    """
    if isinstance(edit, FeatureEdit):
        return match([pattern], features, "feature")
    return match_sites(pattern, sites)


def sources(edit: Edit | FeatureEdit) -> tuple[str, ...]:
    """Names of the branches that an edit takes something from.

    Args:
      edit: An edit before `fold_controls`.
    """
    if isinstance(edit, FeatureEdit):
        named = () if edit.borrow is None else (edit.borrow,)
    else:
        named = tuple(source for _, source in (*edit.borrow, *edit.negative))
    found = (s.branch if isinstance(s, Before) else s for s in named)
    return tuple(source for source in found if source is not None)
