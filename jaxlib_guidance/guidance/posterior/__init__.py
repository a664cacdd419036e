"""Posteriors of linear observations: operators, moments, flows, Monte Carlo, losses."""

from jaxlib_guidance.guidance.posterior._inpaint_flow import (
    InpaintFlow,
    chunk_weights,
    inpaint_flow,
)
from jaxlib_guidance.guidance.posterior._losses import (
    MatchedLoss,
    freedom,
    lgd_mc,
    mpgd,
)
from jaxlib_guidance.guidance.posterior._measurement import (
    Measurement,
    gaussian_energy,
    measurement,
    nearest,
    norm_energy,
    solve_observed,
)
from jaxlib_guidance.guidance.posterior._moments import (
    MomentMatching,
    mmps,
    pigdm,
    posterior_variance,
    tmpd,
)
from jaxlib_guidance.guidance.posterior._operators import (
    LinearMap,
    Masking,
    Operator,
    linear_map,
    masking,
)
from jaxlib_guidance.guidance.posterior._pictures import (
    blurring,
    gaussian_kernel,
    pooling,
    projection,
    resizing,
)
from jaxlib_guidance.guidance.posterior._pool import PoolGuidance, pool_guidance
from jaxlib_guidance.guidance.posterior._tfg import TrainingFree, tfg

__all__ = [
    # Linear operators with their adjoints
    "Operator",
    "Masking",
    "masking",
    "LinearMap",
    "linear_map",
    "gaussian_kernel",
    "blurring",
    "pooling",
    "resizing",
    "projection",
    # Measurements, their likelihoods, and equations with them
    "Measurement",
    "measurement",
    "gaussian_energy",
    "norm_energy",
    "solve_observed",
    "nearest",
    "posterior_variance",
    # Posteriors by the denoiser's moments
    "MomentMatching",
    "mmps",
    "pigdm",
    "tmpd",
    # Inpainting by flows
    "InpaintFlow",
    "inpaint_flow",
    "chunk_weights",
    # Losses of the estimate
    "lgd_mc",
    "MatchedLoss",
    "freedom",
    "mpgd",
    "TrainingFree",
    "tfg",
    # A pool of data
    "PoolGuidance",
    "pool_guidance",
]
