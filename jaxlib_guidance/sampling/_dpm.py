"""DPM-Solver++: exponential integrators in log-SNR for x0, and their SDE variants."""

from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.reduce import sqrt
from jaxlib_guidance.sampling._checks import is_zero, require_between
from jaxlib_guidance.sampling._ddim import posterior
from jaxlib_guidance.sampling._multistep import multistep
from jaxlib_guidance.sampling._sampler import Level, Sampler, Stepped, stateless
from jaxlib_guidance.sampling._spaces import clock, eps_of, half_logsnr, moments
from jaxlib_guidance.transition import Transition
from jaxlib_guidance.types import expand


def dpmpp_2m(eta: Any = 0.0) -> Sampler:
    """DPM-Solver++ 2M; with ``eta > 0`` SDE-DPM-Solver++ 2M.

    ``x' = sigma'/sigma e^(-eta h) x + alpha' (1 - e^(-(1 + eta) h)) D`` plus noise of
    std ``sigma' sqrt(1 - e^(-2 eta h))``, ``D = x0 + (x0 - x0_prev) h / (2 h_prev)``
    and h the step in ``log(alpha / sigma)``. A step to zero noise takes ``D = x0``.

    Args:
      eta: Level of noise, a scalar, which may be traced; the default 0 is the ODE, 1
        the reverse-time SDE.

    Returns:
      The solver, with one evaluation a step.

    Example:
      >>> import jax
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x, jg.VPCosine())
      >>> keys = jg.sample_keys(jax.random.key(0), 4)
      >>> x, _ = jg.sample(keys, denoiser, jg.dpmpp_2m(), [0.9, 0.5, 0.0], (8,))
      >>> x.shape
      (4, 8)

    Reference: Lu et al., arXiv 2211.01095, algorithm 2 and appendix A (SDE).
    """
    require_between(eta, "eta", 0)
    return multistep("logsnr", 2, midpoint=True, eta=eta)


def dpmpp_3m(eta: Any = 0.0) -> Sampler:
    """DPM-Solver++ 3M; with ``eta > 0`` k-diffusion's DPM++ 3M SDE.

    The parabola through the last three estimates of x0 in ``log(alpha / sigma)``,
    integrated exactly, hence of order three. (diffusers and k-diffusion count its
    curvature by half, and converge with order two.) The step before the last takes a
    straight line, a step to zero noise ``x0``.

    Args:
      eta: Level of noise, a scalar, which may be traced; the default 0 is the ODE, 1
        the reverse-time SDE.

    Returns:
      The solver, with one evaluation a step.

    Example:
      >>> import jax
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x, jg.VPCosine())
      >>> keys = jg.sample_keys(jax.random.key(0), 4)
      >>> x, _ = jg.sample(keys, denoiser, jg.dpmpp_3m(), [0.9, 0.5, 0.0], (8,))
      >>> x.shape
      (4, 8)

    Reference: Lu et al., arXiv 2211.01095, section 4.2, at order 3.
    """
    require_between(eta, "eta", 0)
    return multistep("logsnr", 3, eta=eta)


def dpmpp_2s(eta: Any = 0.0) -> Sampler:
    """DPM-Solver++ 2S: one step, two evaluations, the second in the middle.

    With ``eta > 0`` the step goes to ``sqrt(sigma'^2 - std^2)`` and noise of DDIM's
    ``std`` brings it back to ``sigma'``, as in k-diffusion's 2S ancestral.

    Args:
      eta: Share of the posterior's standard deviation, a scalar, which may be traced;
        the default 0 is deterministic.

    Returns:
      The solver, with two evaluations a step.

    Example:
      >>> import jax
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x, jg.VPCosine())
      >>> keys = jg.sample_keys(jax.random.key(0), 4)
      >>> x, _ = jg.sample(keys, denoiser, jg.dpmpp_2s(), [0.9, 0.5, 0.0], (8,))
      >>> x.shape
      (4, 8)

    Reference: Lu et al., arXiv 2211.01095, algorithm 1 with ``r = 1/2``.
    """
    require_between(eta, "eta", 0, 1)
    stochastic = not is_zero(eta)

    def step(denoise, x, state, guidance_state, interval):
        x0, guidance_state = denoise(x, interval.t, guidance_state)
        process = interval.process
        plain = posterior(x, x0, interval, eta)
        start = interval.start
        spread = sqrt(jnp.maximum(interval.end.sigma**2 - plain.std**2, 0))
        end = interval.end._replace(sigma=spread)
        # An infinite step has no middle in log-SNR; it has one in "flow".
        ends = (start.alpha > 0) & (end.alpha > 0) & (end.sigma > 0)
        middle = (half_logsnr(start) + half_logsnr(end)) / 2
        tau = (clock("flow", start) + clock("flow", end)) / 2
        middle = jnp.where(ends, middle, jnp.log1p(-tau) - jnp.log(tau))
        t = process.t_of_logsnr(2 * middle)
        level = Level(process.alpha(t), process.sigma(t))
        eps = eps_of(x, x0, start)
        inner = expand(level.alpha, x) * x0 + expand(level.sigma, x) * eps
        x0_inner, guidance_state = denoise(inner, t, guidance_state)
        eps_inner = eps_of(inner, x0_inner, level)
        (by_logsnr,) = moments("logsnr", start, end, 1)
        (by_flow,) = moments("flow", start, end, 1)
        mean = plain.mean + jnp.where(
            expand(ends, x),
            expand(by_logsnr, x) * (x0_inner - x0),
            expand(by_flow, x) * (eps_inner - x0_inner - eps + x0),
        )
        return Stepped(Transition(mean, plain.std), x0, state, guidance_state)

    return Sampler(
        stateless,
        step,
        stochastic=stochastic,
        evaluations=2,
        reversible=not stochastic,
    )
