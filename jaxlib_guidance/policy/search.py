"""Choosing among what was tried or imagined: strategies, actions, tree nodes."""

import jax
import jax.numpy as jnp

from jaxlib_guidance.reduce import hide, mask_like, masked_mean, require_shape
from jaxlib_guidance.types import Array, at_least_float32


def first_success(success: Array, mask: Array | None = None) -> tuple[Array, Array]:
    """The first strategy, in order of trial, that solved the task, and whether any did.

    The target of a policy over strategies: ``losses.nll(logp_of_target, any)`` teaches
    it to begin with what it ended with. One that succeeds at once learns nothing new,
    and with a single strategy the gradient is 0.

    Args:
      success: 0 or 1 of each strategy in the order of trial, ``[..., K]``.
      mask: 0 for those that were not tried.

    Returns:
      Index int32 ``[...]``, and 1 where one succeeded, float32.

    Reference: SMART, Liu et al., arXiv 2410.16128.
    """
    if mask is not None:
        require_shape("mask", mask, jnp.shape(success))
    hit = (at_least_float32(success) * mask_like(mask, success)) > 0
    return jnp.argmax(hit, -1).astype(jnp.int32), jnp.any(hit, -1).astype(jnp.float32)


def best_of_n(scores: Array, mask: Array | None = None) -> tuple[Array, Array]:
    """The sample that a verifier or a reward model likes best.

    Args:
      scores: Of the samples of a prompt, ``[..., N]``.
      mask: 0 for those that do not take part, whose scores may be NaN.

    Returns:
      Index int32 ``[...]`` (of equal ones the first) and its score, float32; index 0
      and ``-inf`` where none takes part. `metrics.best_of_k` is what it is worth.

    Reference: Stiennon et al., arXiv 2009.01325.
    """
    scores = hide(scores, mask, -jnp.inf)
    return jnp.argmax(scores, -1).astype(jnp.int32), jnp.max(scores, -1)


def lookahead_select(scores: Array, mask: Array | None = None) -> tuple[Array, Array]:
    """The action whose imagined future a critic likes best on average.

    Args:
      scores: Of each action's simulated steps, ``[..., A, S]``. With one step this is
        the greedy choice.
      mask: Likewise, for simulations that ended early. An action without any step is
        not chosen if another has one.

    Returns:
      Index int32 ``[...]`` (of equal ones the first) and the means ``[..., A]``.

    Reference: WebEvolver, Fang et al., arXiv 2504.21024; its critic says 0, 0.5 or 1.
    """
    means = masked_mean(scores, mask, -1)
    some = jnp.any(mask_like(mask, scores) > 0, -1)
    choice = jnp.argmax(jnp.where(some, means, -jnp.inf), -1)
    return choice.astype(jnp.int32), means


def quality_values(correct: Array, remaining: Array) -> Array:
    """Values of a reasoning path's steps: 0 at the start, 1 at a right answer's end.

    ``v_k = max(0, v_{k-1} + (1 - v_{k-1}) / (m_k + 1) s_k)`` with ``s_k`` +1 for a
    right step and -1 for a wrong one.

    Args:
      correct: 0 or 1, ``[S]``; `jax.vmap` for a batch.
      remaining: ``m``, steps left to a right answer after this one, ``[S]``.

    Returns:
      Float32 ``[S]`` in [0, 1].

    Reference: ReST-MCTS*, Zhang et al., arXiv 2406.03816, its ``MCTS/base.py``.
    """
    require_shape("remaining", remaining, jnp.shape(correct))
    if jnp.ndim(correct) != 1:
        raise ValueError(f"correct has shape {jnp.shape(correct)}; expected [S]")
    # A sign is exact in any type, so the steps left decide in which to count.
    m = at_least_float32(remaining)
    sign = (2 * at_least_float32(correct) - 1).astype(m.dtype)

    def step(v, now):
        s, m = now
        v = jnp.maximum(v + (1 - v) / (m + 1) * s, 0)
        return v, v

    start = jnp.zeros((), sign.dtype)
    return jax.lax.scan(step, start, (sign, m))[1]


def uct_scores(
    values: Array, visits: Array, parent_visits: Array, *, c: float = 0.7
) -> Array:
    """``V + c sqrt(2 ln N_parent / N)``, and ``V + 1`` for a node without a visit.

    Args:
      values: Of a node's children, ``[..., K]``.
      visits: ``N``, likewise.
      parent_visits: ``[...]``, at least 1.
      c: Exploration; 0 is greedy.

    Reference: ReST-MCTS*, Zhang et al., arXiv 2406.03816, its ``MCTS/task.py``.
    """
    require_shape("visits", visits, jnp.shape(values))
    require_shape("parent_visits", parent_visits, jnp.shape(values)[:-1])
    n, parent = at_least_float32(visits), at_least_float32(parent_visits)[..., None]
    bonus = c * jnp.sqrt(2 * jnp.log(parent) / jnp.maximum(n, 1))
    return at_least_float32(values) + jnp.where(n > 0, bonus, 1)
