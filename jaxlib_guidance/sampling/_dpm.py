"""DPM-Solver++: exponential integrators in log-SNR for x0, and their SDE variants."""

from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.sampling._ddim import posterior
from jaxlib_guidance.sampling._multistep import multistep
from jaxlib_guidance.sampling._sampler import Sampler, Stepped, stateless
from jaxlib_guidance.sampling._spaces import Level, clock, half_logsnr, moments, root
from jaxlib_guidance.transition import Transition
from jaxlib_guidance.types import expand


def dpmpp_2m(eta: Any = 0.0) -> Sampler:
    """DPM-Solver++ 2M; with ``eta > 0`` SDE-DPM-Solver++ 2M.

    ``x' = sigma'/sigma e^(-eta h) x + alpha' (1 - e^(-(1 + eta) h)) D`` plus noise of
    std ``sigma' sqrt(1 - e^(-2 eta h))``, ``D = x0 + (x0 - x0_prev) h / (2 h_prev)``
    and h the step in ``log(alpha / sigma)``. A step to zero noise takes ``D = x0``.

    Args:
      eta: 0 is the ODE, 1 the reverse-time SDE; scalar, may be traced.

    Reference: Lu et al., arXiv 2211.01095, algorithm 2 and appendix A (SDE).
    """
    return multistep("logsnr", 2, midpoint=True, eta=eta)


def dpmpp_3m(eta: Any = 0.0) -> Sampler:
    """DPM-Solver++ 3M; with ``eta > 0`` k-diffusion's DPM++ 3M SDE.

    The parabola through the last three estimates of x0 in ``log(alpha / sigma)``,
    integrated exactly, hence of order three. (diffusers and k-diffusion count its
    curvature by half, and converge with order two.) The step before the last takes a
    straight line, a step to zero noise ``x0``.

    Args:
      eta: 0 is the ODE, 1 the reverse-time SDE; scalar, may be traced.

    Reference: Lu et al., arXiv 2211.01095, section 4.2, at order 3.
    """
    return multistep("logsnr", 3, eta=eta)


def dpmpp_2s(eta: Any = 0.0) -> Sampler:
    """DPM-Solver++ 2S: one step, two evaluations, the second in the middle.

    With ``eta > 0`` the step goes to ``sqrt(sigma'^2 - std^2)`` and noise of DDIM's
    ``std`` brings it back to ``sigma'``, as in k-diffusion's 2S ancestral.

    Args:
      eta: Share of the posterior's standard deviation; scalar, may be traced.

    Reference: Lu et al., arXiv 2211.01095, algorithm 1 with ``r = 1/2``.
    """
    stochastic = not (isinstance(eta, (int, float)) and eta == 0)

    def step(denoise, x, state, guidance_state, interval):
        x0, guidance_state = denoise(x, interval.t, guidance_state)
        process = interval.process
        law = posterior(x, x0, interval, eta)
        start = Level(interval.alpha, interval.sigma)
        spread = root(interval.sigma_next**2 - law.std**2)
        end = Level(interval.alpha_next, spread)
        # An infinite step has no middle in log-SNR; it has one in "flow".
        ends = (start.alpha > 0) & (end.alpha > 0) & (end.sigma > 0)
        middle = (half_logsnr(start) + half_logsnr(end)) / 2
        tau = (clock("flow", start) + clock("flow", end)) / 2
        middle = jnp.where(ends, middle, jnp.log1p(-tau) - jnp.log(tau))
        t = process.t_of_logsnr(2 * middle)
        alpha, sigma = process.alpha(t), process.sigma(t)
        eps = (x - expand(start.alpha, x) * x0) / expand(start.sigma, x)
        inner = expand(alpha, x) * x0 + expand(sigma, x) * eps
        x0_inner, guidance_state = denoise(inner, t, guidance_state)
        eps_inner = (inner - expand(alpha, x) * x0_inner) / expand(sigma, x)
        (by_logsnr,) = moments("logsnr", start, end, 1)
        (by_flow,) = moments("flow", start, end, 1)
        mean = law.mean + jnp.where(
            expand(ends, x),
            expand(by_logsnr, x) * (x0_inner - x0),
            expand(by_flow, x) * (eps_inner - x0_inner - eps + x0),
        )
        return Stepped(Transition(mean, law.std), x0, state, guidance_state)

    return Sampler(
        stateless,
        step,
        stochastic=stochastic,
        evaluations=2,
        reversible=not stochastic,
    )
