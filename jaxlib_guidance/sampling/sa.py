"""SA-Solver: stochastic Adams in log-SNR, predictor and corrector in one evaluation.

With ``c = 1 + tau^2`` and ``h`` the step in ``lambda = log(alpha / sigma)`` the reverse
SDE of noise level ``tau`` has the exact solution

  ``x' = sigma'/sigma e^(-tau^2 h) x + alpha' int_0^h c e^(-c u) x0(lambda' - u) du
  + sigma' sqrt(1 - e^(-2 tau^2 h)) z``

with a polynomial through past estimates for ``x0``. The corrector passes the polynomial
through the new estimate too, and keeps ``z``; so all that it does is to shift the state
by ``gain (estimate - what the predictor's polynomial expected)``. That can wait until
the next step has the new estimate: given ``(x, memory)`` every step here is Gaussian.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxlib_guidance.sampling.loop import Interval, Sampler, Stepped
from jaxlib_guidance.transition import Transition
from jaxlib_guidance.types import Array, expand

# Log-SNR is held within this: beyond, alpha or sigma is 0 to float32's precision.
FARTHEST = 20.0


class Memory(NamedTuple):
    """What the solver remembers.

    Attributes:
      seen: How many estimates, int32.
      lambdas: Their log-SNRs, the newest first, ``[order]``.
      x0s: The estimates ``[order, B, *S]``.
      expected: What the last polynomial expects the next estimate to be ``[B, *S]``.
      gain: What the state owes to a surprise in it.
    """

    seen: Array
    lambdas: Array
    x0s: Array
    expected: Array
    gain: Array


def moments(z: Array, count: int) -> list[Array]:
    """``int_0^1 z e^(-z v) v^k dv`` for ``k = 0, ..., count - 1``.

    By ``M_k = k M_(k-1) / z - e^-z``, which loses digits at small ``z``: there by the
    series ``sum_m z (-z)^m / (m! (m + k + 1))``.
    """
    found = []
    safe = jnp.maximum(z, 1.0)
    closed = -jnp.expm1(-safe)
    for k in range(count):
        if k:
            closed = k * closed / safe - jnp.exp(-safe)
        series = sum(
            z * (-z) ** m / (math.factorial(m) * (m + k + 1)) for m in range(11)
        )
        found.append(jnp.where(z < 1, series, closed))
    return found


def _integral(roots: list[Array], moment: list[Array]) -> Array:
    """``int_0^1 z e^(-z v) prod_j (v - roots_j) dv``."""
    powers = [jnp.ones_like(moment[0])]
    for root in roots:
        shifted = [jnp.zeros_like(root), *powers]
        powers = [
            high - root * low for high, low in zip(shifted, [*powers, 0.0], strict=True)
        ]
    return sum(p * m for p, m in zip(powers, moment, strict=False))


def sa_solver(
    tau: Any | Callable[[Array], Array] = 1.0, order: int = 2, corrector: bool = True
) -> Sampler:
    """SA-Solver: stochastic Adams-Bashforth-Moulton steps, exact in the linear part.

    At ``tau = 0`` a deterministic multistep ODE solver; ``order=1`` without corrector
    is then DDIM, and at ``tau = 1`` ancestral DDPM. The step to ``sigma = 0`` is the
    estimate itself.

    Args:
      tau: Noise level, scalar or a function of a step's first time; may be traced.
      order: Estimates that the predictor uses: 1, 2 or 3. The corrector adds one.
      corrector: Whether to correct.

    Raises:
      ValueError: ``order`` out of range.

    Reference: Xue et al., SA-Solver, arXiv 2309.05019, eq. 12-17 and algorithm 1.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order is {order!r}; expected 1, 2 or 3")
    stochastic = not (isinstance(tau, (int, float)) and tau == 0)

    def init(x):
        # Distinct places, so that differences with what was never seen stay finite.
        never = -100.0 * jnp.arange(1, order + 1, dtype=jnp.float32)
        return Memory(
            seen=jnp.int32(0),
            lambdas=never,
            x0s=jnp.zeros((order, *x.shape), x.dtype),
            expected=jnp.zeros_like(x),
            gain=jnp.zeros((), jnp.float32),
        )

    def step(denoise, x, memory, guide, interval):
        x0, guide = denoise(x, interval.t, guide)
        if corrector:
            x = x + expand(memory.gain, x) * (x0 - memory.expected)
        transition, memory = predict(x, x0, memory, interval)
        return Stepped(transition, x0, memory, guide)

    def predict(x, x0, memory, interval: Interval):
        alpha, sigma, alpha_next, sigma_next = interval[3:7]
        level = jnp.asarray(tau(interval.t) if callable(tau) else tau, jnp.float32)
        here, there = _lambda(alpha, sigma), _lambda(alpha_next, sigma_next)
        h = there - here
        seen = jnp.minimum(memory.seen + 1, order)
        lambdas = jnp.concatenate([here[None], memory.lambdas[:-1]])
        x0s = jnp.concatenate([x0[None], memory.x0s[:-1]])
        # Distances back from the step's end, in steps; x0 there is at distance 0.
        nodes = [(there - lambdas[k]) / h for k in range(order)]
        moment = moments((1 + level**2) * h, order + 1)
        final = sigma_next == 0
        mean = expand(sigma_next / sigma * jnp.exp(-(level**2) * h), x) * x
        expected = jnp.zeros_like(x)
        differences = list(x0s)
        for k in range(order):
            use = ((seen > k) & ~final) if k else jnp.array(True)
            newton = jnp.where(use, differences[0], 0)
            mean = mean + alpha_next * _integral(nodes[:k], moment) * newton
            expected = expected + math.prod([-node for node in nodes[:k]]) * newton
            differences = [
                (b - a) / (nodes[j + k + 1] - nodes[j])
                for j, (a, b) in enumerate(itertools.pairwise(differences))
            ]
        gain = jnp.float32(0)
        for k in range(1, order + 1):
            surprise = _integral(nodes[:k], moment) / math.prod(
                [-node for node in nodes[:k]]
            )
            gain = jnp.where(seen == k, alpha_next * surprise, gain)
        std = sigma_next * jnp.sqrt(-jnp.expm1(-2 * level**2 * h))
        memory = Memory(seen, lambdas, x0s, expected, gain)
        return Transition(mean, std), memory

    return Sampler(init, step, stochastic=stochastic)


def _lambda(alpha, sigma):
    log = jnp.log(alpha) - jnp.log(sigma)
    return jnp.clip(log, -FARTHEST, FARTHEST)
