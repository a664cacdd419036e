"""Posteriors by matching moments: the data given the state as a Gaussian.

With ``x0 | x_t ~ N(D, C)`` the observation ``y = A x0 + s n`` has the likelihood ``N(A
D, s^2 I + A C A^T)``, and its gradient through the network is ``J^T A^T (s^2 I + A C
A^T)^-1 (y - A D)``. The methods differ in ``C``. Tweedie's is ``sigma^2 / alpha J``.
"""

from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.guidance._base import BASE, Evals
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.guidance.posterior._measurement import (
    Measurement,
    solve_observed,
)
from jaxlib_guidance.reduce import divide, known_false
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    PyTree,
    per_sample,
    pytree_dataclass,
    static,
)


@pytree_dataclass
class MomentMatching:
    """Posterior guidance with some covariance. Build it with `mmps`, `pigdm`, `tmpd`.

    Attributes:
      weight: Factor of the correction, scalar or ``[B]``; 0 is off.
      seen: The measurement.
      data_variance: Variance of the data, which sets the "isotropic" covariance.
      covariance: "isotropic", "tweedie" or "diagonal" (static).
      iterations: Number of iterations of the solver (static).
      jacobian: What is needed of the network's Jacobian (static).
    """

    weight: Array | float
    seen: Measurement
    data_variance: Array | float = 1.0
    covariance: str = static(default="tweedie")
    iterations: int = static(default=1)
    jacobian: str = static(default="transpose")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """No branches but the base, whose Jacobian it is."""
        return {}

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """Adds ``w sigma^2 / alpha J^T A^T (s^2 I + A C A^T)^-1 (y - A x0)``."""
        jacobian = evals.jacobian
        if jacobian is None:  # Only where the planner is not what evaluates.
            raise ValueError("posterior guidance needs the denoiser's Jacobian")
        seen, operator = self.seen, self.seen.operator
        factor = divide(ctx.sigma**2, ctx.alpha)
        error = seen.error(evals.x0[BASE])
        if self.covariance == "diagonal":
            ones = operator.transpose(jnp.ones_like(error))
            spread = operator(factor * jacobian.transpose(ones))
            total = seen.variance(error) + jnp.maximum(spread, 0)
            solved = divide(error, total)
        else:
            covariance = self._isotropic if self.covariance == "isotropic" else None
            solved = solve_observed(
                seen,
                (lambda v: covariance(ctx) * v)
                if covariance
                else (lambda v: factor * self._symmetric(jacobian, v)),
                error,
                self.iterations,
            )
        weight = per_sample(self.weight, delta, "a posterior's weight")
        moved = factor * jacobian.transpose(operator.transpose(solved))
        return delta + weight * moved, state

    def _isotropic(self, ctx: Context) -> Array:
        data = per_sample(self.data_variance, ctx.x, "data_variance")
        return posterior_variance(ctx.alpha, ctx.sigma, data)

    def _symmetric(self, jacobian, v):
        back = jacobian.transpose(v)
        return back if jacobian.matvec is None else 0.5 * (back + jacobian.matvec(v))


def posterior_variance(alpha: Array, sigma: Array, data_variance: Any = 1.0) -> Array:
    """``v sigma^2 / (alpha^2 v + sigma^2)``: of ``N(m, v I)`` given the state.

    Args:
      alpha: Scale of the data in the state.
      sigma: Standard deviation of the noise in the state.
      data_variance: Variance ``v`` of the data; infinity gives ``sigma^2 / alpha^2``,
        what the state alone says.

    Returns:
      The variance, of the arguments' common shape.
    """
    # By the inverse, so that infinity is a variance.
    precision = divide(jnp.float32(1), jnp.asarray(data_variance, jnp.float32))
    return divide(sigma**2, alpha**2 + precision * sigma**2)


def _require_iterations(name: str, iterations: Any) -> None:
    whole = isinstance(iterations, int) and not isinstance(iterations, bool)
    if not whole or iterations < 1:
        raise ValueError(
            f"{name}'s iterations is {iterations!r}; expected a whole number from 1"
        )


def _require_seen(name: str, seen: Any) -> None:
    if not isinstance(seen, Measurement):
        raise TypeError(
            f"{name}'s seen is {type(seen).__name__}; expected a measurement(y, "
            "operator, noise)"
        )


