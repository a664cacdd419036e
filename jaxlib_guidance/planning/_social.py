"""Plans among people, what people do to each other, and plans by descent."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.reduce import (
    at_least_float32,
    divide,
    known_false,
    require_shape,
    sqrt,
)
from jaxlib_guidance.types import Array


def counterfactual_shift(
    forecast: Callable[[Array], Array], plan: Array, null: Array
) -> Array:
    """How far a plan moves people, ``mean_{t, n} |f(plan) - f(null)|^2``.

    The null plan is one in which the robot is not there, or stands where it is: what
    people would have done without it.

    Args:
      forecast: Function ``plan [B, T, A] -> [B, T, N, D]`` of the people's places,
        which knows their past, such as a trained network or a simulator.
      plan: Plans ``[B, T, A]``; they may be the robot's places or its actions.
      null: The plan without the robot, of the shape of ``plan`` or of one of it ``[T,
        A]``.

    Returns:
      ``[B]``, in squared units of the places; exactly 0 for the null plan itself and
      for a forecast that ignores the plan, or of nobody. Its gradient is that of the
      forecast under ``plan`` alone: what people would have done is a constant.

    Raises:
      ValueError: Plans or forecasts of another shape.

    Reference: SACSoN, Hirose et al., arXiv 2306.01874. Its released code forecasts one
      person, and its null plan is a robot that stays where it is.
    """
    if jnp.ndim(plan) != 3:
        raise ValueError(f"plan has shape {jnp.shape(plan)}; expected [B, T, A]")
    require_shape("null", null, plan.shape, plan.shape[1:])
    made = forecast(plan)
    if jnp.ndim(made) != 4 or made.shape[:2] != plan.shape[:2]:
        raise ValueError(
            f"what forecast returned has shape {jnp.shape(made)}; expected "
            f"[{plan.shape[0]}, {plan.shape[1]}, N, D]"
        )
    would = jax.lax.stop_gradient(forecast(jnp.broadcast_to(null, plan.shape)))
    off = at_least_float32(made) - at_least_float32(would)
    return jnp.sum(off**2, axis=(1, 2, 3)) / max(off.shape[1] * off.shape[2], 1)


def agent_importance(forecast: Callable[[Array], Array], count: int) -> Array:
    """How much each agent has to do with a forecast, by taking it away.

    ``w_i = d_i / sum_j d_j`` with ``d_i = mean_t |f(all) - f(all but i)|``.

    Args:
      forecast: Function of who is there, float32 ``[N]`` of 1 and 0, that gives the
        path of the one whom it is about ``[T, D]``, such as a network with a mask of
        neighbours. It is called once, under `jax.vmap`.
      count: Number ``N`` of agents that may be taken away, at least 1.

    Returns:
      Weights ``[N]`` that sum to 1; where nobody matters, all are 0.

    Raises:
      ValueError: No agents, or a path of another shape.

    Reference: what TITAN, Malla et al., arXiv 2003.13886, learns as gates of agents in
      the forecast of the own motion, here for any forecast.
    """
    if count < 1:
        raise ValueError(f"count is {count}; expected at least 1")
    there = jnp.concatenate([jnp.ones((1, count)), 1 - jnp.eye(count)])
    paths = jax.vmap(forecast)(there)
    if jnp.ndim(paths) != 3:
        raise ValueError(
            f"what forecast returned has shape {jnp.shape(paths)[1:]}; expected [T, D]"
        )
    paths = at_least_float32(paths)
    off = sqrt(jnp.sum((paths[1:] - paths[:1]) ** 2, axis=-1)).mean(axis=1)
    return divide(off, jnp.sum(off))


def nearness_energy(points: Array, others: Array, distance: Array | float) -> Array:
    """How far others are within a distance, ``mean_t sum_n max(r - d_tn, 0)^2``.

    At the sum of the radii it asks for no collision, at more for a distance to keep.

    Args:
      points: Places of a robot ``[B, T, D]``.
      others: Places of people ``[B, T, N, D]``.
      distance: Distance ``r`` to keep, at least 0, scalar or ``[B]``.

    Returns:
      ``[B]``, in squared units of the places.

    Raises:
      ValueError: Places of another shape, or a distance below 0.
    """
    if jnp.ndim(others) != 4:
        raise ValueError(f"others has shape {jnp.shape(others)}; expected [B, T, N, D]")
    batch, horizon, _, entries = others.shape
    require_shape("points", points, (batch, horizon, entries))
    require_shape("distance", distance, (), (batch,))
    if known_false(lambda x: x >= 0, distance):
        raise ValueError(f"distance is {distance}; expected at least 0")
    apart = at_least_float32(others) - at_least_float32(points)[:, :, None]
    far = sqrt(jnp.sum(apart**2, axis=-1))
    keep = jnp.broadcast_to(at_least_float32(distance), (batch,))[:, None, None]
    return jnp.mean(jnp.sum(jnp.maximum(keep - far, 0) ** 2, axis=-1), axis=1)


def descend(
    energy: Callable[[Array], Array],
    starts: Array,
    tx: Any,
    *,
    steps: int,
    project: Callable[[Array], Array] | None = None,
) -> tuple[Array, Array]:
    """Plans by the gradient of an energy from several starts, the best of each.

    Args:
      energy: Function ``plans [R, T, A] -> [R]``, differentiable; the energy of a plan
        is a matter of that plan alone.
      starts: Plans to begin with ``[R, T, A]``.
      tx: A transformation of optax, such as ``optax.adam(0.1)``; each start has one,
        so that a norm that it clips is that of one plan.
      steps: Number of steps, at least 0.
      project: Function of plans that gives the nearest that can be carried out, after
        each step and at the start; None leaves them.

    Returns:
      The plan ``[T, A]`` of the lowest energy that was met, and its energy, scalar. An
      energy that is NaN is never the lowest.

    Raises:
      ValueError: Starts of another shape, fewer than 0 steps, or energies of another
        shape.
    """
    if jnp.ndim(starts) != 3 or not len(starts):
        raise ValueError(f"starts has shape {jnp.shape(starts)}; expected [R, T, A]")
    if steps < 0:
        raise ValueError(f"steps is {steps}; expected at least 0")
    keep = project or (lambda plans: plans)

    def valued(plans):
        values = energy(plans)
        require_shape("what energy returned", values, (len(plans),))
        return jnp.sum(values), values

    def better(best, plans, values):
        # Of equals the later one, which has come further than the float can tell.
        lower = values <= best[1]
        return (
            jnp.where(lower[:, None, None], plans, best[0]),
            jnp.where(lower, values, best[1]),
        )

    def one(carry, _):
        plans, state, best = carry
        (_, values), slope = jax.value_and_grad(valued, has_aux=True)(plans)
        best = better(best, plans, values)
        change, state = jax.vmap(tx.update)(slope, state, plans)
        return (keep(plans + change), state, best), None

    plans = keep(at_least_float32(starts))
    best = plans, jnp.full(len(plans), jnp.inf, plans.dtype)
    (plans, _, best), _ = jax.lax.scan(
        one, (plans, jax.vmap(tx.init)(plans), best), length=steps
    )
    plans, values = better(best, plans, valued(plans)[1])
    lowest = jnp.argmin(values)
    return plans[lowest], values[lowest]
