"""Rewards from interventions of an expert."""

import jax.numpy as jnp

from jaxlib_guidance.types import Array


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
