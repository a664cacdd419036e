"""Steering vectors: a direction in activations that a property of the answers has.

`add_steering` is for the residual stream of the layer at which the direction was taken.
"""

import jax.numpy as jnp

from jaxlib_guidance.reduce import masked_mean, require_shape
from jaxlib_guidance.types import Array, at_least_float32


def steering_direction(hidden: Array, toward: Array, away: Array) -> Array:
    """Mean activation of the answers with a property less that of those without.

    ``v = mean_{toward} h - mean_{away} h``. Efficiency steering goes from long right
    answers to short right ones.

    Args:
      hidden: Activations at one layer, ``[N, D]``.
      toward: Mask ``[N]``, 1 on answers that have the property.
      away: Mask ``[N]``, 1 on answers that do not have it.

    Returns:
      Float32 ``[D]``; 0 if either side is empty.

    Raises:
      ValueError: Activations that are not ``[N, D]``, or masks that are not ``[N]``.

    Reference: efficiency steering, arXiv 2506.15647.
    """
    hidden = at_least_float32(hidden)
    if hidden.ndim != 2:
        raise ValueError(f"hidden has shape {hidden.shape}; expected [N, D]")
    for name, x in (("toward", toward), ("away", away)):
        require_shape(name, x, hidden.shape[:1])

    def mean(mask):
        mask = at_least_float32(mask)[:, None]
        return masked_mean(hidden, jnp.broadcast_to(mask, hidden.shape), 0)

    both = jnp.any(at_least_float32(toward) > 0) & jnp.any(at_least_float32(away) > 0)
    return jnp.where(both, mean(toward) - mean(away), 0)


def add_steering(hidden: Array, direction: Array, strength: Array | float) -> Array:
    """``h + strength v``, in ``h``'s precision.

    Args:
      hidden: Activations ``[..., D]``.
      direction: Steering vector ``v``, ``[D]``.
      strength: Factor of the direction, a scalar; 0 is off.

    Returns:
      Activations ``[..., D]``.

    Raises:
      ValueError: A direction of another width.
    """
    require_shape("direction", direction, jnp.shape(hidden)[-1:])
    hidden = jnp.asarray(hidden)
    moved = at_least_float32(hidden) + strength * at_least_float32(direction)
    return moved.astype(hidden.dtype)
