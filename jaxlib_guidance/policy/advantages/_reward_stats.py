"""Rewards normalised by all rewards so far: what a bounded reward is compared with.

Each of the three takes a batch into the statistics first and then shapes it by them, as
PAR's code does, so the first batch is shaped by itself. They share one state, arrays
that ride in a `jax.lax.scan` and go into a checkpoint::

    stats = init_reward_stats()
    stats, shaped = running_meanstd(stats, rewards)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.reduce import divide, hide, mask_like, masked_mean
from jaxlib_guidance.types import Array


class RewardStats(NamedTuple):
    """All rewards so far, however they were cut into batches; float32 scalars.

    Attributes:
      count: Number of rewards, or the sum of their weights.
      mean: Mean of the rewards.
      spread: Sum of the squared deviations from the mean.
      low: Smallest reward.
      high: Largest reward.
    """

    count: Array
    mean: Array
    spread: Array
    low: Array
    high: Array


def init_reward_stats() -> RewardStats:
    """Statistics of nothing."""
    return RewardStats(*(jnp.float32(x) for x in (0, 0, 0, jnp.inf, -jnp.inf)))


def update_reward_stats(
    stats: RewardStats,
    rewards: Array,
    mask: Array | None = None,
    *,
    axis_name: str | None = None,
) -> RewardStats:
    """The statistics with a batch more; no sum of squares that would lose digits.

    ``M <- M + M_b + (mean_b - mean)^2 n n_b / (n + n_b)`` for the squared deviations.

    Args:
      stats: Statistics from `init_reward_stats` or the last call.
      rewards: Rewards of the batch, of any shape. One NaN that is not masked stays for
        good.
      mask: 0 on rewards that do not count, of the shape of ``rewards``; None keeps all.
      axis_name: Name of the mapped axis over which the batch is split; None for no map.

    Returns:
      The new statistics, gradients stopped.

    Reference: Chan, Golub and LeVeque (1983).
    """
    kind = stats.mean.dtype
    r = jax.lax.stop_gradient(hide(rewards, mask)).astype(kind)
    weight = mask_like(mask, r).astype(kind)
    count, mean = jnp.sum(weight), masked_mean(r, weight, axis_name=axis_name)
    spread = jnp.sum(weight * jnp.square(r - mean))
    low = jnp.min(jnp.where(weight > 0, r, jnp.inf), initial=jnp.inf)
    high = jnp.max(jnp.where(weight > 0, r, -jnp.inf), initial=-jnp.inf)
    if axis_name is not None:
        count, spread = jax.lax.psum((count, spread), axis_name)
        low, high = jax.lax.pmin(low, axis_name), jax.lax.pmax(high, axis_name)
    share = divide(count, stats.count + count)
    gap = mean - stats.mean
    return RewardStats(
        stats.count + count,
        stats.mean + gap * share,
        stats.spread + spread + jnp.square(gap) * stats.count * share,
        jnp.minimum(stats.low, low),
        jnp.maximum(stats.high, high),
    )


def running_minmax(
    stats: RewardStats,
    rewards: Array,
    mask: Array | None = None,
    *,
    axis_name: str | None = None,
) -> tuple[RewardStats, Array]:
    """``(r - low) / (high - low)`` of all rewards so far, in [0, 1].

    One outlier flattens all later rewards, which is why PAR compares with it.

    Args:
      stats: Statistics from `init_reward_stats` or the last call.
      rewards: Rewards of the batch, of any shape.
      mask: 0 on rewards that do not count, of the shape of ``rewards``; None keeps all.
      axis_name: Name of the mapped axis over which the batch is split; None for no map.

    Returns:
      The new statistics and the shaped rewards: 0 where masked, and where all rewards
      so far are equal.

    Reference: Fu et al., arXiv 2502.18770; its ``reward_shaper.py``.
    """
    stats, r = _taken(stats, rewards, mask, axis_name)
    return stats, hide(divide(r - stats.low, stats.high - stats.low), mask)


def running_meanstd(
    stats: RewardStats,
    rewards: Array,
    mask: Array | None = None,
    *,
    axis_name: str | None = None,
) -> tuple[RewardStats, Array]:
    """``(r - mean) / std`` of all rewards so far.

    Args:
      stats: Statistics from `init_reward_stats` or the last call.
      rewards: Rewards of the batch, of any shape.
      mask: 0 on rewards that do not count, of the shape of ``rewards``; None keeps all.
      axis_name: Name of the mapped axis over which the batch is split; None for no map.

    Returns:
      The new statistics and the shaped rewards: 0 where masked, and where all rewards
      so far are equal. The deviation is that of the population (ddof 0).

    Reference: Fu et al., arXiv 2502.18770; its ``reward_shaper.py``.
    """
    stats, r = _taken(stats, rewards, mask, axis_name)
    return stats, hide(divide(r - stats.mean, _std(stats)), mask)


def running_clip(
    stats: RewardStats,
    rewards: Array,
    mask: Array | None = None,
    *,
    width: float = 1.0,
    axis_name: str | None = None,
) -> tuple[RewardStats, Array]:
    """``clip(r, mean - width std, mean + width std)`` of all rewards so far.

    Args:
      stats: Statistics from `init_reward_stats` or the last call.
      rewards: Rewards of the batch, of any shape.
      mask: 0 on rewards that do not count, of the shape of ``rewards``; None keeps all.
      width: Half-width of the range in standard deviations; PAR's is 1.
      axis_name: Name of the mapped axis over which the batch is split; None for no map.

    Returns:
      The new statistics and the shaped rewards, 0 where masked.

    Reference: Fu et al., arXiv 2502.18770; its ``reward_shaper.py``.
    """
    stats, r = _taken(stats, rewards, mask, axis_name)
    require_range("width", width, 0)
    reach = width * _std(stats)
    return stats, hide(jnp.clip(r, stats.mean - reach, stats.mean + reach), mask)


def _taken(stats, rewards, mask, axis_name):
    """The batch enters the statistics; and as their type, with 0 where masked."""
    r = jax.lax.stop_gradient(hide(rewards, mask)).astype(stats.mean.dtype)
    return update_reward_stats(stats, rewards, mask, axis_name=axis_name), r


def _std(stats):
    """Exactly 0 for equal rewards, whose squared deviations are a rounding error."""
    variance = divide(stats.spread, stats.count)
    # Not `high > low`: NaN must stay NaN, or it would make every later reward 0.
    return jnp.where(stats.high <= stats.low, 0, jnp.sqrt(variance))
