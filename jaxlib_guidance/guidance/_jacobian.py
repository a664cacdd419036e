"""The denoiser's Jacobian as an operator, and equations with it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxlib_guidance.guidance._base import sample_axes
from jaxlib_guidance.reduce import divide
from jaxlib_guidance.types import Array


def conjugate_gradient(
    matvec: Callable[[Array], Array], b: Array, *, iterations: int
) -> Array:
    """Solves ``A x = b`` for each sample, ``A`` symmetric and positive definite.

    The number of iterations is fixed: no sample waits for another, and the gradient
    goes through them. A sample that is solved earlier stays as it is.

    Args:
      matvec: Function ``v [B, *M] -> A v [B, *M]`` in which samples do not see each
        other.
      b: Right-hand side ``[B, *M]``.
      iterations: Number of iterations; as many as a sample has entries solve exactly.

    Returns:
      Solutions ``[B, *M]``.

    Reference: Hestenes and Stiefel, 1952, doi 10.6028/jres.049.044.
    """

    def dot(u, v):
        return jnp.sum(u * v, axis=sample_axes(u), keepdims=True)

    def body(_, carry):
        x, r, p, square = carry
        moved = matvec(p)
        step = divide(square, dot(p, moved))
        x, r = x + step * p, r - step * moved
        new = dot(r, r)
        return x, r, r + divide(new, square) * p, new

    carry = jnp.zeros_like(b), b, b, dot(b, b)
    return jax.lax.fori_loop(0, iterations, body, carry)[0]
