"""How a trained model of windows is to be sampled: energy, scale and solver."""

import dataclasses
from typing import Any, Literal

from jaxlib_guidance.guidance import ObservationEnergy
from jaxlib_guidance.sampling import ddim, ddpm
from jaxlib_guidance.timeseries._forecast import Form
from jaxlib_guidance.types import concrete

SAMPLERS = {"ddpm": ddpm, "ddim": ddim}


@dataclasses.dataclass(frozen=True)
class GuidanceSettings:
    """How to sample: a scale belongs to a form, a solver and a number of steps.

    Attributes:
      energy: Energy between estimate and observation: "quantile", "square" or a
        function ``(x0, observed) -> [B]``; None samples without guidance.
      scale: Guidance scale, scalar or one for each path; must be 0 without an energy.
      form: Where the energy's gradient acts: "posterior" or "estimate" (`observation`),
        or "after" (`guided_after`).
      sampler: Name of the solver, "ddpm" or "ddim".
      steps: Number of steps of the solver.

    Raises:
      ValueError: A scale without an energy, unless it is traced.
    """

    energy: str | ObservationEnergy | None = None
    scale: Any = 0.0
    form: Form = "posterior"
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    steps: int = 20

    def __post_init__(self):
        known = concrete(self.scale)
        if self.energy is None and known is not None and known.any():
            raise ValueError(
                f"scale is {self.scale!r}, but without an energy it would have no "
                "effect; name one, or leave the scale at 0"
            )
