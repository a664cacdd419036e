"""A sampler as a policy: roll it out, and score the same steps under new parameters.

The policy is the whole of what draws the next state, guidance included. It is rolled
out by `sample` and scored again by `sample`, along the stored states, so that one
transition function serves both and a policy that has not changed has ratios of 1: to
rounding where two programs compile it, exactly where one scores twice. A solver or a
guidance term with state is a policy that looks back: its state is rebuilt along the
stored states and differentiated with the rest.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance.calls import process_of
from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.sampling import Sampler, initial_state, sample
from jaxlib_guidance.transition import Transition, kl, log_prob
from jaxlib_guidance.types import Array, Denoiser, Process, PyTree, at_least_float32

Reduction = Literal["mean", "sum"]


class Trajectory(NamedTuple):
    """The states of a roll-out, and its steps' transitions under some parameters.

    Attributes:
      states: ``x_0, ..., x_K`` from noise to data, ``[B, K + 1, *S]``.
      logp: Log-probability of ``x_{k+1}`` under step ``k``, ``[B, K]``; 0 where
        ``mask`` is.
      mask: 1 for steps that draw noise, 0 for those without, ``[B, K]``.
      transition: Distributions of the steps, ``mean [B, K, *S]`` and ``std [B, K]``.
    """

    states: Array
    logp: Array
    mask: Array
    transition: Transition


def rollout(
    keys: Array,
    denoiser: Denoiser | Sequence[Denoiser],
    sampler: Sampler,
    grid: Any,
    x: Any,
    cond: PyTree = None,
    *,
    guidance: Any = None,
    ref: PyTree = None,
    reduce: Reduction = "mean",
    plan: str = "auto",
    process: Process | None = None,
) -> Trajectory:
    """Samples, and keeps what a policy gradient needs. Nothing is differentiated.

    Args:
      keys: One typed key for each sample ``[B]``.
      denoiser: Network, or a tuple of networks for terms that contrast them.
      sampler: Stochastic solver, such as ``ddim(1.0)`` or `flow_sde`. One that draws
        noise inside its step too (correctors, recurrence) is scored given that noise.
      grid: Times ``[K + 1]`` from noise to data.
      x: Shape ``(*S,)`` of one sample, or the first state ``[B, *S]``.
      cond: Condition pytree, every leaf ``[B, ...]``; None for a network without one.
      guidance: Guidance term or chain of terms, part of the policy; None is none.
      ref: Pytree whose leaves lead with ``K``, which terms see step by step.
      reduce: Reduction over the elements of a sample: "sum" is the log-density;
        "mean", which published codes use with clip ranges as small as 1e-4, a root of
        it.
      plan: How guidance batches its branches, "auto" or "fused"; see `guided`.
      process: Noise process; None takes the denoiser's.

    Returns:
      The trajectory; the samples are ``states[:, -1]``. A step without noise, as the
      last one to clean data often is, has no density: it has mask 0, log-probability 0
      and no gradient.

    Raises:
      ValueError: A sampler without noise, or an unknown reduction.
    """
    process = process_of(denoiser, process)
    _require(sampler, reduce)
    first = initial_state(keys, process, jnp.asarray(grid, jnp.float32)[0], x)
    _, (after, transition) = sample(
        keys,
        denoiser,
        sampler,
        grid,
        first,
        cond,
        guidance=guidance,
        ref=ref,
        trace=lambda info: (info.x_next, info.transition),
        plan=plan,
        process=process,
    )
    states = jnp.concatenate([first[:, None], jnp.moveaxis(after, 0, 1)], axis=1)
    return jax.lax.stop_gradient(_scored(states, transition, reduce))


def rescore(
    keys: Array,
    denoiser: Denoiser | Sequence[Denoiser],
    sampler: Sampler,
    grid: Any,
    states: Array,
    cond: PyTree = None,
    *,
    guidance: Any = None,
    ref: PyTree = None,
    reduce: Reduction = "mean",
    plan: str = "auto",
    remat: bool = False,
    process: Process | None = None,
) -> Trajectory:
    """Scores stored states under other parameters; differentiate this one.

    Args:
      keys: Typed keys ``[B]`` of the roll-out.
      denoiser: Network with the parameters that are scored, or a tuple of networks.
      sampler: Solver of the roll-out.
      grid: Times ``[K + 1]`` of the roll-out.
      states: `Trajectory.states`, ``[B, K + 1, *S]``, treated as constants.
      cond: Condition pytree of the roll-out, every leaf ``[B, ...]``.
      guidance: Guidance of the roll-out; its weights may be other ones.
      ref: Reference pytree of the roll-out, whose leaves lead with ``K``.
      reduce: Reduction over the elements of a sample, "mean" or "sum"; see `rollout`.
      plan: How guidance batches its branches, "auto" or "fused"; see `guided`.
      remat: Whether to recompute each step on the backward pass, which holds the
        activations of one step and not of K.
      process: Noise process; None takes the denoiser's.

    Returns:
      The same states with the steps' distributions under these parameters.

    Raises:
      ValueError: States that do not fit the grid, a sampler without noise, or an
        unknown reduction.
    """
    process = process_of(denoiser, process)
    _require(sampler, reduce)
    steps = jnp.shape(grid)[0] - 1
    if jnp.ndim(states) < 2 or states.shape[1] != steps + 1:
        raise ValueError(
            f"states has shape {jnp.shape(states)}; expected [B, {steps + 1}, *S] for "
            f"a grid of {steps} steps"
        )
    states = jax.lax.stop_gradient(at_least_float32(states))

    def step(denoise, x, state, guidance_state, interval):
        x = jax.lax.dynamic_index_in_dim(states, interval.index, 1, keepdims=False)
        return sampler.step(denoise, x, state, guidance_state, interval)

    _, transition = sample(
        keys,
        denoiser,
        sampler._replace(step=step, stochastic=False),
        grid,
        states[:, 0],
        cond,
        guidance=guidance,
        ref=ref,
        trace=lambda info: info.transition,
        plan=plan,
        remat=remat,
        process=process,
    )
    return _scored(states, transition, reduce)


def step_log_prob(
    transition: Transition, x: Array, reduce: Reduction = "mean"
) -> Array:
    """``log N(x; mean, std^2 I)``, and 0 with gradient 0 where ``std`` is 0.

    Args:
      transition: Distribution of the step, ``mean [B, *S]``, ``std`` scalar or ``[B]``.
      x: State after the step ``[B, *S]``.
      reduce: Reduction over the elements of a sample, "mean" or "sum"; see `rollout`.

    Returns:
      Float32 ``[B]``, also for a transition or a state in half precision.
    """
    std = jnp.broadcast_to(transition.std, x.shape[:1])
    some = std > 0
    total = log_prob(Transition(transition.mean, jnp.where(some, std, 1)), x)
    return jnp.where(some, _reduced(total, x, reduce), 0)


def step_kl(p: Transition, q: Transition, reduce: Reduction = "mean") -> Array:
    """``KL(p || q)`` of each step, and 0 with gradient 0 where either has no noise.

    Under one solver ``std`` is the same and it is ``|m_p - m_q|^2 / (2 std^2)``.

    Args:
      p: `Trajectory.transition` of the trained policy.
      q: `Trajectory.transition` of the reference policy, on the same states.
      reduce: Reduction over the elements of a sample: "sum" is the divergence, "mean"
        divides it by their number.

    Returns:
      Divergence of each step ``[B, K]``.

    Raises:
      ValueError: Transitions of other states.
    """
    require_shape("q.mean", q.mean, p.mean.shape)
    some = (p.std > 0) & (q.std > 0)
    p, q = (Transition(each.mean, jnp.where(some, each.std, 1)) for each in (p, q))
    total = jax.vmap(kl, 1, 1)(p, q)
    return jnp.where(some, _reduced(total, p.mean[:, 0], reduce), 0)


def _reduced(total, x, reduce):
    return total / (x.size // x.shape[0]) if reduce == "mean" else total


def _scored(states, transition, reduce):
    """The trajectory from transitions that lead with the step."""
    mean = jnp.moveaxis(transition.mean, 0, 1)
    std = transition.std
    std = jnp.broadcast_to(std[None] if std.ndim == 1 else std.T, mean.shape[:2])
    steps = Transition(mean, std)
    score = jax.vmap(lambda step, x: step_log_prob(step, x, reduce), 1, 1)
    mask = (std > 0).astype(jnp.float32)
    return Trajectory(states, score(steps, states[:, 1:]), mask, steps)


def _require(sampler, reduce):
    if reduce not in ("mean", "sum"):
        raise ValueError(f"reduce is {reduce!r}; expected 'mean' or 'sum'")
    if isinstance(sampler, Sampler) and not sampler.stochastic:
        raise ValueError(
            "sampler draws no noise, so its steps have no density; expected a "
            "stochastic one, such as ddim(1.0) or flow_sde()"
        )
