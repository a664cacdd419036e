"""Thresholds: the guided estimate of x0 within the range of the data."""

from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.guidance._base import BASE, Evals, sample_axes
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.reduce import known_false
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    PyTree,
    per_sample,
    pytree_dataclass,
)


@pytree_dataclass
class Clip:
    """Keeps the x0 estimate within bounds. Build it with `clip_x0`.

    Attributes:
      low: Lower bound, scalar or ``[B]``.
      high: Upper bound, scalar or ``[B]``.
    """

    low: Array | float
    high: Array | float

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """No branches but the base."""
        return {}

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``clip(x0, low, high)``."""
        x0 = evals.x0[BASE] + delta
        low = per_sample(self.low, delta, "clip_x0's low")
        high = per_sample(self.high, delta, "clip_x0's high")
        return delta + (jnp.clip(x0, low, high) - x0), state


@method(
    "reshape",
    "clip(x0, low, high)",
    space="x0",
    off="within the bounds",
    evaluations=1,
    source="2205.11487",
    strength=None,
    alias="clip",
    after=True,
    skip={"weight_zero_static": "clipping has no weight of its own to be known"},
    law="test_clip_x0",
)
def clip_x0(low: Any = -1.0, high: Any = 1.0) -> Clip:
    """Static thresholding: clips the guided x0 estimate to the range of the data.

    Args:
      low: Lower bound, scalar or ``[B]``.
      high: Upper bound, scalar or ``[B]``.

    Returns:
      A guidance term.

    Raises:
      TypeError: Bounds that are no numbers.
      ValueError: ``low`` not below ``high``.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x + cond, jg.VE())
      >>> keys, cond = jg.sample_keys(jax.random.key(0), 1), jnp.array([[0.0, 4.0]])
      >>> term = jg.clip_x0(-1.0, 1.0)
      >>> x, _ = jg.sample(keys, denoiser, jg.ddim(), [1, 0], (2,), cond, guidance=term)
      >>> x.tolist()
      [[0.0, 1.0]]

    Reference: Saharia et al., Imagen, arXiv 2205.11487, section 2.3.
    """
    require_numbers("clip_x0", low=low, high=high)
    if known_false(lambda low, high: low < high, low, high):
        raise ValueError(f"clip_x0 got low {low}, high {high}; expected low < high")
    return Clip(low, high)


@pytree_dataclass
class DynamicThreshold:
    """Shrinks an x0 estimate that leaves its range. Build it with `dynamic_threshold`.

    Attributes:
      percentile: Percentile of ``|x0|`` that becomes the limit, a scalar in (0, 100].
      limit: Largest value of the data, scalar or ``[B]``.
    """

    percentile: Array | float
    limit: Array | float

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """No branches but the base."""
        return {}

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``clip(x0, -s, s) limit / s``."""
        x0 = evals.x0[BASE] + delta
        limit = per_sample(self.limit, delta, "dynamic_threshold's limit")
        share = jnp.asarray(self.percentile, x0.dtype) / 100
        s = jnp.quantile(jnp.abs(x0), share, axis=sample_axes(x0), keepdims=True)
        s = jnp.maximum(s, limit)
        return delta + (jnp.clip(x0, -s, s) * (limit / s) - x0), state


@method(
    "reshape",
    "clip(x0, -s, s) limit / s, s a percentile of |x0|",
    space="x0",
    off="within the limit",
    evaluations=1,
    source="2205.11487",
    strength=None,
    alias="threshold",
    after=True,
    example={"percentile": 80.0, "limit": 0.5},
    skip={"weight_zero_static": "thresholds have no weight of their own to be known"},
    law="test_dynamic_threshold",
)
def dynamic_threshold(percentile: Any = 99.5, limit: Any = 1.0) -> DynamicThreshold:
    """Dynamic thresholding of the guided x0 estimate.

    ``s = max(percentile of |x0|, limit)`` of each sample, ``x0 <- clip(x0, -s, s)
    limit / s``: saturated values are pushed inwards. An estimate within ``limit`` is
    unchanged.

    Args:
      percentile: Percentile of ``|x0|`` over a sample, a scalar in (0, 100]; Imagen's
        code uses 99.5.
      limit: Largest value of the data, scalar or ``[B]``, above 0.

    Returns:
      A guidance term.

    Raises:
      TypeError: A percentile or limit that is no number.
      ValueError: A percentile outside (0, 100], or a limit not above 0.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x + cond, jg.VE())
      >>> keys, cond = jg.sample_keys(jax.random.key(0), 1), jnp.array([[0.0, 4.0]])
      >>> term = jg.dynamic_threshold(100.0)
      >>> x, _ = jg.sample(keys, denoiser, jg.ddim(), [1, 0], (2,), cond, guidance=term)
      >>> x.tolist()
      [[0.0, 1.0]]

    Reference: Saharia et al., Imagen, arXiv 2205.11487, section 2.3.
    """
    require_numbers("dynamic_threshold", percentile=percentile, limit=limit)
    if known_false(lambda limit: limit > 0, limit):
        raise ValueError(f"limit is {limit}; expected a number above 0")
    if jnp.ndim(percentile) or known_false(lambda p: (p > 0) & (p <= 100), percentile):
        raise ValueError(f"percentile is {percentile}; expected a number in (0, 100]")
    return DynamicThreshold(percentile, limit)
