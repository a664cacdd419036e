"""Statistics of behaviour: rates with intervals, balance, friction, self-knowledge.

What the measurement papers report, as functions of the labels that their judges give.
A score of nothing is NaN.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.reduce import (
    divide,
    hide,
    mask_like,
    masked_mean,
    masked_sum,
    require_shape,
)
from jaxlib_guidance.types import Array, at_least_float32, concrete


class Rate(NamedTuple):
    """A share and the interval that holds it."""

    value: Array
    low: Array
    high: Array


def rate(hits: Array, mask: Array | None = None, *, z: float = 1.96) -> Rate:
    """Share of hits with Wilson's interval, over the last axis.

    For rates of scheming or of deceptive follow-up answers, of backdoors noticed, of
    correct self-reports.

    Args:
      hits: 1 for a hit and 0 for a miss, ``[..., N]``.
      mask: 0 on trials that do not count, ``[..., N]``; None keeps all.
      z: Quantile of the normal distribution; 1.96 gives an interval of 95 %.

    Returns:
      ``[...]`` each; without a trial NaN in [0, 1].

    Reference: Wilson (1927). Used for arXiv 2412.04984 and 2501.11120.
    """
    require_range("hits", hits, 0, 1, mask)
    require_range("z", z, 0, 1e3)
    n = jnp.sum(mask_like(mask, hits), -1)
    p = divide(masked_sum(hits, mask, -1), n)
    safe = jnp.maximum(n, 1)
    middle = (p + z**2 / (2 * safe)) / (1 + z**2 / safe)
    spread = jnp.sqrt(p * (1 - p) / safe + (z / (2 * safe)) ** 2)
    half = z / (1 + z**2 / safe) * spread
    low = jnp.where(n > 0, jnp.maximum(middle - half, 0), 0)
    high = jnp.where(n > 0, jnp.minimum(middle + half, 1), 1)
    return Rate(jnp.where(n > 0, p, jnp.nan), low, high)


def deception_rate(stated: Array, acted: Array, mask: Array | None = None) -> Rate:
    """Share of runs that reason toward the user's end and answer against it.

    Args:
      stated: Whether the chain of thought agrees with the stated utility, ``[..., N]``.
      acted: Whether the answer agrees with the stated utility, ``[..., N]``.
      mask: 0 on trials that do not count, ``[..., N]``; None keeps all.

    Returns:
      Share and interval, ``[...]`` each.

    Reference: CoT Monitor+, arXiv 2505.18807 (deception tendency rate).
    """
    require_shape("acted", acted, jnp.shape(stated))
    said, did = at_least_float32(stated) > 0, at_least_float32(acted) > 0
    return rate(said & ~did, mask)


def self_prediction_gap(
    own: Array, cross: Array, own_mode: Array | float, cross_mode: Array | float
) -> Array:
    """``(own - own_mode) - (cross - cross_mode)``: what a model knows of itself alone.

    Args:
      own: Accuracy of a model that predicts its own behaviour.
      cross: Accuracy of another model, trained on the first one's behaviour, that
        predicts it.
      own_mode: Accuracy of always predicting the most common behaviour, on the
        questions of ``own``.
      cross_mode: Accuracy of always predicting the most common behaviour, on the
        questions of ``cross``.

    Returns:
      Float32 of the shape of ``own``.

    Reference: Looking Inward, Binder et al., arXiv 2410.13787.
    """
    return (at_least_float32(own) - own_mode) - (at_least_float32(cross) - cross_mode)


def calibration_error(
    predicted: Array, actual: Array, mask: Array | None = None, *, bins: int = 10
) -> Array:
    """Mean absolute deviation of a calibration curve from the diagonal.

    Pairs are cut into bins of equal number by quantiles of ``actual``; it is the mean
    over bins of ``|mean actual - mean predicted|``. The paper's pairs are each
    question's three likeliest behaviours: the share of answers that show one, and the
    share of self-predictions that name it.

    Args:
      predicted: Probabilities that a model gives its behaviours, ``[N]``; `jax.vmap`
        for a batch.
      actual: Share of answers that show each behaviour, ``[N]``.
      mask: 0 on pairs that do not count, ``[N]``; None keeps all.
      bins: Largest number of bins; equal quantiles are one edge, as in ``pandas.qcut``
        with ``duplicates="drop"``.

    Returns:
      Float32 in [0, 1], the paper's in percent; NaN for no pair.

    Raises:
      ValueError: Mismatched shapes, ``bins`` below 1.

    Reference: Looking Inward, Binder et al., arXiv 2410.13787; its
    ``19_sep_calibration_main_fig.py``.
    """
    if jnp.ndim(actual) != 1:
        raise ValueError(f"actual has shape {jnp.shape(actual)}; expected [N]")
    require_shape("predicted", predicted, jnp.shape(actual))
    if bins < 1:
        raise ValueError(f"bins is {bins}; expected at least 1")
    require_range("predicted", predicted, 0, 1, mask)
    require_range("actual", actual, 0, 1, mask)
    known = mask_like(mask, actual) > 0
    predicted, actual = hide(predicted, mask), hide(actual, mask)
    # Quantiles of what counts, which sorts first; their places in whole numbers.
    last = jnp.maximum(jnp.sum(known) - 1, 0)
    place = jnp.arange(bins + 1) * last
    low, part = place // bins, (place % bins) / bins
    rising = jnp.sort(jnp.where(known, actual, jnp.inf))
    below, above = rising[low], rising[jnp.minimum(low + 1, last)]
    edges = below + jnp.where(part > 0, (above - below) * part.astype(below.dtype), 0)
    # Bins are open below, but for the first; its edge may be there several times.
    own = jnp.sum(edges < actual[:, None], 1)
    own = jnp.maximum(own, jnp.sum(edges <= edges[0]))
    member = (own == jnp.arange(bins + 2)[:, None]) & known
    gaps = jnp.where(member, actual - predicted, 0)
    curve = divide(jnp.sum(gaps, 1), jnp.sum(member, 1, dtype=gaps.dtype))
    error = masked_mean(jnp.abs(curve), jnp.any(member, 1))
    return jnp.where(jnp.any(known), error, jnp.nan)


class Friction(NamedTuple):
    """Feedback that was not taken up: what is missing, and where accuracy ended."""

    gap: Array
    plateau: Array


def friction(accuracy: Array, target: Array | float) -> Friction:
    """``target - accuracy`` of the last round of feedback.

    Args:
      accuracy: Accuracy after each of ``R`` rounds of feedback, ``[..., R]``.
      target: Accuracy if all feedback were used, scalar or ``[...]``.

    Returns:
      Gap and plateau, ``[...]`` each.

    Reference: Feedback Friction, Jiang et al., arXiv 2506.11930.
    """
    require_shape("target", target, (), jnp.shape(accuracy)[:-1])
    last = at_least_float32(accuracy)[..., -1]
    return Friction(target - last, last)


def pass_at_k(samples: Array, correct: Array, k: int) -> Array:
    """``1 - C(n - c, k) / C(n, k)``: chance that one of ``k`` of the samples is right.

    Args:
      samples: Number of samples ``n``, at least ``k``, of any shape.
      correct: Number of right samples ``c``, of the shape of ``samples``.
      k: Number of samples drawn, a Python integer.

    Returns:
      Float32; unbiased for fresh samples. NaN where a traced ``n`` is below ``k``.

    Raises:
      ValueError: ``k`` below 1, fewer samples than ``k``.

    Reference: Chen et al., arXiv 2107.03374, eq. 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}; expected at least 1")
    n = at_least_float32(samples, "samples")
    c = at_least_float32(correct, "correct")
    known = concrete(samples)
    if known is not None and (known < k).any():
        raise ValueError(f"samples has {known.min()}; expected at least k = {k}")
    require_range("correct", correct, 0)
    right = concrete(correct)
    if known is not None and right is not None and (right > known).any():
        raise ValueError(f"correct has {right.max()}; expected at most samples")
    i = jnp.arange(k, dtype=jnp.float32)
    miss = (n - c)[..., None] - i
    return 1 - jnp.prod(jnp.maximum(miss, 0) / (n[..., None] - i), -1)


