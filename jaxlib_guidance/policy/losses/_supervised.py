"""Supervised losses of tokens: likelihood, and its focal variant."""

import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.policy.losses._ratio import like_tokens
from jaxlib_guidance.reduce import hide
from jaxlib_guidance.types import Array, concrete, require_array


def nll(logp: Array, mask: Array | None = None, weight: Array | None = None) -> Array:
    """``-w logp``: supervised fine-tuning, filtered cloning, weighted segments.

    Filtered behaviour cloning (PAE) has 1 for successes and 0 for failures as weights
    or, to leave them out of the mean, in the mask. SELF weighs a response, its feedback
    and its refinement differently, by weights of tokens.

    Args:
      logp: Log-probabilities under the policy of the tokens that were taken, ``[...,
        T]``.
      mask: 1 on tokens that the policy chose, 0 elsewhere, of the shape of ``logp``;
        None keeps all.
      weight: Weights of tokens ``[..., T]``, or of sequences ``[...]``; None is 1.

    Returns:
      Float32 like ``logp``.

    Reference: PAE, arXiv 2412.13194; SELF, arXiv 2310.00533.
    """
    require_array("logp", logp)
    w = jnp.ones(jnp.shape(logp), jnp.float32) if weight is None else weight
    return -like_tokens(w, logp, mask, "weight") * hide(logp, mask)


def focal_nll(
    logp: Array, mask: Array | None = None, *, gamma: float | Array = 0.0
) -> Array:
    """``-(1 - p)^gamma log p``: certain answers count less.

    The listening loss of social deduction: ``logp`` of who the impostor is, where the
    agent was asked. Its code's default is 3, its released runs used 0.

    Args:
      logp: Log-probabilities under the policy of the tokens that were taken, of any
        shape.
      mask: 1 on tokens that the policy chose, 0 elsewhere, of the shape of ``logp``;
        None keeps all.
      gamma: Exponent of the focal factor, at least 0; the factor is differentiated too.
        0 is the plain likelihood.

    Returns:
      Float32 of the shape of ``logp``, one loss a token, 0 where masked.

    Reference: Sarkar et al., arXiv 2502.06060; focal loss, arXiv 1708.02002, eq. 4.
    """
    require_array("logp", logp)
    logp = hide(logp, mask)
    require_range("gamma", gamma, 0)
    known = concrete(gamma)
    if known is not None and known == 0:
        return -logp
    # A power of 0 may have no derivative; who is certain loses nothing.
    miss = -jnp.expm1(logp)
    sure = miss <= 0
    power = jnp.where(sure, 1, miss) ** gamma
    factor = jnp.where(sure & (jnp.asarray(gamma) != 0), 0, power)
    return -factor * logp
