"""Terms that steer a sampler, and the planner that evaluates them together."""

from jaxlib_guidance.guidance._apg import APG, apg
from jaxlib_guidance.guidance._base import (
    BASE,
    Evals,
    Fixed,
    Jacobian,
    Term,
    fix,
    fixed,
    init_term,
    sample_axes,
    sample_norm,
)
from jaxlib_guidance.guidance._cfg_pp import cfg_pp
from jaxlib_guidance.guidance._chain import Chain, chain
from jaxlib_guidance.guidance._classifier import classifier_guidance, joint_logit
from jaxlib_guidance.guidance._combine import Combine, combine
from jaxlib_guidance.guidance._contrast import (
    Contrast,
    autoguidance,
    cfg,
    cfg_scale,
    like_cond,
)
from jaxlib_guidance.guidance._energy import Energy, energy, step_size
from jaxlib_guidance.guidance._fixed_point import fixed_point
from jaxlib_guidance.guidance._geometry import (
    cosine,
    project,
    sample_dot,
    sample_mean,
)
from jaxlib_guidance.guidance._inverse import (
    ENERGIES,
    ObservationEnergy,
    Observed,
    find_energy,
    observation,
    quantile_energy,
    require_scale,
    spread_levels,
    square_energy,
)
from jaxlib_guidance.guidance._jacobian import conjugate_gradient
from jaxlib_guidance.guidance._perturb import pag, redirect, seg
from jaxlib_guidance.guidance._plan import GuidedDenoiser, guided
from jaxlib_guidance.guidance._post import (
    RescaleNorm,
    RescaleStd,
    rescale_norm,
    rescale_std,
)
from jaxlib_guidance.guidance._registry import (
    FAMILIES,
    SPACES,
    Method,
    collect_methods,
    method,
)
from jaxlib_guidance.guidance._schedule import During, Scheduled, during, scheduled
from jaxlib_guidance.guidance._step import step_grid, step_kernel
from jaxlib_guidance.guidance._threshold import (
    Clip,
    DynamicThreshold,
    clip_x0,
    dynamic_threshold,
)

# Every method that stands at this door, one row each.
METHODS = collect_methods(dict(vars()))

__all__ = [
    # The catalogue: one row for each method
    "METHODS",
    "Method",
    "method",
    "collect_methods",
    "FAMILIES",
    "SPACES",
    # What a term is, and chains of them
    "BASE",
    "Fixed",
    "fix",
    "fixed",
    "Evals",
    "Jacobian",
    "Term",
    "init_term",
    "Chain",
    "chain",
    "sample_axes",
    "sample_norm",
    "sample_dot",
    "sample_mean",
    "project",
    "cosine",
    # When and how strongly a term acts
    "During",
    "during",
    "Scheduled",
    "scheduled",
    # What a term may know of the sampler's step
    "step_kernel",
    "step_grid",
    # Equations: fixed points, and the denoiser's Jacobian
    "fixed_point",
    "conjugate_gradient",
    # Contrasts of two predictions
    "Contrast",
    "like_cond",
    "cfg",
    "cfg_scale",
    "autoguidance",
    # Other combinations of two predictions
    "Combine",
    "combine",
    # Guidance that knows the sampler's step
    "cfg_pp",
    # Perturbed attention
    "pag",
    "seg",
    "redirect",
    # Energies
    "Energy",
    "step_size",
    "energy",
    # Energies of what was observed
    "Observed",
    "ObservationEnergy",
    "square_energy",
    "quantile_energy",
    "ENERGIES",
    "find_energy",
    "require_scale",
    "spread_levels",
    "observation",
    # Classifiers
    "joint_logit",
    "classifier_guidance",
    # Projections of the guidance
    "APG",
    "apg",
    # Rescaling and thresholds
    "RescaleStd",
    "rescale_std",
    "RescaleNorm",
    "rescale_norm",
    "Clip",
    "clip_x0",
    "DynamicThreshold",
    "dynamic_threshold",
    # A denoiser with its guidance
    "GuidedDenoiser",
    "guided",
]
