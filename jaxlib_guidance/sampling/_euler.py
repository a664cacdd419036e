"""Euler, Heun and EDM's stochastic sampler."""

import math
from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.sampling._ddim import ddim
from jaxlib_guidance.sampling._sampler import Sampler, Stepped, stateless
from jaxlib_guidance.sampling._spaces import (
    Level,
    Space,
    clock,
    moments,
    predicted,
    require_space,
    root,
)
from jaxlib_guidance.transition import Transition
from jaxlib_guidance.types import expand


def euler() -> Sampler:
    """Euler in ``sigma / alpha``, which is DDIM, and is Euler for a flow's velocity."""
    return ddim(0.0)


def euler_ancestral(eta: Any = 1.0) -> Sampler:
    """Ancestral Euler: Euler to a lower noise, then noise up again; DDIM with ``eta``.

    k-diffusion's ``sigma_up`` is DDIM's ``std`` and its ``sigma_down`` is
    ``sqrt(sigma'^2 - std^2)``, so the two are one sampler.

    Args:
      eta: Share of the posterior's standard deviation; scalar, may be traced.
    """
    return ddim(eta)


def heun(space: Space = "flow") -> Sampler:
    """Heun's method: Euler, then the mean of the slopes at both ends of the step.

    ``y' = y + h (f(y, c) + f(y + h f, c + h)) / 2`` in the space's ``y`` and clock. A
    step to zero noise takes its second slope in the middle, so the network is never
    asked about clean data and no order is lost.

    Args:
      space: "flow" or "sigma"; the latter is EDM's, and poor for few steps.

    Raises:
      ValueError: Another space.

    Reference: Karras et al., arXiv 2206.00364, algorithm 1 (in "sigma").
    """
    return edm(space=space)


def edm(
    churn: Any = 0.0,
    low: float = 0.0,
    high: float = math.inf,
    s_noise: Any = 1.0,
    *,
    second_order: bool = True,
    space: Space = "sigma",
) -> Sampler:
    """EDM's stochastic sampler: raise the noise by ``churn``, then Heun or Euler.

    A step from noise ratio ``rho = sigma / alpha`` starts at ``(1 + churn) rho``. So
    that every step is a Gaussian, the noise that raises a step is drawn at the end of
    the step before it: a state inside the trajectory sits at its time's *raised* noise.
    The first state is given and is not raised; start from a larger time instead.

    Args:
      churn: ``gamma``, at most ``sqrt(2) - 1``; EDM's ``S_churn / N``. Scalar, may be
        traced.
      low: ``S_min``, in ``sigma / alpha``: below it no noise is added.
      high: ``S_max``, likewise.
      s_noise: ``S_noise``, a factor on the added noise.
      second_order: Heun, or Euler with one evaluation.
      space: Where Heun's slopes are averaged, "sigma" or "flow".

    Raises:
      ValueError: Another space, or a ``churn`` out of range.

    Reference: Karras et al., arXiv 2206.00364, algorithm 2.
    """
    require_space(space, ("flow", "sigma"))
    known = isinstance(churn, (int, float))
    if known and not 0 <= churn < 0.4143:
        raise ValueError(f"churn is {churn}; expected 0 to sqrt(2) - 1")
    stochastic = not (known and churn == 0)

    def step(denoise, x, state, guidance_state, interval):
        process, t_next = interval.process, interval.t_next
        t, start = interval.t, Level(interval.alpha, interval.sigma)
        end = Level(interval.alpha_next, interval.sigma_next)
        if stochastic:
            gain = jnp.where(interval.index == 0, 0, churn)
            t, start = _raised(process, t, start, gain, low, high)
        x0, guidance_state = denoise(x, t, guidance_state)
        eps = (x - expand(start.alpha, x) * x0) / expand(start.sigma, x)
        mean = expand(end.alpha, x) * x0 + expand(end.sigma, x) * eps
        if second_order:
            # Clean data is never evaluated: a last step looks half-way instead.
            last = end.sigma == 0
            half = clock(space, start) / 2
            ratio = half if space == "sigma" else half / (1 - half)
            t_half = process.t_of_logsnr(-2 * jnp.log(jnp.where(last, ratio, 1)))
            t_inner = jnp.where(last, t_half, t_next)
            alpha, sigma = process.alpha(t_inner), process.sigma(t_inner)
            inner = expand(alpha, x) * x0 + expand(sigma, x) * eps
            x0_inner, guidance_state = denoise(inner, t_inner, guidance_state)
            eps_inner = (inner - expand(alpha, x) * x0_inner) / expand(sigma, x)
            rise = predicted(space, x0_inner, eps_inner) - predicted(space, x0, eps)
            (span,) = moments(space, start, end, 1)
            if space == "sigma":
                # An infinite step has no second order.
                span = jnp.where((start.alpha > 0) & (end.alpha > 0), span, 0)
            mean += expand(jnp.where(last, span, span / 2), x) * rise
        std = jnp.zeros_like(end.sigma)
        if stochastic:
            _, up = _raised(process, t_next, end, churn, low, high)
            grown = up.alpha / end.alpha
            kept = grown * end.sigma
            # Not a difference of squares, which fused is not exactly 0 when unraised.
            std = s_noise * root((up.sigma - kept) * (up.sigma + kept))
            mean = expand(grown, x) * mean
        return Stepped(Transition(mean, std), x0, state, guidance_state)

    return Sampler(
        stateless,
        step,
        stochastic=stochastic,
        evaluations=2 if second_order else 1,
        reversible=not stochastic,
    )


def _raised(process, t, level, churn, low, high):
    """The time and level at ``1 + churn`` times the noise, where noise may be added."""
    alpha, sigma, _ = level
    top = jnp.asarray(process.t_max, t.dtype)
    # The network is not asked beyond the largest time it knows.
    inside = (1 + churn) * sigma * process.alpha(top) <= process.sigma(top) * alpha
    inside &= (alpha > 0) & (sigma > 0)
    rho = sigma / jnp.where(alpha > 0, alpha, 1)
    inside &= (low <= rho) & (rho <= high) & (churn > 0)
    raised = process.t_of_logsnr(-2 * jnp.log((1 + churn) * jnp.where(inside, rho, 1)))
    raised = jnp.where(inside, raised, t)
    return raised, Level(
        jnp.where(inside, process.alpha(raised), alpha),
        jnp.where(inside, process.sigma(raised), sigma),
    )
