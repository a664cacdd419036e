"""Whole algorithms: advantage, ratio and aggregation with their papers' defaults.

Each is three lines of the rooms beside it, to use as it is or to copy and change. All
take the log-probabilities of the sampled tokens, ``[P, G, T]`` or ``[B, T]``, and one
reward a sequence: ``[P, G]`` with ``B = P G`` (samples of a prompt are neighbours), or
``[B]`` with ``group_ids [B]`` and ``num_groups``. They return a `reduce.LossOut`, which
`training.make_train_step` takes as it is; by hand, differentiate ``finalize(out)[0]``.
Groups that stay apart, ``[P, G, T]``, are what a train step may cut between; those of
``group_ids`` must stay in one micro-batch, or their means are of parts.
"""

from collections.abc import Callable

import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_clip, require_floating, require_range
from jaxlib_guidance.policy.advantages._group_advantages import (
    group_center,
    group_normalize,
    informative,
    leave_one_out,
)
from jaxlib_guidance.policy.losses._kl import KLEstimator, _require_kl, kl_loss
from jaxlib_guidance.policy.losses._policy_gradient import _clip_objective
from jaxlib_guidance.policy.losses._ratio import (
    RatioLevel,
    _difference,
    _of_level,
    _stats_of,
    like_tokens,
)
from jaxlib_guidance.reduce import Aggregation, LossOut, aggregate, mask_like
from jaxlib_guidance.types import Array


def _by_sequence(fn: Callable[..., Array], rewards, logp, group_ids, num_groups, **kw):
    """One number of each sequence ``[B]``, or ``[P, G]`` for groups that stay apart."""
    require_floating("logp", logp)
    each = fn(rewards, group_ids, num_groups, **kw)
    if group_ids is None and jnp.ndim(rewards) != 2:
        raise ValueError(
            f"rewards has shape {jnp.shape(rewards)}; expected [P, G], or [B] with "
            "group_ids"
        )
    if jnp.ndim(logp) == 3 and jnp.shape(logp)[:2] == each.shape:
        return each
    flat = each.reshape(-1)
    if jnp.ndim(logp) != 2 or flat.shape != jnp.shape(logp)[:1]:
        raise ValueError(
            f"rewards has shape {jnp.shape(rewards)} and logp {jnp.shape(logp)}; "
            "expected [P, G] or [B], and [P, G, T] or [B, T] with B = P G"
        )
    return flat


def _clipped(
    logp: Array,
    logp_old: Array,
    advantage: Array,
    mask: Array | None,
    how: Aggregation,
    *,
    clip_low: float,
    clip_high: float,
    level: RatioLevel = "token",
    constant: float | None = None,
    logp_ref: Array | None = None,
    beta: float | None = None,
    kl: KLEstimator | None = None,
) -> LossOut:
    require_clip(clip_low, clip_high)
    # One ratio for the loss and for what is reported beside it.
    each = _difference(logp, logp_old, mask)
    ratio = jnp.exp(_of_level(each, mask, level, 20.0))
    a = like_tokens(advantage, logp, mask)
    loss = _clip_objective(ratio, a, clip_low, clip_high)
    aux = _stats_of(each, ratio, a, mask, clip_low, clip_high)
    if logp_ref is not None:
        penalty = kl_loss(logp, logp_ref, mask, kind="k3" if kl is None else kl)
        beta = 0.04 if beta is None else beta
        require_range("beta", beta, 0)
        loss, aux = loss + beta * penalty, aux | {"kl": penalty}
    elif beta is not None or kl is not None:
        raise ValueError(f"beta {beta} and kl {kl!r} have no effect without logp_ref")
    return aggregate(loss, mask, how, constant=constant, aux=aux)


