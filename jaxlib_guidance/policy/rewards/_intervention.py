"""An expert that takes over, and a learner that is handed the task."""

from typing import NamedTuple

import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.reduce import hide, mask_like, masked_mean, require_shape
from jaxlib_guidance.types import Array


class Handover(NamedTuple):
    """Whether a learned cue can be trusted.

    Attributes:
      ready: Whether both rates are known and small enough, bool scalar.
      false_alarms: Share of what is far by the trusted cue and near by the learned one,
        of all that is far; NaN where nothing is.
      misses: Share of what is near by the trusted cue and far by the learned one, of
        all that is near; NaN where nothing is.
    """

    ready: Array
    false_alarms: Array
    misses: Array


def handover(
    trusted: Array,
    learned: Array,
    mask: Array | None = None,
    *,
    near: float | Array,
    allowed: float | Array = 0.1,
) -> Handover:
    """Whether a robot may act by a learned cue instead of the one that taught it.

    Over a window of both, on the robot's own way: neither false alarms nor misses are
    more than ``allowed``.

    Args:
      trusted: Distances by the trusted cue, ``[N]``.
      learned: Distances by the learned cue, ``[N]``.
      mask: 0 on pairs that are not there yet, ``[N]``; None keeps all.
      near: Distance below which the robot must act, in the unit of both.
      allowed: Largest share of either error, in [0, 1].

    Returns:
      The verdict and both rates.

    Raises:
      ValueError: Mismatched shapes, ``allowed`` out of range.

    Reference: van Hecke et al., arXiv 1603.08047.
    """
    if jnp.ndim(trusted) != 1:
        raise ValueError(f"trusted has shape {jnp.shape(trusted)}; expected [N]")
    require_shape("learned", learned, jnp.shape(trusted))
    require_range("allowed", allowed, 0, 1)
    keep = mask_like(mask, trusted)
    true = hide(trusted, mask) < near
    said = hide(learned, mask) < near
    wrong = (true != said).astype(jnp.float32)

    def share(of):
        of = keep * of.astype(jnp.float32)
        known = jnp.sum(of) > 0
        return jnp.where(known, masked_mean(wrong, of), jnp.nan)

    alarms, misses = share(~true), share(true)
    return Handover((alarms <= allowed) & (misses <= allowed), alarms, misses)


def intervention_rewards(intervened: Array) -> Array:
    """-1 for the policy's step after which the expert takes over, else 0.

    No other reward is needed: what makes an expert intervene is what to avoid.

    Args:
      intervened: Whether the expert acted, ``[T]``; `jax.vmap` for a batch.

    Returns:
      Float32 ``[T]``, -1 or 0.

    Reference: RLIF, Luo et al., arXiv 2311.12996; its code.
    """
    if jnp.ndim(intervened) != 1:
        raise ValueError(f"intervened has shape {jnp.shape(intervened)}; expected [T]")
    expert = jnp.asarray(intervened).astype(bool)
    following = jnp.concatenate([expert[1:], jnp.zeros(1, bool)])
    return -(following & ~expert).astype(jnp.float32)
