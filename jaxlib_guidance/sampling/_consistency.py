"""Few-step sampling of consistency models: to data, and back to a lower noise level.

The network must be a consistency function, ``f(x_t, t) =`` the end point of the
probability flow through ``x_t``. With a posterior-mean network these samplers are
biased at any number of steps: use a solver instead.
"""

from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.reduce import sqrt
from jaxlib_guidance.sampling._checks import is_zero
from jaxlib_guidance.sampling._sampler import Sampler, Stepped, stateless
from jaxlib_guidance.transition import Transition
from jaxlib_guidance.types import expand


def consistency(gamma: Any = 1.0) -> Sampler:
    """Multistep consistency sampling; LCM at ``gamma = 1``, TCD below.

    Deterministic to time ``s = (1 - gamma) t'``, then noise from ``s`` to ``t'``:
    ``x' = alpha' x0 + kappa (x - alpha x0) / sigma + sqrt(sigma'^2 - kappa^2) z`` with
    ``kappa = alpha' sigma(s) / alpha(s)``. At ``gamma = 1`` that is fresh noise,
    ``alpha' x0 + sigma' z``; at 0 it is DDIM. Networks distilled as plain consistency
    models want 1; those distilled as trajectory models (TCD) take any value.

    Args:
      gamma: Share of the way to data that is given back to noise, in [0, 1]; a scalar,
        which may be traced. The default 1 draws fresh noise in every step.

    Returns:
      The solver, with one evaluation a step.

    Raises:
      ValueError: A known ``gamma`` outside [0, 1].

    Example:
      >>> import jax
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x, jg.VPCosine())
      >>> keys = jg.sample_keys(jax.random.key(0), 4)
      >>> x, _ = jg.sample(keys, denoiser, jg.consistency(), [0.9, 0.5, 0.0], (8,))
      >>> x.shape
      (4, 8)

    Reference: Song et al., arXiv 2303.01469, algorithm 1; Luo et al., LCM, 2310.04378,
      algorithm 3; Zheng et al., TCD, 2402.19159, section 4.2.
    """
    if isinstance(gamma, (int, float)) and not 0 <= gamma <= 1:
        raise ValueError(f"gamma is {gamma}; expected a number from 0 to 1")

    def step(denoise, x, state, guidance_state, interval):
        x0, guidance_state = denoise(x, interval.t, guidance_state)
        (alpha, sigma, _), (alpha_next, sigma_next, _) = interval.start, interval.end
        s = (1 - gamma) * interval.t_next
        kappa = alpha_next * interval.process.sigma(s) / interval.process.alpha(s)
        keep, take = (
            expand(kappa / sigma, x),
            expand(alpha_next - kappa / sigma * alpha, x),
        )
        std = sqrt(jnp.maximum(sigma_next**2 - kappa**2, 0))
        return Stepped(Transition(keep * x + take * x0, std), x0, state, guidance_state)

    return Sampler(stateless, step, stochastic=not is_zero(gamma))
