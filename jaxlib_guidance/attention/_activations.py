"""A direction in activations, from answers that have a property to those that have not.

`add_steering` is for the residual stream of the layer at which the direction was taken.
"""

import jax.numpy as jnp

from jaxlib_guidance.reduce import masked_mean, require_shape
from jaxlib_guidance.types import Array, at_least_float32


def steering_direction(hidden: Array, toward: Array, away: Array) -> Array:
    """Mean activation of the ones less that of the others.

    Efficiency steering: from long right answers to short right ones.

    Args:
      hidden: Activations at one layer, ``[N, D]``.
      toward: 1 on answers that have the property, ``[N]``.
      away: 1 on those that have not.

    Returns:
      Float32 ``[D]``; 0 if either side is empty.

    Reference: arXiv 2506.15647 (efficiency steering); its layer and strength are
    unverified.
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
      hidden: ``[..., D]``.
      direction: ``v``, ``[D]``.
      strength: Scalar; 0 is off.
    """
    require_shape("direction", direction, jnp.shape(hidden)[-1:])
    hidden = jnp.asarray(hidden)
    moved = at_least_float32(hidden) + strength * at_least_float32(direction)
    return moved.astype(hidden.dtype)
