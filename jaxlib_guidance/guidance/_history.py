"""Guidance that compares its predictions with those of the step before."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.diffusion import Prediction, from_x0, require_prediction
from jaxlib_guidance.guidance._base import BASE, Evals, fix
from jaxlib_guidance.guidance._checks import known_false, require_numbers
from jaxlib_guidance.guidance._contrast import like_cond
from jaxlib_guidance.guidance._geometry import cosine, project
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


@pytree_dataclass
class ErrorCorrection:
    """A contrast with a corrected unconditional prediction. Build it with `cfg_ec`.

    Attributes:
      weight: Factor of the contrast, scalar or ``[B]``; 0 is off.
      cond: Condition to move away from.
      threshold: Cosine of the two errors below which it corrects, scalar or ``[B]``.
      worse: Name of the other branch (static).
      space: Prediction that is corrected (static).
    """

    weight: Array | float
    cond: PyTree
    threshold: Array | float
    worse: str = static(default="uncond")
    space: Prediction = static(default="eps")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The other branch."""
        return {self.worse: Branch(like_cond(self.cond, ctx.cond))}

    def init(self, x: Array) -> PyTree:
        """Both predictions of the evaluation before, and whether there was one."""
        return jnp.zeros_like(x), jnp.zeros_like(x), jnp.zeros(x.shape[:1], bool)

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``delta + w (c - u')``."""
        past_c, past_u, begun = state
        c, u = (
            from_x0(ctx.process, self.space, evals.x0[name], ctx.x, ctx.t)
            for name in (BASE, self.worse)
        )
        # Errors of a linear extrapolation by one step: c - (2 c - c_last).
        error_c, error_u = past_c - c, past_u - u
        share = cosine(error_c, error_u)
        across = error_u - project(error_u, error_c)
        corrected = (1 - share) * (2 * u - past_u + across) + share * u
        threshold = per_sample(self.threshold, delta, "cfg_ec's threshold")
        acts = expand(begun, delta) & (share < threshold)
        weight = per_sample(self.weight, delta, "cfg_ec's weight")
        change = weight * (c - jnp.where(acts, corrected, u))
        delta = delta + to_x0_change(change, gain_of(self.space, ctx))
        return delta, (c, u, jnp.ones_like(begun))


@method(
    "combine",
    "c + w (c - u'), u' with the part of its step's error across that of c",
    space="argument",
    evaluations=2,
    source="2511.14075",
    law="test_cfg_ec_golden",
)
def cfg_ec(
    weight: Any,
    null: PyTree,
    *,
    threshold: Any = 0.5,
    space: Prediction = "eps",
    name: str = "uncond",
) -> ErrorCorrection:
    """CFG-EC: an unconditional prediction whose error is across the conditional one's.

    With ``a`` and ``b`` the errors that a linear extrapolation by one step makes in
    ``c`` and ``u``, ``a = c_last - c`` and ``b = u_last - u``, and ``s`` their cosine:
    where ``s < threshold``, ``u' = (1 - s) (2 u - u_last + b_perp) + s u`` with the
    part of ``b`` perpendicular to ``a``; elsewhere and in the first evaluation ``u' =
    u``. In the end ``x = c + w (c - u')``.

    Args:
      weight: Factor ``w`` of the contrast, scalar or ``[B]``; 0 is off.
      null: Condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      threshold: Cosine of the errors below which it corrects, scalar or ``[B]``, in
        [-1, 1]; at -1 it is `cfg`. The default is a place to begin, not the paper's.
      space: Prediction that ``c`` and ``u`` are; the paper's is "eps".
      name: Name of the branch; the default is shared with `cfg`.

    Returns:
      A guidance term.

    Raises:
      TypeError: A number that is none.
      ValueError: A threshold outside [-1, 1], or an unknown ``space``.

    Reference: Yang et al., arXiv 2511.14075, read in AbstractEyes/comfy-cfg-megapack.
    """
    require_prediction(space, "space")
    require_numbers("cfg_ec", weight=weight, threshold=threshold)
    if known_false(lambda a: (a >= -1) & (a <= 1), threshold):
        raise ValueError(f"cfg_ec's threshold is {threshold}; expected a cosine")
    return ErrorCorrection(weight, jax.tree.map(fix, null), threshold, name, space)
