"""Rewards that are designed: by a teacher who knows the optimum, or by the learner.

Tables ``[S, A]`` of states and actions.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.reduce import divide, require_shape
from jaxlib_guidance.types import Array, PyTree, at_least_float32, concrete


def informativeness(
    rewards: Array,
    transitions: Array,
    policy: Array,
    gap: Array,
    *,
    gamma: float,
    optimal: Array | None = None,
    horizons: Sequence[int] = (2, 5, 9, 17, 33),
) -> Array:
    """How soon a reward tells right actions from wrong ones: 0 at best, else negative.

    ``-mean over H, s of max(0, max over wrong a of gap_s - (Q_H(s, pi(s)) - Q_H(s,
    a)))``, with ``Q_H`` the sum of ``H`` rewards when it goes on by ``pi``. Concave in
    the reward; `design_reward` finds where it is largest.

    Args:
      rewards: Table of designed rewards, ``[S, A]``.
      transitions: Transition probabilities ``P``, ``[S, A, S]``.
      policy: An optimal action in each state, integers ``[S]``, or ``[K, S]`` of
        several optimal policies, over which the mean is taken, too.
      gap: Gap by which the best wrong action is worse under the task's reward, ``[S]``.
      gamma: Discount of the task, in [0, 1].
      optimal: Whether an action is optimal, and so not wrong, bool ``[S, A]``; None for
        those that a policy takes.
      horizons: Numbers ``H`` of rewards that are summed, Python integers of at least 1.
        EXPRD's released code has ``h = 0 .. H`` for H of 1, 4, 8, 16 and 32, one reward
        more, which is the default; the later code of EXPADARD sums H.

    Returns:
      Float32 scalar.

    Raises:
      ValueError: Mismatched shapes.

    Reference: EXPRD, Devidze et al., NeurIPS 2021, and its released code; in the thesis
    "Reward Design for Reinforcement Learning Agents".
    """
    r, p = at_least_float32(rewards), at_least_float32(transitions)
    states, actions = r.shape
    require_shape("transitions", p, (states, actions, states))
    policies = jnp.atleast_2d(jnp.asarray(policy))
    require_shape("policy", policies, (len(policies), states))
    require_shape("gap", gap, (states,))
    require_range("gamma", gamma, 0, 1)
    require_range("policy", policies, 0, actions - 1)
    require_range("horizons", jnp.asarray(horizons), 1)
    if optimal is None:
        right = jnp.any(policies[..., None] == jnp.arange(actions), 0)
    else:
        require_shape("optimal", optimal, (states, actions))
        right = jnp.asarray(optimal).astype(bool)

    def short(policy):
        def follow(q):
            return jnp.take_along_axis(q, policy[:, None], 1)[:, 0]

        def step(q, _):
            q = r + gamma * p @ follow(q)
            return q, q

        _, by_horizon = jax.lax.scan(step, jnp.zeros_like(r), length=max(horizons))
        q = by_horizon[jnp.array(horizons) - 1]
        lead = jax.vmap(follow)(q)[..., None] - q
        missing = jnp.where(right, -jnp.inf, gap[:, None] - lead)
        return jnp.maximum(jnp.max(missing, -1), 0)

    return -jnp.mean(jax.vmap(short)(policies))


def explicable_step(
    rewards: Array,
    state: Array | int,
    policy: Array,
    advantage: Array,
    visits: Array | float = 1.0,
    *,
    rate: float,
) -> Array:
    """A gradient step on a state's rewards toward what the teacher knows of actions.

    Of ``mu sum_a pi(a) (A*(a) - E_pi A*)(R(a) - E_pi R)``: what the learner does often
    and what is better than it thinks is rewarded first.

    Args:
      rewards: Table of rewards to change, ``[S, A]``.
      state: State whose rewards change, an integer.
      policy: Probabilities that the learner gives the actions in that state, ``[A]``.
      advantage: Advantages ``A*`` that the teacher gives the actions there, ``[A]``.
      visits: Share ``mu(s)`` of the visits of an optimal policy to the state, scalar.
      rate: Step size.

    Returns:
      Float32 ``[S, A]``.

    Reference: EXPADARD, in the thesis "Reward Design for Reinforcement Learning
    Agents"; the variant without a linear program.
    """
    require_shape("policy", policy, jnp.shape(rewards)[1:])
    require_shape("advantage", advantage, jnp.shape(rewards)[1:])
    pi, a = at_least_float32(policy), at_least_float32(advantage)
    up = rate * visits * pi * (a - jnp.sum(pi * a))
    return at_least_float32(rewards).at[state].add(up)


def self_design_step(
    shaping: Array,
    state: Array | int,
    action: Array | int,
    policy: Array,
    advantage: Array | float,
    *,
    rate: float = 0.01,
) -> Array:
    """The learner's own shaping reward, by what an action turned out to be worth.

    ``phi(s, .) += rate pi(a|s) (G - V(s)) (onehot_a - pi(.|s))``: sums to 0 over
    actions.

    Args:
      shaping: Table of shaping rewards ``phi``, ``[S, A]``.
      state: State that was visited, an integer.
      action: Action that was taken, an integer.
      policy: Probabilities that the learner gives the actions in that state, ``[A]``.
      advantage: Advantage ``G - V(s)`` of the task's reward, scalar.
      rate: Step size.

    Returns:
      Float32 ``[S, A]``.

    Reference: ExploRS, Devidze et al., NeurIPS 2022, in the thesis "Reward Design for
    Reinforcement Learning Agents".
    """
    require_shape("policy", policy, jnp.shape(shaping)[1:])
    pi = at_least_float32(policy)
    chosen = (jnp.arange(pi.size) == action).astype(pi.dtype)
    return (
        at_least_float32(shaping)
        .at[state]
        .add(rate * pi[action] * advantage * (chosen - pi))
    )


def implicit_hypergradient(
    outer_gradient: PyTree,
    inner_update: Callable[[PyTree, PyTree], PyTree],
    theta: PyTree,
    phi: PyTree,
    *,
    damping: float = 0.0,
    step: float = 0.1,
    terms: int = 50,
) -> PyTree:
    """``dJ / dphi`` through the policy that a reward ``phi`` trains, at its optimum.

    Where ``inner_update(theta, phi) = 0``: ``-grad_theta J H^-1 d_phi update`` with ``H
    = d_theta update - damping I``, by ``terms`` of Neumann's series, which converges
    for eigenvalues of ``-H`` in ``(0, 2 / step)``. Needs products with ``H`` only.

    Args:
      outer_gradient: Gradient ``grad_theta J`` of the primary reward, a pytree of the
        structure of ``theta``.
      inner_update: The direction in which training moves ``theta``; any rule.
      theta: Parameters of the trained policy, a pytree.
      phi: Parameters of the reward, a pytree.
      damping: Damping of the inner problem, at least 0.
      step: Step size of the series, positive.
      terms: Number of terms of the series, a Python integer.

    Returns:
      Like ``phi``.

    Reference: BARFI, Gupta et al., arXiv 2310.19007; the implicit function theorem.
    """
    _, pull = jax.vjp(inner_update, theta, phi)

    def term(_, carry):
        v, total = carry
        total = jax.tree.map(jnp.add, total, v)
        back, _ = pull(v)
        v = jax.tree.map(lambda a, b: a + step * (b - damping * a), v, back)
        return v, total

    zeros = jax.tree.map(jnp.zeros_like, outer_gradient)
    _, total = jax.lax.fori_loop(0, terms, term, (outer_gradient, zeros))
    _, through = pull(total)
    return jax.tree.map(lambda x: step * x, through)


class Aligned(NamedTuple):
    """A reward whose parameters were learned through the policy that it trains.

    Attributes:
      theta: Parameters of the policy, like the argument, at least float32.
      phi: Parameters of the reward, likewise.
      objectives: The primary objective after each training of the policy, ``[N + 1]``.
    """

    theta: PyTree
    phi: PyTree
    objectives: Array


def align_reward(
    objective: Callable[[PyTree], Array],
    inner_update: Callable[[PyTree, PyTree], PyTree],
    theta: PyTree,
    phi: PyTree,
    *,
    outer_steps: int = 40,
    outer_rate: float = 0.2,
    inner_steps: int = 500,
    inner_rate: float = 1.0,
    terms: int = 300,
    keep_norm: bool = True,
) -> Aligned:
    """How far to trust an auxiliary reward: the bi-level loop of BARFI.

    Inside, ``theta += inner_rate inner_update(theta, phi)`` to its fixed point, each
    time from the last; outside, ``phi`` moves along `implicit_hypergradient` of the
    primary objective, by ``outer_rate |phi|`` at first and linearly less to the end.
    Where the policy is regularised, a larger reward is worth something by itself, so
    the norm of ``phi`` is kept: what is learned is the mixture, and the scale is a
    setting to search.

    Args:
      objective: The return ``J`` of the primary reward, ``theta -> scalar``.
      inner_update: The direction in which training moves ``theta``, its
        regularisation included, ``(theta, phi) -> theta``.
      theta: Parameters of the policy at the start, a pytree.
      phi: Parameters of the reward at the start, a pytree, not all 0.
      outer_steps: Number ``N`` of steps of ``phi``, a Python integer.
      outer_rate: Length of the first of them, as a share of the norm of ``phi``.
      inner_steps: Number of steps of ``theta`` for each of ``phi``.
      inner_rate: Step size of these, and of the series of the hypergradient.
      terms: Number of terms of that series, a Python integer.
      keep_norm: Whether the Euclidean norm of ``phi`` stays what it was.

    Returns:
      The policy and the reward, and what the primary objective was on the way.

    Raises:
      ValueError: ``phi`` that is known and all 0.

    Reference: BARFI, Gupta et al., arXiv 2310.19007. The loop by the abstract and the
    implicit function theorem; the norm is ours.
    """
    theta, phi = jax.tree.map(at_least_float32, (theta, phi))
    size = _norm(phi)
    if (known := concrete(size)) is not None and not known > 0:
        raise ValueError(
            f"phi has the norm {known}; expected numbers that are not all 0, nor NaN"
        )

    def trained(theta, phi):
        def move(_, theta):
            up = inner_update(theta, phi)
            return jax.tree.map(lambda t, u: t + inner_rate * u, theta, up)

        return jax.lax.fori_loop(0, inner_steps, move, theta)

    def outer(carry, left):
        theta, phi = carry
        theta = trained(theta, phi)
        value, gradient = jax.value_and_grad(objective)(theta)
        up = implicit_hypergradient(
            gradient, inner_update, theta, phi, step=inner_rate, terms=terms
        )
        rate = divide(outer_rate * left * size, _norm(up))
        phi = jax.tree.map(lambda p, u: p + rate * u, phi, up)
        if keep_norm:
            back = divide(size, _norm(phi))
            phi = jax.tree.map(lambda p: p * back, phi)
        return (theta, phi), value

    left = 1 - jnp.arange(outer_steps) / max(outer_steps, 1)
    (theta, phi), values = jax.lax.scan(outer, (theta, phi), left)
    theta = trained(theta, phi)
    return Aligned(theta, phi, jnp.append(values, objective(theta)))


def _norm(tree):
    return jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)))
