"""Rewards that know how long an answer is.

Arrays of any leading shape in, float32 of the same shape out; lengths are in tokens.
"""

from typing import Literal

import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.reduce import divide, require_shape
from jaxlib_guidance.types import Array, at_least_float32


def overlong_penalty(
    lengths: Array, max_length: int, cache: int, *, penalty: float = 1.0
) -> Array:
    """0 up to ``max_length - cache``, then linearly down to ``-penalty``.

    Args:
      lengths: Length of each answer in tokens, of any shape.
      max_length: Length from which the penalty is whole, in tokens.
      cache: Number of tokens over which the penalty grows, 1 to ``max_length``.
      penalty: Size of the whole penalty, in the unit of the rewards.

    Returns:
      Float32, to add to rewards.

    Raises:
      ValueError: A ``cache`` that is not within (0, max_length].

    Reference: DAPO, arXiv 2503.14476, eq. 13.
    """
    if not 0 < cache <= max_length:
        raise ValueError(f"cache is {cache}; expected 1 to max_length, {max_length}")
    over = (at_least_float32(lengths) - (max_length - cache)) / cache
    return -penalty * jnp.clip(over, 0, 1)


def inverse_length(rewards: Array, lengths: Array, lam: float) -> Array:
    """``r - lam / length``: long thinking pays, whether or not it is right.

    Args:
      rewards: Rewards of any shape; RLSP's are 1 for right, 0 for wrong, less 0.5
        without a boxed answer.
      lengths: Length of each answer in tokens, of the shape of ``rewards``; counted as
        at least 1.
      lam: Penalty times tokens; 1000 in the paper's long run.

    Returns:
      Float32 of the shape of ``rewards``.

    Reference: RLSP, Ye et al., arXiv 2502.06773; its code takes a token for 4
    characters.
    """
    require_shape("lengths", lengths, jnp.shape(rewards))
    return at_least_float32(rewards) - lam / jnp.maximum(at_least_float32(lengths), 1)


def shortest_correct(correct: Array, lengths: Array, *, weight: float = 0.5) -> Array:
    """``c (1 - w (len - min) / (max - min))`` over the right answers of a group.

    The paper rewards conciseness among right answers; this linear form is the
    library's.

    Args:
      correct: 1 for right answers and 0 for wrong ones, ``[..., G]``.
      lengths: Length of each answer in tokens, ``[..., G]``.
      weight: Share ``w`` that the longest right answer loses, in [0, 1].

    Returns:
      Float32 of the shape of ``correct``.

    Reference: arXiv 2506.15647.
    """
    require_shape("lengths", lengths, jnp.shape(correct))
    require_range("correct", correct, 0, 1)
    require_range("weight", weight, 0, 1)
    right, lengths = at_least_float32(correct), at_least_float32(lengths)
    shortest = jnp.min(jnp.where(right > 0, lengths, jnp.inf), -1, keepdims=True)
    longest = jnp.max(jnp.where(right > 0, lengths, -jnp.inf), -1, keepdims=True)
    over = jnp.where(right > 0, lengths - shortest, 0)
    spread = jnp.where(longest > shortest, longest - shortest, 0)
    return right * (1 - weight * divide(over, spread))