def grpo(
    logp: Array,
    logp_old: Array,
    rewards: Array,
    mask: Array | None = None,
    *,
    logp_ref: Array | None = None,
    beta: float | None = None,
    clip: float = 0.2,
    kl: KLEstimator | None = None,
    ddof: int = 1,
    eps: float = 1e-6,
    group_ids: Array | None = None,
    num_groups: int | None = None,
) -> LossOut:
    """GRPO: `group_normalize`, `ppo_clip`, k3 in the loss, mean of sequences' means.

    Args:
      logp: Log-probabilities under the policy of the tokens that were taken, ``[P, G,
        T]`` or ``[B, T]``.
      logp_old: Log-probabilities of the same tokens under the policy that sampled them,
        of the shape of ``logp``; a constant.
      rewards: Rewards ``[P, G]`` of ``G`` samples of each prompt, or ``[B]`` with
        ``group_ids``.
      mask: 1 on tokens that the policy chose, 0 elsewhere, of the shape of ``logp``;
        None keeps all.
      logp_ref: Log-probabilities under the reference, of the shape of ``logp``; None
        for no KL penalty.
      beta: Coefficient of the penalty; None for the paper's 0.04.
      clip: Half-width of the clip range of the ratio, on both sides of 1.
      kl: Estimator of the penalty; None for "k3". `kl_loss` says what each gradient is.
      ddof: Number subtracted from the count in the group's variance; 0 is the
        population's.
      eps: Number added to the group's standard deviation, in the unit of the rewards.
      group_ids: Group of each sample, integers ``[B]`` in ``[0, num_groups)``; None
        where the last axis is the group.
      num_groups: Number of groups, a Python integer; None where the last axis is the
        group.

    Returns:
      The loss with `ratio_stats` and, where there is a reference, ``kl``.

    Raises:
      TypeError: Log-probabilities that are integers, rewards as a list.
      ValueError: Mismatched shapes, numbers out of range, ``beta`` or ``kl`` without a
        reference.

    Reference: Shao et al., arXiv 2402.03300, eq. 3.
    """
    require_range("clip", clip, 0)
    _require_kl(kl)
    advantage = _by_sequence(
        group_normalize, rewards, logp, group_ids, num_groups, ddof=ddof, eps=eps
    )
    return _clipped(
        logp, logp_old, advantage, mask, "seq_mean_token_mean",
        clip_low=clip, clip_high=clip, logp_ref=logp_ref, beta=beta, kl=kl,
    )  # fmt: skip


def dr_grpo(
    logp: Array,
    logp_old: Array,
    rewards: Array,
    mask: Array | None = None,
    *,
    max_length: int,
    clip: float = 0.2,
    group_ids: Array | None = None,
    num_groups: int | None = None,
) -> LossOut:
    """Dr.GRPO: `group_center`, and sums over tokens over one constant for all.

    Args:
      logp: Log-probabilities under the policy of the tokens that were taken, ``[P, G,
        T]`` or ``[B, T]``.
      logp_old: Log-probabilities of the same tokens under the policy that sampled them,
        of the shape of ``logp``; a constant.
      rewards: Rewards ``[P, G]`` of ``G`` samples of each prompt, or ``[B]`` with
        ``group_ids``.
      mask: 1 on tokens that the policy chose, 0 elsewhere, of the shape of ``logp``;
        None keeps all.
      max_length: Length of the longest response allowed, in tokens: the constant that
        divides.
      clip: Half-width of the clip range of the ratio, on both sides of 1.
      group_ids: Group of each sample, integers ``[B]`` in ``[0, num_groups)``; None
        where the last axis is the group.
      num_groups: Number of groups, a Python integer; None where the last axis is the
        group.

    Returns:
      The loss with `ratio_stats`.

    Raises:
      ValueError: Mismatched shapes.

    Reference: Liu et al., arXiv 2503.20783.
    """
    require_range("clip", clip, 0)
    advantage = _by_sequence(group_center, rewards, logp, group_ids, num_groups)
    return _clipped(
        logp, logp_old, advantage, mask, "seq_mean_token_scale",
        clip_low=clip, clip_high=clip, constant=max_length,
    )  # fmt: skip


def dapo(
    logp: Array,
    logp_old: Array,
    rewards: Array,
    mask: Array | None = None,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    ddof: int = 1,
    eps: float = 1e-6,
    group_ids: Array | None = None,
    num_groups: int | None = None,
) -> LossOut:
    """DAPO: a higher upper clip, mean over tokens, groups that teach nothing left out.

    The paper samples until the batch is full of groups that do teach; here they leave
    the mean. `overlong_penalty` belongs into ``rewards`` and
    `truncation_mask` into ``mask``.

    Args:
      logp: Log-probabilities under the policy of the tokens that were taken, ``[P, G,
        T]`` or ``[B, T]``.
      logp_old: Log-probabilities of the same tokens under the policy that sampled them,
        of the shape of ``logp``; a constant.
      rewards: Rewards ``[P, G]`` of ``G`` samples of each prompt, or ``[B]`` with
        ``group_ids``.
      mask: 1 on tokens that the policy chose, 0 elsewhere, of the shape of ``logp``;
        None keeps all.
      clip_low: Largest fall of the ratio below 1.
      clip_high: Largest rise of the ratio above 1.
      ddof: Number subtracted from the count in the group's variance; 0 is the
        population's.
      eps: Number added to the group's standard deviation, in the unit of the rewards.
      group_ids: Group of each sample, integers ``[B]`` in ``[0, num_groups)``; None
        where the last axis is the group.
      num_groups: Number of groups, a Python integer; None where the last axis is the
        group.

    Returns:
      The loss with `ratio_stats`.

    Raises:
      ValueError: Mismatched shapes.

    Reference: Yu et al., arXiv 2503.14476, eq. 8.
    """
    groups = (rewards, logp, group_ids, num_groups)
    advantage = _by_sequence(group_normalize, *groups, ddof=ddof, eps=eps)
    teaches = _by_sequence(informative, *groups)
    mask = mask_like(mask, logp) * teaches[..., None]
    return _clipped(
        logp, logp_old, advantage, mask, "token_mean",
        clip_low=clip_low, clip_high=clip_high,
    )  # fmt: skip


