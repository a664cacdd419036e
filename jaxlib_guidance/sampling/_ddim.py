"""DDIM and DDPM: the exact Gaussian step between two times."""

from typing import Any

from jaxlib_guidance.sampling._sampler import Interval, Sampler, Stepped, stateless
from jaxlib_guidance.sampling._spaces import Level, decay, root
from jaxlib_guidance.transition import Transition
from jaxlib_guidance.types import Array, expand


def posterior(x: Array, x0: Array, interval: Interval, eta: Any) -> Transition:
    """``q_eta(x_next | x, x0)``, the DDIM family, for any process.

    ``mean = alpha' x0 + sqrt(sigma'^2 - std^2) (x - alpha x0) / sigma``,
    ``std = eta sigma' sqrt(1 - r^2)`` with ``r = (sigma' / alpha') / (sigma / alpha)``,
    which is eq. 16 of arXiv 2010.02502 when ``alpha^2 + sigma^2 = 1``.

    Args:
      x: State ``[B, *S]``.
      x0: Estimate ``[B, *S]``.
      interval: The step.
      eta: 0 is the ODE, 1 the DDPM posterior.
    """
    alpha, sigma, alpha_next, sigma_next = interval[3:7]
    ratio = decay(Level(alpha, sigma), Level(alpha_next, sigma_next), 1)
    std = eta * sigma_next * root(1 - ratio**2)
    direction = root(sigma_next**2 - std**2) / sigma
    keep, take = expand(direction, x), expand(alpha_next - direction * alpha, x)
    return Transition(keep * x + take * x0, std)


def ddim(eta: Any = 0.0) -> Sampler:
    """DDIM: first-order step that is exact when the estimate of x0 is.

    ``x' = alpha' x0 + sqrt(sigma'^2 - s^2) eps + s z`` with
    ``s = eta sigma' sqrt(1 - r^2)`` and ``r = alpha sigma' / (alpha' sigma)``. At
    ``eta = 0`` this is the first-order exponential integrator (DPM-Solver++ 1); at 1 it
    is ancestral DDPM sampling.

    Args:
      eta: Share of the posterior's standard deviation; scalar, may be traced.

    Reference: Song et al., arXiv 2010.02502, eq. 12 and 16.
    """
    stochastic = not (isinstance(eta, (int, float)) and eta == 0)

    def step(denoise, x, state, guidance_state, interval):
        x0, guidance_state = denoise(x, interval.t, guidance_state)
        return Stepped(posterior(x, x0, interval, eta), x0, state, guidance_state)

    return Sampler(stateless, step, stochastic=stochastic, reversible=not stochastic)


def ddpm() -> Sampler:
    """Ancestral sampling with the posterior variance; DDIM at ``eta = 1``.

    Reference: Ho et al., arXiv 2006.11239, algorithm 2 (``sigma_t^2 = beta~_t``).
    """
    return ddim(1.0)
