"""Rewards that are designed: by a teacher who knows the optimum, or by the learner.

Tables ``[S, A]`` of states and actions.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array, PyTree, at_least_float32


def informativeness(
    rewards: Array,
    transitions: Array,
    policy: Array,
    gap: Array,
    *,
    gamma: float,
    horizons: Sequence[int] = (1, 4, 8, 16, 32),
) -> Array:
    """How soon a reward tells right actions from wrong ones: 0 at best, else negative.

    ``-mean over H, s of max(0, max over a != pi(s) of gap_s - (Q_H(s, pi(s)) - Q_H(s,
    a)))``, with ``Q_H`` the return of ``H`` steps that go on by ``pi``. Concave in the
    reward.

    Args:
      rewards: Table of designed rewards, ``[S, A]``.
      transitions: Transition probabilities ``P``, ``[S, A, S]``.
      policy: An optimal action in each state, integers ``[S]``.
      gap: Gap by which the best wrong action is worse under the task's reward, ``[S]``.
      gamma: Discount of the task, in [0, 1].
      horizons: Numbers of steps ``H``, Python integers of at least 1.

    Returns:
      Float32 scalar.

    Raises:
      ValueError: Mismatched shapes.

    Reference: EXPRD, Devidze et al., NeurIPS 2021, in the thesis "Reward Design for
    Reinforcement Learning Agents".
    """
    r, p = at_least_float32(rewards), at_least_float32(transitions)
    states, actions = r.shape
    require_shape("transitions", p, (states, actions, states))
    require_shape("policy", policy, (states,))
    require_shape("gap", gap, (states,))
    require_range("gamma", gamma, 0, 1)
    require_range("policy", policy, 0, actions - 1)
    require_range("horizons", jnp.asarray(horizons), 1)
    policy = jnp.asarray(policy)
    wrong = jnp.arange(actions) != policy[:, None]

    def follow(q):
        return jnp.take_along_axis(q, policy[:, None], 1)[:, 0]

    def step(q, _):
        q = r + gamma * p @ follow(q)
        return q, q

    _, by_horizon = jax.lax.scan(step, jnp.zeros_like(r), length=max(horizons))
    q = by_horizon[jnp.array(horizons) - 1]
    lead = jax.vmap(follow)(q)[..., None] - q
    short = jnp.where(wrong, gap[:, None] - lead, -jnp.inf)
    return -jnp.mean(jnp.maximum(jnp.max(short, -1), 0))


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
