"""Gates of edits, and other branches' arrays in a folded call."""

import jax.numpy as jnp

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
