"""D-Flow: the start noise whose sample agrees with a measurement."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.calls import process_of
from jaxlib_guidance.guidance import Measurement, norm_energy, sample_axes
from jaxlib_guidance.reduce import divide
from jaxlib_guidance.sampling._checks import (
    require_between,
    require_measurement,
    require_sampler,
    require_whole,
)
from jaxlib_guidance.sampling._loop import initial_state, sample
from jaxlib_guidance.sampling._sampler import Sampler
from jaxlib_guidance.types import Array, Denoiser, PyTree

# The line search takes the best of these, or stays.
STRIDES = 1.0, 0.3, 0.05, 0.005


def _dot(a: Array, b: Array) -> Array:
    return jnp.sum(a * b, axis=sample_axes(a), keepdims=True)


def _minimise(
    objective: Callable[[Array], Array], z: Array, *, steps: int, memory: int = 8
) -> tuple[Array, Array]:
    """L-BFGS for each sample by itself, with the best of four strides in each step.

    Args:
      objective: Function ``z [B, *S] -> [B]`` in which samples do not see each other.
      z: Start ``[B, *S]``.
      steps: Number of steps.
      memory: Number of past steps that make the Hessian.

    Returns:
      The best ``z [B, *S]``, and its objective ``[B]``, never above the start's.

    Reference: Nocedal and Wright, Numerical Optimization, algorithm 7.4.
    """

    def graded(z):
        value, pull = jax.vjp(objective, z)
        return value, pull(jnp.ones_like(value))[0]

    def direction(gradient, moves, bends):
        """The two-loop recursion; what is not yet filled is 0 and has no part."""
        scales = [
            divide(jnp.ones(()), _dot(s, y)) for s, y in zip(moves, bends, strict=True)
        ]
        q, shares = gradient, []
        for s, y, rho in reversed(list(zip(moves, bends, scales, strict=True))):
            share = rho * _dot(s, q)
            q, shares = q - share * y, [share, *shares]
        first = divide(_dot(moves[-1], bends[-1]), _dot(bends[-1], bends[-1]))
        # The first step is as long as a unit of noise in each entry.
        length = jnp.sqrt(_dot(gradient, gradient) / math.prod(z.shape[1:]))
        q = jnp.where(first > 0, first, divide(jnp.ones(()), length)) * q
        for s, y, rho, share in zip(moves, bends, scales, shares, strict=True):
            q = q + s * (share - rho * _dot(y, q))
        return q

    def step(carry, _):
        z, value, gradient, moves, bends = carry
        towards = -direction(gradient, tuple(moves), tuple(bends))
        strides = jnp.asarray((0.0, *STRIDES), z.dtype)
        tried = jnp.concatenate(
            [
                value[None],
                jax.lax.map(lambda a: objective(z + a * towards), strides[1:]),
            ]
        )
        # NaN is never the best.
        best = jnp.argmin(jnp.where(jnp.isnan(tried), jnp.inf, tried), axis=0)
        stride = strides[best].reshape(-1, *(1,) * (z.ndim - 1))
        new = jnp.where(stride > 0, z + stride * towards, z)
        value, slope = graded(new)
        move, bend = new - z, slope - gradient
        # A pair that does not curve upwards would make the Hessian indefinite.
        curves = _dot(move, bend) > 1e-10 * _dot(bend, bend)
        pair = (jnp.where(curves, each, 0) for each in (move, bend))
        moves, bends = (
            jnp.where(curves, jnp.concatenate([old[1:], each[None]]), old)
            for old, each in zip((moves, bends), pair, strict=True)
        )
        return (new, value, slope, moves, bends), None

    past = jnp.zeros((memory, *z.shape), z.dtype)
    carry = z, *graded(z), past, past
    (z, value, *_), _ = jax.lax.scan(step, carry, length=steps)
    return z, value


def d_flow(
    keys: Array,
    denoiser: Denoiser,
    sampler: Sampler,
    grid: Any,
    x: Any,
    cond: PyTree = None,
    *,
    seen: Measurement,
    weight: Any = 0.0,
    steps: int = 10,
    **options: Any,
) -> tuple[Array, Array]:
    """D-Flow: optimises the start noise through the sampler until its sample fits.

    Minimises ``|y - A x0(z)|^2 + weight (|z|^2 / 2 - (n - 1) log |z|)`` over the noise
    ``z [B, *S]`` with L-BFGS, ``x0(z)`` what the deterministic sampler makes of it. The
    second part is minus the log density of the norm of unit noise; some published code
    has its sign reversed. Wrap the call in `jax.jit`. Each step is a gradient through
    the sampler and four runs of it.

    Args:
      keys: Typed keys ``[B]``, which give the start noise.
      denoiser: The network.
      sampler: Deterministic solver, such as ``ddim()``.
      grid: Times ``[N + 1]`` from noise to data.
      x: Shape ``(*S,)`` of one sample, or the start state ``[B, *S]`` at ``grid[0]``.
      cond: Condition pytree, every leaf ``[B, ...]``.
      seen: What was observed, from `guidance.measurement`; its noise has no part.
      weight: Factor of the noise's own density, scalar or ``[B]``, at least 0.
      steps: Number of optimisation steps.
      **options: Other arguments of `sample`: guidance, remat, process and so on.

    Returns:
      The samples ``[B, *S]``, and the objective ``[B]`` that they reached.

    Raises:
      TypeError: Something that is no measurement or no solver.
      ValueError: A stochastic solver, settings outside their ranges, observations of
        another shape.

    Reference: Ben-Hamu et al., arXiv 2402.14017.
    """
    require_sampler(sampler)
    require_measurement(seen, "d_flow")
    if sampler.stochastic:
        raise ValueError("d_flow needs a deterministic sampler, such as ddim()")
    require_between(weight, "weight", 0)
    require_whole(steps, "steps", 1)
    process = process_of(denoiser, options.get("process"))
    first = jnp.asarray(grid, jnp.float32)[0]
    start = initial_state(keys, process, first, x)
    sigma = process.sigma(first)
    share = jnp.asarray(weight, start.dtype)

    def draw(z):
        return sample(keys, denoiser, sampler, grid, sigma * z, cond, **options)[0]

    def objective(z):
        square = jnp.sum(z**2, axis=sample_axes(z))
        count = math.prod(z.shape[1:])
        density = 0.5 * (square - (count - 1) * jnp.log(square))
        return norm_energy(seen, draw(z)) ** 2 + share * density

    z, value = _minimise(objective, start / sigma, steps=steps)
    return draw(z), value
