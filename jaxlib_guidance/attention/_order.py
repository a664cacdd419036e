"""Queries, keys and values in another order of tokens."""

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.types import Array


def in_order(a: Array, order: Array, name: str) -> Array:
    """Tokens ``[B, T, ...]`` in an order ``[T]`` or ``[B, T]``."""
    order = jnp.asarray(order, jnp.int32)
    if order.shape not in (a.shape[1:2], a.shape[:2]):
        raise ValueError(
            f"edit.{name} has shape {order.shape}; expected {a.shape[1:2]} or "
            f"{a.shape[:2]}"
        )
    order = jnp.broadcast_to(order, a.shape[:2])
    index = order.reshape(*order.shape, *(1,) * (a.ndim - 2))
    return jnp.take_along_axis(a, index, axis=1)


def stack_orders(orders, batch: int, name: str) -> Array:
    """Orders of K branches, each its own where it has one, for the folded batch."""
    size = next(jnp.shape(order)[-1] for order in orders if order is not None)
    whole = []
    for order in orders:
        order = np.arange(size) if order is None else order
        if jnp.shape(order) not in ((size,), (batch, size)):
            raise ValueError(
                f"{name} has shape {jnp.shape(order)}; expected ({size},) or "
                f"({batch}, {size})"
            )
        whole.append(jnp.broadcast_to(jnp.asarray(order, jnp.int32), (batch, size)))
    return jnp.stack(whole, 1).reshape(-1, size)
