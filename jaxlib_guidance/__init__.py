"""Steer generative models with pure JAX functions.

``import jaxlib_guidance as jg`` loads jax and the mathematics. The rooms that need more
(`jg.models` and `jg.training` with flax, `jg.testing`, `jg.data`) load on first use.
"""

import importlib

from jaxlib_guidance.attention.control import Edit
from jaxlib_guidance.diffusion.denoise import from_function, parametrize
from jaxlib_guidance.diffusion.grids import (
    discrete_grid,
    flow_grid,
    karras_grid,
    logsnr_grid,
    shift_grid,
    uniform_grid,
)
from jaxlib_guidance.diffusion.predict import convert, edm_scalings, from_x0, to_x0
from jaxlib_guidance.diffusion.process import (
    VE,
    RectifiedFlow,
    VPCosine,
    VPDiscrete,
    VPLinear,
    cosine_betas,
    linear_betas,
    logsnr,
    perturb,
    scaled_linear_betas,
    vp_discrete,
)
from jaxlib_guidance.guidance.base import chain
from jaxlib_guidance.guidance.classifier import classifier_guidance, joint_logit
from jaxlib_guidance.guidance.contrast import autoguidance, cfg, cfg_scale
from jaxlib_guidance.guidance.energy import energy
from jaxlib_guidance.guidance.perturb import pag, redirect, seg
from jaxlib_guidance.guidance.plan import steer
from jaxlib_guidance.guidance.post import (
    apg,
    clip_x0,
    dynamic_threshold,
    rescale_norm,
    rescale_std,
)
from jaxlib_guidance.guidance.schedule import during, scheduled
from jaxlib_guidance.rng import sample_keys
from jaxlib_guidance.sampling.adaptive import sample_adaptive
from jaxlib_guidance.sampling.consistency import consistency
from jaxlib_guidance.sampling.ddim import ddim, ddpm
from jaxlib_guidance.sampling.dpm import dpmpp_2m, dpmpp_2s, dpmpp_3m
from jaxlib_guidance.sampling.euler import edm, euler, euler_ancestral, heun
from jaxlib_guidance.sampling.inversion import ddim_inversion, invert
from jaxlib_guidance.sampling.langevin import annealed_langevin, with_corrector
from jaxlib_guidance.sampling.loop import Sampler, StepInfo, sample
from jaxlib_guidance.sampling.multistep import adams, deis, lms, pndm
from jaxlib_guidance.sampling.recurrence import inpaint, with_recurrence
from jaxlib_guidance.sampling.sa import sa_solver
from jaxlib_guidance.sampling.unipc import unipc
from jaxlib_guidance.transition import Transition
from jaxlib_guidance.types import Branch, Context, Denoised, Denoiser

__version__ = "0.1.0"

_ROOMS = (
    "attention",
    "data",
    "diffusion",
    "finetuning",
    "guidance",
    "models",
    "policy",
    "reduce",
    "sampling",
    "testing",
    "timeseries",
    "training",
    "transition",
)


def __getattr__(name: str):
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "VE",
    "Branch",
    "Context",
    "Denoised",
    "Denoiser",
    "Edit",
    "RectifiedFlow",
    "Sampler",
    "StepInfo",
    "Transition",
    "VPCosine",
    "VPDiscrete",
    "VPLinear",
    "adams",
    "annealed_langevin",
    "apg",
    "autoguidance",
    "cfg",
    "cfg_scale",
    "chain",
    "classifier_guidance",
    "clip_x0",
    "consistency",
    "convert",
    "cosine_betas",
    "ddim",
    "ddim_inversion",
    "ddpm",
    "deis",
    "discrete_grid",
    "dpmpp_2m",
    "dpmpp_2s",
    "dpmpp_3m",
    "during",
    "dynamic_threshold",
    "edm",
    "edm_scalings",
    "energy",
    "euler",
    "euler_ancestral",
    "flow_grid",
    "from_function",
    "from_x0",
    "heun",
    "inpaint",
    "invert",
    "joint_logit",
    "karras_grid",
    "linear_betas",
    "lms",
    "logsnr",
    "logsnr_grid",
    "pag",
    "parametrize",
    "perturb",
    "pndm",
    "redirect",
    "rescale_norm",
    "rescale_std",
    "sa_solver",
    "sample",
    "sample_adaptive",
    "sample_keys",
    "scaled_linear_betas",
    "scheduled",
    "seg",
    "shift_grid",
    "steer",
    "to_x0",
    "uniform_grid",
    "unipc",
    "vp_discrete",
    "with_corrector",
    "with_recurrence",
]
