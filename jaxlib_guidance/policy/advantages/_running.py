"""Baselines and coefficients with memory: arrays in, arrays out, carried by the caller.

A state is an array or a tuple of arrays, so it rides in a `jax.lax.scan`, goes into a
checkpoint and is replicated as it is. Batches are taken in order, so what an element
meets does not depend on how they were cut.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.policy.advantages._groups import _in_range
from jaxlib_guidance.reduce import divide, hide, mask_like, require_shape
from jaxlib_guidance.types import Array


def init_role_ema(num_roles: int) -> Array:
    """The baselines of `role_ema` before the first game: zeros ``[R]``."""
    return jnp.zeros(num_roles, jnp.float32)


def role_ema(
    baseline: Array,
    rewards: Array,
    roles: Array,
    *,
    mask: Array | None = None,
    decay: float | Array = 0.95,
) -> tuple[Array, Array]:
    """Role-conditioned advantages: in self-play each seat has its own baseline.

    For each game in order ``A = R - b_role``, then ``b_role <- decay b_role + (1 -
    decay) R``. The baseline is read before it is updated, as in the code.

    Args:
      baseline: Baselines from `init_role_ema` or the last call, ``[R]``.
      rewards: Reward ``R`` of each game, ``[B]``.
      roles: Role of each game, integers ``[B]`` in ``[0, R)``. For one baseline a game
        and role (the paper's), count the pairs.
      mask: 0 for what is no game, ``[B]``: it moves no baseline and gets 0. None keeps
        all.
      decay: Share of the old baseline, in [0, 1].

    Returns:
      The new baselines ``[R]`` and the advantages ``[B]``.

    Raises:
      ValueError: Mismatched shapes, a role out of range; while roles are traced
        such a game gets NaN and moves no baseline.

    Reference: SPIRAL, Liu et al., arXiv 2506.24119; its ``train_spiral.py``.
    """
    rewards = jax.lax.stop_gradient(hide(rewards, mask))
    require_shape("roles", roles, rewards.shape)
    require_range("decay", decay, 0, 1)
    games = mask_like(mask, rewards) > 0
    roles = _in_range("roles", roles, baseline.shape[0], mask)[0]

    def step(b, game):
        reward, role, counts = game
        own = b.at[role].get(mode="fill", fill_value=jnp.nan)
        moved = jnp.where(counts, decay * own + (1 - decay) * reward, own)
        gain = jnp.where(counts, reward - own, 0)
        return b.at[role].set(moved, mode="drop"), gain

    return jax.lax.scan(step, baseline, (rewards, roles, games))


class PromptStats(NamedTuple):
    """The last rewards of each prompt, and how many there ever were."""

    rewards: Array
    seen: Array


def init_prompt_stats(num_prompts: int, size: int = 32) -> PromptStats:
    """Memory of `prompt_norm`: the last ``size`` rewards of each prompt."""
    rewards = jnp.zeros((num_prompts, size), jnp.float32)
    return PromptStats(rewards, jnp.zeros(num_prompts, jnp.int32))


def prompt_norm(
    stats: PromptStats,
    rewards: Array,
    prompts: Array,
    *,
    mask: Array | None = None,
    min_count: int = 16,
    eps: float = 1e-6,
    axis_name: str | None = None,
) -> tuple[PromptStats, Array]:
    """``(r - mean) / (std + eps)`` by what each prompt's last rewards were.

    The batch's rewards enter first. A prompt that has been seen less than ``min_count``
    times uses the batch's statistics.

    Args:
      stats: Memory from `init_prompt_stats` or the last call.
      rewards: Reward of each sample, ``[B]``.
      prompts: Prompt of each sample, integers ``[B]`` in ``[0, num_prompts)``.
      mask: 0 for what is no sample, ``[B]``: it is not remembered and gets 0. None
        keeps all.
      min_count: Number of rewards from which a prompt uses its own statistics, 1 to the
        size of the memory.
      eps: Number added to the standard deviation (ddof 0), in the unit of the rewards.
      axis_name: Mapped axis over which the batch is split. All devices remember the
        whole batch, in the order of the axis, so their memories stay equal.

    Returns:
      The new memory and the advantages ``[B]``; exactly 0 where the rewards that are
      compared are equal.

    Raises:
      ValueError: Mismatched shapes, a ``min_count`` beyond the memory, a prompt
        out of range; while prompts are traced such a sample gets NaN.

    Reference: DDPO, Black et al., arXiv 2305.13301; its
    ``PerPromptStatTracker``.
    """
    size = stats.rewards.shape[1]
    if not 1 <= min_count <= size:
        raise ValueError(f"min_count is {min_count}; expected 1 to the size, {size}")
    require_range("eps", eps, 0)
    rewards = jax.lax.stop_gradient(hide(rewards, mask))
    require_shape("prompts", prompts, rewards.shape)
    known = mask_like(mask, rewards) > 0
    prompts, inside = _in_range("prompts", prompts, stats.seen.shape[0], mask)
    whole = rewards, jnp.where(known, prompts, stats.seen.shape[0]), known
    if axis_name is not None:
        whole = jax.lax.all_gather(whole, axis_name, tiled=True)

    def push(stats, sample):
        reward, prompt = sample
        at = stats.seen.at[prompt].get(mode="fill", fill_value=0) % size
        return PromptStats(
            stats.rewards.at[prompt, at].set(reward, mode="drop"),
            stats.seen.at[prompt].add(1, mode="drop"),
        ), None

    stats, _ = jax.lax.scan(push, stats, whole[:2])
    seen = stats.seen.at[prompts].get(mode="fill", fill_value=0)
    held = jnp.minimum(seen, size)
    last = stats.rewards.at[prompts].get(mode="fill", fill_value=0)
    own = _moments(last, jnp.arange(size) < held[:, None])
    batch = _moments(whole[0][None], whole[2][None])
    mean, std, spread = (
        jnp.where(held >= min_count, a, b) for a, b in zip(own, batch, strict=True)
    )
    gain = jnp.where(spread & known, (rewards - mean) / (std + eps), 0)
    return stats, jnp.where(known & ~inside, jnp.nan, gain)


def _moments(x, mask):
    """Mean, standard deviation and whether there is any, of the rows of ``x``."""
    weight = mask.astype(x.dtype)
    n = jnp.sum(weight, -1)
    mean = divide(jnp.sum(x * weight, -1), n)
    variance = divide(jnp.sum(jnp.square(x - mean[:, None]) * weight, -1), n)
    top = jnp.max(jnp.where(mask, x, -jnp.inf), -1)
    low = jnp.min(jnp.where(mask, x, jnp.inf), -1)
    # Not `top > low`, for which one NaN would make all rewards equal.
    return mean, jnp.sqrt(variance), ~(top <= low)
