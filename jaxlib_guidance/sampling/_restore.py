"""Solvers that put a measurement into each step: DiffPIR, DAPS, and DSG's sphere."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance import rng
from jaxlib_guidance.guidance import (
    Measurement,
    nearest,
    posterior_variance,
    sample_norm,
    solve_observed,
)
from jaxlib_guidance.reduce import divide, sqrt
from jaxlib_guidance.sampling._checks import (
    is_zero,
    require_between,
    require_measurement,
    require_sampler,
    require_whole,
)
from jaxlib_guidance.sampling._ddim import posterior
from jaxlib_guidance.sampling._sampler import (
    Denoise,
    Interval,
    Level,
    Sampler,
    Stepped,
    stateless,
)
from jaxlib_guidance.transition import Transition
from jaxlib_guidance.types import Array, PyTree, expand


def diffpir(
    seen: Measurement, *, trust: Any = 1.0, zeta: Any = 1.0, iterations: int = 10
) -> Sampler:
    """DiffPIR: the estimate is drawn to the measurement, then noised to the next level.

    ``x0 = argmin_x |y - A x|^2 / s^2 + trust |x - D|^2 alpha^2 / sigma^2``, then ``x' =
    alpha' x0 + sigma' (sqrt(1 - zeta) (x - alpha x0) / sigma + sqrt(zeta) n)``. At a
    mask that is ``(m y + rho D) / (m + rho)`` with ``rho = trust s^2 alpha^2 /
    sigma^2``. No gradient passes through the network.

    Args:
      seen: What was observed, from `guidance.measurement`.
      trust: Weight ``lambda`` of the network's estimate, scalar or ``[B]``, positive.
      zeta: Share of the next level's noise that is drawn anew, a scalar from 0 to 1.
      iterations: Number of iterations that solve with ``A A^T``: one is enough where
        all its eigenvalues are alike, as for masks and averages.

    Returns:
      The solver, with one evaluation a step.

    Raises:
      TypeError: Something that is no measurement.
      ValueError: Settings outside their ranges; while sampling, observations of another
        shape.

    Reference: Zhu et al., arXiv 2305.08995, algorithm 1. Its code leaves the last step
      without the measurement and pastes known pixels; here every step has it.
    """
    require_measurement(seen, "diffpir")
    require_between(trust, "trust", 1e-12)
    require_between(zeta, "zeta", 0, 1)
    require_whole(iterations, "iterations", 1)

    def step(denoise, x, state, guidance_state, interval):
        estimate, guidance_state = denoise(x, interval.t, guidance_state)
        start, end = interval.start, interval.end
        spread = divide(start.sigma**2, start.alpha**2 * jnp.asarray(trust, x.dtype))
        x0, _ = nearest(seen, estimate, expand(spread, x), iterations)
        eps = (x - expand(start.alpha, x) * x0) / expand(start.sigma, x)
        fresh = jnp.asarray(zeta, x.dtype)
        kept = end.sigma * sqrt(1 - fresh)
        mean = expand(end.alpha, x) * x0 + expand(kept, x) * eps
        transition = Transition(mean, end.sigma * sqrt(fresh))
        return Stepped(transition, x0, state, guidance_state)

    return Sampler(stateless, step, stochastic=not is_zero(zeta))


def daps(
    seen: Measurement,
    *,
    ode_steps: int = 5,
    data_variance: Any = 1.0,
    iterations: int = 10,
) -> Sampler:
    """DAPS: at each level a draw of the data given state and measurement, noised anew.

    A short probability flow takes the state to ``d``; ``x0`` is drawn from ``N(d, r^2
    I)`` given the measurement, with ``r^2 = v sigma^2 / (v alpha^2 + sigma^2)``; and
    ``x' = alpha' x0 + sigma' n``. For data ``N(m, v I)`` and one step of the flow,
    whose end is then the posterior mean, samples have the posterior's distribution
    whatever the number of levels. The draw is exact, by conjugate gradients, where the
    paper makes a hundred Langevin moves, which operators that are not linear would
    need. The paper's and the released code's ``r^2 = sigma^2 / alpha^2`` is
    ``data_variance=jnp.inf``: at high noise far wider than the data.

    Args:
      seen: What was observed, from `guidance.measurement`.
      ode_steps: Number of DDIM steps of the flow at each level; 1 takes the network's
        estimate.
      data_variance: Variance ``v`` of the data, scalar or ``[B]``, positive.
      iterations: Number of iterations that solve with ``A A^T``: one is enough where
        all its eigenvalues are alike, as for masks and averages.

    Returns:
      The solver, with ``ode_steps`` evaluations a step.

    Raises:
      TypeError: Something that is no measurement.
      ValueError: Settings outside their ranges; while sampling, observations of another
        shape.

    Reference: Zhang et al., arXiv 2407.01521, algorithm 1.
    """
    require_measurement(seen, "daps")
    require_whole(ode_steps, "ode_steps", 1)
    require_between(data_variance, "data_variance", 1e-12)
    require_whole(iterations, "iterations", 1)

    def step(denoise, x, state, guidance_state, interval):
        clean, guidance_state = _flow(denoise, x, guidance_state, interval, ode_steps)
        start, end = interval.start, interval.end
        spread = expand(posterior_variance(start.alpha, start.sigma, data_variance), x)
        streams = rng.fold(interval.keys, rng.RESTORED)
        prior = rng.normal(rng.fold(streams, 0), x.shape[1:], x.dtype)
        prior = clean + jnp.sqrt(spread) * prior
        # As if prior and noise were the truth's: what is left to explain is Gaussian.
        error = seen.error(prior)
        other = rng.normal(rng.fold(streams, 1), error.shape[1:], x.dtype)
        error = error + jnp.sqrt(seen.variance(error)) * other
        weights = solve_observed(seen, lambda v: spread * v, error, iterations)
        x0 = prior + spread * seen.operator.transpose(weights)
        transition = Transition(expand(end.alpha, x) * x0, end.sigma)
        return Stepped(transition, x0, state, guidance_state)

    return Sampler(stateless, step, stochastic=True, evaluations=ode_steps)


def _flow(
    denoise: Denoise, x: Array, guidance_state: PyTree, interval: Interval, steps: int
) -> tuple[Array, PyTree]:
    """The end of a short probability flow from the interval's start to the data."""
    process, t = interval.process, jnp.asarray(interval.t)
    low = jnp.minimum(jnp.asarray(process.t_min, t.dtype), t)
    share = jnp.linspace(0, 1, steps, endpoint=False, dtype=t.dtype)[1:]
    share = share.reshape(-1, *(1,) * t.ndim)
    # Karras' spacing, in time.
    between = ((1 - share) * t ** (1 / 7) + share * low ** (1 / 7)) ** 7
    times = jnp.concatenate([t[None], between])

    def move(carry, pair):
        x, guidance_state = carry
        now, then = pair
        x0, guidance_state = denoise(x, now, guidance_state)
        start, end = (Level(process.alpha(s), process.sigma(s)) for s in pair)
        part = interval._replace(t=now, t_next=then, start=start, end=end)
        return (posterior(x, x0, part, 0.0).mean, guidance_state), None

    pairs = times[:-1], times[1:]
    (x, guidance_state), _ = jax.lax.scan(move, (x, guidance_state), pairs)
    return denoise(x, times[-1], guidance_state)


