"""Further advantage estimators: baselines by length, by the best, by greedy answers."""

import jax
import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.policy.advantages._group_advantages import (
    group_center,
    informative,
    whiten,
)
from jaxlib_guidance.policy.advantages._groups import Groups
from jaxlib_guidance.reduce import divide, hide, masked_mean, require_shape
from jaxlib_guidance.types import Array, at_least_float32


def remax(rewards: Array, greedy: Array) -> Array:
    """``r - r(greedy answer)``.

    Args:
      rewards: Rewards of the samples of each prompt, ``[..., G]``.
      greedy: Reward of the prompt's greedy answer, ``[...]``.

    Returns:
      Float32 of the shape of ``rewards``; gradients are stopped.

    Reference: Li et al., arXiv 2310.10505.
    """
    rewards, greedy = hide(rewards, None), hide(greedy, None)
    require_shape("greedy", greedy, rewards.shape[:-1])
    return jax.lax.stop_gradient(rewards - greedy[..., None])


def opo(
    rewards: Array,
    lengths: Array,
    group_ids: Array | None = None,
    num_groups: int | None = None,
    *,
    mask: Array | None = None,
) -> Array:
    """``r - sum(len r) / sum(len)`` in each group: a baseline weighted by length.

    It is the baseline of least variance where tokens' gradients are uncorrelated and of
    one size.

    Args:
      rewards: Rewards of the samples of each prompt, ``[..., G]``, or ``[B]`` with
        ``group_ids``.
      lengths: Number of tokens of each sample, of the shape of ``rewards``; a sample of
        no tokens does not count.
      group_ids: Group of each sample, integers ``[B]`` in ``[0, num_groups)``; None
        where the last axis is the group.
      num_groups: Number of groups, a Python integer; None where the last axis is the
        group.
      mask: 0 for a sample without a reward, of the shape of ``rewards``; it counts
        nowhere and its advantage is 0. None keeps all.

    Returns:
      Float32 of the shape of ``rewards``; gradients are stopped.

    Reference: Hao et al., arXiv 2505.23585.
    """
    require_shape("lengths", lengths, jnp.shape(rewards))
    require_range("lengths", lengths, 0, mask=mask)
    groups = Groups(rewards, group_ids, num_groups, mask)
    lengths = hide(lengths, mask)
    baseline = divide(groups.sum(lengths * groups.rewards), groups.sum(lengths))
    return groups.keep(groups.rewards - baseline)


def best_of_group(
    rewards: Array,
    group_ids: Array | None = None,
    num_groups: int | None = None,
    *,
    mask: Array | None = None,
) -> Array:
    """``r_max - r_second`` for the best of a group, 0 for the others: for pass@k.

    Of equally good ones none has an advantage. verl calls it "grpo_passk" (there
    optionally divided by the group's standard deviation).

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
      Float32 of the shape of ``rewards``; gradients are stopped.

    Reference: verl, after arXiv 2503.19595.
    """
    groups = Groups(rewards, group_ids, num_groups, mask)
    r = groups.rewards
    best = r == groups.max(r)
    lone = groups.sum(best.astype(r.dtype)) == 1
    second = groups.max(jnp.where(best, -jnp.inf, r))
    return groups.keep(jnp.where(best & lone, r - second, 0))


def gpg(
    rewards: Array,
    group_ids: Array | None = None,
    num_groups: int | None = None,
    *,
    mask: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """`group_center` times samples over informative samples.

    The factor undoes what groups of equal rewards do to the mean. verl counts rewards
    that are not 0 instead.

    Args:
      rewards: Rewards of the samples of each prompt, ``[..., G]``, or ``[B]`` with
        ``group_ids``.
      group_ids: Group of each sample, integers ``[B]`` in ``[0, num_groups)``; None
        where the last axis is the group.
      num_groups: Number of groups, a Python integer; None where the last axis is the
        group.
      mask: 0 for a sample without a reward, of the shape of ``rewards``; it counts
        nowhere and its advantage is 0. None keeps all.
      axis_name: Name of the mapped axis over which the batch is split, each group on
        one device; None for no map.

    Returns:
      Float32 of the shape of ``rewards``; gradients are stopped.

    Reference: Chu et al., arXiv 2504.02546.
    """
    useful = informative(rewards, group_ids, num_groups, mask=mask)
    share = masked_mean(useful, mask, axis_name=axis_name)
    return divide(group_center(rewards, group_ids, num_groups, mask=mask), share)


def aggregate_advantages(
    advantages: Array,
    weights: Array,
    mask: Array | None = None,
    *,
    axis_name: str | None = None,
) -> Array:
    """``sum_c w_c whiten(A_c)``: each critic's advantages normalised by themselves.

    A reward a thousand times larger has the same say. A critic whose advantages are all
    equal has none.

    Args:
      advantages: Advantages of each critic, ``[C, ...]``.
      weights: Weight ``w`` of each critic, ``[C]``.
      mask: 0 on elements that do not count, ``[...]``, the same for all critics; None
        keeps all.
      axis_name: Name of the mapped axis over which the batch is split; None for no map.

    Returns:
      Float32 ``[...]``.

    Raises:
      ValueError: Mismatched shapes.

    Reference: SLIM, Emukpere et al., arXiv 2402.00823.
    """
    if jnp.ndim(advantages) < 1:
        raise ValueError("advantages is a scalar; expected [C, ...]")
    require_shape("weights", weights, jnp.shape(advantages)[:1])
    each = jax.vmap(lambda a: whiten(a, mask, axis_name=axis_name))(
        jnp.asarray(advantages)
    )
    return jnp.tensordot(at_least_float32(weights), each, 1)
