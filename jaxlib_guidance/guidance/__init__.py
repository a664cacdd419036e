"""Terms that steer a sampler, and the planner that evaluates them together."""

from jaxlib_guidance.guidance import posterior
from jaxlib_guidance.guidance._angle import adamag, adg, cfg_zero, tcfg, vags
from jaxlib_guidance.guidance._apg import APG, apg
from jaxlib_guidance.guidance._attention_negative import (
    AttentionNegative,
    nag,
    nasa,
    orthogonal_negative,
    pladis,
    vsf,
)
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
from jaxlib_guidance.guidance._blend import (
    Rectified,
    Tangential,
    mahiro,
    recfg,
    recfg_ratio,
    tag,
)
from jaxlib_guidance.guidance._cfg_pp import cfg_pp, terminal_repair
from jaxlib_guidance.guidance._chain import Chain, chain
from jaxlib_guidance.guidance._classifier import classifier_guidance, joint_logit
from jaxlib_guidance.guidance._combine import Combine, combine
from jaxlib_guidance.guidance._compose import Compose, compose
from jaxlib_guidance.guidance._concept import Concept, sega, sld
from jaxlib_guidance.guidance._condition import AnnealedCondition, cads
from jaxlib_guidance.guidance._contrast import (
    Contrast,
    autoguidance,
    cfg,
    cfg_scale,
    like_cond,
)
from jaxlib_guidance.guidance._correct import (
    Characteristic,
    MidContrast,
    characteristic,
    rectified_cfg_pp,
)
from jaxlib_guidance.guidance._dynamic_negative import DynamicNegative, dynamic_negative
from jaxlib_guidance.guidance._edit_branches import EditedBranches, edit_branches
from jaxlib_guidance.guidance._elucd import MovedState, elucd, elucd_edm, softplus
from jaxlib_guidance.guidance._energy import Energy, energy, step_size
from jaxlib_guidance.guidance._excite import Excite, attend_and_excite
from jaxlib_guidance.guidance._features import freeu
from jaxlib_guidance.guidance._feedback import (
    Adaptive,
    Feedback,
    adaptive_guidance,
    feedback_guidance,
)
from jaxlib_guidance.guidance._fixed_point import fixed_point
from jaxlib_guidance.guidance._frames import FrameRamp, frame_ramp
from jaxlib_guidance.guidance._frequency import fdg, fresca, samg
from jaxlib_guidance.guidance._geometry import cosine, project, sample_dot, sample_mean
from jaxlib_guidance.guidance._history import ErrorCorrection, History, cfg_ec, higs
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
from jaxlib_guidance.guidance._local_blend import LocalBlend, local_blend
from jaxlib_guidance.guidance._magnitude import beta_cfg, mambo_g, power_law
from jaxlib_guidance.guidance._memory import (
    SlidingMode,
    TransitionPoint,
    smc_cfg,
    transition_point,
)
from jaxlib_guidance.guidance._mutual_masks import MutualMasks, mutual_masks
from jaxlib_guidance.guidance._negative import (
    Negative,
    contrastive_cfg,
    negation,
    nested,
    perp_neg,
)
from jaxlib_guidance.guidance._noisier import Noisier, RandomLabel, icg, self_guidance
from jaxlib_guidance.guidance._norm import cfg_norm, cfg_renorm, energy_preserving, pmc
from jaxlib_guidance.guidance._null_steps import NullSteps, null_steps
from jaxlib_guidance.guidance._pairs import join_pairs, split_pairs
from jaxlib_guidance.guidance._perturb import pag, redirect, seg
from jaxlib_guidance.guidance._plan import GuidedDenoiser, guided
from jaxlib_guidance.guidance._post import (
    RescaleNorm,
    RescaleStd,
    rescale_norm,
    rescale_std,
)
from jaxlib_guidance.guidance._ramp import (
    beta_ramp,
    exponential_ramp,
    power_cosine,
    ramp,
    triangle_ramp,
)
from jaxlib_guidance.guidance._reference import ReferenceEnergy, reference_energy
from jaxlib_guidance.guidance._registry import (
    FAMILIES,
    SPACES,
    Method,
    collect_methods,
    method,
)
from jaxlib_guidance.guidance._revise import (
    Momentum,
    ScaleNoise,
    TemperScore,
    epsilon_scaling,
    momentum_guidance,
    tsr,
)
from jaxlib_guidance.guidance._sag import SelfAttentionGuidance, sag
from jaxlib_guidance.guidance._schedule import During, Scheduled, during, scheduled
from jaxlib_guidance.guidance._semantic import SemanticEdit, semantic_edit
from jaxlib_guidance.guidance._skip import TokenPerturbation, slg, stg, tpg
from jaxlib_guidance.guidance._step import step_grid, step_kernel
from jaxlib_guidance.guidance._subnet import DroppedBlock, erg, s2_guidance, soft_pag
from jaxlib_guidance.guidance._threshold import (
    Clip,
    DynamicThreshold,
    clip_x0,
    dynamic_threshold,
)
from jaxlib_guidance.guidance._time import PerturbedTime, tsg
from jaxlib_guidance.guidance._toward import Toward, toward
from jaxlib_guidance.guidance._tuning import (
    MeasureScale,
    effective_scale,
    measure_scale,
    pareto_set,
)
from jaxlib_guidance.guidance._window import SlidingWindow, sliding_window
from jaxlib_guidance.guidance.posterior import *

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
    "ramp",
    "power_cosine",
    "exponential_ramp",
    "beta_ramp",
    "triangle_ramp",
    "FrameRamp",
    "frame_ramp",
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
    # Two networks composed in score space
    "Compose",
    "compose",
    # Other combinations of two predictions
    "Combine",
    "combine",
    # Strength by the size of the contrast
    "power_law",
    "mambo_g",
    "beta_cfg",
    # The norm of the conditional prediction
    "cfg_renorm",
    "energy_preserving",
    "pmc",
    "cfg_norm",
    # Angles and projections of two predictions
    "adg",
    "cfg_zero",
    "tcfg",
    "vags",
    "adamag",
    # Negative conditions and concepts
    "Negative",
    "negation",
    "perp_neg",
    "contrastive_cfg",
    "nested",
    "Concept",
    "sld",
    "sega",
    "DynamicNegative",
    "dynamic_negative",
    # Guidance that watches its sample
    "Adaptive",
    "adaptive_guidance",
    "ErrorCorrection",
    "cfg_ec",
    "Feedback",
    "feedback_guidance",
    "SlidingMode",
    "smc_cfg",
    "TransitionPoint",
    "transition_point",
    # Similarity, and measured ratios of two predictions
    "mahiro",
    "Rectified",
    "recfg",
    "recfg_ratio",
    # Bands of frequency and places
    "fdg",
    "fresca",
    "samg",
    # The same network, asked otherwise
    "Noisier",
    "self_guidance",
    "RandomLabel",
    "icg",
    # Guidance that knows the sampler's step, or evaluates at states of its own
    "cfg_pp",
    "terminal_repair",
    "MidContrast",
    "rectified_cfg_pp",
    "Characteristic",
    "characteristic",
    # Perturbed attention
    "pag",
    "seg",
    "redirect",
    "soft_pag",
    "erg",
    # Layers left out or shuffled, features rebalanced
    "slg",
    "stg",
    "TokenPerturbation",
    "tpg",
    "DroppedBlock",
    "s2_guidance",
    "freeu",
    # Negatives and sparse maps in cross-attention
    "AttentionNegative",
    "nag",
    "nasa",
    "orthogonal_negative",
    "vsf",
    "pladis",
    # Another null condition at each step
    "NullSteps",
    "null_steps",
    # Edits of branches that are evaluated anyway, and pairs to edit in
    "EditedBranches",
    "edit_branches",
    "LocalBlend",
    "local_blend",
    "MutualMasks",
    "mutual_masks",
    "join_pairs",
    "split_pairs",
    # Self-attention guidance
    "SelfAttentionGuidance",
    "sag",
    # Sliding windows
    "SlidingWindow",
    "sliding_window",
    # A changed condition
    "AnnealedCondition",
    "cads",
    # A perturbed time
    "PerturbedTime",
    "tsg",
    # Energies
    "Energy",
    "step_size",
    "energy",
    # Energies of a reference's attention and features
    "ReferenceEnergy",
    "reference_energy",
    # Energy of words that are seen nowhere
    "Excite",
    "attend_and_excite",
    # Concepts where their words are seen
    "SemanticEdit",
    "semantic_edit",
    # Towards a known picture
    "Toward",
    "toward",
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
    "softplus",
    "elucd",
    "MovedState",
    "elucd_edm",
    # Projections of the guidance
    "APG",
    "apg",
    # The guided prediction: temperature, noise, momentum
    "TemperScore",
    "tsr",
    "ScaleNoise",
    "epsilon_scaling",
    "Momentum",
    "momentum_guidance",
    "History",
    "higs",
    "Tangential",
    "tag",
    # Rescaling and thresholds
    "RescaleStd",
    "rescale_std",
    "RescaleNorm",
    "rescale_norm",
    "Clip",
    "clip_x0",
    "DynamicThreshold",
    "dynamic_threshold",
    # Tuning: how strong a chain is, and which settings to keep
    "effective_scale",
    "MeasureScale",
    "measure_scale",
    "pareto_set",
    # A denoiser with its guidance
    "GuidedDenoiser",
    "guided",
]
__all__ += posterior.__all__
