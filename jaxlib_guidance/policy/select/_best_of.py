"""Choosing among what was tried or imagined: strategies, actions, tree nodes."""

import jax.numpy as jnp

from jaxlib_guidance.reduce import (
    hide,
    mask_like,
    masked_mean,
    require_shape,
)
from jaxlib_guidance.types import Array, at_least_float32


def _known(x: Array, mask: Array | None) -> Array:
    """The mask in float32, and 0 where ``x`` is NaN: a score that nobody knows."""
    return jnp.where(jnp.isnan(at_least_float32(x)), 0, mask_like(mask, x))


def first_success(success: Array, mask: Array | None = None) -> tuple[Array, Array]:
    """The first strategy, in order of trial, that solved the task, and whether any did.

    The target of a policy over strategies: ``nll(logp_of_target, any)`` teaches
    it to begin with what it ended with. One that succeeds at once learns nothing new,
    and with a single strategy the gradient is 0.

    Args:
      success: 1 for strategies that solved the task, ``[..., K]`` in the order of
        trial.
      mask: 0 for strategies that were not tried, ``[..., K]``; None keeps all.

    Returns:
      Index int32 ``[...]``, and 1 where one succeeded, float32.

    Reference: SMART, Liu et al., arXiv 2410.16128.
    """
    if mask is not None:
        require_shape("mask", mask, jnp.shape(success))
    hit = (at_least_float32(success) * mask_like(mask, success)) > 0
    return jnp.argmax(hit, -1).astype(jnp.int32), jnp.any(hit, -1).astype(jnp.float32)


def best_of_n(scores: Array, mask: Array | None = None) -> tuple[Array, Array]:
    """The sample that a verifier or a reward model likes best.

    Args:
      scores: Scores of the samples of a prompt, ``[..., N]``; one of NaN does not take
        part.
      mask: 0 for samples that do not take part, whose scores may be NaN, ``[..., N]``;
        None keeps all.

    Returns:
      Index int32 ``[...]`` (of equal ones the first) and its score, float32; index 0
      and ``-inf`` where none takes part. `best_of_k` is what it is worth.

    Reference: Stiennon et al., arXiv 2009.01325.
    """
    scores = hide(scores, _known(scores, mask), -jnp.inf)
    return jnp.argmax(scores, -1).astype(jnp.int32), jnp.max(scores, -1)


def lookahead_select(scores: Array, mask: Array | None = None) -> tuple[Array, Array]:
    """The action whose imagined future a critic likes best on average.

    Args:
      scores: Critic's scores of each action's simulated steps, ``[..., A, S]``; NaN is
        not known. With one step this is the greedy choice.
      mask: 0 on steps after a simulation ended, ``[..., A, S]``. An action without any
        step is not chosen if another has one. None keeps all.

    Returns:
      Index int32 ``[...]`` (of equal ones the first) and the means ``[..., A]``,
      NaN for an action without a step.

    Reference: WebEvolver, Fang et al., arXiv 2504.21024; its critic says 0, 0.5 or 1.
    """
    mask = _known(scores, mask)
    means = masked_mean(scores, mask, -1)
    some = jnp.any(mask > 0, -1)
    choice = jnp.argmax(jnp.where(some, means, -jnp.inf), -1)
    return choice.astype(jnp.int32), jnp.where(some, means, jnp.nan)


def reject_seen(logits: Array, seen: Array) -> Array:
    """``-inf`` on answers that were tried before and found wrong.

    Args:
      logits: Logits over answers, ``[..., K]``.
      seen: 1 on answers to reject, ``[..., K]``. If that is all of them, none is.

    Returns:
      Float32 ``[..., K]``.

    Reference: Feedback Friction, arXiv 2506.11930 (rejection of earlier answers).
    """
    require_shape("seen", seen, jnp.shape(logits))
    out = at_least_float32(seen) > 0
    out &= ~jnp.all(out, -1, keepdims=True)
    return jnp.where(out, -jnp.inf, at_least_float32(logits))
