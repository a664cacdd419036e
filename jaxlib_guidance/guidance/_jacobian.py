"""The denoiser's Jacobian as an operator, and equations with it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxlib_guidance.guidance._base import sample_axes
from jaxlib_guidance.reduce import divide
from jaxlib_guidance.types import Array


def conjugate_gradient(
    matvec: Callable[[Array], Array],
    b: Array,
    *,
    iterations: int,
    floor: Array | None = None,
) -> Array:
    """Solves ``A x = b`` for each sample, ``A`` symmetric and positive definite.

    The number of iterations is fixed: no sample waits for another, and the gradient
    goes through them. A sample that is solved to its type's precision stays as it is.

    Args:
      matvec: Function ``v [B, *M] -> A v [B, *M]`` in which samples do not see each
        other.
      b: Right-hand side ``[B, *M]``.
      iterations: Number of iterations; as many as a sample has entries solve exactly.
      floor: Smallest eigenvalue that ``A`` may have, ``[B, 1, ...]`` or a scalar. The
        search ends before a direction ``p`` with ``<p, A p>`` below ``floor <p, p>``,
        as an inexact ``A`` may have it; if the first is one, it takes the floor there.
        None trusts ``A``.

    Returns:
      Solutions ``[B, *M]``.

    Reference: Hestenes and Stiefel, 1952, doi 10.6028/jres.049.044.
    """

    def dot(u, v):
        return jnp.sum(u * v, axis=sample_axes(u), keepdims=True)

    def body(i, carry):
        x, r, p, square = carry
        moved = matvec(p)
        curvature = dot(p, moved)
        ends = jnp.zeros_like(square, bool)
        if floor is not None:
            least = floor * dot(p, p)
            # A little below is a rounding.
            ends = curvature < (1 - 1e-4) * least
            curvature = jnp.where(ends, jnp.where(i == 0, least, jnp.inf), curvature)
        step = divide(square, curvature)
        x, r = x + step * p, r - step * moved
        new = dot(r, r)
        # What is left are roundings, whose quotients and their slopes are not finite.
        left = (new > jnp.finfo(b.dtype).eps ** 2 * first) & ~ends
        new, r = jnp.where(left, new, 0), jnp.where(left, r, 0)
        return x, r, r + divide(new, square) * p, new

    first = dot(b, b)
    carry = jnp.zeros_like(b), b, b, first
    return jax.lax.fori_loop(0, iterations, body, carry)[0]
