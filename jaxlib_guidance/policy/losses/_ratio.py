"""Importance ratios of tokens and of sequences, and what to watch about them."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_floating, require_range
from jaxlib_guidance.reduce import (
    Peak,
    divide,
    hide,
    mask_like,
    masked_sum,
    require_shape,
)
from jaxlib_guidance.types import Array, require_array

RatioLevel = Literal["token", "seq", "seq_token", "seq_sum"]


def log_ratio(
    logp: Array,
    logp_old: Array,
    mask: Array | None = None,
    *,
    level: RatioLevel = "token",
    limit: float = 20.0,
) -> Array:
    """``log pi - log pi_old`` of each token, or of its sequence.

    - "token": its own.
    - "seq": the mean over the sequence, ``log s`` of GSPO; the same for every token.
    - "seq_token": the value of "seq" with the gradient of "token" (GSPO-token, which is
      what verl and tunix have for GSPO). The two differ unless advantages are constant
      in a sequence and the loss is "seq_mean_token_mean".
    - "seq_sum": the sum over the sequence, its true ratio.

    Args:
      logp: Log-probabilities under the policy of the tokens that were taken, ``[...,
        T]``.
      logp_old: Log-probabilities of the same tokens under the policy that sampled them,
        of the shape of ``logp``; a constant.
      mask: 1 on tokens that the policy chose, 0 elsewhere, of the shape of ``logp``;
        None keeps all.
      level: Whose ratio it is: "token", "seq", "seq_token" or "seq_sum", explained in
        `log_ratio`.
      limit: Largest absolute log-ratio, beyond which it is clipped and has gradient 0.
        verl, OpenRLHF and tunix have 20 for tokens; 10 for GSPO.

    Returns:
      Float32 ``[..., T]``, 0 where masked.

    Raises:
      ValueError: Mismatched shapes, an unknown level.

    Reference: GSPO, Zheng et al., arXiv 2507.18071, eqs. 7 and 14.
    """
    each = _log_ratio(logp, logp_old, mask, level, limit)
    if each.shape == jnp.shape(logp):
        return each
    return hide(jnp.broadcast_to(each, jnp.shape(logp)), mask)


def importance_ratio(
    logp: Array,
    logp_old: Array,
    mask: Array | None = None,
    *,
    level: RatioLevel = "token",
    limit: float = 20.0,
) -> Array:
    """``exp`` of `log_ratio`, taken once where a sequence has one for all its tokens.

    Args:
      logp: Log-probabilities under the policy of the tokens that were taken, ``[...,
        T]``.
      logp_old: Log-probabilities of the same tokens under the policy that sampled them,
        of the shape of ``logp``; a constant.
      mask: 1 on tokens that the policy chose, 0 elsewhere, of the shape of ``logp``;
        None keeps all.
      level: Whose ratio it is: "token", "seq", "seq_token" or "seq_sum", explained in
        `log_ratio`.
      limit: Largest absolute log-ratio before the exponential; beyond it the gradient
        is 0.

    Returns:
      Float32 ``[..., T]``, 1 where masked; ``[..., 1]`` for "seq" and "seq_sum".

    Raises:
      ValueError: Mismatched shapes, or an unknown level.
    """
    return jnp.exp(_log_ratio(logp, logp_old, mask, level, limit))


def _difference(logp: Array, logp_old: Array, mask: Array | None) -> Array:
    """``log pi - log pi_old`` of each token, unclipped; ``logp_old`` is a constant."""
    require_floating("logp", logp)
    require_floating("logp_old", logp_old)
    require_shape("logp_old", logp_old, jnp.shape(logp))
    return hide(logp, mask) - jax.lax.stop_gradient(hide(logp_old, mask))


def _of_level(
    each: Array, mask: Array | None, level: RatioLevel, limit: float
) -> Array:
    """The log-ratio of a level from the `_difference` of each token, clipped.

    A ratio of whole sequences is ``[..., 1]``, not yet repeated for its tokens.
    """
    if level not in get_args(RatioLevel):
        raise ValueError(f"level is {level!r}; expected one of {get_args(RatioLevel)}")
    require_range("limit", limit, 0)
    if level != "token":
        if each.ndim < 1:
            raise ValueError(f"logp is a scalar; expected [..., T] for {level!r}")
        total = masked_sum(each, mask, -1)[..., None]
        if level != "seq_sum":
            tokens = jnp.sum(mask_like(mask, each), -1, keepdims=True)
            total = divide(total, tokens)
        own, each = each, total
        if level == "seq_token":
            whole = hide(jnp.broadcast_to(total, own.shape), mask)
            each = jax.lax.stop_gradient(whole) + (own - jax.lax.stop_gradient(own))
    return jnp.clip(each, -limit, limit)


def _log_ratio(logp, logp_old, mask, level, limit):
    """`log_ratio` before a sequence's is repeated for its tokens."""
    return _of_level(_difference(logp, logp_old, mask), mask, level, limit)


