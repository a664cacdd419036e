"""Rewards that are optima of linear programs, which scipy's HiGHS solves on the host.

Both keep the optimal policies of the task optimal, by at least the task's own gap, and
differ in what they make large. Tables ``[S, A]`` in numpy, float64.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array


class Designed(NamedTuple):
    """A designed reward.

    Attributes:
      rewards: The reward, float64 ``[S, A]``.
      objective: What the program made as large as it can be.
    """

    rewards: np.ndarray
    objective: float


def design_reward(
    transitions: Array,
    policies: Array,
    gap: Array,
    *,
    gamma: float,
    optimal: Array | None = None,
    active: Array | None = None,
    features: Array | None = None,
    r_max: float = 10.0,
    horizons: Sequence[int] = (2, 5, 9, 17, 33),
) -> Designed:
    """The most informative reward under which the task's optimal policies stay optimal.

    Maximises `informativeness`, subject to ``Q(s, pi(s)) - Q(s, a) >= gap_s`` for the
    actions that are not optimal and 0 for those that are, ``|R| <= r_max``, and ``R =
    0`` outside the active states. Runs on the host and cannot be traced.

    Args:
      transitions: Transition probabilities ``P``, ``[S, A, S]``.
      policies: An optimal action in each state, integers ``[S]``, or ``[K, S]`` of
        several optimal policies, over which informativeness is averaged.
      gap: Gap by which the best wrong action is worse under the task's reward, ``[S]``;
        it is divided by 1 + 1e-5, so that rounding leaves the task's own reward
        feasible. Float64 is advised: the rounding of float32 can be more than that.
      gamma: Discount of the task, in [0, 1).
      optimal: Whether an action is optimal, bool ``[S, A]``; None for those that a
        policy takes.
      active: States that may have a reward, bool ``[S]``; None for all.
      features: Features in which the reward is linear, ``[S, A, D]``; None for any
        table.
      r_max: Largest reward in absolute value.
      horizons: Numbers of rewards that are summed; as in `informativeness`.

    Returns:
      The reward and its informativeness.

    Raises:
      ValueError: Mismatched shapes, or no reward meets the constraints.

    Reference: EXPRD, Devidze et al., NeurIPS 2021, problem P1.
    """
    program = _Program(transitions, policies, gap, gamma, optimal, r_max)
    return program.design(program.looks(horizons), program.basis(active, features))


def select_states(
    transitions: Array,
    policies: Array,
    gap: Array,
    *,
    gamma: float,
    budget: int,
    chosen: Iterable[int],
    candidates: Iterable[int] | None = None,
    optimal: Array | None = None,
    r_max: float = 10.0,
    horizons: Sequence[int] = (2, 5, 9, 17, 33),
) -> tuple[list[int], Designed]:
    """States that may have a reward, chosen greedily by `design_reward`'s objective.

    One program a candidate and a choice.

    Args:
      transitions: Transition probabilities ``P``, ``[S, A, S]``.
      policies: Optimal actions, integers ``[S]`` or ``[K, S]``.
      gap: Gap of each state under the task's reward, ``[S]``.
      gamma: Discount of the task, in [0, 1).
      budget: Number of states to choose, besides those that are chosen at the start.
      chosen: States that have a reward in any case, such as the goal; theirs alone must
        do.
      candidates: States to choose from; None for all.
      optimal: Whether an action is optimal, bool ``[S, A]``; None for those that a
        policy takes.
      r_max: Largest reward in absolute value.
      horizons: Numbers of rewards that are summed; as in `informativeness`.

    Returns:
      All chosen states, in order, and the reward.

    Raises:
      ValueError: The budget is negative or larger than the number of candidates, states
        that are not there or stand twice, or no reward of the chosen states meets the
        constraints.

    Reference: EXPRD, Devidze et al., NeurIPS 2021, and its released code.
    """
    program = _Program(transitions, policies, gap, gamma, optimal, r_max)
    looks, number = program.looks(horizons), len(program.gap)
    states = list(chosen)
    tried = list(range(number) if candidates is None else candidates)
    for name, given in (("chosen", states), ("candidates", tried)):
        wrong = [
            s for s in given if isinstance(s, bool | np.bool_) or s not in range(number)
        ]
        if wrong or len(set(given)) < len(given):
            raise ValueError(
                f"{name} is {given}; expected different states, 0 to {number - 1}"
            )
    left = [s for s in tried if s not in states]
    if not 0 <= budget <= len(left):
        raise ValueError(f"budget is {budget}; expected 0 to {len(left)} candidates")

    def designed(extra):
        active = np.isin(np.arange(number), [*states, *extra])
        return program.design(looks, program.basis(active, None))

    best = designed([])
    for _ in range(budget):
        found = [(designed([s]), s) for s in left]
        best, choice = max(found, key=lambda pair: pair[0].objective)
        states.append(choice)
        left.remove(choice)
    return states, best


def adapt_reward(
    transitions: Array,
    policies: Array,
    gap: Array,
    learner: Array,
    advantage: Array,
    visits: Array,
    learner_visits: Array,
    *,
    gamma: float,
    optimal: Array | None = None,
    active: Array | None = None,
    features: Array | None = None,
    r_max: float = 10.0,
) -> Designed:
    """The reward that tells *this* learner most, by the teacher's advantages.

    Maximises ``sum mu*(s) mu_L(s) pi_L(a|s)^2 (A*(s, a) - A*(s, pi_L)) (R(s, a) - R(s,
    pi_L))`` with ``x(s, pi_L) = sum_a pi_L(a|s) x(s, a)``, under the constraints of
    `design_reward`. Solve it again as the learner goes on. The square is the released
    code's: the policy's probability times its share of state and action.

    Args:
      transitions: Transition probabilities ``P``, ``[S, A, S]``.
      policies: Optimal actions, integers ``[S]`` or ``[K, S]``.
      gap: Gap of each state under the task's reward, ``[S]``.
      learner: Probabilities ``pi_L`` of the learner's actions, ``[S, A]``.
      advantage: Advantages ``A*`` of the teacher's policy under the task's reward,
        ``[S, A]``.
      visits: Share ``mu*`` of the teacher's visits to each state, ``[S]``.
      learner_visits: Share ``mu_L`` of the learner's visits to each state, ``[S]``.
      gamma: Discount of the task, in [0, 1).
      optimal: Whether an action is optimal, bool ``[S, A]``; None for those that a
        policy takes.
      active: States that may have a reward, bool ``[S]``; None for all.
      features: Features in which the reward is linear, ``[S, A, D]``; None for any
        table.
      r_max: Largest reward in absolute value.

    Returns:
      The reward and the program's objective.

    Raises:
      ValueError: Mismatched shapes, or no reward meets the constraints.

    Reference: EXPADARD, Devidze et al., AAMAS 2024, and its released code.
    """
    program = _Program(transitions, policies, gap, gamma, optimal, r_max)
    basis = program.basis(active, features)
    shape = program.optimal.shape
    for name, x in (("learner", learner), ("advantage", advantage)):
        require_shape(name, x, shape)
    for name, x in (("visits", visits), ("learner_visits", learner_visits)):
        require_shape(name, x, shape[:1])
    pi, a = np.asarray(learner, float), np.asarray(advantage, float)
    mu = np.asarray(visits, float) * np.asarray(learner_visits, float)
    weight = mu[:, None] * pi**2 * (a - np.sum(pi * a, 1, keepdims=True))
    # sum w (R - R(pi)) as a sum over R.
    weight = weight - pi * weight.sum(1, keepdims=True)
    cost = -weight.reshape(-1) @ basis
    return program.solve(basis, cost, np.zeros((0, len(cost))), np.zeros(0))


class _Program:
    """The constraints that the designs share, and HiGHS."""

    def __init__(self, transitions, policies, gap, gamma, optimal, r_max):
        self.p = np.asarray(transitions, float)
        states, actions = self.p.shape[:2]
        require_shape("transitions", transitions, (states, actions, states))
        require_shape("gap", gap, (states,))
        require_range("gamma", gamma, 0)
        require_range("gamma", gamma, high=1, inside=True)
        require_range("r_max", r_max, 0, inside=True)
        given = np.asarray(policies)
        if given.dtype.kind not in "iu":
            raise ValueError(f"policies are of type {given.dtype}; expected integers")
        self.policies = np.atleast_2d(given)
        known = jnp.asarray(self.policies)
        require_shape("policies", known, (len(known), states))
        require_range("policies", known, 0, actions - 1)
        self.gamma, self.r_max = float(gamma), float(r_max)
        self.gap = np.asarray(gap, float) / (1 + 1e-5)
        if optimal is None:
            self.optimal = np.any(np.eye(actions, dtype=bool)[self.policies], 0)
        else:
            require_shape("optimal", optimal, (states, actions))
            self.optimal = np.asarray(optimal, bool)
        self.forever = [self._leads(policy, None) for policy in self.policies]

    def basis(self, active, features):
        """The rewards of each variable, ``[S A, variables]``."""
        states, actions = self.optimal.shape
        if active is not None:
            require_shape("active", active, (states,))
        kept = np.ones(states, bool) if active is None else np.asarray(active, bool)
        if features is None:
            return np.eye(states * actions)[:, np.repeat(kept, actions)]
        require_shape("features", features, (states, actions, *features.shape[2:]))
        flat = np.asarray(features, float).reshape(states * actions, -1)
        return flat * np.repeat(kept, actions)[:, None]

    def _leads(self, policy, horizon):
        """By how much the policy's action leads each, of the rewards ``[S, A, S A]``.

        The returns are of so many rewards, or of all for None.
        """
        states, actions = self.optimal.shape
        own = np.eye(states * actions)
        pairs = np.arange(states) * actions + policy
        step = self.gamma * self.p.reshape(states * actions, states)
        if horizon is None:
            values = np.linalg.solve(np.eye(states) - step[pairs], own[pairs])
            q = own + step @ values
        else:
            q = own
            for _ in range(horizon - 1):
                q = own + step @ q[pairs]
        return q[pairs][:, None] - q.reshape(states, actions, -1)

    def looks(self, horizons):
        """For each policy and horizon the leads over wrong actions, and their states.

        Returns ``(leads [N, S A], group [N], state [N], parts)``: a group is a state
        with one of the ``parts``, which are pairs of a policy and a horizon.
        """
        if not len(horizons):
            raise ValueError("horizons is empty; expected numbers of rewards")
        require_range("horizons", jnp.asarray(horizons), 1)
        state, action = np.nonzero(~self.optimal)
        _, place = np.unique(state, return_inverse=True)
        parts = [
            self._leads(policy, horizon)[state, action]
            for policy in self.policies
            for horizon in horizons
        ]
        each = place.max(initial=-1) + 1
        group = np.concatenate([i * each + place for i in range(len(parts))])
        return np.concatenate(parts), group, np.tile(state, len(parts)), len(parts)

    def design(self, looks, basis):
        """The most informative reward: an epigraph variable for each group."""
        leads, group, state, parts = looks
        spare = group.max(initial=-1) + 1
        above = np.eye(spare)[group]
        rows = np.concatenate([leads @ basis, above], 1)
        share = 1 / (parts * len(self.gap))
        cost = np.concatenate([np.zeros(basis.shape[1]), np.full(spare, share)])
        return self.solve(basis, cost, rows, self.gap[state])

    def solve(self, basis, cost, rows, bounds):
        """Least cost, with ``rows x >= bounds`` beside the common constraints."""
        # Imported here because scipy takes longer to load than the rest of this room.
        from scipy.optimize import linprog

        size = basis.shape[1]
        beside = ((0, 0), (0, len(cost) - size))
        least = np.where(self.optimal, 0, self.gap[:, None])
        tables, limits = [rows], [bounds]
        for policy, leads in zip(self.policies, self.forever, strict=True):
            others = np.arange(self.optimal.shape[1]) != policy[:, None]
            tables.append(np.pad(leads[others] @ basis, beside))
            limits.append(least[others])
        free = (-self.r_max, self.r_max)
        sums = (np.abs(basis).sum(axis) for axis in (0, 1))
        if np.any(next(sums) != 1) or np.any(next(sums) > 1):
            table = np.pad(basis, beside)
            tables += [table, -table]
            limits += [np.full(len(table), -self.r_max)] * 2
            free = (None, None)
        found = linprog(
            cost,
            A_ub=-np.concatenate(tables),
            b_ub=-np.concatenate(limits),
            bounds=[free] * size + [(0, None)] * (len(cost) - size),
            method="highs",
        )
        if not found.success:
            raise ValueError(
                f"no reward of {size} variables within r_max = {self.r_max:g} keeps "
                f"the policies optimal by the gap: {found.message}"
            )
        r = (basis @ found.x[:size]).reshape(self.optimal.shape)
        return Designed(r, -float(found.fun))