def best_of_k(values: Array, scores: Array, k: int) -> Array:
    """Mean value of the best by score of ``k`` of the samples, over all ways to draw.

    ``sum_i C(i - 1, k - 1) / C(N, k) v_i`` with values in ascending order of score:
    what `best_of_n` would get, without drawing. Rewards for scores and true
    worth for values show how far a reward model can be trusted. With 0 or 1 for both it
    is `pass_at_k`.

    Args:
      values: Worth of the samples, ``[..., N]``.
      scores: Scores by which the best is chosen, ``[..., N]``; equal ones in order of
        index.
      k: Number of samples drawn, a Python integer in 1 to ``N``.

    Returns:
      Float32 ``[...]``; unbiased for fresh samples.

    Raises:
      ValueError: Mismatched shapes, ``k`` out of range.

    Reference: Nakano et al., WebGPT, arXiv 2112.09332, appendix I.
    """
    require_shape("scores", scores, jnp.shape(values))
    n = jnp.shape(values)[-1]
    if not 1 <= k <= n:
        raise ValueError(f"k is {k}; expected 1 to the number of samples, {n}")
    # Integers of any size in Python: binomials overflow float32 from n = 132 on.
    chance = [math.comb(i, k - 1) / math.comb(n, k) for i in range(n)]
    order = jnp.argsort(at_least_float32(scores), -1)
    v = jnp.take_along_axis(at_least_float32(values), order, -1)
    return jnp.sum(v * jnp.asarray(chance, v.dtype), -1)


