"""Policy losses, one number for each token, to be *minimised*.

All take log-probabilities of what was taken, ``[..., T]`` (the steps of a diffusion
sampler are tokens too), advantages of tokens ``[..., T]`` or sequences ``[...]``, and a
mask that is 1 on what the policy chose. Advantages and ``logp_old`` are constants. What
is masked may be NaN: it has loss 0 and gradient exactly 0.

Nothing is reduced here. Add penalties, multiply by weights (`rollout_weight`), and give
the sum to `reduce.aggregate`::

    loss = ppo_clip(logp, logp_old, advantage, mask) + 0.04 * kl_loss(logp, ref, mask)
    out = aggregate(loss, mask, "seq_mean_token_mean")

Numbers such as ``clip_high`` may be arrays of no axes: `jax.vmap` over them is a sweep.
A bound is checked where it is known, not while it is traced.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_clip, require_floating, require_range
from jaxlib_guidance.policy.losses._ratio import (
    RatioLevel,
    importance_ratio,
    like_tokens,
    log_ratio,
)
from jaxlib_guidance.reduce import divide, hide, mask_like, masked_sum, require_shape
from jaxlib_guidance.types import Array, concrete

stop = jax.lax.stop_gradient


def reinforce(logp: Array, advantage: Array, mask: Array | None = None) -> Array:
    """``-A logp``.

    Args:
      logp: Log-probabilities under the policy of the tokens that were taken, ``[...,
        T]``.
      advantage: Advantages of tokens ``[..., T]``, or of sequences ``[...]``;
        constants.
      mask: 1 on tokens that the policy chose, 0 elsewhere, of the shape of ``logp``;
        None keeps all.

    Returns:
      Float32 like ``logp``.

    Reference: Williams (1992).
    """
    require_floating("logp", logp)
    return -like_tokens(advantage, logp, mask) * hide(logp, mask)


def ppo_clip(
    logp: Array,
    logp_old: Array,
    advantage: Array,
    mask: Array | None = None,
    *,
    clip_low: float | Array = 0.2,
    clip_high: float | Array = 0.2,
    dual_clip: float | Array | None = None,
    delta: float | Array | None = None,
    level: RatioLevel = "token",
    limit: float = 20.0,
) -> Array:
    """``-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A)``.

    Args:
      logp: Log-probabilities under the policy of the tokens that were taken, ``[...,
        T]``.
      logp_old: Log-probabilities of the same tokens under the policy that sampled them,
        of the shape of ``logp``; a constant.
      advantage: Advantages of tokens ``[..., T]``, or of sequences ``[...]``;
        constants.
      mask: 1 on tokens that the policy chose, 0 elsewhere, of the shape of ``logp``;
        None keeps all.
      clip_low: Largest fall of the ratio below 1: PPO, GRPO and DAPO 0.2, GSPO 3e-4,
        DDPO 1e-4.
      clip_high: Largest rise of the ratio above 1: PPO and GRPO 0.2, DAPO 0.28, GSPO
        4e-4, DDPO 1e-4.
      dual_clip: Factor of the largest loss where ``A < 0``, ``-dual_clip A``, more than
        1; verl's is 3. None for no limit.
      delta: Largest ratio of the unclipped branch, more than ``1 + clip_high`` (TRL);
        None for no limit.
      level: "token", "seq", "seq_token" or "seq_sum": whose ratio ``rho`` is, explained
        in `log_ratio`. "seq" is GSPO.
      limit: Largest absolute log-ratio before the exponential; beyond it the gradient
        is 0.

    Returns:
      Float32 like ``logp``.

    Raises:
      ValueError: Mismatched shapes, bounds that contradict each other.

    Reference: PPO, arXiv 1707.06347, eq. 7; dual clip, arXiv 1912.09729;
    ``delta`` INTELLECT-2, arXiv 2505.07291.
    """
    require_clip(clip_low, clip_high)
    if dual_clip is not None:
        known = concrete(dual_clip)
        if known is not None and known <= 1:
            raise ValueError(f"dual_clip is {dual_clip}; expected more than 1")
    if delta is not None:
        known, high = concrete(delta), concrete(clip_high)
        if known is not None and high is not None and known <= 1 + high:
            raise ValueError(
                f"delta is {delta}; expected more than 1 + clip_high = {1 + high}"
            )
    a = like_tokens(advantage, logp, mask)
    rho = importance_ratio(logp, logp_old, mask, level=level, limit=limit)
    free = rho if delta is None else jnp.minimum(rho, delta)
    objective = -_clip_objective(rho, a, clip_low, clip_high, free=free)
    if dual_clip is not None:
        objective = jnp.where(a < 0, jnp.maximum(objective, dual_clip * a), objective)
    return -objective


def _clip_objective(
    rho: Array,
    advantage: Array,
    clip_low: float | Array,
    clip_high: float | Array,
    *,
    free: Array | None = None,
) -> Array:
    """`ppo_clip` of a ratio that was computed; ``free`` replaces the unclipped one."""
    near = jnp.clip(rho, 1 - clip_low, 1 + clip_high)
    return -jnp.minimum((rho if free is None else free) * advantage, near * advantage)


def cispo(
    logp: Array,
    logp_old: Array,
    advantage: Array,
    mask: Array | None = None,
    *,
    low: float | Array = 0.0,
    high: float | Array = 5.0,
    bounds: Literal["absolute", "around_one"] = "absolute",
) -> Array:
    """``-sg(clip(rho)) A logp``: REINFORCE whose weights are clipped, not its gradient.

    Args:
      logp: Log-probabilities under the policy of the tokens that were taken, ``[...,
        T]``.
      logp_old: Log-probabilities of the same tokens under the policy that sampled them,
        of the shape of ``logp``; a constant.
      advantage: Advantages of tokens ``[..., T]``, or of sequences ``[...]``;
        constants.
      mask: 1 on tokens that the policy chose, 0 elsewhere, of the shape of ``logp``;
        None keeps all.
      low: Smallest weight, in the convention of ``bounds``.
      high: Largest weight, in the convention of ``bounds``.
      bounds: Convention of the bounds: "absolute" is ``[low, high]`` (TRL, with 5
        recommended), "around_one" ``[1 - low, 1 + high]`` (verl and the paper's
        symbols). One library's number means another weight in the other: TRL's 0.2 is a
        weight of at most 0.2.

    Returns:
      Float32 of the shape of ``logp``, one loss a token, 0 where masked.

    Raises:
      ValueError: Mismatched shapes, an unknown convention, no weight allowed.

    Reference: MiniMax-M1, arXiv 2506.13585, eqs. 4 and 5.
    """
    if bounds not in ("absolute", "around_one"):
        raise ValueError(f'bounds is {bounds!r}; expected "absolute" or "around_one"')
    start, end = (low, high) if bounds == "absolute" else (1 - low, 1 + high)
    bottom, top = concrete(start), concrete(end)
    if bottom is not None and top is not None and not bottom < top:
        raise ValueError(f"{bounds} bounds {low}, {high} leave no weight")
    weight = jnp.clip(importance_ratio(logp, logp_old, mask), start, end)
    return reinforce(logp, advantage, mask) * stop(weight)


def sapo(
    logp: Array,
    logp_old: Array,
    advantage: Array,
    mask: Array | None = None,
    *,
    tau_pos: float = 1.0,
    tau_neg: float = 1.05,
) -> Array:
    """``-(4 / tau) sigmoid(tau (rho - 1)) A``: a gate that closes smoothly.

    At ``rho = 1`` its gradient is that of `reinforce`.

    Args:
      logp: Log-probabilities under the policy of the tokens that were taken, ``[...,
        T]``.
      logp_old: Log-probabilities of the same tokens under the policy that sampled them,
        of the shape of ``logp``; a constant.
      advantage: Advantages of tokens ``[..., T]``, or of sequences ``[...]``;
        constants.
      mask: 1 on tokens that the policy chose, 0 elsewhere, of the shape of ``logp``;
        None keeps all.
      tau_pos: Temperature of the gate where ``A > 0``, positive.
      tau_neg: Temperature of the gate where ``A <= 0``, positive.

    Returns:
      Float32 of the shape of ``logp``, one loss a token, 0 where masked.

    Reference: Gao et al., arXiv 2511.20347.
    """
    require_range("tau_pos", tau_pos, 0, inside=True)
    require_range("tau_neg", tau_neg, 0, inside=True)
    a = like_tokens(advantage, logp, mask)
    rho = importance_ratio(logp, logp_old, mask)
    tau = jnp.where(a > 0, tau_pos, tau_neg)
    return -4 / tau * jax.nn.sigmoid(tau * (rho - 1)) * a


def gmpo(
    logp: Array,
    logp_old: Array,
    advantage: Array,
    mask: Array | None = None,
    *,
    clip_low: float = 0.4,
    clip_high: float = 0.4,
) -> Array:
    """``-A exp(mean_t of clipped log rho_t)``: the geometric mean of tokens' ratios.

    Each log-ratio is clipped to ``[-clip_low, clip_high]`` on the side where ``A`` is
    gained. All tokens of a sequence have its loss, so aggregate with
    "seq_mean_token_mean" for the paper's mean of sequences.

    Args:
      logp: Log-probabilities under the policy of the tokens that were taken, ``[...,
        T]``.
      logp_old: Log-probabilities of the same tokens under the policy that sampled them,
        of the shape of ``logp``; a constant.
      advantage: Advantages of sequences ``[...]``, or of tokens ``[..., T]`` of which
        the mean is taken; constants.
      mask: 1 on tokens that the policy chose, 0 elsewhere, of the shape of ``logp``;
        None keeps all.
      clip_low: Largest fall of a log-ratio below 0; 0.4 is the paper's e^-0.4.
      clip_high: Largest rise of a log-ratio above 0; 0.4 is the paper's e^0.4.

    Returns:
      Float32 of the shape of ``logp``, one loss a token, 0 where masked.

    Reference: Zhao et al., arXiv 2507.20673; verl's ``geo_mean``.
    """
    a = like_tokens(advantage, logp, mask)
    require_clip(clip_low, clip_high)
    logs = log_ratio(logp, logp_old, mask)
    near = jnp.clip(logs, -clip_low, clip_high)
    sign = jnp.sign(a)
    each = sign * jnp.minimum(sign * logs, sign * near)
    tokens = jnp.sum(mask_like(mask, each), -1, keepdims=True)
    mean = divide(masked_sum(each, mask, -1)[..., None], tokens)
    whole = divide(masked_sum(a, mask, -1)[..., None], tokens)
    return hide(jnp.broadcast_to(-whole * jnp.exp(mean), a.shape), mask)


def nft(
    logp: Array,
    logp_old: Array,
    correct: Array,
    success_rate: Array,
    mask: Array | None = None,
    *,
    weight: Literal["one", "dr_grpo", "grpo"] = "dr_grpo",
    negative: float | Array = 1.0,
    floor_pos: float | Array = 0.0,
    floor_neg: float | Array = 1.0,
    level: RatioLevel = "token",
) -> Array:
    """Negative-aware fine-tuning: likelihood for right answers, and for wrong ones too.

    Right: ``-log rho``. Wrong: ``-log((1 - r rho) / (1 - r))``, the likelihood under
    the policy that is left when right answers are taken out of the old one. Floors keep
    the gradient. On policy, "dr_grpo" has the gradient of Dr.GRPO, and "grpo" that of
    GRPO with the population's deviation.

    Args:
      logp: Log-probabilities under the policy of the tokens that were taken, ``[...,
        T]``.
      logp_old: Log-probabilities of the same tokens under the policy that sampled them,
        of the shape of ``logp``; a constant.
      correct: 1 for a right answer and 0 for a wrong one, ``[...]``, one a sequence.
      success_rate: Share ``r`` of right answers to the prompt, in [0, 1], ``[...]``;
        clipped to [0.02, 0.98]. `informative` leaves out prompts with 0 or 1.
      mask: 1 on tokens that the policy chose, 0 elsewhere, of the shape of ``logp``;
        None keeps all.
      weight: Weight of each answer: "one" 1, "dr_grpo" ``1 - r``, "grpo" ``sqrt((1 - r)
        / r)``.
      negative: Weight of wrong answers; 0 is rejection-sampling fine-tuning.
      floor_pos: Smallest ``rho`` whose logarithm is taken.
      floor_neg: Smallest ``(1 - r rho) / (1 - r)`` whose logarithm is taken, positive.
      level: "token" for the ratio of tokens, "seq_sum" for that of sequences.

    Returns:
      Float32 of the shape of ``logp``, one loss a token, 0 where masked.

    Raises:
      ValueError: Mismatched shapes, an unknown weight, no floor.

    Reference: Chen et al., arXiv 2505.18116; its ``dp_actor.py``.
    """
    if weight not in ("one", "dr_grpo", "grpo"):
        raise ValueError(f'weight is {weight!r}; expected "one", "dr_grpo" or "grpo"')
    known = concrete(floor_neg)
    if known is not None and known <= 0:
        raise ValueError(f"floor_neg is {floor_neg}; expected more than 0")
    shape = jnp.shape(logp)[:-1]
    require_shape("correct", correct, shape)
    require_shape("success_rate", success_rate, shape)
    require_range("correct", correct, 0, 1)
    require_range("success_rate", success_rate, 0, 1)
    require_range("negative", negative, 0)
    right = like_tokens(correct, logp, mask, "correct")
    r = jnp.clip(like_tokens(success_rate, logp, None, "success_rate"), 0.02, 0.98)
    rho = importance_ratio(logp, logp_old, mask, level=level, limit=10.0)
    loss = -right * _log_floored(rho, floor_pos)
    loss -= negative * (1 - right) * _log_floored((1 - r * rho) / (1 - r), floor_neg)
    if weight == "dr_grpo":
        loss *= 1 - r
    elif weight == "grpo":
        loss *= jnp.sqrt((1 - r) / r)
    return hide(loss, mask)


def _log_floored(x, floor):
    return jnp.log(x + stop(jnp.maximum(x, floor) - x))
