"""Flow-GRPO's step: a flow's ODE turned into an SDE with the same marginals."""

from typing import Any, Literal, get_args

import jax.numpy as jnp

from jaxlib_guidance.sampling._checks import is_zero
from jaxlib_guidance.sampling._sampler import Interval, Sampler, Stepped, stateless
from jaxlib_guidance.sampling._spaces import clock, eps_of
from jaxlib_guidance.transition import Transition
from jaxlib_guidance.types import Array, expand

Noise = Literal["odds", "constant"]


def flow_step(
    x: Array, x0: Array, interval: Interval, a: Any, noise: Noise = "odds"
) -> Transition:
    """One Euler-Maruyama step of ``dx = (v + s^2 eps / (2 t)) dt + s dw``, backwards.

    On the straight path ``x = (1 - t) x0 + t eps``, ``v = eps - x0``, with
    ``d = t' - t`` negative:

    ``mean = x (1 + s^2 d / (2 t)) + v (1 + s^2 (1 - t) / (2 t)) d``,
    ``std = s sqrt(-d)``.

    Every process is such a path after ``x / (alpha + sigma)``, with
    ``t = sigma / (alpha + sigma)``; the step is taken there. The `step_kl` of two such
    steps is ``(-d / 2) (s (1 - t) / (2 t) + 1 / s)^2 |v - v_ref|^2``.

    Args:
      x: State ``[B, *S]``.
      x0: Estimate of the data ``[B, *S]``.
      interval: Step of the time grid.
      a: Level of noise, a scalar; 0 is Euler's ODE step.
      noise: How the noise depends on time, "odds" or "constant".
        ``s = a sqrt(t / (1 - t))`` for "odds" (Flow-GRPO), with ``1 - t'`` in the
        first step if that is longer than ``1 - t``: at ``t = 1`` the noise would be
        infinite, and nearly so where other processes begin; a grid that starts a step
        or more inside has the formula. ``s = a`` for "constant" (DanceGRPO).

    Returns:
      Distribution of the next state: mean ``[B, *S]`` and standard deviation.

    Reference: Liu et al., Flow-GRPO, arXiv 2505.05470, eq. 9; Xue et al., DanceGRPO,
    arXiv 2505.07818.
    """
    t, t_next = clock("flow", interval.start), clock("flow", interval.end)
    d = t_next - t
    start = (interval.index == 0) & (1 - t < -d)
    left = 1 - jnp.where(start, t_next, t)
    s = a * (jnp.sqrt(t / left) if noise == "odds" else jnp.ones_like(t))
    scale = interval.start.alpha + interval.start.sigma
    scale_next = interval.end.alpha + interval.end.sigma
    eps = eps_of(x, x0, interval.start)
    drift = eps - x0 + expand(s**2 / (2 * t), x) * eps
    mean = expand(scale_next, x) * (x / expand(scale, x) + expand(d, x) * drift)
    return Transition(mean, scale_next * s * jnp.sqrt(-d))


def flow_sde(a: Any = 0.7, *, noise: Noise = "odds") -> Sampler:
    """The stochastic sampler of Flow-GRPO, on any noise process; a policy to train.

    Unlike DDIM at ``eta = 1`` it draws noise in the last step too, and at few steps its
    samples are noisier than the data: train with it, sample with an ODE.

    Args:
      a: Level of noise, a scalar, which may be traced. Flow-GRPO uses the default 0.7,
        DanceGRPO a constant 0.3.
      noise: How the noise depends on time, "odds" or "constant"; see `flow_step`.

    Returns:
      The solver, with one evaluation a step.

    Raises:
      ValueError: An unknown kind of noise.

    Reference: Liu et al., arXiv 2505.05470, section 4.2.
    """
    if noise not in get_args(Noise):
        raise ValueError(f"noise is {noise!r}; expected one of {get_args(Noise)}")
    stochastic = not is_zero(a)

    def step(denoise, x, state, guidance_state, interval):
        x0, guidance_state = denoise(x, interval.t, guidance_state)
        return Stepped(flow_step(x, x0, interval, a, noise), x0, state, guidance_state)

    return Sampler(stateless, step, stochastic=stochastic)
