"""A Beta distribution in even bins, for beliefs about a probability."""

import jax
import jax.numpy as jnp
from jax.scipy.special import betainc, betaln

from jaxlib_guidance.types import Array


def beta_bins(
    alpha: Array | float, beta: Array | float, points: int
) -> tuple[Array, Array]:
    """Logarithms of the masses of even bins of [0, 1], and the mean in each.

    A bin from ``l`` to ``h`` has mass ``I_h(alpha, beta) - I_l(alpha, beta)``, and mean
    ``alpha / (alpha + beta)`` times the same for ``alpha + 1``, over that mass.

    Args:
      alpha: First number of the distribution, positive scalar.
      beta: Its second number, positive scalar.
      points: Bins ``Q``.

    Returns:
      Two arrays ``[Q]``.
    """
    alpha, beta = jnp.float32(alpha), jnp.float32(beta)
    edges = jnp.arange(points + 1, dtype=jnp.float32) / points
    middles = (edges[1:] + edges[:-1]) / 2
    mass = _masses(alpha, beta, edges)
    mean = alpha / (alpha + beta) * _masses(alpha + 1, beta, edges)
    # What is too small for a difference has the density in the middle, which is right
    # to a factor, so that much evidence may still bring a belief there.
    seen = mass > 1e-30
    density = (alpha - 1) * jnp.log(middles) + (beta - 1) * jnp.log1p(-middles)
    density -= betaln(alpha, beta) + jnp.log(points)
    safe = jnp.where(seen, mass, 1.0)
    means = jnp.clip(mean / safe, edges[:-1], edges[1:])
    weights = jnp.where(seen, jnp.log(safe), density)
    return jax.nn.log_softmax(weights), jnp.where(seen, means, middles)


def _masses(alpha: Array, beta: Array, edges: Array) -> Array:
    """Masses between edges, each from the nearer tail."""
    below, above = betainc(alpha, beta, edges), betainc(beta, alpha, 1 - edges)
    return jnp.where(below[1:] < 0.5, jnp.diff(below), -jnp.diff(above))
