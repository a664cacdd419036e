"""Losses of answers that are judged one by one, with no pair to compare with."""

import jax
import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.policy.losses._preference import _require_answers
from jaxlib_guidance.reduce import masked_mean, require_shape
from jaxlib_guidance.types import Array, at_least_float32

stop = jax.lax.stop_gradient


def kto(
    u: Array,
    desirable: Array,
    z: float | Array,
    *,
    beta: float = 0.1,
    weight_desirable: float = 1.0,
    weight_undesirable: float = 1.0,
) -> Array:
    """Answers judged one by one: ``w (1 - s(beta (u - z)))``, or ``z - u`` if not good.

    Args:
      u: Log-ratio of each answer to the reference, ``[B]``.
      desirable: 1 for a good answer and 0 for a bad one, ``[B]``.
      z: The reference point, from `kto_reference`: scalar, or ``[B]``; a constant.
      beta: Strength of the pull to the reference, positive.
      weight_desirable: Weight of desirable answers, at least 0.
      weight_undesirable: Weight of undesirable answers, at least 0.

    Returns:
      Float32 ``[B]``, one loss an answer.

    Raises:
      ValueError: Mismatched shapes.

    Reference: Ethayarajh et al., arXiv 2402.01306, eq. 8.
    """
    _require_answers("u", u)
    require_shape("desirable", desirable, jnp.shape(u))
    require_shape("z", z, (), jnp.shape(u))
    require_range("desirable", desirable, 0, 1)
    require_range("beta", beta, 0, inside=True)
    require_range("weight_desirable", weight_desirable, 0)
    require_range("weight_undesirable", weight_undesirable, 0)
    u, good = at_least_float32(u), jnp.asarray(desirable).astype(bool)
    sign = jnp.where(good, 1.0, -1.0)
    weight = jnp.where(good, weight_desirable, weight_undesirable)
    return weight * jax.nn.sigmoid(-beta * sign * (u - stop(z)))


def kto_reference(
    u_mismatched: Array, mask: Array | None = None, *, axis_name: str | None = None
) -> Array:
    """``max(0, mean u)`` over prompts paired with answers to others: KL(pi, ref).

    Args:
      u_mismatched: Log-ratios to the reference of answers paired with other prompts,
        ``[B]``.
      mask: 0 on pairs that do not count, ``[B]``; None keeps all.
      axis_name: Name of the mapped axis over which the batch is split; None for no map.

    Returns:
      Scalar, gradients stopped.

    Reference: Ethayarajh et al., arXiv 2402.01306.
    """
    return stop(jnp.maximum(masked_mean(u_mismatched, mask, axis_name=axis_name), 0))
