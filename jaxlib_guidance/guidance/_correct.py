"""Guidance that evaluates the network at states of its own: Rectified-CFG++, CHG."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.diffusion import from_x0
from jaxlib_guidance.guidance._base import BASE, Evals, fix
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._contrast import like_cond
from jaxlib_guidance.guidance._fixed_point import fixed_point
from jaxlib_guidance.guidance._prediction import gain_of, to_x0_change
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    PyTree,
    expand,
    per_sample,
    pytree_dataclass,
    static,
)


def _further(evals: Evals, asked: dict[str, Branch]) -> Mapping[str, Array]:
    """Estimates of branches that depend on other estimates."""
    if evals.evaluate is None:
        raise ValueError("a term that evaluates the network got evals without evaluate")
    return evals.evaluate(asked).x0


@pytree_dataclass
class MidContrast:
    """A contrast at a predicted state. Build it with `rectified_cfg_pp`.

    Attributes:
      weight: Factor of the contrast, scalar or ``[B]``; 0 is off.
      cond: Condition to move away from.
    """

    weight: Array | float
    cond: PyTree

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """No branches that are known before the conditional estimate."""
        return {}

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``delta + w (c - u)`` of the velocities at the middle of the step."""
        weight = per_sample(self.weight, delta, "rectified_cfg_pp's weight")
        end = jnp.broadcast_to(jnp.asarray(ctx.t_next, ctx.t.dtype), ctx.t.shape)
        t = (ctx.t + end) / 2
        alpha, sigma = (
            expand(f(t), delta) for f in (ctx.process.alpha, ctx.process.sigma)
        )
        c = evals.x0[BASE]
        x = alpha * c + sigma * from_x0(ctx.process, "eps", c, ctx.x, ctx.t)
        null = like_cond(self.cond, ctx.cond)
        asked = {"ahead": Branch(ctx.cond, x=x, t=t), "back": Branch(null, x=x, t=t)}
        there = _further(evals, asked)
        good, bad = (
            from_x0(ctx.process, "velocity", there[name], x, t) for name in asked
        )
        change = to_x0_change(weight * (good - bad), gain_of("velocity", ctx))
        return delta + change, state


@method(
    "step",
    "v_c(x) + w (v_c - v_u)(x'), x' half a conditional step on",
    space="velocity",
    evaluations=3,
    source="2510.07631",
    law="test_rectified_cfg_pp_golden",
)
def rectified_cfg_pp(weight: Any, null: PyTree) -> MidContrast:
    """Rectified-CFG++: a contrast taken where the conditional flow leads.

    ``v = v_c(x, t) + w (v_c(x', t') - v_u(x', t'))`` with ``t'`` the middle of the step
    and ``x'`` the state to which the conditional estimate leads by then, so that
    guidance does not leave the data. Two further evaluations in each one. The authors'
    code goes the whole step, evaluates there at the old time and adds noise.

    Args:
      weight: Factor ``w`` of the contrast, scalar or ``[B]``; 0 is off. The paper's
        usual one is 4.5.
      null: Condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.

    Returns:
      A guidance term.

    Raises:
      TypeError: A weight that is no number.

    Reference: Saini et al., arXiv 2510.07631.
    """
    require_numbers("rectified_cfg_pp", weight=weight)
    return MidContrast(weight, jax.tree.map(fix, null))


@pytree_dataclass
class Characteristic:
    """The estimate of a product of densities. Build it with `characteristic`.

    Attributes:
      weight: Exponent ``w`` of the contrast, scalar or ``[B]``; 0 is off.
      cond: Condition to move away from.
      damping: Share of each move of the solver, scalar or ``[B]``.
      iterations: Number of the solver's iterations (static).
    """

    weight: Array | float
    cond: PyTree
    damping: Array | float
    iterations: int = static(default=10)

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """No branches that are known before the solution."""
        return {}

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``S D(x + w z; c) - w D(x + S z; null)`` where both estimates agree."""
        weight = per_sample(self.weight, delta, "characteristic's weight")
        scale, null = 1 + weight, like_cond(self.cond, ctx.cond)
        # The slope of the equation in z is about S alpha for data of unit variance. Far
        # out in the noise the solution is large, and the state there does not matter.
        steepness = jnp.maximum(ctx.alpha, 1e-2 * ctx.sigma)
        steepness = steepness / (ctx.alpha**2 + ctx.sigma**2) * jnp.maximum(scale, 1)

        def both(z):
            here = Branch(ctx.cond, x=ctx.x + weight * z)
            there = Branch(null, x=ctx.x + scale * z)
            x0 = _further(evals, {"at_cond": here, "at_null": there})
            return x0["at_cond"], x0["at_null"]

        def closer(z):
            c, u = both(z)
            return z + (c - u) / steepness

        z = fixed_point(
            closer, 0 * ctx.x, iterations=self.iterations, damping=self.damping
        )
        c, u = both(z)
        # The same evaluation in another batch may be rounded otherwise.
        moved = jnp.where(weight == 0, 0, c - evals.x0[BASE])
        return delta + moved + weight * (c - u), state


@method(
    "step",
    "S D(x + w z; c) - w D(x + S z; null), S = 1 + w, z where the two agree",
    space="state",
    evaluations=23,
    source="2312.07586",
    law="test_characteristic_guidance_samples_the_product",
)
def characteristic(
    weight: Any, null: PyTree, *, iterations: int = 10, damping: Any = 1.0
) -> Characteristic:
    """Characteristic guidance: samples of the product ``p_c^S p_u^(1 - S)``.

    CFG combines two scores at one state, and its samples are not those of the product
    of the densities. Here ``x0 = S D(x + w z; c) - w D(x + S z; null)`` with ``S = 1 +
    w`` and ``z`` the shift at which both estimates agree. For Gaussians the probability
    flow ends in the product exactly; for mixtures it comes close. The equation is
    solved by damped iterations, scaled for data of unit variance, and the gradient is
    that of the solution. A step costs ``3 + 2 iterations`` evaluations. The paper also
    has a projection of ``z``, which is not applied.

    Args:
      weight: Exponent ``w``, scalar or ``[B]``; 0 is off.
      null: Condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      iterations: Number of the solver's iterations, at least 1.
      damping: Share of each move of the solver, scalar or ``[B]``; below 1 where
        the data's variance is above 2.

    Returns:
      A guidance term.

    Raises:
      TypeError: A number that is none.
      ValueError: ``iterations`` that is no whole number from 1.

    Reference: Zheng and Lan, arXiv 2312.07586.
    """
    require_numbers("characteristic", weight=weight, damping=damping)
    whole = isinstance(iterations, int) and not isinstance(iterations, bool)
    if not whole or iterations < 1:
        raise ValueError(
            f"iterations is {iterations!r}; expected a whole number from 1"
        )
    return Characteristic(weight, jax.tree.map(fix, null), damping, iterations)
