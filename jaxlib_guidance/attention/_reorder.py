"""The builder of edits that take tokens in another order."""

import jax.numpy as jnp

from jaxlib_guidance.attention._control import Edit
from jaxlib_guidance.types import Array, concrete


def reorder(queries: Array | None = None, keys: Array | None = None) -> Edit:
    """Takes the tokens' queries, or their keys and values, in another order.

    With `borrow` it moves what is taken: token ``i`` gets the query, or stands with the
    key and the value, of token ``order[i]``. Other orders for each sample do what
    `shift`, which is one for all, does not.

    Args:
      queries: Order of the queries, whole numbers from 0, ``[Q]`` or ``[B, Q]``; None
        leaves them.
      keys: Order of keys and values, ``[M]`` or ``[B, M]``; None leaves them.

    Returns:
      An edit, for the control of a branch.

    Raises:
      ValueError: No order; one of another rank or with other numbers.

    Reference: MotionCLR, arXiv 2410.18977, section 4 (example-based generation,
      sequence shifting).
    """
    if queries is None and keys is None:
        raise ValueError("reorder got no order; expected queries, keys or both")
    for name, order in (("queries", queries), ("keys", keys)):
        if order is None:
            continue
        if jnp.ndim(order) not in (1, 2) or jnp.asarray(order).dtype.kind not in "iu":
            raise ValueError(
                f"{name} has shape {jnp.shape(order)} and type "
                f"{jnp.asarray(order).dtype}; expected whole numbers [T] or [B, T]"
            )
        known = concrete(order)
        if known is not None and not ((known >= 0) & (known < known.shape[-1])).all():
            raise ValueError(
                f"{name} has numbers from {known.min()} to {known.max()}; expected 0 "
                f"to {known.shape[-1] - 1}"
            )
    return Edit(query_order=queries, key_order=keys)
