"""Guidance by the same network at a perturbed time."""

from typing import Any

import jax.numpy as jnp

from jaxlib_guidance import rng
from jaxlib_guidance.guidance._base import BASE, Evals
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
    static,
)

# Tells this term's random stream from others'.
PERTURBED = 0x00756


@pytree_dataclass
class PerturbedTime:
    """A contrast with the network at a perturbed time. Build it with `tsg`.

    Attributes:
      weight: Factor of the contrast, scalar or ``[B]``; 0 is off.
      scale: Standard deviation of the perturbation at ``t = 1``, scalar or ``[B]``.
      power: Exponent of the time, scalar or ``[B]``.
      worse: Name of the branch at the other time (static).
    """

    weight: Array | float
    scale: Array | float
    power: Array | float
    worse: str = static(default="tsg")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The branch that is given the other time."""
        scale = per_sample(self.scale, ctx.t, "tsg's scale")
        power = per_sample(self.power, ctx.t, "tsg's power")
        noise = rng.normal(rng.fold(ctx.keys, PERTURBED), ())
        time = ctx.t + scale * ctx.t**power * noise
        time = jnp.clip(time, ctx.process.t_min, ctx.process.t_max)
        return {self.worse: Branch(ctx.cond, t=time)}

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """Adds the weighted contrast."""
        contrast = evals.x0[BASE] - evals.x0[self.worse]
        return delta + per_sample(self.weight, delta, "tsg's weight") * contrast, state


@method(
    "perturb",
    "D(x, t) + w (D(x, t) - D(x, t')), t' = t + s t^a n",
    space="time",
    evaluations=2,
    source="2407.02687",
    law="test_tsg_is_its_formula",
    off="weight = 0; scale = 0",
    example={"scale": 0.5},
)
def tsg(
    weight: Any, scale: Any = 0.1, power: Any = 1.0, name: str = "tsg"
) -> PerturbedTime:
    """Time-step guidance: away from the same network at a perturbed time.

    ``x0 = D(x, t) + w (D(x, t) - D(x, t'))`` with ``t' = t + scale t^power n`` and
    ``n`` a normal number of each sample and step. It needs no condition.

    Args:
      weight: Factor ``w`` of the contrast, scalar or ``[B]``; 0 is off.
      scale: Standard deviation of the perturbation at ``t = 1``, scalar or ``[B]``; 0
        switches the term off. The time stays in the process's range.
      power: Exponent of ``t``, scalar or ``[B]``; 1 perturbs all times by the same
        share.
      name: Name of the branch.

    Returns:
      A guidance term.

    Raises:
      TypeError: An argument that is no number.
      ValueError: A negative scale.

    Reference: Sadat et al., arXiv 2407.02687 (TSG). The paper perturbs the embedding of
      the time by noise of that size, and this the time itself, which every network
      takes; the defaults of scale and power are not the paper's.
    """
    require_numbers("tsg", weight=weight, scale=scale, power=power)
    if known_false(lambda a: a >= 0, scale):
        raise ValueError(f"scale is {scale}; expected at least 0")
    return PerturbedTime(weight, scale, power, name)
