"""Euler, Heun and EDM's stochastic sampler."""

import math
from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.reduce import sqrt
from jaxlib_guidance.sampling._checks import is_zero
from jaxlib_guidance.sampling._ddim import ddim
from jaxlib_guidance.sampling._sampler import Level, Sampler, Stepped, stateless
from jaxlib_guidance.sampling._spaces import (
    Space,
    clock,
    eps_of,
    moments,
    predicted,
    require_space,
)
from jaxlib_guidance.transition import Transition
from jaxlib_guidance.types import expand


def euler() -> Sampler:
    """Euler in ``sigma / alpha``, which is DDIM, and is Euler for a flow's velocity.

    Returns:
      The solver, with one evaluation a step.

    Example:
      >>> import jax
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x, jg.VPCosine())
      >>> keys = jg.sample_keys(jax.random.key(0), 4)
      >>> x, _ = jg.sample(keys, denoiser, jg.euler(), [0.9, 0.5, 0.0], (8,))
      >>> x.shape
      (4, 8)
    """
    return ddim(0.0)


def euler_ancestral(eta: Any = 1.0) -> Sampler:
    """Ancestral Euler: Euler to a lower noise, then noise up again; DDIM with ``eta``.

    k-diffusion's ``sigma_up`` is DDIM's ``std`` and its ``sigma_down`` is
    ``sqrt(sigma'^2 - std^2)``, so the two are one sampler.

    Args:
      eta: Share of the posterior's standard deviation, a scalar, which may be traced.
        The default 1 is ancestral sampling, 0 is deterministic.

    Returns:
      The solver, with one evaluation a step.

    Example:
      >>> import jax
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x, jg.VPCosine())
      >>> keys = jg.sample_keys(jax.random.key(0), 4)
      >>> x, _ = jg.sample(keys, denoiser, jg.euler_ancestral(), [0.9, 0.5, 0.0], (8,))
      >>> x.shape
      (4, 8)
    """
    return ddim(eta)


def heun(space: Space = "flow") -> Sampler:
    """Heun's method: Euler, then the mean of the slopes at both ends of the step.

    ``y' = y + h (f(y, c) + f(y + h f, c + h)) / 2`` in the space's ``y`` and clock. A
    step to zero noise takes its second slope in the middle, so the network is never
    asked about clean data and no order is lost.

    Args:
      space: Where the slopes are averaged: "flow", or "sigma", which is EDM's and poor
        for few steps.

    Returns:
      The solver, with two evaluations a step.

    Raises:
      ValueError: Another space.

    Example:
      >>> import jax
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x, jg.VPCosine())
      >>> keys = jg.sample_keys(jax.random.key(0), 4)
      >>> x, _ = jg.sample(keys, denoiser, jg.heun(), [0.9, 0.5, 0.0], (8,))
      >>> x.shape
      (4, 8)

    Reference: Karras et al., arXiv 2206.00364, algorithm 1 (in "sigma").
    """
    return edm(space=space)


