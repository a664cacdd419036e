"""Edits of several branches as one, for a call in which they are folded."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.attention._before import Before
from jaxlib_guidance.attention._control import BORROWABLE, PIXELS, Edit
from jaxlib_guidance.attention._features import FeatureEdit
from jaxlib_guidance.attention._fold_features import fold_features
from jaxlib_guidance.attention._gates import paired_gate, source_rows, stack_gates
from jaxlib_guidance.attention._order import stack_orders

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
    edits = [_gated(edit, batch, site) for edit in edits]
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
                jnp.ones(()) if value is None else jnp.asarray(value, jnp.float32),
                (batch, width),
            )
            for value in columns
        ]
        fields["borrow_columns"] = jnp.stack(whole, 1).reshape(-1, width)
    words = [edit.borrow_words for edit in edits]
    if any(value is not None for value in words):
        width = next(jnp.shape(value)[-1] for value in words if value is not None)
        whole = [
            jnp.broadcast_to(
                jnp.eye(width) if value is None else jnp.asarray(value, jnp.float32),
                (batch, width, width),
            )
            for value in words
        ]
        fields["borrow_words"] = jnp.stack(whole, 1).reshape(-1, width, width)
    for name in ("query_order", "key_order"):
        orders = [getattr(edit, name) for edit in edits]
        if any(order is not None for order in orders):
            fields[name] = stack_orders(orders, batch, f"{site}: {name}")
    shifts: Any = tuple(edit.shift for edit in edits)
    return Edit(
        shift=shifts if any(shifts) else 0,
        borrow=_sources(edits, branches, batch, site),
        negative=_negatives(edits, branches, site),
        **fields,
    )


def _gated(edit, batch, site):
    """The edit with a gate that spares the first of each pair."""
    if not any(isinstance(source, Before) for _, source in edit.borrow):
        return edit
    gate = paired_gate(edit.borrow_gate, batch, f"{site}: borrow_gate")
    return dataclasses.replace(edit, borrow_gate=gate)


def _sources(edits, branches, batch, site):
    wanted = [dict(edit.borrow) for edit in edits]
    pairs = []
    for what in dict.fromkeys(what for want in wanted for what in want):
        if what not in BORROWABLE:
            raise ValueError(
                f"{site}: borrow of {what!r}; expected one of {BORROWABLE}"
            )
        sources = [want.get(what) for want in wanted]
        pairs.append((what, source_rows(sources, branches, batch, site)))
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