def length_step(
    correct: Array,
    lengths: Array,
    target: Array | float,
    *,
    alpha: float = 0.5,
    kind: Literal["reward", "penalty", "hybrid"] = "reward",
    wrong: float = 0.0,
    explore: Array | None = None,
) -> Array:
    """A step at a target length for right answers, as LASER has it.

    Right answers have 1, plus ``alpha`` up to the target ("reward"), less ``alpha``
    beyond it ("penalty"), or both ("hybrid"). Wrong ones have ``wrong``.

    Args:
      correct: 1 for right answers and 0 for wrong ones, of any shape.
      lengths: Length of each answer in tokens, of the shape of ``correct``.
      target: Target length in tokens, scalar or of the shape of ``correct``, as from
        `laser_targets`.
      alpha: Height of the step, at least 0, in the unit of the rewards.
      kind: "reward", "penalty" or "hybrid", explained above.
      wrong: Reward of wrong answers; the released code's is -0.5.
      explore: 1 for wrong answers that may be long, because they do not repeat
        themselves (LASER-DE), of the shape of ``correct``: beyond the target they gain
        ``alpha`` too. None for none.

    Returns:
      Float32 of the shape of ``correct``.

    Raises:
      ValueError: Mismatched shapes, an unknown kind.

    Reference: Liu et al., arXiv 2505.15612; its ``length_penalty.py``.
    """
    if kind not in ("reward", "penalty", "hybrid"):
        raise ValueError(f'kind is {kind!r}; expected "reward", "penalty" or "hybrid"')
    shape = jnp.shape(correct)
    require_shape("lengths", lengths, shape)
    require_shape("target", target, (), shape)
    require_range("correct", correct, 0, 1)
    require_range("alpha", alpha, 0)
    right = jnp.asarray(correct).astype(bool)
    short = at_least_float32(lengths) <= jnp.asarray(target, jnp.float32)
    gain = 0.0 if kind == "penalty" else alpha
    loss = 0.0 if kind == "reward" else alpha
    if_wrong = jnp.full(shape, wrong, jnp.float32)
    if explore is not None:
        require_shape("explore", explore, shape)
        longer = ~short & jnp.asarray(explore).astype(bool)
        if_wrong = if_wrong + jnp.where(longer, alpha, 0.0)
    return jnp.where(right, 1 + jnp.where(short, gain, -loss), if_wrong)


def laser_targets(
    correct: Array,
    lengths: Array,
    thresholds: Array,
    *,
    group_size: int = 8,
    expected: int = 1,
) -> Array:
    """LASER-D's target lengths of easy, medium and hard prompts, from a monitor set.

    The least threshold under which ``floor(coverage n) >= expected``, with ``coverage``
    the share of the level's answers that are no longer, and ``n`` the right answers
    that the level promises: ``floor(2 G / 3)``, ``floor(G / 3)``, 1. Where none does,
    the greatest length seen.

    Args:
      correct: 1 for right answers and 0 for wrong ones, ``[P, G]``.
      lengths: Length of each answer in tokens, ``[P, G]``.
      thresholds: Candidate lengths in tokens, increasing, ``[K]``.
      group_size: Number of answers ``G`` of a prompt in training.
      expected: Number of right answers wanted within the target.

    Returns:
      Float32 ``[3]``; `laser_level` says which is whose.

    Reference: Liu et al., arXiv 2505.15612; its ``_choose_target_length``.
    """
    require_shape("lengths", lengths, jnp.shape(correct))
    if jnp.ndim(thresholds) != 1:
        raise ValueError(f"thresholds has shape {jnp.shape(thresholds)}; expected [K]")
    lengths, thresholds = at_least_float32(lengths), at_least_float32(thresholds)
    level = laser_level(correct)
    of_level = (level[:, None] == jnp.arange(3)).astype(jnp.float32)
    fits = (lengths[..., None] <= thresholds).astype(jnp.float32)
    covered = divide(
        jnp.einsum("pl,pgk->lk", of_level, fits),
        lengths.shape[1] * jnp.sum(of_level, 0)[:, None],
    )
    promised = jnp.array([2 * group_size // 3, group_size // 3, 1], jnp.float32)
    # Shares are ratios of counts: a rounding error below a whole number is that number.
    enough = jnp.floor(covered * promised[:, None] + 1e-4) >= expected
    least = jnp.min(jnp.where(enough, thresholds, jnp.inf), 1)
    return jnp.minimum(least, jnp.max(lengths))


def laser_level(correct: Array) -> Array:
    """0 easy, 1 medium, 2 hard: at least 2/3, 1/3 or less of ``[..., G]`` are right."""
    require_range("correct", correct, 0, 1)
    right = jnp.sum(jnp.asarray(correct).astype(jnp.int32), -1)
    size = jnp.shape(correct)[-1]
    return (
        2
        - (3 * right >= size).astype(jnp.int32)
        - (3 * right >= 2 * size).astype(jnp.int32)
    )