def gspo(
    logp: Array,
    logp_old: Array,
    rewards: Array,
    mask: Array | None = None,
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
    token_gradient: bool = False,
    ddof: int = 1,
    eps: float = 1e-6,
    group_ids: Array | None = None,
    num_groups: int | None = None,
) -> LossOut:
    """GSPO: `group_normalize` and the clipped ratio of sequences, length-normalised.

    Args:
      logp: Log-probabilities under the policy of the tokens that were taken, ``[P, G,
        T]`` or ``[B, T]``.
      logp_old: Log-probabilities of the same tokens under the policy that sampled them,
        of the shape of ``logp``; a constant.
      rewards: Rewards ``[P, G]`` of ``G`` samples of each prompt, or ``[B]`` with
        ``group_ids``.
      mask: 1 on tokens that the policy chose, 0 elsewhere, of the shape of ``logp``;
        None keeps all.
      clip_low: Largest fall of the ratio below 1.
      clip_high: Largest rise of the ratio above 1.
      token_gradient: Whether to use GSPO-token, the only form in verl and tunix; here
        it has the same value and, as advantages are of sequences, the same gradient.
      ddof: Number subtracted from the count in the group's variance; 0 is the
        population's.
      eps: Number added to the group's standard deviation, in the unit of the rewards.
      group_ids: Group of each sample, integers ``[B]`` in ``[0, num_groups)``; None
        where the last axis is the group.
      num_groups: Number of groups, a Python integer; None where the last axis is the
        group.

    Returns:
      The loss with `ratio_stats`.

    Raises:
      ValueError: Mismatched shapes.

    Reference: Zheng et al., arXiv 2507.18071, eq. 5.
    """
    advantage = _by_sequence(
        group_normalize, rewards, logp, group_ids, num_groups, ddof=ddof, eps=eps
    )
    return _clipped(
        logp, logp_old, advantage, mask, "seq_mean_token_mean",
        clip_low=clip_low, clip_high=clip_high,
        level="seq_token" if token_gradient else "seq",
    )  # fmt: skip


def rloo(
    logp: Array,
    logp_old: Array,
    rewards: Array,
    mask: Array | None = None,
    *,
    clip: float = 0.2,
    group_ids: Array | None = None,
    num_groups: int | None = None,
) -> LossOut:
    """RLOO: `leave_one_out` and the true ratio of sequences, clipped as in TRL.

    On policy its gradient is the paper's, REINFORCE with sequence log-probabilities. A
    KL penalty belongs into ``rewards``: see `kl_reward`.

    Args:
      logp: Log-probabilities under the policy of the tokens that were taken, ``[P, G,
        T]`` or ``[B, T]``.
      logp_old: Log-probabilities of the same tokens under the policy that sampled them,
        of the shape of ``logp``; a constant.
      rewards: Rewards ``[P, G]`` of ``G`` samples of each prompt, or ``[B]`` with
        ``group_ids``.
      mask: 1 on tokens that the policy chose, 0 elsewhere, of the shape of ``logp``;
        None keeps all.
      clip: Half-width of the clip range of the ratio, on both sides of 1.
      group_ids: Group of each sample, integers ``[B]`` in ``[0, num_groups)``; None
        where the last axis is the group.
      num_groups: Number of groups, a Python integer; None where the last axis is the
        group.

    Returns:
      The loss with `ratio_stats`.

    Raises:
      ValueError: Mismatched shapes.

    Reference: Ahmadian et al., arXiv 2402.14740.
    """
    require_range("clip", clip, 0)
    advantage = _by_sequence(leave_one_out, rewards, logp, group_ids, num_groups)
    return _clipped(
        logp, logp_old, advantage, mask, "seq_mean_token_mean",
        clip_low=clip, clip_high=clip, level="seq_sum",
    )  # fmt: skip
