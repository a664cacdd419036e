"""Corrections that solve an equation, differentiated where they solve it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.types import Array, per_sample


def fixed_point(
    function: Callable[[Array], Array],
    start: Array,
    *,
    iterations: int,
    damping: Any = 1.0,
) -> Array:
    """The solution of ``z = function(z)``, by ``z <- z + damping (function(z) - z)``.

    The number of iterations is fixed, so that no sample waits for another and a batch
    on several devices does not communicate. The gradient is that of the solution,
    ``dz = (I - J)^-1 df``, and takes as many iterations of the same kind; it needs no
    memory of the way there.

    Args:
      function: Function of ``z [B, *S]`` in which samples do not see each other. What
        it closes over, such as parameters of a network, is differentiated too.
      start: First ``z [B, *S]``.
      iterations: Number of iterations, at least 1.
      damping: Share of each move that is made, scalar or ``[B]``; below 1 where
        ``function`` would overshoot.

    Returns:
      ``z [B, *S]``.

    Raises:
      ValueError: ``iterations`` that is no whole number from 1, or a ``damping`` of
        another shape.

    Reference: Christianson, 1994, doi 10.1080/10556789408805572, for the gradient.
    """
    if isinstance(iterations, bool) or not isinstance(iterations, int):
        raise ValueError(f"iterations is {iterations!r}; expected a whole number")
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}; expected at least 1")
    share = per_sample(damping, start, "fixed_point's damping")

    def solve(residual: Callable[[Array], Array], z: Array) -> Array:
        return jax.lax.fori_loop(0, iterations, lambda _, z: z - share * residual(z), z)

    def tangent(linear: Callable[[Array], Array], y: Array) -> Array:
        # Written out, because jax 0.7 does not transpose a loop in a batched solve.
        v = jnp.zeros_like(y)
        for _ in range(iterations):
            v += share * (y - linear(v))
        return v

    return jax.lax.custom_root(lambda z: z - function(z), start, solve, tangent)
