"""A change of what the network predicts, as a change of x0."""

import jax.numpy as jnp

from jaxlib_guidance.diffusion import Prediction, from_x0
from jaxlib_guidance.reduce import divide
from jaxlib_guidance.types import (
    Array,
    Context,
)


def gain_of(space: Prediction, ctx: Context) -> Array:
    """``d prediction / d x0`` at fixed ``x_t``, ``[B, 1, ...]``."""
    one = jnp.ones_like(ctx.alpha)
    return from_x0(ctx.process, space, one, jnp.zeros_like(one), ctx.t)


def to_x0_change(change: Array, gain: Array) -> Array:
    """The change of x0 that a change of the prediction means.

    Where ``gain`` is 0, as for eps at ``alpha = 0``, the prediction does not depend on
    x0, and nothing is changed.

    Args:
      change: Change of the prediction ``[B, *S]``.
      gain: Derivative of the prediction in x0, ``[B, 1, ...]``, from `gain_of`.

    Returns:
      Change of x0 ``[B, *S]``.
    """
    return divide(change, gain)
