"""The noise process, parametrisation and steps that a scheduler's file describes."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.diffusion import (
    Process,
    RectifiedFlow,
    VPDiscrete,
    cosine_betas,
    discrete_grid,
    karras_grid,
    linear_betas,
    rescale_zero_terminal_snr,
    scaled_linear_betas,
    shift_grid,
    uniform_grid,
    vp_discrete,
)
from jaxlib_guidance.types import Array

Placement = Literal["ddim", "euler", "dpm"]
Spacing = Literal["leading", "trailing", "linspace"]

# Family of `discrete_grid`, and the defaults of each class: spacing, offset, and
# whether the last step ends at the table's first noise level.
CLASSES: dict[str, tuple[Placement, Spacing, bool]] = {
    "PNDMScheduler": ("ddim", "leading", True),
    "DDIMScheduler": ("ddim", "leading", False),
    "DDPMScheduler": ("ddim", "leading", False),
    "EulerDiscreteScheduler": ("euler", "linspace", False),
    "EulerAncestralDiscreteScheduler": ("euler", "linspace", False),
    "LMSDiscreteScheduler": ("euler", "linspace", False),
    "HeunDiscreteScheduler": ("euler", "linspace", False),
    "KDPM2DiscreteScheduler": ("euler", "linspace", False),
    "DPMSolverMultistepScheduler": ("dpm", "linspace", False),
    "DPMSolverSinglestepScheduler": ("dpm", "linspace", False),
    "DEISMultistepScheduler": ("dpm", "linspace", False),
    "UniPCMultistepScheduler": ("dpm", "linspace", False),
}
FLOWS = ("FlowMatchEulerDiscreteScheduler",)
# Classes by the words of our solvers' families.
FAMILIES = {
    "ddim": "DDIMScheduler",
    "euler": "EulerDiscreteScheduler",
    "dpm": "DPMSolverMultistepScheduler",
}
BETAS = {
    "linear": linear_betas,
    "scaled_linear": scaled_linear_betas,
    "squaredcos_cap_v2": cosine_betas,
}
PREDICTIONS: dict[str, Literal["eps", "v", "x0"]] = {
    "epsilon": "eps",
    "v_prediction": "v",
    "sample": "x0",
}
# Classes with other ends of the betas; and those whose last step may stay on the table.
OF_LATENTS = ("HeunDiscreteScheduler", "KDPM2DiscreteScheduler")
LATENT_BETAS = (0.00085, 0.012)
KEEPS_FIRST = ("PNDMScheduler", "DDIMScheduler")
# Classes that read ``clip_sample``, with their defaults, and ``thresholding``.
CLIPS = {"DDIMScheduler": True, "DDPMScheduler": True, "HeunDiscreteScheduler": False}
THRESHOLDS = (
    *("DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler"),
    *("DPMSolverSinglestepScheduler", "DEISMultistepScheduler"),
    "UniPCMultistepScheduler",
)


@dataclasses.dataclass(frozen=True)
class Scheduler:
    """What a ``scheduler_config.json`` says, in the terms of this library.

    Attributes:
      config: The file.
      process: The noise process of the training.
      predicts: What the network predicts: "eps", "v", "x0" or "velocity".
    """

    config: Mapping[str, Any]
    process: Process
    predicts: Literal["eps", "v", "x0", "velocity"]

    def clip(self, solver: str | None = None) -> float | None:
        """The bound that the scheduler clips estimates of x0 to at each step.

        Keys ``clip_sample`` and ``thresholding``. A file that does not have them means
        its own class's defaults, and no clipping by other solvers.

        Args:
          solver: As in `grid`.

        Returns:
          ``r`` for ``jg.clip_x0(-r, r)`` as the last term of the guidance, or None.

        Raises:
          ValueError: Another solver, thresholding whose limit may exceed 1, or a range
            that is not a positive number.
        """
        if not isinstance(self.process, VPDiscrete):
            return None
        name, config = self._class(solver), self.config
        if name in THRESHOLDS and config.get("thresholding"):
            largest = config.get("sample_max_value", 1.0)
            if largest != 1:
                raise ValueError(
                    f"thresholding with sample_max_value {largest} is not computed; "
                    "expected 1, where it is a clip to [-1, 1]"
                )
            return 1.0
        default = CLIPS.get(str(config.get("_class_name")), False)
        if name in CLIPS and config.get("clip_sample", default):
            bound = config.get("clip_sample_range", 1.0)
            if not isinstance(bound, int | float) or not 0 < bound < float("inf"):
                raise ValueError(
                    f"clip_sample_range is {bound!r}; expected a positive number"
                )
            return float(bound)
        return None

    def _class(self, solver):
        """Name of the class of diffusers for a solver."""
        name = self.config.get("_class_name") if solver is None else solver
        name = FAMILIES.get(str(name), str(name))
        if name not in CLASSES:
            known = (*FAMILIES, *CLASSES)
            raise ValueError(f"solver is {name!r}; expected one of {known}")
        return name

    def grid(
        self, n: int, solver: str | None = None, *, clipped: bool = False
    ) -> Array:
        """The times of ``n`` steps, as diffusers' scheduler takes them.

        A key that the file does not have takes the default of the scheduler's class, so
        another solver may take other steps from the same file.

        Args:
          n: Number of steps.
          solver: "ddim" (DDIM, DDPM, PNDM), "euler" (Euler, Heun, LMS), "dpm" (DPM++,
            UniPC, DEIS) or the name of a class of diffusers; None is the file's own. A
            flow has one rule.
          clipped: Whether the guidance clips x0 as `clip` says. Needed where it says
            so, that no file's clipping is forgotten; else it has no effect.

        Returns:
          Float32 ``[n + 1]``. With DDIM and PNDM and ``set_alpha_to_one=False``, as in
          Stable Diffusion, it ends at the table's first noise level and not at 0. With
          ``use_karras_sigmas`` it is `karras_grid`, without diffusers' rounding to
          whole timesteps.

        Raises:
          ValueError: Another solver, a number of steps that the table does not have, or
            a scheduler that clips where ``clipped`` is False.
        """
        if not isinstance(self.process, VPDiscrete):
            return _flow_grid(self.config, n)
        name, bound = self._class(solver), self.clip(solver)
        if bound is not None and not clipped:
            raise ValueError(
                f"{name} of this file clips x0 (clip_sample or thresholding); expected "
                f"jg.clip_x0({-bound:g}, {bound:g}) as the last term of the guidance, "
                "and clipped=True here"
            )
        family, spacing, first = CLASSES[name]
        if self.config.get("use_karras_sigmas") and family != "ddim":
            return karras_grid(self.process, n)
        spacing = self.config.get("timestep_spacing", spacing)
        offset = int(self.config.get("steps_offset", 0))
        stays = False
        if name in KEEPS_FIRST:
            stays = not self.config.get("set_alpha_to_one", not first)
        elif family != "ddim":
            stays = self.config.get("final_sigmas_type", "zero") == "sigma_min"
        # Where the last step is on the table's first entry, none is left to go there.
        if spacing == "linspace" and family != "dpm":
            stays = False
        return discrete_grid(self.process, n, spacing, offset, family, not stays)


def _flow_grid(config, n):
    if config.get("use_dynamic_shifting"):
        raise ValueError(
            "the scheduler shifts its times by the number of tokens "
            "(use_dynamic_shifting); take the grid of the model's family"
        )
    shift = float(config.get("shift", 1.0))
    total = int(config.get("num_train_timesteps", 1000))
    if shift == 1:
        return uniform_grid(RectifiedFlow(), n)
    # The low end is shifted twice, as diffusers does.
    low = shift / total / (1 + (shift - 1) / total)
    return shift_grid(jnp.append(jnp.linspace(1.0, low, n), 0.0), shift)


def read_scheduler(config: Mapping[str, Any], where: str = "scheduler") -> Scheduler:
    """Process, parametrisation and steps from a scheduler's configuration.

    Args:
      config: The file ``scheduler/scheduler_config.json``.
      where: What to call it in errors.

    Returns:
      The scheduler. With ``rescale_betas_zero_snr`` the table ends in pure noise.

    Raises:
      ValueError: A class, schedule or parametrisation that is not known.
    """
    name = config.get("_class_name")
    if name in FLOWS:
        return Scheduler(config, RectifiedFlow(), "velocity")
    if name not in CLASSES:
        known = ", ".join((*CLASSES, *FLOWS))
        raise ValueError(f"{where}: _class_name is {name!r}; expected one of {known}")
    steps = int(config.get("num_train_timesteps", 1000))
    betas = config.get("trained_betas")
    if betas is None:
        schedule = config.get("beta_schedule", "linear")
        if schedule not in BETAS:
            raise ValueError(
                f"{where}: beta_schedule is {schedule!r}; expected one of "
                f"{tuple(BETAS)}"
            )
        if schedule == "squaredcos_cap_v2":
            betas = cosine_betas(steps)
        else:
            ends = LATENT_BETAS if name in OF_LATENTS else (1e-4, 0.02)
            first, last = config.get("beta_start"), config.get("beta_end")
            betas = BETAS[schedule](
                steps,
                ends[0] if first is None else first,
                ends[1] if last is None else last,
            )
    if config.get("rescale_betas_zero_snr"):
        betas = rescale_zero_terminal_snr(np.asarray(betas))
    kind = config.get("prediction_type", "epsilon")
    if kind not in PREDICTIONS:
        raise ValueError(
            f"{where}: prediction_type is {kind!r}; expected one of "
            f"{tuple(PREDICTIONS)}"
        )
    if config.get("rescale_betas_zero_snr") and kind == "epsilon":
        raise ValueError(
            f"{where}: rescale_betas_zero_snr with prediction_type 'epsilon', which "
            "says nothing about the picture in pure noise"
        )
    return Scheduler(config, vp_discrete(betas), PREDICTIONS[kind])