def ratio_stats(
    logp: Array,
    logp_old: Array,
    advantage: Array,
    mask: Array | None = None,
    *,
    level: RatioLevel = "token",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> dict[str, Array | Peak]:
    """What to report beside a clipped loss, for ``aggregate(..., aux=)``.

    Args:
      logp: Log-probabilities under the policy of the tokens that were taken, ``[...,
        T]``.
      logp_old: Log-probabilities of the same tokens under the policy that sampled them,
        of the shape of ``logp``; a constant.
      advantage: Advantages of tokens ``[..., T]``, or of sequences ``[...]``;
        constants.
      mask: 1 on tokens that the policy chose, 0 elsewhere, of the shape of ``logp``;
        None keeps all.
      level: Whose ratio it is: "token", "seq", "seq_token" or "seq_sum", explained in
        `log_ratio`.
      clip_low: Largest fall of the ratio below 1.
      clip_high: Largest rise of the ratio above 1.

    Returns:
      ``approx_kl`` (``E k3`` of the old policy against the new, tokens' own),
      ``clip_low`` and ``clip_high`` (share of tokens whose gradient the clip removed)
      and ``ratio_max``.
    """
    each = _difference(logp, logp_old, mask)
    ratio = jnp.exp(_of_level(each, mask, level, 20.0))
    advantage = like_tokens(advantage, logp, mask)
    return _stats_of(each, ratio, advantage, mask, clip_low, clip_high)


def _stats_of(
    each: Array,
    ratio: Array,
    advantage: Array,
    mask: Array | None,
    clip_low: float | Array,
    clip_high: float | Array,
) -> dict[str, Array | Peak]:
    """`ratio_stats` of a ratio that was computed for the loss.

    Args:
      each: `_difference` of each token, ``[..., T]``.
      ratio: Importance ratio, ``[..., T]`` or ``[..., 1]``.
      advantage: Advantage of each token, ``[..., T]``.
      mask: 1 on the tokens that the policy chose, ``[..., T]``; None for all.
      clip_low: Largest fall of the ratio below 1.
      clip_high: Largest rise of the ratio above 1.
    """
    own = jnp.clip(each, -20.0, 20.0)
    low = (ratio < 1 - clip_low) & (advantage < 0)
    high = (ratio > 1 + clip_high) & (advantage > 0)
    return {
        "approx_kl": jnp.expm1(own) - own,
        "clip_low": low.astype(jnp.float32),
        "clip_high": high.astype(jnp.float32),
        "ratio_max": Peak(jnp.broadcast_to(ratio, each.shape)),
    }


def like_tokens(
    x: Array, logp: Array, mask: Array | None, name: str = "advantage"
) -> Array:
    """One number a token or a sequence, as a constant for each token.

    Args:
      x: Numbers of tokens ``[..., T]``, or of sequences ``[...]``.
      logp: An array of tokens, ``[..., T]``; only its shape is read.
      mask: 1 on tokens that the policy chose, 0 elsewhere, of the shape of ``logp``;
        None keeps all.
      name: What to call ``x`` in the error.

    Returns:
      Float32 ``[..., T]``, gradients stopped.
    """
    shape = jnp.shape(logp)
    require_array(name, x)
    require_shape(name, x, shape, shape[:-1])
    if jnp.shape(x) != shape:
        x = jnp.broadcast_to(jnp.asarray(x)[..., None], shape)
    return jax.lax.stop_gradient(hide(x, mask))
