"""What an attention site may be given."""

import jax.numpy as jnp

from jaxlib_guidance.attention._control import Edit
from jaxlib_guidance.types import Array


def require_edit(edit: Edit) -> None:
    """Raises where an attention site is given an edit of features."""
    if not isinstance(edit, Edit):
        raise TypeError(
            f"an attention site was given {type(edit).__name__}; expected attention."
            "Edit: edits of features are for places such as 'mid'"
        )


def require_shapes(q: Array, k: Array, v: Array, mask: Array | None) -> None:
    """Raises where queries, keys, values and mask do not fit together."""
    if q.ndim != 4 or k.shape != v.shape or k.ndim != 4:
        raise ValueError(
            f"q {q.shape}, k {k.shape}, v {v.shape}; expected [B, Q, H, D], "
            "[B, M, H, D] and [B, M, H, D]"
        )
    if (q.shape[0], *q.shape[2:]) != (k.shape[0], *k.shape[2:]):
        raise ValueError(f"q {q.shape} and k {k.shape} differ in batch, heads or width")
    if mask is not None and (mask.shape != k.shape[:2] or mask.dtype != jnp.bool_):
        raise ValueError(
            f"mask is {mask.dtype}{mask.shape}; expected bool{k.shape[:2]}"
        )
