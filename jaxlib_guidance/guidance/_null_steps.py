"""Classifier-free guidance with another null condition at each step."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.guidance._base import BASE, Evals
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._contrast import like_cond
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
class NullSteps:
    """``delta += w (x0[cond] - x0[null of the step])``. Build it with `null_steps`.

    Attributes:
      weight: Factor of the contrast, scalar or ``[B]``; 0 is off.
      nulls: Null condition of each step, every leaf ``[N, ...]``.
      name: Name of the branch (static).
    """

    weight: Array | float
    nulls: PyTree
    name: str = static(default="uncond")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The branch under the step's null condition."""
        counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(self.nulls)}
        if counts != {(ctx.steps,)}:
            raise ValueError(
                f"null_steps has leaves that lead with {sorted(counts)}; expected one "
                f"null condition for each of the {ctx.steps} steps"
            )
        null = jax.tree.map(lambda a: jnp.asarray(a)[ctx.step], self.nulls)
        return {self.name: Branch(like_cond(null, ctx.cond))}

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """Adds the weighted contrast."""
        weight = per_sample(self.weight, delta, "null_steps' weight")
        return delta + weight * (evals.x0[BASE] - evals.x0[self.name]), state


def null_steps(weight: Any, nulls: PyTree, name: str = "uncond") -> NullSteps:
    """Classifier-free guidance away from a null condition of each step's own.

    ``x0 = c + w (c - u_i)`` at step ``i``, with ``u_i`` under ``nulls[i]``: what
    `editing.optimise_null` finds.

    Args:
      weight: Factor ``w`` of the contrast, scalar or ``[B]``; 0 is off.
      nulls: Null conditions, a pytree of the condition's structure whose leaves are
        ``[N, ...]`` and broadcast against it without their first axis.
      name: Name of the branch.

    Returns:
      A guidance term.

    Raises:
      TypeError: A weight that is no number.
      ValueError: In a step, another number of conditions than of steps.

    Reference: Mokady et al., arXiv 2211.09794, section 3.3.
    """
    require_numbers("null_steps", weight=weight)
    return NullSteps(weight, nulls, name)
