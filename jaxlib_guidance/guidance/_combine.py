"""Any function of the conditional and another prediction, as a term."""

from collections.abc import Callable
from typing import Any

import jax

from jaxlib_guidance.diffusion import Prediction, from_x0, require_prediction
from jaxlib_guidance.guidance._base import BASE, Evals, fix
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._contrast import like_cond
from jaxlib_guidance.guidance._prediction import gain_of, to_x0_change
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
class Combine:
    """``c + function(c, u, weight, ctx, **params)``. Build it with `combine`.

    Attributes:
      weight: Strength, scalar or ``[B]``; 0 is off.
      cond: Condition of the other branch.
      params: Further numbers of ``function`` by name, each a scalar or ``[B]``.
      function: The change of the prediction (static).
      worse: Name of the other branch (static).
      space: What ``c`` and ``u`` are (static).
    """

    weight: Array | float
    cond: PyTree
    params: dict[str, Any]
    function: Callable[..., Array] = static()
    worse: str = static(default="uncond")
    space: Prediction = static(default="x0")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The other branch."""
        return {self.worse: Branch(like_cond(self.cond, ctx.cond))}

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """Adds the change, as a change of x0."""
        c, u = (
            from_x0(ctx.process, self.space, evals.x0[name], ctx.x, ctx.t)
            for name in (BASE, self.worse)
        )
        what = self.function.__name__.strip("_")
        weight = per_sample(self.weight, delta, f"{what}'s weight")
        params = {
            name: per_sample(value, delta, f"{what}'s {name}")
            for name, value in self.params.items()
        }
        change = self.function(c, u, weight, ctx, **params)
        if self.space != "x0":
            change = to_x0_change(change, gain_of(self.space, ctx))
        return delta + change, state


def combine(
    function: Callable[..., Array],
    weight: Any,
    null: PyTree,
    *,
    space: Prediction = "x0",
    name: str = "uncond",
    **params: Any,
) -> Combine:
    """A combination of the conditional and another prediction, given as a function.

    Args:
      function: ``(c, u, weight, ctx, **params) -> change`` of ``c [B, *S]``, which must
        be exactly 0 where ``weight`` is 0; a function of a module, so that a term that
        is built anew does not compile anew. Weight and parameters arrive ready to
        broadcast against ``c``.
      weight: Strength, scalar or ``[B]``; 0 is off.
      null: Condition of the other branch: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      space: What the predictions ``c`` and ``u`` are, and the change.
      name: Name of the branch; the default is shared with `cfg`.
      **params: Further numbers of ``function``, each a scalar or ``[B]``.

    Returns:
      A guidance term.

    Raises:
      TypeError: A weight or parameter that is no number.
      ValueError: Unknown ``space``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxlib_guidance as jg
      >>> def bounded(c, u, weight, ctx, limit):
      ...     return weight * jnp.clip(c - u, -limit, limit)
      >>> term = jg.guidance.combine(bounded, 2.0, 10, limit=0.5)
      >>> jg.testing.check_term(term, only=["acts", "batch"])
    """
    require_prediction(space, "space")
    require_numbers(function.__name__.strip("_"), weight=weight, **params)
    null = jax.tree.map(fix, null)
    return Combine(weight, null, params, function, name, space)
