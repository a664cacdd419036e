"""Values and scores of a tree search over steps."""

import jax
import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.reduce import require_shape, sqrt
from jaxlib_guidance.types import Array, at_least_float32


def quality_values(correct: Array, remaining: Array) -> Array:
    """Values of a reasoning path's steps: 0 at the start, 1 at a right answer's end.

    ``v_k = max(0, v_{k-1} + (1 - v_{k-1}) / (m_k + 1) s_k)`` with ``s_k`` +1 for a
    right step and -1 for a wrong one.

    Args:
      correct: 1 for right steps and 0 for wrong ones, ``[S]``; `jax.vmap` for a batch.
      remaining: Number ``m`` of steps left to a right answer after this one, ``[S]``.

    Returns:
      Float32 ``[S]`` in [0, 1].

    Reference: ReST-MCTS*, Zhang et al., arXiv 2406.03816, its ``MCTS/base.py``.
    """
    require_shape("remaining", remaining, jnp.shape(correct))
    if jnp.ndim(correct) != 1:
        raise ValueError(f"correct has shape {jnp.shape(correct)}; expected [S]")
    require_range("correct", correct, 0, 1)
    require_range("remaining", remaining, 0)
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
      values: Values of a node's children, ``[..., K]``.
      visits: Number of visits ``N`` of each child, ``[..., K]``.
      parent_visits: Number of the parent's visits, ``[...]``, at least 1.
      c: Weight of exploration, at least 0; 0 is greedy.

    Returns:
      Float32 ``[..., K]``.

    Reference: ReST-MCTS*, Zhang et al., arXiv 2406.03816, its ``MCTS/task.py``.
    """
    require_shape("visits", visits, jnp.shape(values))
    require_shape("parent_visits", parent_visits, jnp.shape(values)[:-1])
    require_range("visits", visits, 0)
    require_range("c", c, 0)
    n, parent = at_least_float32(visits), at_least_float32(parent_visits)[..., None]
    # A parent of one visit has log 0: its slope would be infinite, and 0 times it NaN.
    bonus = c * sqrt(2 * jnp.log(jnp.maximum(parent, 1)) / jnp.maximum(n, 1))
    return at_least_float32(values) + jnp.where(n > 0, bonus, 1)
