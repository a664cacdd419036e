"""DPM-Solver++: exponential integrators in log-SNR for x0, and their SDE variants;
DPM-2, its elder, for eps.
"""

from typing import Any

import jax.numpy as jnp

from jaxlib_guidance import rng
from jaxlib_guidance.reduce import sqrt
from jaxlib_guidance.sampling._checks import is_zero, require_between
from jaxlib_guidance.sampling._ddim import posterior
from jaxlib_guidance.sampling._multistep import multistep
from jaxlib_guidance.sampling._sampler import Level, Sampler, Stepped, stateless
from jaxlib_guidance.sampling._spaces import (
    Space,
    clock,
    eps_of,
    half_logsnr,
    moments,
    predicted,
)
from jaxlib_guidance.transition import Transition
from jaxlib_guidance.types import Array, Process, expand


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
    return _midpoint("logsnr", eta)


def dpm_2(eta: Any = 0.0) -> Sampler:
    """DPM-2: one step by the slope in its middle; with ``eta > 0`` DPM-2 ancestral.

    ``x' = DDIM(x, eps_mid)`` with ``eps_mid`` at the geometric mean of the step's noise
    ratios ``sigma / alpha``. With ``eta > 0`` the step goes to ``sqrt(sigma'^2 -
    std^2)`` and noise of DDIM's ``std`` brings it back to ``sigma'``. A step to zero
    noise takes the middle of a flow's time, where k-diffusion takes an Euler step.

    Args:
      eta: Share of the posterior's standard deviation, a scalar, which may be traced;
        the default 0 is deterministic, 1 is k-diffusion's ancestral form.

    Returns:
      The solver, with two evaluations a step.

    Example:
      >>> import jax
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x, jg.VPCosine())
      >>> keys, sampler = jg.sample_keys(jax.random.key(0), 4), jg.sampling.dpm_2()
      >>> x, _ = jg.sample(keys, denoiser, sampler, [0.9, 0.5, 0.0], (8,))
      >>> x.shape
      (4, 8)

    Reference: Lu et al., arXiv 2206.00927, algorithm 1; Karras et al., 2206.00364,
      algorithm 2; as ``sample_dpm_2`` in k-diffusion.
    """
    require_between(eta, "eta", 0, 1)
    return _midpoint("sigma", eta)


def dpmpp_sde(eta: Any = 1.0) -> Sampler:
    """DPM++ SDE: a stochastic step by the estimate in its middle, which is drawn too.

    An ancestral step to the middle in ``log(alpha / sigma)`` gives ``x_mid``, and its
    estimate of the data the step itself:
    ``x' = DDIM_eta(x, x0(x_mid)) + std z``. Both draws are of one Brownian path, so
    that ``z`` contains, as far as it survives, the noise of ``x_mid``; with independent
    draws the variance would be of first order. (k-diffusion's path runs in ``sigma``,
    which correlates them a little otherwise.) A step's transition is its distribution
    given ``x_mid``. A step to zero noise draws nothing.

    Args:
      eta: Share of the posterior's standard deviation, a scalar, which may be traced;
        the default 1 is the reverse-time SDE, 0 is `dpmpp_2s`.

    Returns:
      The solver, with two evaluations a step.

    Example:
      >>> import jax
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x, jg.VPCosine())
      >>> keys, sampler = jg.sample_keys(jax.random.key(0), 4), jg.sampling.dpmpp_sde()
      >>> x, _ = jg.sample(keys, denoiser, sampler, [0.9, 0.5, 0.0], (8,))
      >>> x.shape
      (4, 8)

    Reference: ``sample_dpmpp_sde`` in k-diffusion, with ``r = 1 / 2``, after Lu et al.,
      arXiv 2211.01095.
    """
    require_between(eta, "eta", 0, 1)
    if is_zero(eta):
        return dpmpp_2s()

    def step(denoise, x, state, guidance_state, interval):
        x0, guidance_state = denoise(x, interval.t, guidance_state)
        whole = posterior(x, x0, interval, eta)
        start, end = interval.start, interval.end
        lower = end._replace(sigma=_lower(end, whole.std))
        aim = end._replace(sigma=jnp.where(start.alpha > 0, end.sigma, lower.sigma))
        t, level, ends = _middle(interval.process, start, aim)
        half = posterior(x, x0, interval._replace(t_next=t, end=level), eta)
        z = rng.normal(rng.fold(interval.keys, rng.MIDDLE), x.shape[1:], x.dtype)
        eps = eps_of(x, x0, start)
        plain = expand(level.alpha, x) * x0 + expand(level.sigma, x) * eps
        drawn = half.mean + expand(half.std, x) * z
        inner = jnp.where(expand(ends, x), drawn, plain)
        x0_inner, guidance_state = denoise(inner, t, guidance_state)
        estimates = x, x0, inner, x0_inner, level
        mean = whole.mean + _gained("logsnr", start, lower, ends, estimates)
        # What is left at the end of the noise that the middle has.
        rest = posterior(x, x0, interval._replace(t=t, start=level), eta).std
        kept = _lower(end, rest) / level.sigma * half.std
        kept = jnp.where(ends, kept, 0)
        std = sqrt(jnp.maximum(whole.std**2 - kept**2, 0))
        mean += expand(kept, x) * z
        return Stepped(Transition(mean, std), x0, state, guidance_state)

    return Sampler(stateless, step, stochastic=True, evaluations=2)


