"""Rewards, shaped: by a reference, by turn, by a judge, by potentials and subgoals.

Arrays of any leading shape in, float32 of the same shape out. Nothing here samples or
scores text: correctness and judgements are arguments. `_length.py` has lengths.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.reduce import hide, mask_like, masked_mean, require_shape
from jaxlib_guidance.types import Array, at_least_float32, concrete


def par_sigmoid(
    rewards: Array, reference: Array, mask: Array | None = None, *, k: float = 1.0
) -> Array:
    """``mean_m sigmoid(k (r - r_m))``: preference over what the reference would say.

    Bounded, so a reward model cannot be hacked without limit, and steepest where the
    answer is as good as the reference's.

    Args:
      rewards: Rewards that a reward model gives the answers, ``[...]``.
      reference: Rewards of the reference policy's answers to the same prompt, ``[...,
        M]``; one is enough, the paper has up to 10.
      mask: 0 on reference answers that do not count, of the shape of ``reference``.
        Without any the reward is 0.
      k: Steepness of the sigmoid, per unit of reward.

    Returns:
      Float32 ``[...]``.

    Raises:
      ValueError: Mismatched shapes.

    Reference: PAR, Fu et al., arXiv 2502.18770.
    """
    require_range("k", k, 0)
    reference = hide(reference, mask)
    require_shape("rewards", rewards, reference.shape[:-1])
    gap = at_least_float32(rewards)[..., None] - reference
    return masked_mean(jax.nn.sigmoid(k * gap), mask, -1)


def log_sigmoid_centered(
    rewards: Array,
    reference: Array,
    mask: Array | None = None,
    *,
    quantile: float | Array = 0.85,
) -> Array:
    """``log sigmoid(r - q)`` with ``q`` a quantile of the reference's rewards.

    ``q = mean + z std`` of a normal distribution through the rewards (ddof 0), so
    few are enough. Not positive: answers better than most of the reference's gain
    little more.

    Args:
      rewards: Rewards that a reward model gives the answers, ``[...]``.
      reference: Rewards of the reference policy's answers to the same prompt, ``[...,
        M]``.
      mask: 0 on reference answers that do not count, of the shape of ``reference``.
        Without any ``q`` is 0, as in PAR's code.
      quantile: Level of the quantile of the reference's rewards, in (0, 1).

    Returns:
      Float32 ``[...]``.

    Raises:
      ValueError: Mismatched shapes, a quantile outside (0, 1).

    Reference: Wang et al., arXiv 2402.00742; as in PAR's ``reward_shaper.py``.
    """
    known = concrete(quantile)
    if known is not None and not ((known > 0) & (known < 1)).all():
        raise ValueError(f"quantile is {known}; expected a number within (0, 1)")
    reference = jax.lax.stop_gradient(hide(reference, mask))
    require_shape("rewards", rewards, reference.shape[:-1])
    require_shape("quantile", quantile, ())
    mean = masked_mean(reference, mask, -1)
    variance = masked_mean(jnp.square(reference - mean[..., None]), mask, -1)
    z = jax.scipy.special.ndtri(jnp.asarray(quantile, reference.dtype))
    q = mean + z * jnp.sqrt(variance)
    return jax.nn.log_sigmoid(at_least_float32(rewards) - q)


def score_rewards(
    first: Array, second: Array, *, stage: Literal[1, 2], alpha: float = 10.0
) -> Array:
    """SCoRe's rewards of two attempts, the second made after seeing the first.

    Stage 1 trains the second attempt alone: ``(0, r2)``, while `score_kl` holds the
    first. Stage 2: ``(r1, r2 + alpha (r2 - r1))``, so that repeating oneself pays less
    than correcting oneself.

    Args:
      first: Rewards ``r1`` of the first attempts, of any shape.
      second: Rewards ``r2`` of the second attempts, of the shape of ``first``.
      stage: Stage of training, 1 or 2.
      alpha: Weight of the progress from the first attempt to the second; the paper's is
        10.

    Returns:
      Float32 of the shape of ``first`` with a last axis of 2, the attempts.

    Raises:
      ValueError: Mismatched shapes, another stage.

    Reference: Kumar et al., arXiv 2409.12917.
    """
    if stage not in (1, 2):
        raise ValueError(f"stage is {stage}; expected 1 or 2")
    require_shape("second", second, jnp.shape(first))
    r1, r2 = at_least_float32(first), at_least_float32(second)
    if stage == 1:
        return jnp.stack([jnp.zeros_like(r1), r2], -1)
    return jnp.stack([r1, r2 + alpha * (r2 - r1)], -1)


def outcome_reward(
    correct: Array,
    parsed: Array,
    *,
    values: tuple[float, float, float] = (1.0, -0.5, -1.0),
) -> Array:
    """``values`` for an answer that is right, wrong, or cannot be parsed.

    Args:
      correct: 1 for right answers and 0 for wrong ones, of any shape.
      parsed: 1 for answers that could be parsed, of the shape of ``correct``.
      values: Rewards of a right, a wrong and an unparsed answer; RISE's by default.

    Returns:
      Float32 of the shape of ``correct``.

    Reference: RISE, Liu et al., arXiv 2505.13445; its code.
    """
    require_shape("parsed", parsed, jnp.shape(correct))
    require_range("correct", correct, 0, 1)
    require_range("parsed", parsed, 0, 1)
    right, wrong, lost = (jnp.float32(v) for v in values)
    of_parsed = jnp.where(jnp.asarray(correct).astype(bool), right, wrong)
    return jnp.where(jnp.asarray(parsed).astype(bool), of_parsed, lost)


def verification_reward(
    predicted: Array,
    true: Array,
    parsed: Array,
    *,
    values: tuple[float, float, float] = (1.0, -0.5, -1.0),
) -> Array:
    """`outcome_reward` for judging one's own solution: right if the scores agree.

    Args:
      predicted: Score that the policy gives its solution, any shape.
      true: Score that `outcome_reward` gives the solution, of the shape of
        ``predicted``.
      parsed: 1 for judgements that could be parsed, of the shape of ``predicted``.
      values: Rewards of a right, a wrong and an unparsed answer; RISE's by default.

    Returns:
      Float32 of the shape of ``predicted``.

    Reference: RISE, Liu et al., arXiv 2505.13445.
    """
    require_shape("true", true, jnp.shape(predicted))
    agree = at_least_float32(predicted) == at_least_float32(true)
    return outcome_reward(agree, parsed, values=values)


def rule_reward(scores: Array, gold: Array, mask: Array | None = None) -> Array:
    """+1 if a judge's scores put the best answer strictly first, else -1.

    With one answer: +1 if its score is the gold one. A tie for the first place is -1.

    Args:
      scores: Scores that the judge gives, ``[..., n]``.
      gold: Scores that are true, ``[..., n]``; of equal ones the first is the best.
      mask: 0 on answers that do not exist, ``[..., n]``; none at all is -1. None keeps
        all.

    Returns:
      Float32 ``[...]``.

    Raises:
      ValueError: Mismatched shapes.

    Reference: SPCT, Liu et al., arXiv 2504.02495.
    """
    require_shape("gold", gold, jnp.shape(scores))
    known = mask_like(mask, scores) > 0
    best = jnp.argmax(hide(gold, mask, -jnp.inf), -1)[..., None]
    scores, gold = hide(scores, mask), hide(gold, mask)
    own = jnp.take_along_axis(scores, best, -1)
    other = known & (jnp.arange(scores.shape[-1]) != best)
    first = jnp.all(jnp.where(other, own > scores, True), -1)
    hit = jnp.any(known & (scores == gold), -1)
    number = jnp.sum(known, -1)
    good = jnp.where(number > 1, first, (number == 1) & hit)
    return jnp.where(good, 1.0, -1.0)


def blend(rewards: Array, weights: Array, active: Array | None = None) -> Array:
    """``sum_k w_k R_k``: the effective reward of several, by state where weights are.

    Args:
      rewards: Rewards by kind, ``[..., K]``.
      weights: Weight of each kind, ``[K]``, or by state ``[..., K]``.
      active: 0 for rewards that do not apply, ``[..., K]``; None keeps all.

    Returns:
      Float32 ``[...]``, the sum over kinds.

    Reference: The Policy Cliff, arXiv 2507.20150 (effective reward).
    """
    shape = jnp.shape(rewards)
    require_shape("weights", weights, shape[-1:], shape)
    return jnp.sum(hide(rewards, active) * at_least_float32(weights), -1)


def potential_shaping(
    potential: Array, next_potential: Array, terminated: Array, *, gamma: float
) -> Array:
    """``gamma (1 - terminated) Phi(s') - Phi(s)``: shaping that moves no optimum.

    Args:
      potential: Potential ``Phi`` of the state, of any shape.
      next_potential: Potential ``Phi`` of the next state, before any reset, of the same
        shape.
      terminated: 1 where the episode ends, and ``Phi`` is 0; not where it is cut.
      gamma: Discount of the task, in [0, 1].

    Returns:
      Float32 of the shape of ``potential``.

    Reference: Ng, Harada and Russell (1999), theorem 1.
    """
    for name, x in (("next_potential", next_potential), ("terminated", terminated)):
        require_shape(name, x, jnp.shape(potential))
    require_range("terminated", terminated, 0, 1)
    require_range("gamma", gamma, 0, 1)
    after = hide(next_potential, 1 - at_least_float32(terminated))
    return gamma * after - at_least_float32(potential)


def subgoal_bonus(
    reached: Array, weight: Array | float = 1.0, *, once: bool = True
) -> Array:
    """``weight_i`` at the step that closes subgoal ``i``.

    Args:
      reached: 1 where the transition closes a subgoal, by a verifier's or a language
        model's labels, ``[T, S]`` of one episode; `jax.vmap` for a batch.
      weight: Reward of each subgoal, scalar or ``[S]``.
      once: Whether to pay each subgoal the first time only. Without it, closing and
        undoing one is a source of reward.

    Returns:
      Float32 ``[T]``.

    Reference: CALM, Pignatelli et al., arXiv 2409.12798.
    """
    if jnp.ndim(reached) != 2:
        raise ValueError(f"reached has shape {jnp.shape(reached)}; expected [T, S]")
    require_shape("weight", weight, (), jnp.shape(reached)[1:])
    hit = jnp.asarray(reached).astype(bool)
    if once:
        hit &= jnp.cumsum(hit, 0) == 1
    return jnp.sum(jnp.where(hit, jnp.asarray(weight, jnp.float32), 0), -1)
