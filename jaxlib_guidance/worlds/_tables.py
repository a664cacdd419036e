"""Worlds that are a table of probabilities, solved exactly: any of `Table` will do.

A policy is a table of action probabilities ``[S, A]``; `jax.nn.one_hot` makes one of
actions. Rewards are of a state and an action, ``[S, A]``, and every function takes
others in place of the table's own, so that a designed reward is learned from and the
task's own judges. An episode ends in a terminal state, which pays nothing and is never
left.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import (
    Array,
    at_least_float32,
    concrete,
    pytree_dataclass,
)


@pytree_dataclass
class Table:
    """A Markov decision process.

    Attributes:
      transitions: Probabilities ``P(s' | s, a)``, ``[S, A, S]``.
      rewards: Mean rewards, ``[S, A]``.
      start: Probability of each state to be the first, ``[S]``.
      terminal: Whether the episode has ended, bool ``[S]``.
      gamma: Discount, a scalar in [0, 1).
    """

    transitions: Array
    rewards: Array
    start: Array
    terminal: Array
    gamma: Array | float


class Solution(NamedTuple):
    """The optimum of a table.

    Attributes:
      values: Optimal values, ``[S]``.
      q: Optimal values of the actions, ``[S, A]``.
      policy: The first of the optimal actions, int32 ``[S]``.
      optimal: Whether an action is optimal, ties included, bool ``[S, A]``.
      gap: By how much the best action that is not optimal is worse, ``[S]``; 0 where
        all are optimal.
    """

    values: Array
    q: Array
    policy: Array
    optimal: Array
    gap: Array


class SoftSolution(NamedTuple):
    """The optimum with a price on being predictable.

    Attributes:
      values: Values, what randomness is worth included, ``[S]``.
      q: Values of the actions, ``[S, A]``.
      policy: Probabilities of the actions, ``softmax(q / alpha)``, ``[S, A]``.
    """

    values: Array
    q: Array
    policy: Array


def reset(table: Table, key: Array) -> tuple[Array, Array]:
    """Draws a first state.

    Args:
      table: The world.
      key: A typed key.

    Returns:
      ``(state, observation)``, both the state's number, int32.
    """
    state = _draw(key, table.start)
    return state, state


def step(
    table: Table, state: Array, action: Array, key: Array
) -> tuple[Array, Array, Array, Array]:
    """Draws the next state.

    Args:
      table: The world.
      state: Number of the state.
      action: Number of the action.
      key: A typed key.

    Returns:
      ``(state, observation, reward, terminated)``: the next state twice, the mean
      reward of the state that was left, and whether the next one is terminal.
    """
    # A table of numpy arrays has no traced index.
    chances, rewards, terminal = map(
        jnp.asarray, (table.transitions, table.rewards, table.terminal)
    )
    after = _draw(key, chances[state, action])
    return after, after, rewards[state, action], terminal[after]


def _draw(key, chances):
    """A number by its probability; the last with any takes what rounding leaves."""
    total = jnp.cumsum(chances)
    u = jax.random.uniform(key) * total[-1]
    return jnp.sum(u >= total).astype(jnp.int32)


def evaluate(table: Table, policy: Array, rewards: Array | None = None) -> Array:
    """Values of a policy, ``(I - gamma P_pi)^-1 R_pi``.

    Args:
      table: The world.
      policy: Action probabilities, ``[S, A]``.
      rewards: Rewards in place of the table's own, ``[S, A]``; None for its own.

    Returns:
      Float32 ``[S]``.

    Raises:
      ValueError: Mismatched shapes.
    """
    r = _rewards(table, rewards)
    require_shape("policy", policy, r.shape)
    moves = _moves(table, policy)
    eye = jnp.eye(len(moves), dtype=moves.dtype)
    return jnp.linalg.solve(eye - table.gamma * moves, jnp.sum(policy * r, 1))


def score(table: Table, policy: Array, rewards: Array | None = None) -> Array:
    """Return of a policy from the start, a scalar; arguments as in `evaluate`."""
    require_shape("start", table.start, jnp.shape(table.rewards)[:1])
    return jnp.dot(table.start, evaluate(table, policy, rewards))


def visits(table: Table, policy: Array) -> Array:
    """Discounted share of the time that a policy spends in each state, ``[S]``.

    ``(1 - gamma) sum_t gamma^t P(s_t = s)``: the shares sum to 1, that of terminal
    states included.

    Args:
      table: The world.
      policy: Action probabilities, ``[S, A]``.

    Returns:
      Float32 ``[S]``.
    """
    require_shape("policy", policy, jnp.shape(table.rewards))
    moves = _moves(table, policy)
    eye = jnp.eye(len(moves), dtype=moves.dtype)
    require_shape("start", table.start, jnp.shape(table.rewards)[:1])
    start = at_least_float32(table.start)
    later = jnp.linalg.solve((eye - table.gamma * moves).T, start)
    return (1 - table.gamma) * later


def solve(
    table: Table, rewards: Array | None = None, *, tolerance: float = 1e-5
) -> Solution:
    """The optimum, by value iteration and the exact values of what it found.

    Args:
      table: The world.
      rewards: Rewards in place of the table's own, ``[S, A]``; None for its own.
      tolerance: Relative difference, to the largest value, below which actions are
        equally good and iteration stops.

    Returns:
      The solution.
    """
    r = _rewards(table, rewards)

    def backup(values):
        return r + table.gamma * table.transitions @ values

    def unfinished(carry):
        before, values, i = carry
        off = jnp.max(jnp.abs(values - before))
        # Beyond this many the values of float32 no longer change.
        return (off > 1e-2 * tolerance * jnp.max(jnp.abs(values))) & (i < 10_000)

    def iterate(carry):
        _, values, i = carry
        return values, jnp.max(backup(values), -1), i + 1

    zeros = jnp.zeros_like(r[:, 0])
    first = zeros, jnp.max(backup(zeros), -1), jnp.int32(0)
    _, values, _ = jax.lax.while_loop(unfinished, iterate, first)
    policy = jnp.argmax(backup(values), -1).astype(jnp.int32)
    chosen = jax.nn.one_hot(policy, r.shape[1], dtype=r.dtype)
    values = evaluate(table, chosen, r)
    q = backup(values)
    values = jnp.max(q, -1)
    lead = values[:, None] - q
    optimal = lead <= tolerance * jnp.max(jnp.abs(q))
    gap = jnp.min(jnp.where(optimal, jnp.inf, lead), -1)
    gap = jnp.where(jnp.all(optimal, -1), 0.0, gap)
    return Solution(values, q, policy, optimal, gap)


def solve_soft(
    table: Table,
    alpha: float | Array,
    rewards: Array | None = None,
    *,
    tolerance: float = 1e-6,
) -> SoftSolution:
    """The optimum of reward plus ``alpha`` times entropy, by soft value iteration.

    ``Q = R + gamma P V`` and ``V = alpha log sum_a exp(Q / alpha)``, 0 in terminal
    states. The backup is a contraction by ``gamma``, so a change of rewards moves ``Q``
    by at most ``max |dR| / (1 - gamma)``: see `policy.sensitivity_bound`.

    Args:
      table: The world.
      alpha: Weight of the entropy in the unit of a reward, positive; `solve` is the
        limit at 0.
      rewards: Rewards in place of the table's own, ``[S, A]``; None for its own.
      tolerance: Relative change of the values at which iteration stops.

    Returns:
      The solution, not to be differentiated in reverse: it is a loop without an end
      known before.

    Raises:
      ValueError: ``alpha`` known and not positive, mismatched shapes.

    Reference: Haarnoja et al., arXiv 1702.08165, eqs. 2 to 4.
    """
    known = concrete(alpha)
    if known is not None and not (known > 0).all():
        raise ValueError(f"alpha is {known}; expected a positive number")
    require_shape("alpha", alpha, ())
    r = _rewards(table, rewards)

    def soften(q):
        values = alpha * jax.nn.logsumexp(q / alpha, -1)
        return jnp.where(table.terminal, 0.0, values)

    def backup(values):
        return r + table.gamma * table.transitions @ values

    def unfinished(carry):
        before, values, i = carry
        off = jnp.max(jnp.abs(values - before))
        return (off > tolerance * jnp.max(jnp.abs(values))) & (i < 10_000)

    def iterate(carry):
        _, values, i = carry
        return values, soften(backup(values)), i + 1

    zeros = jnp.zeros_like(r[:, 0])
    first = zeros, soften(backup(zeros)), jnp.int32(0)
    _, values, _ = jax.lax.while_loop(unfinished, iterate, first)
    q = backup(values)
    return SoftSolution(soften(q), q, jax.nn.softmax(q / alpha, -1))


def potential_rewards(table: Table, potential: Array) -> Array:
    """``gamma E[Phi(s')] - Phi(s)`` as a table, to be added to the table's rewards.

    Args:
      table: The world.
      potential: Potential ``Phi`` of each state, ``[S]``; it counts as 0 in terminal
        states.

    Returns:
      ``[S, A]``, 0 in terminal states.

    Raises:
      ValueError: Mismatched shapes.

    Reference: Ng, Harada and Russell (1999), theorem 1.
    """
    own = _rewards(table, None)
    require_shape("potential", potential, own.shape[:1])
    phi = jnp.where(table.terminal, 0, jnp.asarray(potential, own.dtype))
    shaped = table.gamma * table.transitions @ phi - phi[:, None]
    return jnp.where(table.terminal[:, None], 0, shaped)


def _moves(table, policy):
    """Probabilities of the next state under a policy, ``[S, S]``."""
    wide = at_least_float32(policy), at_least_float32(table.transitions)
    return jnp.einsum("sa,sat->st", *wide)


def _rewards(table, rewards):
    # Whole numbers would round the rewards that are designed for them.
    own = at_least_float32(table.rewards)
    require_shape("transitions", table.transitions, (*own.shape, own.shape[0]))
    if rewards is None:
        return own
    require_shape("rewards", rewards, own.shape)
    return jnp.asarray(rewards, own.dtype)
