"""An observation ``y = A x0 + s n``: what was seen, how, and with which noise."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.guidance._base import sample_axes
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._jacobian import conjugate_gradient
from jaxlib_guidance.guidance.posterior._operators import Masking, Operator
from jaxlib_guidance.reduce import known_false, sqrt
from jaxlib_guidance.types import (
    Array,
    Context,
    at_least_float32,
    per_sample,
    pytree_dataclass,
)


@pytree_dataclass
class Measurement:
    """``y = A x0 + s n``. Build it with `measurement`.

    Attributes:
      y: What was observed, ``[B, *M]``, or ``[*M]`` for all samples.
      operator: The operator ``A``.
      noise: Standard deviation ``s`` of the noise, scalar or ``[B]``.
    """

    y: Array
    operator: Operator
    noise: Array | float

    def error(self, x0: Array) -> Array:
        """``y - A x0``, exactly 0 where a mask hides the entry.

        Args:
          x0: Estimates ``[B, *S]``.

        Returns:
          ``[B, *M]``.

        Raises:
          ValueError: ``y`` has another shape than what the operator observes.
        """
        seen = self.operator(x0)
        if self.y.shape not in (seen.shape, seen.shape[1:]):
            raise ValueError(
                f"y has shape {self.y.shape}; expected what the operator observes, "
                f"{seen.shape}, or {seen.shape[1:]} for all samples"
            )
        if not isinstance(self.operator, Masking):
            return self.y - seen
        return jnp.where(self.operator.mask > 0, self.y - seen, 0)

    def variance(self, like: Array) -> Array:
        """``s^2``, ready to broadcast against observations ``[B, *M]``."""
        return per_sample(self.noise, like, "noise") ** 2


def measurement(y: Any, operator: Operator, noise: Any = 0.0) -> Measurement:
    """What was observed of samples: ``y = A x0 + s n``.

    Args:
      y: What was observed, ``[B, *M]``, or ``[*M]`` for all samples. Where a mask is 0
        it may be anything, NaN too.
      operator: Operator ``A``, such as `masking` or `pooling` makes.
      noise: Standard deviation ``s`` of the noise in ``y``, scalar or ``[B]``, at least
        0.

    Returns:
      A measurement, whose numbers are leaves.

    Raises:
      TypeError: An operator without an adjoint, or noise that is no number.
      ValueError: Negative noise.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxlib_guidance as jg
      >>> known = jg.guidance.masking(jnp.array([1.0, 0.0]))
      >>> seen = jg.guidance.measurement(jnp.array([0.5, 9.0]), known, noise=0.1)
      >>> seen.error(jnp.zeros((1, 2))).tolist()
      [[0.5, 0.0]]
    """
    if not (callable(operator) and hasattr(operator, "transpose")):
        raise TypeError(
            f"operator is {operator!r}; expected an operator, as from masking"
        )
    require_numbers("measurement", noise=noise)
    if known_false(lambda s: s >= 0, noise):
        raise ValueError(f"noise is {noise}; expected at least 0")
    return Measurement(at_least_float32(jnp.asarray(y)), operator, noise)


def gaussian_energy(seen: Measurement, x0: Array, ctx: Context | None = None) -> Array:
    """``|y - A x0|^2 / (2 s^2)``: minus the log likelihood of an estimate.

    For `energy`, whose ``params`` are the measurement.

    Args:
      seen: Measurement with positive noise.
      x0: Estimates ``[B, *S]``.
      ctx: The evaluation at hand, if any; it has no part in it.

    Returns:
      One energy for each sample ``[B]``.

    Raises:
      ValueError: Noise that is known not to be positive.
    """
    if known_false(lambda s: s > 0, seen.noise):
        raise ValueError(f"noise is {seen.noise}; expected above 0 for a likelihood")
    error = seen.error(x0)
    return jnp.sum(error**2 / (2 * seen.variance(error)), axis=sample_axes(error))


def norm_energy(seen: Measurement, x0: Array, ctx: Context | None = None) -> Array:
    """``|y - A x0|``, whose gradient has one size however far the estimate is.

    What DPS, FreeDoM and MPGD descend. For `energy`, whose ``params`` are the
    measurement.

    Args:
      seen: Measurement, whose noise has no part in it.
      x0: Estimates ``[B, *S]``.
      ctx: The evaluation at hand, if any; it has no part in it.

    Returns:
      One energy for each sample ``[B]``.

    Reference: Chung et al., DPS, arXiv 2209.14687, the released code.
    """
    error = seen.error(x0)
    return sqrt(jnp.sum(error**2, axis=sample_axes(error)))


def solve_observed(
    seen: Measurement,
    covariance: Callable[[Array], Array],
    error: Array,
    iterations: int,
) -> Array:
    """``(s^2 I + A C A^T)^-1 error`` by conjugate gradients.

    The search ends where it finds that ``A C A^T`` is not positive.

    Args:
      seen: The measurement.
      covariance: Function ``v [B, *S] -> C v [B, *S]``.
      error: Right-hand side ``[B, *M]``.
      iterations: Number of iterations.

    Returns:
      ``[B, *M]``.
    """
    noise, operator = seen.variance(error), seen.operator

    def matvec(v):
        return noise * v + operator(covariance(operator.transpose(v)))

    return conjugate_gradient(matvec, error, iterations=iterations, floor=noise)


def nearest(
    seen: Measurement, x0: Array, ratio: Array, iterations: int
) -> tuple[Array, Array]:
    """``argmin_x |y - A x|^2 / s^2 + |x - x0|^2 / v`` by conjugate gradients.

    ``x = x0 + v A^T (s^2 I + v A A^T)^-1 (y - A x0)``: the mean of a Gaussian of mean
    ``x0`` and variance ``v`` given the measurement.

    Args:
      seen: The measurement.
      x0: Estimates ``[B, *S]``.
      ratio: The variance ``v``, ready to broadcast against ``x0``.
      iterations: Number of iterations.

    Returns:
      The nearest ``[B, *S]``, and the solution of the equation ``[B, *M]``.
    """
    weights = solve_observed(seen, lambda v: ratio * v, seen.error(x0), iterations)
    return x0 + ratio * seen.operator.transpose(weights), weights
