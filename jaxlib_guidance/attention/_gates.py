"""Gates of edits, and other branches' arrays in a folded call."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.attention._before import Before
from jaxlib_guidance.types import Array, expand


def gate_of(value: Array | float, x: Array, name: str) -> Array:
    """A float32 gate, scalar or ``[B]``.

    Args:
      value: The edit's gate.
      x: What it acts on ``[B, ...]``.
      name: Name of the edit's field, for the error.

    Raises:
      ValueError: A gate that is neither a scalar nor ``[B]``.
    """
    value = jnp.asarray(value, jnp.float32)
    if value.shape not in ((), x.shape[:1]):
        raise ValueError(
            f"edit.{name} has shape {value.shape}; expected () or {x.shape[:1]}"
        )
    return value


def mix(own: Array, other: Array, gate: Array | float, name: str) -> Array:
    """``(1 - gate) own + gate other``, exact at both ends; scalar or ``[B]`` gate."""
    gate = expand(gate_of(gate, own, name).astype(own.dtype), own)
    return (1 - gate) * own + gate * other


def by_branch(a: Array, count: int, name: str) -> Array:
    """The ``[B, K, ...]`` view of folded branches."""
    if a.shape[0] % count:
        raise ValueError(
            f"edit.{name} names {count} branches; the batch of {a.shape[0]} is not a "
            "multiple of that"
        )
    return a.reshape(a.shape[0] // count, count, *a.shape[1:])


def take(a: Array, index: tuple[int, ...], name: str) -> Array:
    """Each branch's source. Static slices of an unsharded axis move no data."""
    if not isinstance(index, tuple):
        raise ValueError(
            f"edit.borrow takes {name} from {index!r}; expected one index for each "
            "branch, as fold_controls makes of branch names"
        )
    view = by_branch(a, len(index), "borrow")
    return jnp.stack([view[:, i] for i in index], 1).reshape(a.shape)


def stack_gates(values, neutral: float, batch: int, name: str) -> Array:
    """Gates of K branches, ``neutral`` where a branch has none, for the folded batch.

    Args:
      values: Gate of each branch, scalar or ``[B]``, or None.
      neutral: Value that changes nothing.
      batch: Number ``B`` of samples, before folding.
      name: What they are, for the error.

    Returns:
      Float32 ``[B * K]``, sample major.

    Raises:
      ValueError: A gate that is neither a scalar nor ``[B]``.
    """
    whole = []
    for value in values:
        value = jnp.asarray(neutral if value is None else value, jnp.float32)
        if value.shape not in ((), (batch,)):
            raise ValueError(
                f"{name} has shape {value.shape}; expected () or ({batch},)"
            )
        whole.append(jnp.broadcast_to(value, (batch,)))
    return jnp.stack(whole, 1).reshape(-1)


def source_rows(
    wanted: Sequence[str | Before | None],
    branches: Sequence[str],
    batch: int,
    place: str,
) -> tuple[int, ...]:
    """The row that each row takes from, among those of one sample or of a pair.

    Args:
      wanted: Source of each of K branches; None is its own.
      branches: Names of the branches.
      batch: Number ``B`` of samples.
      place: Name of the site or feature, for errors.

    Returns:
      K rows of a sample; where any takes from the sample before, 2 K of a pair.

    Raises:
      ValueError: A branch that is not among them; an odd batch of pairs.
    """
    names, first, second = list(branches), [], []
    for own, source in enumerate(wanted):
        before = isinstance(source, Before)
        name = source.branch if isinstance(source, Before) else source
        name = names[own] if name is None else name
        if name not in names:
            raise ValueError(
                f"{place}: borrow from branch {name!r}, which is not among the "
                f"branches of this call: {names}"
            )
        row = names.index(name)
        first.append(own if before else row)
        second.append(row if before else len(names) + row)
    if not any(isinstance(source, Before) for source in wanted):
        return tuple(first)
    if batch % 2:
        raise ValueError(
            f"{place}: an edit takes from the sample before in a batch of {batch}; "
            "expected pairs"
        )
    return (*first, *second)


def paired_gate(gate: Array | float | None, batch: int, name: str) -> Array:
    """A gate ``[B]`` that is 0 at the first of each pair."""
    gates = stack_gates([1.0 if gate is None else gate], 1.0, batch, name)
    return gates * jnp.asarray(np.arange(batch) % 2, jnp.float32)


def move_words(probs: Array, words: Array) -> Array:
    """Each column of the map at the places that ``words`` gives it."""
    words = jnp.asarray(words, jnp.float32)
    size, width = probs.shape[0], probs.shape[-1]
    if words.shape not in ((width, width), (size, width, width)):
        raise ValueError(
            f"edit.borrow_words has shape {words.shape}; expected {(width, width)} or "
            f"{(size, width, width)}"
        )
    words = jnp.broadcast_to(words, (size, width, width))
    return jnp.einsum(
        "bhqm,bmn->bhqn", probs, words, precision=jax.lax.Precision.HIGHEST
    )
