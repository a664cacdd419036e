"""Votes among a group's answers: labels without a verifier, and judges' scores.

Answers are compared by integer ids (make them equal when the answers are), groups are
the last axis. An id is only compared within its group.
"""

from typing import NamedTuple

import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.reduce import hide, mask_like, require_shape
from jaxlib_guidance.types import Array, at_least_float32


class Vote(NamedTuple):
    """The answer that a group gave.

    Attributes:
      label: Id of the answer, ``[...]``; meaningless where ``valid`` is 0.
      index: Index of the first sample that gave the answer, ``[...]``.
      weight: Sum of the weights of the samples that gave the answer, ``[...]``.
      valid: 1 if any sample was valid, ``[...]``.
    """

    label: Array
    index: Array
    weight: Array
    valid: Array


def weighted_vote(
    answers: Array, weights: Array | None = None, mask: Array | None = None
) -> Vote:
    """The answer with the greatest weight; of equal ones the one given first.

    Args:
      answers: Ids of the answers, integers ``[..., G]``.
      weights: Weight of each sample, ``[..., G]``, not negative; one of NaN does not
        vote. None for a majority vote.
      mask: 0 for samples without an answer, ``[..., G]``; None keeps all.

    Returns:
      The winning answer of each group, ``[...]``.

    Raises:
      ValueError: Mismatched shapes.
    """
    answers = jnp.asarray(answers)
    w = mask_like(mask, answers)
    valid = w > 0
    if weights is not None:
        require_shape("weights", weights, answers.shape)
        require_range("weights", weights, 0, mask=mask)
        # A weight that is not known is no vote, and not the heaviest one.
        valid &= ~jnp.isnan(jnp.asarray(weights))
        w = hide(weights, valid)
    same = (answers[..., :, None] == answers[..., None, :]) & valid[..., None, :]
    support = jnp.sum(jnp.where(same, w[..., None, :], 0), -1)
    support = jnp.where(valid, support, -jnp.inf)
    index = jnp.argmax(support, -1)

    def at(x):
        return jnp.take_along_axis(x, index[..., None], -1)[..., 0]

    some = jnp.any(valid, -1)
    return Vote(
        at(answers),
        index.astype(jnp.int32),
        jnp.where(some, at(support), 0),
        some.astype(jnp.float32),
    )


def self_verdict_vote(
    answers: Array, accepted: Array, mask: Array | None = None
) -> Vote:
    """A majority vote among the answers that their author accepts, or among all.

    Args:
      answers: Ids of the answers, integers ``[..., G]``.
      accepted: 1 where the policy accepts its own answer, ``[..., G]``.
      mask: 0 for samples without an answer, ``[..., G]``; None keeps all.

    Returns:
      The winning answer of each group, ``[...]``.

    Reference: Is PRM Necessary, arXiv 2505.11227 (Self-PRM).
    """
    require_shape("accepted", accepted, jnp.shape(answers))
    known = mask_like(mask, answers)
    kept = jnp.where(at_least_float32(accepted) > 0, known, 0)
    some = jnp.any(kept > 0, -1, keepdims=True)
    return weighted_vote(answers, mask=jnp.where(some, kept, known))


def cross_view_reward(
    answers_a: Array,
    answers_b: Array,
    mask_a: Array | None = None,
    mask_b: Array | None = None,
) -> tuple[Array, Array]:
    """1 for answers that agree with the majority of the *other* phrasing of a question.

    A policy that is unanimous about a wrong answer rewards itself under its own vote;
    here both phrasings must mislead it alike.

    Args:
      answers_a: Ids of the answers to one phrasing, integers ``[..., G]``; ids are
        comparable between the two.
      answers_b: Ids of the answers to the other phrasing, integers ``[..., H]``.
      mask_a: 0 for samples of ``answers_a`` without an answer, which match nothing;
        None keeps all.
      mask_b: 0 for samples of ``answers_b`` without an answer, which match nothing;
        None keeps all.

    Returns:
      Rewards of both, float32.

    Reference: Co-Reward, Zhang et al., arXiv 2508.00410.
    """
    votes = weighted_vote(answers_a, mask=mask_a), weighted_vote(answers_b, mask=mask_b)

    def agree(answers, mask, vote):
        same = jnp.asarray(answers) == vote.label[..., None]
        return hide(same, mask_like(mask, answers)) * vote.valid[..., None]

    return agree(answers_a, mask_a, votes[1]), agree(answers_b, mask_b, votes[0])


def naive_vote(scores: Array, mask: Array | None = None) -> Array:
    """Sum of a judge's scores over its runs, ``[..., K, n]`` to ``[..., n]``.

    Args:
      scores: Scores of ``n`` answers in ``K`` runs of the judge, ``[..., K, n]``.
      mask: 0 on runs that do not count, ``[..., K]``; None keeps all.

    Returns:
      Float32 ``[..., n]``.

    Reference: SPCT, Liu et al., arXiv 2504.02495 (voting with generated rewards).
    """
    if mask is not None:
        require_shape("mask", mask, jnp.shape(scores)[:-1])
        mask = jnp.broadcast_to(at_least_float32(mask)[..., None], jnp.shape(scores))
    return jnp.sum(hide(scores, mask), -2)


def meta_vote(scores: Array, meta: Array, keep: int) -> Array:
    """`naive_vote` of the ``keep`` runs that a meta judge trusts most.

    Args:
      scores: Scores of ``n`` answers in ``K`` runs of the judge, ``[..., K, n]``.
      meta: Score that the meta judge gives each run, ``[..., K]``; of equal ones the
        earlier is kept.
      keep: Number of runs to keep, 1 to ``K``; the paper keeps half. All of them is
        `naive_vote`.

    Returns:
      Float32 ``[..., n]``.

    Raises:
      ValueError: Mismatched shapes, a ``keep`` outside 1 to ``K``.

    Reference: SPCT, Liu et al., arXiv 2504.02495 (meta reward model).
    """
    runs = jnp.shape(scores)[:-1]
    require_shape("meta", meta, runs)
    if not 1 <= keep <= runs[-1]:
        raise ValueError(f"keep is {keep}; expected 1 to {runs[-1]}")
    order = jnp.argsort(-at_least_float32(meta), axis=-1, stable=True)
    rank = jnp.argsort(order, axis=-1, stable=True)
    return naive_vote(scores, rank < keep)
