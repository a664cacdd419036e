"""Advantages from rewards of whole sequences: what a reward is compared with.

Groups, the samples of one prompt, are the last axis of ``rewards [..., G]``, or are
named by ``group_ids [B]`` where their sizes differ. A group that cannot teach anything,
of one sample or of equal rewards, gets advantages that are exactly 0.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.policy.advantages._groups import Groups
from jaxlib_guidance.reduce import (
    divide,
    hide,
    mask_like,
    masked_mean,
    masked_var,
    require_shape,
    sqrt,
)
from jaxlib_guidance.types import Array, concrete

AdvantageScale = Literal["group", "batch", "none"]


def group_center(
    rewards: Array,
    group_ids: Array | None = None,
    num_groups: int | None = None,
    *,
    mask: Array | None = None,
) -> Array:
    """``r - mean of the group``, as Dr.GRPO has it.

    Args:
      rewards: Rewards of the samples of each prompt, ``[..., G]``, or ``[B]`` with
        ``group_ids``.
      group_ids: Group of each sample, integers ``[B]`` in ``[0, num_groups)``; None
        where the last axis is the group.
      num_groups: Number of groups, a Python integer; None where the last axis is the
        group.
      mask: 0 for a sample without a reward, of the shape of ``rewards``; it counts
        nowhere and its advantage is 0. None keeps all.

    Returns:
      Float32, of the shape of ``rewards``; gradients are stopped.

    Reference: Liu et al., arXiv 2503.20783.
    """
    groups = Groups(rewards, group_ids, num_groups, mask)
    return groups.keep(groups.rewards - groups.mean(groups.rewards))


def group_normalize(
    rewards: Array,
    group_ids: Array | None = None,
    num_groups: int | None = None,
    *,
    mask: Array | None = None,
    scale: AdvantageScale = "group",
    ddof: int = 1,
    eps: float = 1e-6,
    axis_name: str | None = None,
) -> Array:
    """``(r - mean) / (std + eps)``, as GRPO has it.

    Args:
      rewards: Rewards of the samples of each prompt, ``[..., G]``, or ``[B]`` with
        ``group_ids``.
      group_ids: Group of each sample, integers ``[B]`` in ``[0, num_groups)``; None
        where the last axis is the group.
      num_groups: Number of groups, a Python integer; None where the last axis is the
        group.
      mask: 0 for a sample without a reward, of the shape of ``rewards``; it counts
        nowhere and its advantage is 0. None keeps all.
      scale: Whose standard deviation divides: "group", "batch" for that of all rewards
        of the batch (Flow-GRPO, TRL's "batch"), or "none" for `group_center`.
      ddof: Number subtracted from the count in the variance. TRL, verl, OpenRLHF and
        tunix use 1; EasyDeL, DDPO and Flow-GRPO 0, which is also what ties GRPO to NFT.
      eps: Number added to the standard deviation, in the unit of the rewards: verl and
        tunix use 1e-6, TRL 1e-4, OpenRLHF 1e-9.
      axis_name: Name of the mapped axis over which the batch is split, for scale
        "batch" only; None for no map.

    Returns:
      Float32, of the shape of ``rewards``; gradients are stopped.

    Raises:
      ValueError: Mismatched shapes, an unknown scale, a ``ddof`` that leaves a group
        nothing, an ``axis_name`` that has no effect.

    Reference: Shao et al., arXiv 2402.03300.
    """
    if scale not in ("group", "batch", "none"):
        raise ValueError(f'scale is {scale!r}; expected "group", "batch" or "none"')
    if axis_name is not None and scale != "batch":
        raise ValueError(f"axis_name has no effect with scale {scale!r}")
    require_range("eps", eps, 0)
    groups = Groups(rewards, group_ids, num_groups, mask)
    r = groups.rewards
    # Of one sample there is no deviation to divide by, whatever is subtracted.
    counted = r.size if scale == "batch" else r.shape[-1]
    require_range("ddof", ddof, 0, max(1, counted - 1))
    centred = r - groups.mean(r)
    if scale == "none":
        return groups.keep(centred)
    if scale == "group":
        left = jnp.maximum(groups.count - ddof, 0)
        variance = divide(groups.sum(jnp.square(centred)), left)
    else:
        variance = masked_var(r, groups.mask, ddof=ddof, axis_name=axis_name)
    return groups.keep(centred / (jnp.sqrt(variance) + eps))


def leave_one_out(
    rewards: Array,
    group_ids: Array | None = None,
    num_groups: int | None = None,
    *,
    mask: Array | None = None,
) -> Array:
    """``r`` minus the mean of the group's *other* samples, as RLOO has it.

    ``G / (G - 1)`` times `group_center`; for a single sample 0, like verl's vectorised
    version and unlike its loop, which keeps the raw reward.

    Args:
      rewards: Rewards of the samples of each prompt, ``[..., G]``, or ``[B]`` with
        ``group_ids``.
      group_ids: Group of each sample, integers ``[B]`` in ``[0, num_groups)``; None
        where the last axis is the group.
      num_groups: Number of groups, a Python integer; None where the last axis is the
        group.
      mask: 0 for a sample without a reward, of the shape of ``rewards``; it counts
        nowhere and its advantage is 0. None keeps all.

    Returns:
      Float32, of the shape of ``rewards``; gradients are stopped.

    Reference: Ahmadian et al., arXiv 2402.14740.
    """
    groups = Groups(rewards, group_ids, num_groups, mask)
    n = groups.count
    return groups.keep(divide(n * groups.rewards - groups.sum(groups.rewards), n - 1))


def informative(
    rewards: Array,
    group_ids: Array | None = None,
    num_groups: int | None = None,
    *,
    mask: Array | None = None,
) -> Array:
    """1 for samples of groups whose rewards differ, 0 for the others.

    As a mask it is DAPO's dynamic sampling without the sampling: groups that are all
    right or all wrong leave the mean. To divide by them too, leave it out.

    Args:
      rewards: Rewards of the samples of each prompt, ``[..., G]``, or ``[B]`` with
        ``group_ids``.
      group_ids: Group of each sample, integers ``[B]`` in ``[0, num_groups)``; None
        where the last axis is the group.
      num_groups: Number of groups, a Python integer; None where the last axis is the
        group.
      mask: 0 for a sample without a reward, of the shape of ``rewards``; it counts
        nowhere and its advantage is 0. None keeps all.

    Returns:
      Float32 of the shape of ``rewards``, 0 or 1.

    Reference: Yu et al., DAPO, arXiv 2503.14476.
    """
    groups = Groups(rewards, group_ids, num_groups, mask)
    return (groups.differ() & groups.mask).astype(jnp.float32)


def multi_reward(
    rewards: Array,
    weights: Array,
    *,
    order: Literal["sum_then_norm", "norm_then_sum"] = "sum_then_norm",
    mask: Array | None = None,
    scale: AdvantageScale = "group",
    ddof: int = 1,
    eps: float = 1e-6,
) -> Array:
    """One advantage from several rewards.

    "sum_then_norm" is `group_normalize` of ``sum_m w_m r_m``, in which the reward of
    the largest spread rules; "norm_then_sum" is ``sum_m w_m group_normalize(r_m)``
    (GDPO, which then whitens over the batch: see `whiten`).

    Args:
      rewards: Rewards by sample and kind, ``[..., G, M]``.
      weights: Weight ``w`` of each reward, ``[M]``.
      order: "sum_then_norm" or "norm_then_sum", explained above.
      mask: 0 for a missing reward of a sample, ``[..., G, M]``. It counts nothing; a
        sample that has none gets 0. None keeps all.
      scale: Whose standard deviation divides: "group", "batch" or "none" for no
        division.
      ddof: Number subtracted from the count in the group's variance; 0 is the
        population's.
      eps: Number added to the group's standard deviation, in the unit of the rewards.

    Returns:
      ``[..., G]``.

    Reference: TRL's ``multi_objective_aggregation``; GDPO, arXiv 2601.05242.
    """
    if order not in ("sum_then_norm", "norm_then_sum"):
        raise ValueError(
            f'order is {order!r}; expected "sum_then_norm" or "norm_then_sum"'
        )
    rewards = hide(rewards, mask)
    weights = hide(weights, None)
    require_shape("weights", weights, rewards.shape[-1:])
    known = mask_like(mask, rewards)
    if order == "sum_then_norm":
        total = jnp.sum(rewards * weights, -1)
        some = jnp.max(known, -1)
        return group_normalize(total, mask=some, scale=scale, ddof=ddof, eps=eps)

    def one(reward, known):
        return group_normalize(reward, mask=known, scale=scale, ddof=ddof, eps=eps)

    return jax.vmap(one, -1, -1)(rewards, known) @ weights


def whiten(
    advantages: Array,
    mask: Array | None = None,
    *,
    shift: bool = True,
    ddof: int = 0,
    eps: float = 1e-8,
    axis_name: str | None = None,
) -> Array:
    """``(A - mean) / (std + eps)`` over everything that is not masked.

    REINFORCE++ is this of the discounted returns of tokens, its "baseline" form of the
    group-centred rewards. Equal advantages become 0, with or without
    ``shift``.

    Args:
      advantages: Advantages of any shape.
      mask: 0 on elements that do not count, of the shape of ``advantages``; None keeps
        all.
      shift: Whether to subtract the mean. Without it the values are only divided; TRL
        and verl, which have such an argument, whiten and add the mean back.
      ddof: Number subtracted from the count in the variance; verl uses 1.
      eps: Number added to the standard deviation, in the unit of the advantages.
      axis_name: Name of the mapped axis over which the batch is split; None for no map.

    Returns:
      Float32, 0 where masked.

    Reference: REINFORCE++, Hu et al., arXiv 2501.03262.
    """
    require_range("eps", eps, 0)
    a = hide(advantages, mask)
    mean = masked_mean(a, mask, axis_name=axis_name)
    variance = masked_var(a, mask, ddof=ddof, axis_name=axis_name)
    counts = mask_like(mask, a) > 0
    # A constant has a rounding error for a deviation, which eps is too small to hide.
    fixed = jax.lax.stop_gradient(a)
    top = jnp.max(jnp.where(counts, fixed, -jnp.inf), initial=-jnp.inf)
    low = jnp.min(jnp.where(counts, fixed, jnp.inf), initial=jnp.inf)
    if axis_name is not None:
        top, low = jax.lax.pmax(top, axis_name), jax.lax.pmin(low, axis_name)
    # Not `top > low`, for which one NaN would make everything equal and so 0.
    equal = top <= low
    moved = a - mean if shift else a
    scaled = moved / (sqrt(jnp.where(equal, 0, variance)) + eps)
    return jnp.where(counts & ~equal, scaled, 0)


def win_rate(preference: Array, *, mask: Array | None = None) -> Array:
    """``r_i = mean over j != i of P(y_i beats y_j)``: reward from one's own samples.

    No reward model stands between, so preferences may be intransitive.

    Args:
      preference: Probabilities ``P`` that row beats column, ``[..., G, G]`` with ``P +
        P^T = 1`` off the diagonal, which is not read. A judge whose verdict depends on
        the order is asked both ways: ``(P + 1 - P^T) / 2``.
      mask: 0 for pairs without a verdict, ``[..., G, G]``; None keeps all.

    Returns:
      ``[..., G]``, 0.5 for a sample that met no other.

    Raises:
      ValueError: Not square, or ``P + P^T`` is not 1 where both have a verdict; the
        second is not seen while ``preference`` or ``mask`` is traced.

    Reference: Swamy et al., SPO, arXiv 2401.04056.
    """
    shape = jnp.shape(preference)
    if len(shape) < 2 or shape[-1] != shape[-2]:
        raise ValueError(f"preference has shape {shape}; expected [..., G, G]")
    _require_antisymmetric(preference, mask)
    # Nobody meets itself, so the diagonal may have any value.
    others = mask_like(mask, preference) * (1 - jnp.eye(shape[-1], dtype=jnp.float32))
    require_range("preference", preference, 0, 1, others)
    met = jnp.sum(others, -1)
    won = jnp.sum(hide(preference, others) * others, -1)
    return jnp.where(met > 0, divide(won, met), 0.5)


def _require_antisymmetric(preference, mask):
    p, known = concrete(preference), concrete(True if mask is None else mask)
    if p is None or known is None:
        return
    both = np.broadcast_to(known > 0, p.shape) & ~np.eye(p.shape[-1], dtype=bool)
    both = both & np.swapaxes(both, -1, -2)
    p = p.astype(np.float64)
    off = np.abs(p + np.swapaxes(p, -1, -2) - 1)
    # Half precision and verdicts of two or three decimals add up to nearly 1.
    if (off[both] > 0.02).any():
        raise ValueError(
            f"preference and its transpose add up to 1 but for {off[both].max():.3g}; "
            "expected P + P^T = 1 off the diagonal"
        )