def edm(
    s_churn: Any = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: Any = 1.0,
    *,
    second_order: bool = True,
    space: Space = "sigma",
) -> Sampler:
    """EDM's stochastic sampler: raise the noise by ``gamma``, then Heun or Euler.

    A step from noise ratio ``rho = sigma / alpha`` starts at ``(1 + gamma) rho`` with
    ``gamma = min(s_churn / N, sqrt(2) - 1)`` over a grid of ``N`` steps. So that every
    step is a Gaussian, the noise that raises a step is drawn at the end of the step
    before it: a state inside the trajectory sits at its time's *raised* noise. The
    first state is given and is not raised; start from a larger time instead.

    Args:
      s_churn: Amount of noise that is added over the whole grid, a scalar, which may be
        traced; the default 0 is deterministic.
      s_tmin: Noise ratio ``sigma / alpha`` below which no noise is added.
      s_tmax: Noise ratio ``sigma / alpha`` above which no noise is added.
      s_noise: Factor on the standard deviation of the added noise.
      second_order: Whether to take Heun's second slope; False is Euler, with one
        evaluation a step.
      space: Where Heun's slopes are averaged, "sigma" or "flow".

    Returns:
      The solver, with two evaluations a step, or one without ``second_order``.

    Raises:
      ValueError: Another space, or a known ``s_churn`` below 0.

    Example:
      >>> import jax
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x, jg.VPCosine())
      >>> keys = jg.sample_keys(jax.random.key(0), 4)
      >>> x, _ = jg.sample(keys, denoiser, jg.edm(s_churn=0.5), [0.9, 0.5, 0.0], (8,))
      >>> x.shape
      (4, 8)

    Reference: Karras et al., arXiv 2206.00364, algorithm 2.
    """
    require_space(space, ("flow", "sigma"))
    if isinstance(s_churn, (int, float)) and not s_churn >= 0:
        raise ValueError(f"s_churn is {s_churn}; expected a number of at least 0")
    stochastic = not is_zero(s_churn)

    def step(denoise, x, state, guidance_state, interval):
        process, t_next = interval.process, interval.t_next
        t, start, end = interval.t, interval.start, interval.end
        steps = jnp.asarray(interval.index + interval.left, x.dtype)
        churn = jnp.minimum(s_churn / steps, math.sqrt(2) - 1)
        if stochastic:
            gamma = jnp.where(interval.index == 0, 0, churn)
            t, start = _raised(process, t, start, gamma, s_tmin, s_tmax)
        x0, guidance_state = denoise(x, t, guidance_state)
        eps = eps_of(x, x0, start)
        mean = expand(end.alpha, x) * x0 + expand(end.sigma, x) * eps
        if second_order:
            # Clean data is never evaluated: a last step looks half-way instead.
            last = end.sigma == 0
            half = clock(space, start) / 2
            ratio = half if space == "sigma" else half / (1 - half)
            t_half = process.t_of_logsnr(-2 * jnp.log(jnp.where(last, ratio, 1)))
            t_inner = jnp.where(last, t_half, t_next)
            level = Level(process.alpha(t_inner), process.sigma(t_inner))
            inner = expand(level.alpha, x) * x0 + expand(level.sigma, x) * eps
            x0_inner, guidance_state = denoise(inner, t_inner, guidance_state)
            eps_inner = eps_of(inner, x0_inner, level)
            rise = predicted(space, x0_inner, eps_inner) - predicted(space, x0, eps)
            (span,) = moments(space, start, end, 1)
            if space == "sigma":
                # An infinite step has no second order.
                span = jnp.where((start.alpha > 0) & (end.alpha > 0), span, 0)
            mean += expand(jnp.where(last, span, span / 2), x) * rise
        std = jnp.zeros_like(end.sigma)
        if stochastic:
            _, up = _raised(process, t_next, end, churn, s_tmin, s_tmax)
            grown = up.alpha / end.alpha
            kept = grown * end.sigma
            # Not a difference of squares, which fused is not exactly 0 when unraised.
            std = s_noise * sqrt(jnp.maximum((up.sigma - kept) * (up.sigma + kept), 0))
            mean = expand(grown, x) * mean
        return Stepped(Transition(mean, std), x0, state, guidance_state)

    return Sampler(
        stateless,
        step,
        stochastic=stochastic,
        evaluations=2 if second_order else 1,
        reversible=not stochastic,
    )


def _raised(process, t, level, gamma, s_tmin, s_tmax):
    """The time and level at ``1 + gamma`` times the noise, where noise may be added."""
    alpha, sigma, _ = level
    top = jnp.asarray(process.t_max, t.dtype)
    # The network is not asked beyond the largest time it knows.
    inside = (1 + gamma) * sigma * process.alpha(top) <= process.sigma(top) * alpha
    inside &= (alpha > 0) & (sigma > 0)
    rho = sigma / jnp.where(alpha > 0, alpha, 1)
    inside &= (s_tmin <= rho) & (rho <= s_tmax) & (gamma > 0)
    raised = process.t_of_logsnr(-2 * jnp.log((1 + gamma) * jnp.where(inside, rho, 1)))
    raised = jnp.where(inside, raised, t)
    return raised, Level(
        jnp.where(inside, process.alpha(raised), alpha),
        jnp.where(inside, process.sigma(raised), sigma),
    )
