"""Solvers that optimise one picture over the noise levels: RED-diff and PnP-Flow.

The state is the picture, noised to the level: the loop's own noise is the method's.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance import rng
from jaxlib_guidance.guidance import Measurement, nearest
from jaxlib_guidance.reduce import divide
from jaxlib_guidance.sampling._checks import (
    require_between,
    require_measurement,
    require_whole,
)
from jaxlib_guidance.sampling._sampler import Sampler, Stepped
from jaxlib_guidance.transition import Transition
from jaxlib_guidance.types import Array, expand

BETAS = 0.9, 0.99  # Adam's, as released.


class _Adam(NamedTuple):
    mean: Array
    first: Array
    second: Array
    count: Array


def red_diff(
    seen: Measurement, *, weight: Any = 0.25, rate: Any = 0.1, iterations: int = 10
) -> Sampler:
    """RED-diff: a picture ``m`` fitted by Adam to the measurement and to the network.

    At each level, with ``x = alpha m + sigma n`` and ``e`` the network's noise, Adam
    takes a step along ``weight sigma / alpha (e - n) + A^T (A m - y)``. The picture
    begins at the pseudoinverse of the measurement. It is a mode, not a draw: samples of
    one measurement hardly differ.

    Args:
      seen: What was observed, from `guidance.measurement`; its noise is in ``weight``.
      weight: Factor of the network's part, a scalar, at least 0. The released code's
        terms are means over entries, these are sums.
      rate: Adam's step size, a scalar, positive.
      iterations: Number of iterations that find the pseudoinverse.

    Returns:
      The solver, with one evaluation a step.

    Raises:
      TypeError: Something that is no measurement.
      ValueError: Settings outside their ranges; while sampling, observations of another
        shape.

    Reference: Mardani et al., arXiv 2305.04391, algorithm 1, and the released code,
      whose weight 0.25, linear in ``sigma / alpha``, rate 0.1 and betas these are.
    """
    require_measurement(seen, "red_diff")
    require_between(weight, "weight", 0)
    require_between(rate, "rate", 1e-12)
    require_whole(iterations, "iterations", 1)

    def init(x):
        zero = jnp.zeros_like(x)
        exact = dataclasses.replace(seen, noise=0.0)
        begin, _ = nearest(exact, zero, jnp.ones((), x.dtype), iterations)
        return _Adam(begin, zero, zero, jnp.zeros(x.shape[:1], x.dtype))

    def step(denoise, x, state, guidance_state, interval):
        estimate, guidance_state = denoise(x, interval.t, guidance_state)
        start, end = interval.start, interval.end
        alpha, sigma = expand(start.alpha, x), expand(start.sigma, x)
        # Of the network's noise and the loop's: both of one state.
        surplus = alpha * (state.mean - estimate) / sigma
        pull = jnp.asarray(weight, x.dtype) * divide(sigma, alpha) * surplus
        gradient = pull - seen.operator.transpose(seen.error(state.mean))
        one, two = BETAS
        first = one * state.first + (1 - one) * gradient
        second = two * state.second + (1 - two) * gradient**2
        count = state.count + 1
        scale = expand(jnp.sqrt(1 - two**count) / (1 - one**count), x)
        move = scale * first / (jnp.sqrt(second) + 1e-8)
        mean = state.mean - jnp.asarray(rate, x.dtype) * move
        transition = Transition(expand(end.alpha, x) * mean, end.sigma)
        return Stepped(
            transition, mean, _Adam(mean, first, second, count), guidance_state
        )

    return Sampler(init, step, stochastic=True)


def pnp_flow(
    seen: Measurement, *, rate: Any = 1.0, power: Any = 1.0, samples: int = 1
) -> Sampler:
    """PnP-Flow: gradient steps to the measurement between noising and denoising.

    ``x <- mean_k D(alpha z + sigma n_k)``, then ``z = x + rate n^power A^T (y - A x)``
    with ``n = sigma / (alpha + sigma)`` of the next level, which for a flow is ``1 -
    t``. It minimises and does not draw: averages over the posterior look smooth.

    Args:
      seen: What was observed, from `guidance.measurement`; its noise has no part, as
        the published step is scaled by its variance.
      rate: Size of the gradient step, a scalar; below ``2 / |A^T A|`` it converges.
      power: Power of the noise level in the step's size, a scalar, at least 0.
      samples: Number of noises over which a step averages.

    Returns:
      The solver, with ``samples`` evaluations a step.

    Raises:
      TypeError: Something that is no measurement.
      ValueError: Settings outside their ranges; while sampling, observations of another
        shape.

    Reference: Martin et al., arXiv 2410.02423, algorithm 3, and the released code.
    """
    require_measurement(seen, "pnp_flow")
    require_between(rate, "rate", 0)
    require_between(power, "power", 0)
    require_whole(samples, "samples", 1)

    def step(denoise, x, state, guidance_state, interval):
        start, end = interval.start, interval.end
        estimate, guidance_state = denoise(x, interval.t, guidance_state)

        def another(carry, i):
            total, guidance_state = carry
            keys = rng.fold(rng.fold(interval.keys, rng.RESTORED), i)
            noise = rng.normal(keys, x.shape[1:], x.dtype)
            noised = expand(start.alpha, x) * state + expand(start.sigma, x) * noise
            found, guidance_state = denoise(noised, interval.t, guidance_state)
            return (total + found, guidance_state), None

        more = jnp.arange(samples - 1)
        carry = estimate, guidance_state
        (total, guidance_state), _ = jax.lax.scan(another, carry, more)
        x0 = total / samples
        level = end.sigma / (end.alpha + end.sigma)
        # At the last level nothing is left to denoise, and the gradient is left out.
        size = jnp.where(level > 0, level ** jnp.asarray(power, x.dtype), 0)
        move = seen.operator.transpose(seen.error(x0))
        moved = x0 + jnp.asarray(rate, x.dtype) * expand(size, x) * move
        transition = Transition(expand(end.alpha, x) * moved, end.sigma)
        return Stepped(transition, x0, moved, guidance_state)

    return Sampler(jnp.zeros_like, step, stochastic=True, evaluations=samples)
