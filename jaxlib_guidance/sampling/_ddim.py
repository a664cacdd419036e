"""DDIM and DDPM: the exact Gaussian step between two times."""

from typing import Any, Literal

import jax.numpy as jnp

from jaxlib_guidance.reduce import sqrt
from jaxlib_guidance.sampling._checks import is_zero, require_between
from jaxlib_guidance.sampling._sampler import Interval, Sampler, Stepped, stateless
from jaxlib_guidance.sampling._spaces import decay
from jaxlib_guidance.transition import Transition
from jaxlib_guidance.types import Array, expand


def posterior(x: Array, x0: Array, interval: Interval, eta: Any) -> Transition:
    """``q_eta(x_next | x, x0)``, the DDIM family, for any process.

    ``mean = alpha' x0 + sqrt(sigma'^2 - std^2) (x - alpha x0) / sigma``,
    ``std = eta sigma' sqrt(1 - r^2)`` with ``r = (sigma' / alpha') / (sigma / alpha)``,
    which is eq. 16 of arXiv 2010.02502 when ``alpha^2 + sigma^2 = 1``.

    Args:
      x: State ``[B, *S]``.
      x0: Estimate of the data ``[B, *S]``.
      interval: Step of the time grid, from ``x`` to ``x_next``.
      eta: Share of the posterior's standard deviation, a scalar; 0 is the ODE, 1 the
        DDPM posterior.

    Returns:
      Distribution of ``x_next``: mean ``[B, *S]`` and standard deviation.

    Reference: Song et al., arXiv 2010.02502, eq. 16.
    """
    (alpha, sigma, _), (alpha_next, sigma_next, _) = interval.start, interval.end
    ratio = decay(interval.start, interval.end, 1)
    std = eta * sigma_next * sqrt(jnp.maximum(1 - ratio**2, 0))
    direction = sqrt(jnp.maximum(sigma_next**2 - std**2, 0)) / sigma
    keep, take = expand(direction, x), expand(alpha_next - direction * alpha, x)
    return Transition(keep * x + take * x0, std)


def ddim(eta: Any = 0.0) -> Sampler:
    """DDIM: first-order step that is exact when the estimate of x0 is.

    ``x' = alpha' x0 + sqrt(sigma'^2 - s^2) eps + s z`` with
    ``s = eta sigma' sqrt(1 - r^2)`` and ``r = alpha sigma' / (alpha' sigma)``. At
    ``eta = 0`` this is the first-order exponential integrator (DPM-Solver++ 1); at 1 it
    is ancestral DDPM sampling.

    Args:
      eta: Share of the posterior's standard deviation, a scalar, which may be traced.
        The default 0 is deterministic, 1 is ancestral sampling.

    Returns:
      The solver, with one evaluation a step.

    Example:
      >>> import jax
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x, jg.VPCosine())
      >>> keys = jg.sample_keys(jax.random.key(0), 4)
      >>> x, _ = jg.sample(keys, denoiser, jg.ddim(), [0.9, 0.5, 0.0], (8,))
      >>> x.shape
      (4, 8)

    Reference: Song et al., arXiv 2010.02502, eq. 12 and 16.
    """
    require_between(eta, "eta", 0, 1)
    stochastic = not is_zero(eta)

    def step(denoise, x, state, guidance_state, interval):
        x0, guidance_state = denoise(x, interval.t, guidance_state)
        return Stepped(posterior(x, x0, interval, eta), x0, state, guidance_state)

    return Sampler(stateless, step, stochastic=stochastic, reversible=not stochastic)


def ddpm(variance: Literal["small", "middle", "large"] = "small") -> Sampler:
    """Ancestral sampling with the posterior's mean, and one of DDPM's variances.

    "small" is the variance of ``q(x_next | x, x0)``, exact where the data is a point;
    "large" is that of the noise process over the step, ``beta_t`` for a step of a table
    and ``sigma^2 - (alpha / alpha')^2 sigma'^2`` in general, exact for unit normal data
    under a variance-preserving process. "middle" is their geometric mean: the errors of
    the two in the samples' variance have opposite signs and nearly cancel. A step to
    zero noise draws nothing.

    Args:
      variance: "small", which is `ddim` at ``eta = 1``, "middle" or "large".

    Returns:
      The solver, with one evaluation a step.

    Raises:
      ValueError: Another variance.

    Example:
      >>> import jax
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x, jg.VPCosine())
      >>> keys = jg.sample_keys(jax.random.key(0), 4)
      >>> x, _ = jg.sample(keys, denoiser, jg.ddpm(), [0.9, 0.5, 0.0], (8,))
      >>> x.shape
      (4, 8)

    Reference: Ho et al., arXiv 2006.11239, algorithm 2 and section 3.2; in between:
      Nichol and Dhariwal, arXiv 2102.09672.
    """
    if variance not in ("small", "middle", "large"):
        raise ValueError(
            f"variance is {variance!r}; expected 'small', 'middle' or 'large'"
        )
    if variance == "small":
        return ddim(1.0)

    def step(denoise, x, state, guidance_state, interval):
        x0, guidance_state = denoise(x, interval.t, guidance_state)
        mean, least = posterior(x, x0, interval, 1.0)
        start, end = interval.start, interval.end
        noise = start.sigma**2 - (start.alpha / end.alpha * end.sigma) ** 2
        std = jnp.where(end.sigma > 0, sqrt(jnp.maximum(noise, 0)), 0)
        if variance == "middle":
            std = sqrt(least * std)
        return Stepped(Transition(mean, std), x0, state, guidance_state)

    return Sampler(stateless, step, stochastic=True)
