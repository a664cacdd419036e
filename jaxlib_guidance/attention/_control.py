"""Attention control is data: an `Edit` says what to change at one attention site.

An edit is a pytree, so it is an argument of the compiled function like any other; an
absent field leaves the jaxpr of the site untouched.
"""

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.attention._features import FeatureEdit
from jaxlib_guidance.attention._fold_features import fold_features
from jaxlib_guidance.attention._gates import stack_gates
from jaxlib_guidance.types import Array, Captures, pytree_dataclass, static

# Neutral values, given to the branches of a call that do not use a field others use.
GATES = {
    "borrow_gate": 1.0,
    "query_blur": 0.0,
    "sparse": 0.0,
    "renormalise": 0.0,
    "identity": 0.0,
    "negative_scale": 0.0,
    "negative_limit": 1.0,
    "negative_bias": 0.0,
    "negative_mix": 0.0,
    "skip": 0.0,
    "shuffle": 0.0,
}
TABLES = {"logit_scale": 1.0, "logit_bias": 0.0, "prob_gain": 1.0, "prob_offset": 0.0}
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
        takes that quantity from another branch of the same call (static).
      borrow_gate: 1 takes, 0 keeps the branch's own; scalar or ``[B]``.
      borrow_columns: ``[B, M]`` or ``[M]``; 1 where borrowed probabilities replace the
        branch's own columns. None means all.
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
        return () if edit.borrow is None else (edit.borrow,)
    return tuple(source for _, source in (*edit.borrow, *edit.negative))


def fold_controls(
    controls: Sequence[Mapping[str, Edit | FeatureEdit]],
    branches: Sequence[str],
    batch: int,
) -> dict[str, Edit | FeatureEdit]:
    """Merges the controls of K branches into one for the folded batch ``[B*K]``.

    Args:
      controls: One mapping from site or feature to edit for each branch.
      branches: Names of the branches, which `Edit.borrow` refers to.
      batch: Number ``B`` of samples, before folding.

    Returns:
      Name to edit, for each site or feature that any branch edits. Leaves lead with
      ``B*K``, sample major; ``borrow`` and ``shift`` hold one entry for each branch.

    Raises:
      ValueError: An edit borrows from a branch that is not in this call, or has a leaf
        whose shape does not fit.
    """
    sites = dict.fromkeys(site for control in controls for site in control)
    return {
        site: _fold([control.get(site) for control in controls], branches, batch, site)
        for site in sites
    }


def _fold(edits, branches, batch, site):
    if any(isinstance(edit, FeatureEdit) for edit in edits):
        return fold_features(edits, branches, batch, site)
    edits = [edit if edit is not None else Edit() for edit in edits]
    if len(edits) == 1 and not edits[0].borrow and not edits[0].negative:
        return edits[0]
    fields = {}
    for name, neutral in GATES.items():
        values = [getattr(edit, name) for edit in edits]
        if any(value is not None for value in values):
            fields[name] = stack_gates(values, neutral, batch, f"{site}: {name}")
    for name, neutral in TABLES.items():
        values = [getattr(edit, name) for edit in edits]
        if any(value is not None for value in values):
            fields[name] = _stack_tables(values, neutral, batch, f"{site}: {name}")
    columns = [edit.borrow_columns for edit in edits]
    if any(value is not None for value in columns):
        width = next(jnp.shape(value)[-1] for value in columns if value is not None)
        whole = [
            jnp.broadcast_to(
                jnp.ones(()) if value is None else jnp.asarray(value), (batch, width)
            )
            for value in columns
        ]
        fields["borrow_columns"] = jnp.stack(whole, 1).reshape(-1, width)
    shifts: Any = tuple(edit.shift for edit in edits)
    return Edit(
        shift=shifts if any(shifts) else 0,
        borrow=_sources(edits, branches, site),
        negative=_negatives(edits, branches, site),
        **fields,
    )


def _sources(edits, branches, site):
    wanted = [dict(edit.borrow) for edit in edits]
    pairs = []
    for what in dict.fromkeys(what for want in wanted for what in want):
        if what not in BORROWABLE:
            raise ValueError(
                f"{site}: borrow of {what!r}; expected one of {BORROWABLE}"
            )
        index = []
        for own, want in enumerate(wanted):
            source = want.get(what, branches[own])
            if source not in branches:
                raise ValueError(
                    f"{site}: borrow from branch {source!r}, which is not among the "
                    f"branches of this call: {list(branches)}"
                )
            index.append(list(branches).index(source))
        pairs.append((what, tuple(index)))
    return tuple(pairs)


def _negatives(edits, branches, site):
    """Each rule with one source for each branch, -1 for those that do not use it."""
    found = {}
    for own, edit in enumerate(edits):
        if len(edit.negative) > 1:
            raise ValueError(
                f"{site}: a branch has negatives {edit.negative}; give one"
            )
        for rule, source in edit.negative:
            if source not in branches:
                raise ValueError(
                    f"{site}: a negative of branch {source!r}, which is not among the "
                    f"branches of this call: {list(branches)}"
                )
            index = found.setdefault(rule, [-1] * len(edits))
            index[own] = list(branches).index(source)
    return tuple((rule, tuple(index)) for rule, index in found.items())


def _stack_tables(values, neutral, batch, name):
    whole = []
    for value in values:
        value = jnp.asarray(neutral if value is None else value, jnp.float32)
        if value.ndim == 0:
            value = value.reshape(1, 1, 1, 1)
        if value.ndim != 4 or value.shape[0] not in (1, batch):
            raise ValueError(
                f"{name} has shape {value.shape}; expected () or [B or 1, H or 1, Q or "
                f"1, M or 1] with B = {batch}{PIXELS if 'logit' in name else ''}"
            )
        whole.append(value)
    shape = jnp.broadcast_shapes(*(value.shape for value in whole), (batch, 1, 1, 1))
    return jnp.stack([jnp.broadcast_to(value, shape) for value in whole], 1).reshape(
        -1, *shape[1:]
    )
