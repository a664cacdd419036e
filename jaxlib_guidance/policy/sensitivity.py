"""How far a policy moves when its reward does: smooth with entropy, a cliff without."""

import jax
import jax.numpy as jnp

from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array, at_least_float32


def soft_policy(q: Array, alpha: float | Array) -> Array:
    """``softmax(Q / alpha)``; ``alpha = 0`` is the argmax, ties shared.

    Args:
      q: Action values ``[..., A]``.
      alpha: Temperature, scalar.
    """
    q = at_least_float32(q)
    best = (q == jnp.max(q, -1, keepdims=True)).astype(q.dtype)
    greedy = best / jnp.sum(best, -1, keepdims=True)
    safe = jnp.where(alpha > 0, alpha, 1)
    return jnp.where(alpha > 0, jax.nn.softmax(q / safe, -1), greedy)


def total_variation(p: Array, q: Array) -> Array:
    """``sum |p - q| / 2`` over the last axis: 0 for equal policies, 1 for disjoint."""
    require_shape("q", q, jnp.shape(p))
    return 0.5 * jnp.sum(jnp.abs(at_least_float32(p) - at_least_float32(q)), -1)


def sensitivity_bound(
    rewards: Array, other: Array, *, alpha: float | Array, gamma: float | Array
) -> Array:
    """``max |R_1 - R_2| / (2 alpha (1 - gamma))`` bounds their policies' distance.

    In total variation, in every state, for the soft-optimal policies of temperature
    ``alpha``. It says nothing as ``alpha`` goes to 0: that is the cliff.

    Args:
      rewards: ``[S, A]``, or any shape.
      other: Likewise.
      alpha: Temperature.
      gamma: Discount.

    Reference: The Policy Cliff, arXiv 2507.20150.
    """
    require_shape("other", other, jnp.shape(rewards))
    gap = jnp.max(jnp.abs(at_least_float32(rewards) - at_least_float32(other)))
    return gap / (2 * alpha * (1 - gamma))
