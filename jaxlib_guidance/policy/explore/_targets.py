"""Targets of off-policy critics, from ensembles."""

import jax
import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array, at_least_float32, concrete


def ensemble_min(q: Array, key: Array | None = None, *, take: int = 2) -> Array:
    """The least of ``take`` critics, drawn for each call: ``[E, ...]`` to ``[...]``.

    Args:
      q: What each of ``E`` critics says, ``[E, ...]``.
      key: Typed key of the draw; None only where ``take`` is ``E``.
      take: How many critics count, a Python integer of 1 to ``E``; all alike by chance.

    Returns:
      Float32 ``[...]``.

    Raises:
      ValueError: ``take`` out of range, or no key where some critics are left out.

    Reference: REDQ, Chen et al., arXiv 2101.05982, algorithm 1.
    """
    if jnp.ndim(q) < 1:
        raise ValueError("q is a scalar; expected [E, ...]")
    q = at_least_float32(q)
    if not 1 <= take <= len(q):
        raise ValueError(f"take is {take}; expected an integer in [1, {len(q)}]")
    if take == len(q):
        return jnp.min(q, 0)
    if key is None:
        raise ValueError(f"key is None; expected a key, for take {take} of {len(q)}")
    # Places of the largest of E uniform numbers: a draw without replacement.
    _, drawn = jax.lax.top_k(jax.random.uniform(key, (len(q),)), take)
    return jnp.min(q[drawn], 0)


def sac_target(
    rewards: Array,
    q_next: Array,
    logp_next: Array,
    terminated: Array,
    *,
    gamma: float | Array = 0.99,
    alpha: float | Array = 0.0,
) -> Array:
    """``r + gamma (1 - terminated) (q' - alpha log pi(a'|s'))``, a constant.

    Args:
      rewards: Reward of each step, ``[...]``.
      q_next: Value of the next state and an action drawn there, of the shape of
        ``rewards``.
      logp_next: Log-probability of that action, of the shape of ``rewards``.
      terminated: Whether the next state has no future, of the shape of ``rewards``; an
        episode that was only cut off has one.
      gamma: Discount, in [0, 1].
      alpha: Weight of the entropy; 0 leaves it out of the target, as RLPD and RLIF do.

    Returns:
      Float32 of the shape of ``rewards``, without gradient.

    Raises:
      ValueError: Mismatched shapes, ``gamma`` outside of [0, 1], ``alpha`` below 0.

    Reference: SAC, Haarnoja et al., arXiv 1801.01290, equation 8.
    """
    for name, x in (
        ("q_next", q_next),
        ("logp_next", logp_next),
        ("terminated", terminated),
    ):
        require_shape(name, x, jnp.shape(rewards))
    require_range("gamma", gamma, 0, 1)
    require_range("alpha", alpha, 0)
    after = at_least_float32(q_next)
    known = concrete(alpha)
    if known is None or known.any():
        after -= alpha * at_least_float32(logp_next)
    # What nobody goes on to, infinite or NaN, is worth nothing.
    after = jnp.where(jnp.asarray(terminated).astype(bool), 0.0, after)
    return jax.lax.stop_gradient(at_least_float32(rewards) + gamma * after)
