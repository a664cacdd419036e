"""Edits of the residual stream, stacked so that blocks stay one scan."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp

from jaxlib_guidance.attention import FeatureEdit
from jaxlib_guidance.types import Array

OTHERS = "borrow", "borrow_gate", "backbone", "skip"


def stack_edits(
    control: Mapping[str, FeatureEdit], sites: Sequence[str], shape: tuple[int, ...]
) -> Array | None:
    """What is added after each block, 0 where nothing is; None without an edit.

    Args:
      control: Edits by block.
      sites: Names of all blocks.
      shape: Shape of the stream ``(B, T, C)``.

    Returns:
      Float32 ``[depth, C]``, or ``[depth, B, C]`` if an edit differs by row.

    Raises:
      TypeError: What is no edit of features, or adds nothing.
      ValueError: An edit that does more than to add, or a direction of another shape.
    """
    if not control:
        return None
    batch, _, width = shape
    adds = {}
    for name, edit in control.items():
        if not isinstance(edit, FeatureEdit) or edit.add is None:
            raise TypeError(
                f"control[{name!r}] is {edit}; expected an attention.FeatureEdit with "
                "add, as from attention.steer"
            )
        more = [field for field in OTHERS if getattr(edit, field) is not None]
        if more:
            raise ValueError(
                f"control[{name!r}] has {', '.join(more)}; the residual stream of a "
                "language model takes edit.add alone"
            )
        adds[name] = add = jnp.asarray(edit.add, jnp.float32)
        if add.shape not in ((width,), (batch, width)):
            raise ValueError(
                f"control[{name!r}].add has shape {add.shape}; expected {(width,)} or "
                f"{(batch, width)}"
            )
    by_row = any(add.ndim == 2 for add in adds.values())
    whole = (batch, width) if by_row else (width,)
    none = jnp.zeros(whole, jnp.float32)
    return jnp.stack([jnp.broadcast_to(adds.get(site, none), whole) for site in sites])