class Verdicts(NamedTuple):
    """Quality of a verifier: 0 where a ratio has no cases, NaN where none is known."""

    precision: Array
    recall: Array
    f1: Array


def verdict_scores(
    accepted: Array, correct: Array, mask: Array | None = None
) -> Verdicts:
    """Precision, recall and F1 of verdicts, over the last axis.

    Of steps or outcomes for a judge of agents, of its own solutions for a policy.

    Args:
      accepted: 1 for accepted cases, ``[..., N]``.
      correct: 1 for cases that are right, ``[..., N]``.
      mask: 0 on trials that do not count, ``[..., N]``; None keeps all.

    Returns:
      Precision, recall and F1, ``[...]`` each.
    """
    require_shape("correct", correct, jnp.shape(accepted))
    require_range("accepted", accepted, 0, 1, mask)
    require_range("correct", correct, 0, 1, mask)
    yes, right = hide(accepted, mask), hide(correct, mask)
    both = masked_sum(yes * right, mask, -1)
    precision = divide(both, masked_sum(yes, mask, -1))
    recall = divide(both, masked_sum(right, mask, -1))
    f1 = divide(2 * precision * recall, precision + recall)
    some = jnp.sum(mask_like(mask, accepted), -1) > 0
    return Verdicts(*(jnp.where(some, x, jnp.nan) for x in (precision, recall, f1)))


def mastered(
    success: Array, mask: Array | None = None, *, threshold: float = 0.5
) -> Array:
    """Number of goals that are reached in at least a share of their attempts.

    Args:
      success: 1 for a goal that an attempt reached, ``[N, K]``, attempts by goals.
      mask: 0 on goals that an attempt did not try, ``[N, K]``; a goal without an
        attempt is not mastered. None keeps all.
      threshold: Smallest share of attempts that masters a goal, in [0, 1].

    Returns:
      Integer scalar.

    Reference: LMA3, Colas et al., arXiv 2305.12487.
    """
    require_range("success", success, 0, 1, mask)
    require_range("threshold", threshold, 0, 1)
    tried = jnp.sum(mask_like(mask, success), 0) > 0
    return jnp.sum(tried & (masked_mean(success, mask, 0) >= threshold))


def soft_policy(q: Array, alpha: float | Array) -> Array:
    """``softmax(Q / alpha)``; ``alpha = 0`` is the argmax, ties shared.

    Args:
      q: Action values, ``[..., A]``.
      alpha: Temperature in the unit of ``q``, scalar; 0 is greedy.

    Returns:
      Float32 ``[..., A]``.
    """
    require_range("alpha", alpha, 0)
    q = at_least_float32(q)
    best = (q == jnp.max(q, -1, keepdims=True)).astype(q.dtype)
    greedy = best / jnp.sum(best, -1, keepdims=True)
    safe = jnp.where(alpha > 0, alpha, 1)
    return jnp.where(alpha > 0, jax.nn.softmax(q / safe, -1), greedy)


def total_variation(p: Array, q: Array) -> Array:
    """``sum |p - q| / 2`` over the last axis: 0 for equal policies, 1 for disjoint."""
    require_shape("q", q, jnp.shape(p))
    return 0.5 * jnp.sum(jnp.abs(at_least_float32(p) - at_least_float32(q)), -1)


def sensitivity_bound(
    rewards: Array, other: Array, *, alpha: float | Array, gamma: float | Array
) -> Array:
    """``max |R_1 - R_2| / (2 alpha (1 - gamma))`` bounds their policies' distance.

    In total variation, in every state, for the soft-optimal policies of temperature
    ``alpha``. It says nothing as ``alpha`` goes to 0: that is the cliff.

    Args:
      rewards: First table of rewards, ``[S, A]`` or any shape.
      other: Second table of rewards, of the shape of ``rewards``.
      alpha: Temperature of the two policies, positive.
      gamma: Discount in [0, 1).

    Returns:
      Float32 scalar.

    Reference: The Policy Cliff, arXiv 2507.20150.
    """
    require_shape("other", other, jnp.shape(rewards))
    require_range("alpha", alpha, 0, inside=True)
    require_range("gamma", gamma, 0, 1)
    gap = jnp.max(jnp.abs(at_least_float32(rewards) - at_least_float32(other)))
    return gap / (2 * alpha * (1 - gamma))
