"""Guidance by a pool of data: no gradient, and exact where the pool is the data."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.guidance._base import Evals
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    PyTree,
    at_least_float32,
    per_sample,
    pytree_dataclass,
)


@pytree_dataclass
class PoolGuidance:
    """Between two means of a pool. Build it with `pool_guidance`.

    Attributes:
      weight: Factor of the correction, scalar or ``[B]``; 0 is off.
      pool: Samples of the data ``[P, *S]``.
      energies: Energy of each ``[P]``.
    """

    weight: Array | float
    pool: Array
    energies: Array

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """No branches but the base."""
        return {}

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """Adds ``w`` times the tilted mean less the plain one."""
        shape = ctx.x.shape[1:]
        if self.pool.shape[1:] != shape:
            raise ValueError(
                f"the pool has samples {self.pool.shape[1:]}; expected {shape}"
            )
        pool = self.pool.reshape(self.pool.shape[0], -1)
        x = ctx.x.reshape(ctx.x.shape[0], -1)
        alpha, sigma = (c.reshape(-1, 1) for c in (ctx.alpha, ctx.sigma))
        exact = jax.lax.Precision.HIGHEST
        # |x - alpha p|^2 without what is the same for the whole pool.
        near = alpha * jnp.matmul(x, pool.T, precision=exact)
        near = (near - 0.5 * alpha**2 * jnp.sum(pool**2, axis=1)) / sigma**2
        plain = jax.nn.softmax(near, axis=1)
        tilted = jax.nn.softmax(near - self.energies, axis=1)
        moved = jnp.matmul(tilted - plain, pool, precision=exact)
        weight = per_sample(self.weight, delta, "pool_guidance's weight")
        return delta + weight * moved.reshape(delta.shape), state


@method(
    "posterior",
    "D + w (m(k e^-E) - m(k)), m(a) = sum_i a_i p_i / sum_i a_i over a pool, k_i = "
    "p(x | p_i)",
    space="x0",
    evaluations=1,
    source="2502.02150",
    law="test_a_pool_that_is_the_data_is_exact",
)
def pool_guidance(pool: Any, energies: Any, weight: Any = 1.0) -> PoolGuidance:
    """Monte Carlo guidance: what tilting does to the mean of a pool, added to any net.

    ``x0 = D + w (E_tilted[p | x] - E[p | x])``, both means over a pool of data ``p_i``,
    self-normalised with ``k_i = N(x; alpha p_i, sigma^2 I)`` and the energies ``E_i``.
    No gradient, so the energy may be anything that can be computed for each of the
    pool. Where the pool is the data and ``D`` its exact denoiser, weight 1 samples the
    data tilted by ``exp(-E)``; otherwise it converges to that as the pool grows, the
    slower the more dimensions there are.

    Args:
      pool: Samples of the data ``[P, *S]``.
      energies: Energy of each ``[P]``.
      weight: Factor ``w``, scalar or ``[B]``; 0 is off.

    Returns:
      A guidance term.

    Raises:
      TypeError: A weight that is no number.
      ValueError: Not one energy for each sample of the pool; while sampling, samples of
        another shape.

    Reference: Feng et al., arXiv 2502.02150, the Monte Carlo guidance of flows.
    """
    require_numbers("pool_guidance", weight=weight)
    pool, energies = (at_least_float32(jnp.asarray(a)) for a in (pool, energies))
    if energies.shape != pool.shape[:1]:
        raise ValueError(
            f"energies have shape {energies.shape}; expected one for each of the pool, "
            f"{pool.shape[:1]}"
        )
    return PoolGuidance(weight, pool, energies)
