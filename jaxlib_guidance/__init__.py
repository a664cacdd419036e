"""Steer generative models with pure JAX functions.

``import jaxlib_guidance as jg`` gives the words of a first page: the loop, the solvers,
the noise processes, the time grids and the common guidance terms. Everything else is
one dot further, in the room where it belongs: ``jg.policy.grpo``, ``jg.models.DiT``,
``jg.testing.gaussian_mixture``. Rooms load on first use.
"""

import importlib
from typing import TYPE_CHECKING

from jaxlib_guidance.diffusion import (
    VE,
    RectifiedFlow,
    VPCosine,
    VPDiscrete,
    VPLinear,
    convert,
    data_scale,
    discrete_grid,
    flow_grid,
    from_function,
    karras_grid,
    logsnr_grid,
    parametrize,
    perturb,
    shift_grid,
    uniform_grid,
    vp_discrete,
)
from jaxlib_guidance.guidance import (
    apg,
    autoguidance,
    cfg,
    cfg_scale,
    chain,
    classifier_guidance,
    clip_x0,
    during,
    dynamic_threshold,
    energy,
    guided,
    pag,
    redirect,
    rescale_norm,
    rescale_std,
    scheduled,
    seg,
)
from jaxlib_guidance.rng import sample_keys
from jaxlib_guidance.sampling import (
    Sampler,
    adams,
    annealed_langevin,
    calibrate,
    consistency,
    ddim,
    ddim_inversion,
    ddpm,
    deis,
    dpmpp_2m,
    dpmpp_2s,
    dpmpp_3m,
    edm,
    euler,
    euler_ancestral,
    heun,
    inpaint,
    invert,
    lms,
    pndm,
    recommended,
    sa_solver,
    sample,
    sample_adaptive,
    unipc,
    with_corrector,
    with_recurrence,
)
from jaxlib_guidance.types import Denoiser

if TYPE_CHECKING:
    from jaxlib_guidance import (
        data as data,
    )
    from jaxlib_guidance import (
        editing as editing,
    )
    from jaxlib_guidance import (
        files as files,
    )
    from jaxlib_guidance import (
        finetuning as finetuning,
    )
    from jaxlib_guidance import (
        models as models,
    )
    from jaxlib_guidance import (
        planning as planning,
    )
    from jaxlib_guidance import (
        policy as policy,
    )
    from jaxlib_guidance import (
        testing as testing,
    )
    from jaxlib_guidance import (
        timeseries as timeseries,
    )
    from jaxlib_guidance import (
        training as training,
    )
    from jaxlib_guidance import (
        worlds as worlds,
    )

__version__ = "0.1.0"

__all__ = [
    # The loop
    "sample",
    "sample_keys",
    "sample_adaptive",
    "invert",
    # A network as a denoiser
    "Denoiser",
    "parametrize",
    "from_function",
    "convert",
    "perturb",
    # Noise processes
    "VPCosine",
    "VPLinear",
    "VPDiscrete",
    "vp_discrete",
    "VE",
    "RectifiedFlow",
    # Solver and grid in one
    "recommended",
    "data_scale",
    # Time grids
    "uniform_grid",
    "flow_grid",
    "logsnr_grid",
    "karras_grid",
    "discrete_grid",
    "shift_grid",
    # Guidance
    "chain",
    "guided",
    "cfg",
    "cfg_scale",
    "autoguidance",
    "pag",
    "seg",
    "redirect",
    "energy",
    "classifier_guidance",
    "apg",
    "rescale_std",
    "rescale_norm",
    "clip_x0",
    "dynamic_threshold",
    "during",
    "scheduled",
    # Solvers
    "Sampler",
    "ddim",
    "ddpm",
    "euler",
    "euler_ancestral",
    "heun",
    "edm",
    "dpmpp_2m",
    "dpmpp_2s",
    "dpmpp_3m",
    "adams",
    "deis",
    "lms",
    "pndm",
    "unipc",
    "sa_solver",
    "calibrate",
    "consistency",
    "annealed_langevin",
    "ddim_inversion",
    "inpaint",
    "with_corrector",
    "with_recurrence",
]

_ROOMS = (
    "attention",
    "calls",
    "data",
    "diffusion",
    "editing",
    "files",
    "finetuning",
    "guidance",
    "models",
    "planning",
    "policy",
    "reduce",
    "rng",
    "sampling",
    "testing",
    "timeseries",
    "training",
    "transition",
    "types",
    "worlds",
)


def __getattr__(name: str):
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_ROOMS, "__version__"])