def _midpoint(space: Space, eta: Any) -> Sampler:
    """A step by what the network says in its middle, in log noise ratio."""
    stochastic = not is_zero(eta)

    def step(denoise, x, state, guidance_state, interval):
        x0, guidance_state = denoise(x, interval.t, guidance_state)
        plain = posterior(x, x0, interval, eta)
        start = interval.start
        end = interval.end._replace(sigma=_lower(interval.end, plain.std))
        t, level, ends = _middle(interval.process, start, end)
        eps = eps_of(x, x0, start)
        inner = expand(level.alpha, x) * x0 + expand(level.sigma, x) * eps
        x0_inner, guidance_state = denoise(inner, t, guidance_state)
        gained = _gained(space, start, end, ends, (x, x0, inner, x0_inner, level))
        mean = plain.mean + gained
        return Stepped(Transition(mean, plain.std), x0, state, guidance_state)

    return Sampler(
        stateless,
        step,
        stochastic=stochastic,
        evaluations=2,
        reversible=not stochastic,
    )


def _lower(level: Level, std: Array) -> Array:
    """The noise to which noise of ``std`` is added to give the level's."""
    return sqrt(jnp.maximum(level.sigma**2 - std**2, 0))


def _middle(process: Process, start: Level, end: Level) -> tuple[Array, Level, Array]:
    """Time and level of the middle in log-SNR, and whether the step has one.

    An infinite step, from pure noise or to data, gets the middle in "flow".
    """
    ends = (start.alpha > 0) & (end.alpha > 0) & (end.sigma > 0)
    middle = (half_logsnr(start) + half_logsnr(end)) / 2
    tau = (clock("flow", start) + clock("flow", end)) / 2
    middle = jnp.where(ends, middle, jnp.log1p(-tau) - jnp.log(tau))
    t = process.t_of_logsnr(2 * middle)
    return t, Level(process.alpha(t), process.sigma(t)), ends


def _gained(space, start, end, ends, estimates):
    """What DDIM's step gains by the estimate in the middle in place of the first."""
    x, x0, inner, x0_inner, level = estimates
    eps, eps_inner = eps_of(x, x0, start), eps_of(inner, x0_inner, level)

    def gain(space):
        (span,) = moments(space, start, end, 1)
        rise = predicted(space, x0_inner, eps_inner) - predicted(space, x0, eps)
        return expand(span, x) * rise

    return jnp.where(expand(ends, x), gain(space), gain("flow"))
