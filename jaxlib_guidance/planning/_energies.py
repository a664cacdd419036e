"""Energies of trajectories: what a plan is asked for, each a number a sample.

A sum of energies is a product of experts. All are means over the horizon, so that their
weights do not depend on its length.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxlib_guidance.planning._trajectories import Trajectory
from jaxlib_guidance.reduce import at_least_float32, known_false, require_shape
from jaxlib_guidance.types import Array


def _require_horizon(name: str, x: Array, rank: int) -> None:
    if jnp.ndim(x) != rank or jnp.shape(x)[1] < 2:
        axes = ("[B, T]", "[B, T, D]")[rank - 2]
        raise ValueError(
            f"{name} has shape {jnp.shape(x)}; expected {axes} with at least 2 steps"
        )


def goal_errors(values: Array, goal: Array | float, steps: int) -> Array:
    """Squared distance of each step from a straight way to a goal.

    ``(v_t - m_t)^2`` with ``m_t = v_0 + (goal - v_0) min(t / steps, 1)``: a goal that
    is not asked for before it can be reached.

    Args:
      values: What is to reach the goal ``[B, T]``; the first is where it is now.
      goal: Goal, scalar or ``[B]``.
      steps: Steps that the way may take, at least 1.

    Returns:
      ``[B, T]``, for `phased` or a mean over the horizon.

    Raises:
      ValueError: Values of another shape, or no steps.

    Reference: Liang et al., DexHandDiff, arXiv 2411.18562: goals interpolated along
      the horizon.
    """
    _require_horizon("values", values, 2)
    if known_false(lambda x: x >= 1, steps):
        raise ValueError(f"steps is {steps}; expected at least 1")
    require_shape("goal", goal, (), values.shape[:1])
    values = at_least_float32(values)
    share = jnp.minimum(jnp.arange(values.shape[1]) / steps, 1.0)
    first = jax.lax.stop_gradient(values[:, :1])
    goal = jnp.broadcast_to(jnp.asarray(goal), values.shape[:1])[:, None]
    return (values - first - (goal - first) * share) ** 2


def alignment_errors(points: Array, targets: Array) -> Array:
    """Squared distance of points from where they should be, ``|p_t - q_t|^2``.

    Args:
      points: Places of a hand ``[B, T, D]``.
      targets: Places to touch ``[B, T, D]``; no gradient goes to them, lest what is to
        be touched come to the hand.

    Returns:
      ``[B, T]``.

    Raises:
      ValueError: Arrays of other shapes.
    """
    _require_horizon("points", points, 3)
    require_shape("targets", targets, points.shape)
    off = at_least_float32(points) - jax.lax.stop_gradient(targets)
    return jnp.sum(off**2, axis=-1)


def phase_blend(distance: Array, threshold: float, softness: float) -> Array:
    """How much a step is one of reaching: 1 far from contact, 0 at it.

    ``sigmoid((d - threshold) / softness)``, without a gradient: what blends energies
    must not be a way of lowering them. As ``softness`` falls it is the hard phase mask.

    Args:
      distance: Distance from contact, of any shape.
      threshold: Distance at which both count alike.
      softness: Width of the change, positive.

    Returns:
      From 0 to 1, of the shape of ``distance``.

    Raises:
      ValueError: ``softness`` not positive.

    Reference: Liang et al., DexHandDiff, arXiv 2411.18562, eq. 12, made smooth.
    """
    if known_false(lambda x: x > 0, softness):
        raise ValueError(f"softness is {softness}; expected more than 0")
    distance = jax.lax.stop_gradient(at_least_float32(distance))
    return jax.nn.sigmoid((distance - threshold) / softness)


def phased(reach: Array, act: Array, blend: Array) -> Array:
    """An energy of two phases, ``mean_t b_t reach_t + act_t``.

    While a step is one of reaching, the error of acting is counted, lest it pay to stay
    away, and not felt: its gradient is ``(1 - b_t)`` of its own.

    Args:
      reach: Errors of reaching ``[B, T]``, such as `alignment_errors`.
      act: Errors of acting ``[B, T]``, such as `goal_errors`.
      blend: How much each step is one of reaching ``[B, T]``, from `phase_blend`.

    Returns:
      ``[B]``.

    Raises:
      ValueError: Arrays of other shapes.
    """
    _require_horizon("reach", reach, 2)
    require_shape("act", act, reach.shape)
    require_shape("blend", blend, reach.shape)
    felt = blend * jax.lax.stop_gradient(act) + (1 - blend) * act
    return jnp.mean(blend * reach + felt, axis=1)


def dynamics_energy(
    trajectory: Trajectory,
    dynamics: Callable[[Array, Array], Array],
    scale: Array | float = 1.0,
) -> Array:
    """How far states are from where actions lead, ``mean_t |s_{t+1} - f(s_t, a_t)|^2``.

    Args:
      trajectory: Actions ``[B, T, A]`` and states ``[B, T, S]``.
      dynamics: Function ``(states [..., S], actions [..., A]) -> [..., S]``.
      scale: Unit of each entry of a state, scalar or ``[S]``, positive; 1 is the
        world's own.

    Returns:
      ``[B]``; 0 where the states are those that the actions lead to.

    Raises:
      ValueError: A trajectory of another shape, or dynamics that give one.

    Reference: Liang et al., DexHandDiff, arXiv 2411.18562.
    """
    actions, states = trajectory
    _require_horizon("states", states, 3)
    _require_horizon("actions", actions, 3)
    require_shape("actions", actions, (*states.shape[:2], actions.shape[2]))
    require_shape("scale", scale, (), states.shape[2:])
    led = dynamics(states[:, :-1], actions[:, :-1])
    require_shape("what dynamics returned", led, states[:, 1:].shape)
    off = at_least_float32(states[:, 1:] - led) / scale
    return jnp.mean(jnp.sum(off**2, axis=-1), axis=1)


def rate_energy(values: Array, limit: float) -> Array:
    """How much values change too fast, ``mean_t max(|v_{t+1} - v_t| - limit, 0)^2``.

    Args:
      values: Values ``[B, T]``.
      limit: Largest change of a step, not negative.

    Returns:
      ``[B]``.

    Raises:
      ValueError: Values of another shape, or a negative limit.
    """
    _require_horizon("values", values, 2)
    if known_false(lambda x: x >= 0, limit):
        raise ValueError(f"limit is {limit}; expected at least 0")
    change = jnp.abs(jnp.diff(at_least_float32(values), axis=1))
    return jnp.mean(jnp.maximum(change - limit, 0) ** 2, axis=1)
