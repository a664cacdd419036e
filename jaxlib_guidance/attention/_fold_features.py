"""Edits of features of several branches as one."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.attention._before import Before
from jaxlib_guidance.attention._features import GATES, FeatureEdit
from jaxlib_guidance.attention._gates import paired_gate, source_rows, stack_gates
from jaxlib_guidance.types import at_least_float32


def fold_features(
    edits: Sequence[FeatureEdit | None],
    branches: Sequence[str],
    batch: int,
    place: str,
) -> FeatureEdit:
    """One edit for the folded batch ``[B * K]``, of the edits of K branches.

    Args:
      edits: The edit of each branch at one place, or None.
      branches: Names of the branches, which `FeatureEdit.borrow` refers to.
      batch: Number ``B`` of samples, before folding.
      place: Name of the place, for errors.

    Returns:
      The edit. Its leaves lead with ``B * K``, sample major; ``borrow`` is one index
      for each branch.

    Raises:
      ValueError: An edit borrows from a branch that is not in this call, or has a leaf
        whose shape does not fit.
    """
    whole = [FeatureEdit() if edit is None else edit for edit in edits]
    if len(whole) == 1 and whole[0].borrow is None:
        return whole[0]
    whole = [_gated(edit, batch, place) for edit in whole]
    fields: dict[str, Any] = {}
    for name, neutral in GATES.items():
        values = [getattr(edit, name) for edit in whole]
        if any(value is not None for value in values):
            fields[name] = stack_gates(values, neutral, batch, f"{place}: {name}")
    added = [edit.add for edit in whole]
    if any(add is not None for add in added):
        fields["add"] = _stack_directions(added, batch, place)
    sources = [edit.borrow for edit in whole]
    if any(source is not None for source in sources):
        fields["borrow"] = source_rows(sources, branches, batch, place)
    return FeatureEdit(**fields)


def _gated(edit, batch, place):
    """The edit with a gate that spares the first of each pair."""
    if not isinstance(edit.borrow, Before):
        return edit
    gate = paired_gate(edit.borrow_gate, batch, f"{place}: borrow_gate")
    return dataclasses.replace(edit, borrow_gate=gate)


def _stack_directions(added, batch, place):
    known = [at_least_float32(add) for add in added if add is not None]
    width = known[0].shape[-1] if known[0].ndim else 0
    for add in known:
        if add.shape not in ((width,), (batch, width)):
            raise ValueError(
                f"{place}: add has shape {add.shape}; expected [C] or [{batch}, C] of "
                "one width C"
            )
    rows = [
        jnp.broadcast_to(
            jnp.zeros(width) if add is None else at_least_float32(add), (batch, width)
        )
        for add in added
    ]
    return jnp.stack(rows, 1).reshape(-1, width)
