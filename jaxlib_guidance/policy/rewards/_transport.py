"""Rewards from an expert: its trajectories, by transport, and its interventions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array, at_least_float32


class Plan(NamedTuple):
    """A transport plan ``[N, M]``, its cost, and how far its rows miss their sums."""

    plan: Array
    cost: Array
    error: Array


def sinkhorn(
    cost: Array, *, epsilon: float = 0.01, steps: int = 300, start: float = 1.0
) -> Plan:
    """Entropic transport between uniform marginals, in logs, with annealing.

    ``epsilon`` falls geometrically from ``start`` to its value in the first half of the
    steps. Without that, and outside logs, a small one needs tens of thousands of steps
    or underflows; ``error`` says whether it was enough.

    Args:
      cost: Cost of each pair, ``[N, M]``.
      epsilon: Regularisation in the unit of the cost, positive.
      steps: Number of iterations, a Python integer.
      start: First regularisation, at least ``epsilon``.

    Returns:
      Plan ``[N, M]``, cost and error.

    Raises:
      ValueError: Another shape, a regularisation that is not positive or rises.

    Reference: Cuturi, arXiv 1306.0895.
    """
    if jnp.ndim(cost) != 2:
        raise ValueError(f"cost has shape {jnp.shape(cost)}; expected [N, M]")
    if not 0 < epsilon <= start:
        raise ValueError(f"epsilon is {epsilon}; expected a number in (0, {start}]")
    cost = at_least_float32(cost)
    n, m = cost.shape
    log_n, log_m = -jnp.log(jnp.float32(n)), -jnp.log(jnp.float32(m))

    def step(potentials, eps):
        _, g = potentials
        f = eps * (log_n - jax.nn.logsumexp((g[None] - cost) / eps, 1))
        g = eps * (log_m - jax.nn.logsumexp((f[:, None] - cost) / eps, 0))
        return (f, g), None

    fall = jnp.clip(jnp.arange(steps) / max(steps // 2, 1), 0, 1)
    schedule = start * (epsilon / start) ** fall
    zeros = jnp.zeros(n, cost.dtype), jnp.zeros(m, cost.dtype)
    (f, g), _ = jax.lax.scan(step, zeros, schedule.astype(cost.dtype))
    plan = jnp.exp((f[:, None] + g[None] - cost) / epsilon)
    return Plan(plan, jnp.sum(plan * cost), jnp.sum(jnp.abs(jnp.sum(plan, 1) - 1 / n)))


def transport_rewards(plan: Array, cost: Array, *, scale: float = 200.0) -> Array:
    """``-scale sum_j P_ij C_ij`` of each step ``i``: ``[N, M]`` to ``[N]``.

    Transport does not see order: a trajectory played backwards costs nothing more. See
    `longest_increasing`.

    Args:
      plan: Transport plan from `sinkhorn`, ``[N, M]``.
      cost: Cost between the agent's steps and the expert's, ``[N, M]``.
      scale: Factor of the rewards; 200 in the released code.

    Returns:
      Float32 ``[N]``.

    Reference: ADS, Liu et al., arXiv 2310.07433; its code.
    """
    require_shape("plan", plan, jnp.shape(cost))
    return -scale * jnp.sum(at_least_float32(plan) * at_least_float32(cost), -1)


def longest_increasing(x: Array) -> Array:
    """Length of the longest strictly increasing subsequence of ``[T]``.

    Of the expert's steps nearest to the agent's, it is progress in order.

    Args:
      x: Numbers in order, ``[T]``.

    Returns:
      int32 scalar.
    """
    x = jnp.asarray(x)
    if x.ndim != 1:
        raise ValueError(f"x has shape {x.shape}; expected [T]")

    def step(best, t):
        before = (jnp.arange(x.size) < t) & (x < x[t])
        here = 1 + jnp.max(jnp.where(before, best, 0), initial=0)
        return best.at[t].set(here), None

    best, _ = jax.lax.scan(step, jnp.zeros(x.size, jnp.int32), jnp.arange(x.size))
    return jnp.max(best, initial=0)


def discount_schedule(progress: Array, *, alpha: float = 0.2) -> Array:
    """``gamma = alpha^(1 / k)``: the farther imitation has got, the farther it looks.

    Args:
      progress: Number of the expert's steps that are mastered, ``k``, at least 1.
      alpha: Share that a reward ``k`` steps ahead counts, in [0, 1].

    Returns:
      Float32 of the shape of ``progress``.

    Reference: ADS, Liu et al., arXiv 2310.07433; its code.
    """
    require_range("alpha", alpha, 0, 1)
    return jnp.asarray(alpha, jnp.float32) ** (
        1 / jnp.maximum(at_least_float32(progress), 1)
    )


def advance_progress(
    progress: Array,
    agent: Array,
    demonstrations: Array,
    *,
    share: float = 0.9,
    quantile: float = 0.9,
    most: int = 5,
) -> Array:
    """How many of the expert's steps are mastered, after an evaluation.

    With ``p(a, d, k)`` the `longest_increasing` run of the steps of ``d`` that are
    nearest to the first ``k`` of ``a``, among the first ``k`` of ``d``: while the
    quantile of ``p`` over pairs of an episode and a demonstration is at least
    ``int(share m)``, ``m`` its median over pairs of two demonstrations, ``k`` grows by
    1. Then `discount_schedule`.

    Args:
      progress: Steps mastered so far ``k``, an integer in [1, T]; the released code
        starts at a fifth of ``T``.
      agent: Episodes of the agent, ``[E, T, D]``; only the first ``k`` steps count.
      demonstrations: Observations of the expert, ``[M, T, D]``, at least two.
      share: Share of the demonstrations' own progress that is asked for, in [0, 1].
      quantile: Which of the agent's pairs decides, in [0, 1].
      most: Steps that one evaluation can add, at least 1.

    Returns:
      The new ``k``, int32 scalar, at most ``T``.

    Raises:
      ValueError: Other shapes, numbers out of range.

    Reference: ADS, Liu et al., arXiv 2310.07433; its code.
    """
    agent, shown = at_least_float32(agent), at_least_float32(demonstrations)
    if agent.ndim != 3 or shown.ndim != 3 or agent.shape[1:] != shown.shape[1:]:
        raise ValueError(
            f"agent and demonstrations have shapes {agent.shape} and {shown.shape}; "
            "expected [E, T, D] and [M, T, D]"
        )
    if len(shown) < 2:
        raise ValueError(f"demonstrations has {len(shown)} row; expected at least two")
    if most < 1:
        raise ValueError(f"most is {most}; expected at least 1")
    require_range("share", share, 0, 1)
    require_range("quantile", quantile, 0, 1)
    length = shown.shape[1]
    require_range("progress", progress, 1, length)

    def apart(a):
        square = jnp.sum(jnp.square(a[:, None, :, None] - shown[None, :, None]), -1)
        return jnp.reshape(square, (-1, length, length))

    rows, columns = jnp.triu_indices(len(shown), 1)
    cost, own = apart(agent), apart(shown)[rows * len(shown) + columns]

    def reached(cost, k):
        early = jnp.arange(length) < k
        nearest = jnp.argmin(jnp.where(early, cost, jnp.inf), -1)
        # What comes later than k cannot lengthen a run of indices that are not there.
        return longest_increasing(jnp.where(early, nearest, -1))

    def step(carry, _):
        k, going = carry
        of = jax.vmap(lambda cost: reached(cost, k))
        have = jnp.quantile(of(cost).astype(jnp.float32), quantile)
        want = jnp.median(of(own).astype(jnp.float32))
        going &= (have >= jnp.floor(share * want)) & (k < length)
        return (k + going.astype(jnp.int32), going), None

    start = jnp.asarray(progress, jnp.int32), jnp.asarray(True)
    (k, _), _ = jax.lax.scan(step, start, None, length=most)
    return k