def dsg(
    sampler: Sampler,
    function: Callable[..., Array],
    params: PyTree = None,
    *,
    rate: Any = 0.1,
) -> Sampler:
    """DSG: a stochastic step whose noise is turned against a loss, its length kept.

    The next state lies on the sphere about the step's mean on which its noise ``std z``
    would lie, of radius ``r = sqrt(n) std``, in the direction ``std z + rate (-r g -
    std z)`` with ``g`` the unit gradient of the loss through the network. A step
    without noise stays as it is; a step's transition is the point where it arrives.

    Args:
      sampler: Stochastic solver with one evaluation a step, such as ``ddpm()``.
      function: Loss ``x0 [B, *S] -> [B]`` of the estimate, or ``(params, x0)`` with
        ``params``, such as `guidance.norm_energy` of a measurement.
      params: Pytree that the function receives first; None for one without.
      rate: Share of the loss's direction, scalar or ``[B]``, from 0 to 1.

    Returns:
      The solver, with one evaluation a step.

    Raises:
      TypeError: Something that is no solver.
      ValueError: A solver without noise or with several evaluations a step; a rate
        outside [0, 1].

    Reference: Yang et al., arXiv 2402.03201, algorithm 1 and the released code.
    """
    require_sampler(sampler)
    if not sampler.stochastic or sampler.evaluations != 1:
        raise ValueError(
            "dsg needs a stochastic sampler with one evaluation a step, such as ddpm()"
        )
    require_between(rate, "rate", 0, 1)

    def total(x0):
        return jnp.sum(function(*(() if params is None else (params,)), x0))

    def step(denoise, x, state, guidance_state, interval):
        x0, pull, later = jax.vjp(
            lambda x: denoise(x, interval.t, guidance_state), x, has_aux=True
        )
        out = sampler.step(lambda x, t, s: (x0, later), x, state, (), interval)
        mean, std = out.transition
        gradient = pull(jax.grad(total)(x0))[0]
        wide = expand(std, x)
        radius = math.sqrt(math.prod(x.shape[1:])) * wide
        noise = wide * rng.normal(interval.keys, x.shape[1:], x.dtype)
        against = -radius * divide(gradient, sample_norm(gradient))
        share = expand(jnp.asarray(rate, x.dtype), x)
        mixed = noise + share * (against - noise)
        arrived = mean + radius * divide(mixed, sample_norm(mixed))
        transition = Transition(arrived, jnp.zeros_like(std))
        return out._replace(transition=transition, guidance_state=later)

    return sampler._replace(step=step)