@method(
    "posterior",
    "D + w s2/a J'A' (s^2 + A C A')^-1 (y - A D), C = s2/a J, by conjugate gradients",
    space="gradient",
    evaluations=1,
    source="2405.13712",
    law="test_mmps_is_exact_for_any_gaussian",
)
def mmps(
    seen: Measurement,
    weight: Any = 1.0,
    *,
    iterations: int = 1,
    symmetric: bool = True,
) -> MomentMatching:
    """Moment matching posterior sampling: the covariance that Tweedie's formula gives.

    ``x0 = D + w sigma^2 / alpha J^T A^T (s^2 I + A C A^T)^-1 (y - A D)`` with ``C =
    sigma^2 / alpha J``, solved by conjugate gradients on products with the network's
    Jacobian ``J``. Exact for Gaussian data of any covariance. A learned network's ``J``
    is neither symmetric nor positive: its symmetric part is taken, and the search ends
    before a direction in which that is negative. On the bundled digits three iterations
    are no better than one where half is hidden, and much better where all is blurred.

    Args:
      seen: The measurement.
      weight: Factor ``w``, scalar or ``[B]``; 0 is off.
      iterations: Number of iterations, each two passes through the network's
        derivative; as many as there are observations solve exactly, for an exact
        network. The authors' code has 1, too.
      symmetric: Whether to take the symmetric part of ``J``, which needs a network with
        a forward derivative; False takes ``J^T`` alone, in one pass.

    Returns:
      A guidance term.

    Raises:
      TypeError: Something that is no measurement, or a weight that is no number.
      ValueError: ``iterations`` below 1; while sampling, observations of another shape.

    Reference: Rozet et al., arXiv 2405.13712, section 4.2 and algorithm 3.
    """
    _require_seen("mmps", seen)
    require_numbers("mmps", weight=weight)
    _require_iterations("mmps", iterations)
    passes = "both" if symmetric else "transpose"
    return MomentMatching(weight, seen, 1.0, "tweedie", iterations, passes)


@method(
    "posterior",
    "D + w s2/a J'A' (s^2 + r^2 A A')^-1 (y - A D), r^2 = v s2 / (v a^2 + s2)",
    space="gradient",
    evaluations=1,
    source="https://openreview.net/forum?id=9_gsMA8MRKQ",
    law="test_pigdm_is_exact_for_one_variance",
)
def pigdm(
    seen: Measurement,
    weight: Any = 1.0,
    *,
    data_variance: Any = 1.0,
    iterations: int = 10,
) -> MomentMatching:
    """Pseudoinverse guidance: one variance for all entries, whatever the data.

    ``x0 = D + w sigma^2 / alpha J^T A^T (s^2 I + r^2 A A^T)^-1 (y - A D)`` with ``r^2 =
    v sigma^2 / (v alpha^2 + sigma^2)``. Exact for data ``N(m, v I)``. At ``s = 0`` it
    is the pseudoinverse, ``(r^2 A A^T)^-1``. For a flow and ``v = 1`` it is OT-ODE's
    ``(1 - t)^2 / (t^2 + (1 - t)^2)``. The released code for DDIM weighs the step by
    ``alpha alpha'`` in place of ``r^-2``; this one is a change of the estimate, which
    goes with any solver.

    Args:
      seen: The measurement.
      weight: Factor ``w``, scalar or ``[B]``; 0 is off.
      data_variance: Variance ``v`` of the data, scalar or ``[B]``, positive.
      iterations: Number of iterations that solve with ``A A^T``: one is enough where
        all its eigenvalues are alike, as for masks and averages. They do not evaluate
        the network.

    Returns:
      A guidance term.

    Raises:
      TypeError: Something that is no measurement, or a number that is none.
      ValueError: A variance that is not positive, ``iterations`` below 1; while
        sampling, observations of another shape.

    Reference: Song et al., ICLR 2023, https://openreview.net/forum?id=9_gsMA8MRKQ,
      eq. 7 and 8; flows: Pokle et al., OT-ODE, arXiv 2310.04432.
    """
    _require_seen("pigdm", seen)
    require_numbers("pigdm", weight=weight, data_variance=data_variance)
    _require_iterations("pigdm", iterations)
    if known_false(lambda v: v > 0, data_variance):
        raise ValueError(f"data_variance is {data_variance}; expected above 0")
    return MomentMatching(weight, seen, data_variance, "isotropic", iterations)


@method(
    "posterior",
    "D + w s2/a J'A' (y - A D) / (s^2 + A C A' 1), C = s2/a J",
    space="gradient",
    evaluations=1,
    source="2310.06721",
    law="test_tmpd_is_exact_for_independent_entries",
)
def tmpd(seen: Measurement, weight: Any = 1.0) -> MomentMatching:
    """Tweedie moment projection: `mmps` with row sums in place of the covariance.

    ``(s^2 I + A C A^T)`` is replaced by the diagonal matrix of its row sums, one
    product with the Jacobian and no equation to solve. Exact for Gaussian data where
    ``A C A^T`` is diagonal, as for a mask of independent entries. Negative sums count
    as 0.

    Args:
      seen: The measurement.
      weight: Factor ``w``, scalar or ``[B]``; 0 is off.

    Returns:
      A guidance term.

    Raises:
      TypeError: Something that is no measurement, or a weight that is no number.
      ValueError: While sampling, observations of another shape.

    Reference: Boys et al., arXiv 2310.06721.
    """
    _require_seen("tmpd", seen)
    require_numbers("tmpd", weight=weight)
    return MomentMatching(weight, seen, 1.0, "diagonal")
