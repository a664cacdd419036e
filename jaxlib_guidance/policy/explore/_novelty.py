"""Novelty in a space of behaviours, and what emitters gained."""

import jax.numpy as jnp

from jaxlib_guidance.reduce import mask_like, masked_mean, require_shape, sqrt
from jaxlib_guidance.types import Array, at_least_float32


def knn_novelty(
    points: Array, others: Array, mask: Array | None = None, *, k: int = 15
) -> Array:
    """Mean distance of each point to the nearest ``k`` others.

    A point that stands among the others itself is left out once: one distance of 0 is
    not counted, so ``knn_novelty(x, x)`` is what the points are to each other.

    Args:
      points: Behaviours to judge, ``[N, D]``.
      others: Population and archive, ``[M, D]``.
      mask: 0 on others that are not there, ``[M]``; None keeps all.
      k: How many neighbours count, at least 1; where fewer are there, all of them do.

    Returns:
      Float32 ``[N]``; 0 without any neighbour.

    Raises:
      ValueError: Other shapes, ``k`` below 1.

    Reference: Lehman and Stanley (2011); STAX, Paolo et al., arXiv 2111.01919.
    """
    points, others = at_least_float32(points), at_least_float32(others)
    if points.ndim != 2 or others.ndim != 2 or points.shape[1] != others.shape[1]:
        raise ValueError(
            f"points and others have shapes {points.shape} and {others.shape}; "
            "expected [N, D] and [M, D]"
        )
    if k < 1:
        raise ValueError(f"k is {k}; expected at least 1")
    if mask is not None:
        require_shape("mask", mask, (len(others),))
    there = mask_like(mask, others[:, 0]) > 0
    square = jnp.sum(jnp.square(points[:, None] - others[None]), -1)
    apart = jnp.where(there, sqrt(square), jnp.inf)
    apart = jnp.sort(apart, -1)
    # The point itself, where it is among the others.
    own = apart[:, :1] == 0
    pad = jnp.full_like(apart[:, :1], jnp.inf)
    apart = jnp.concatenate([apart, pad], -1)
    apart = jnp.where(own, apart[:, 1:], apart[:, :-1])[:, :k]
    known = jnp.isfinite(apart)
    return masked_mean(apart, known.astype(jnp.float32), -1)


def emitter_gain(rewards: Array, *, window: int = 3) -> Array:
    """``max(mean(last) - mean(first), 0)``: whether an emitter is worth its budget.

    Args:
      rewards: Best reward of each of an emitter's generations, in order, ``[T]``.
      window: Generations at either end that are averaged, 1 to ``T``.

    Returns:
      Float32 scalar, at least 0; an emitter at 0 is dropped.

    Raises:
      ValueError: Another shape, ``window`` out of range.

    Reference: STAX, Paolo et al., arXiv 2111.01919.
    """
    if jnp.ndim(rewards) != 1:
        raise ValueError(f"rewards has shape {jnp.shape(rewards)}; expected [T]")
    if not 1 <= window <= len(rewards):
        raise ValueError(f"window is {window}; expected 1 to {len(rewards)}")
    rewards = at_least_float32(rewards)
    return jnp.maximum(jnp.mean(rewards[-window:]) - jnp.mean(rewards[:window]), 0)
