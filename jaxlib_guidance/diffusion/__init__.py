"""Noise processes, predictions, denoisers, time grids and training losses."""

from jaxlib_guidance.diffusion._data_scale import data_scale
from jaxlib_guidance.diffusion._denoise import (
    FunctionNetwork,
    from_function,
    parametrize,
)
from jaxlib_guidance.diffusion._discrete import (
    VPDiscrete,
    cosine_betas,
    exponential_betas,
    laplace_betas,
    linear_betas,
    rescale_zero_terminal_snr,
    scaled_linear_betas,
    sigmoid_betas,
    vp_discrete,
)
from jaxlib_guidance.diffusion._grids import (
    flow_grid,
    karras_grid,
    logsnr_grid,
    shift_grid,
    uniform_grid,
)
from jaxlib_guidance.diffusion._losses import (
    denoising_loss,
    edm_weight,
    elbo_weight,
    min_snr_weight,
    prediction_weight,
    sigmoid_weight,
)
from jaxlib_guidance.diffusion._noise_levels import (
    log_normal_t,
    logit_normal_t,
    stratified,
    uniform_t,
)
from jaxlib_guidance.diffusion._predict import (
    Prediction,
    Scalings,
    convert,
    edm_scalings,
    from_x0,
    require_prediction,
    to_x0,
)
from jaxlib_guidance.diffusion._process import (
    VE,
    RectifiedFlow,
    VPCosine,
    VPLinear,
    coefficients,
    logsnr,
    perturb,
    slopes,
)
from jaxlib_guidance.diffusion._spacings import (
    beta_grid,
    kl_optimal_grid,
    linear_quadratic_grid,
)
from jaxlib_guidance.diffusion._stiffness import (
    flow_stiffness,
    stiffness,
    stiffness_grid,
)
from jaxlib_guidance.diffusion._table_grids import (
    align_your_steps_grid,
    discrete_grid,
    sigmas_grid,
)
from jaxlib_guidance.diffusion._times import require_positive, require_times
from jaxlib_guidance.types import Process

__all__ = [
    # Noise processes
    "Process",
    "VPLinear",
    "VPCosine",
    "VPDiscrete",
    "vp_discrete",
    "linear_betas",
    "scaled_linear_betas",
    "cosine_betas",
    "sigmoid_betas",
    "laplace_betas",
    "exponential_betas",
    "rescale_zero_terminal_snr",
    "VE",
    "RectifiedFlow",
    "logsnr",
    "slopes",
    "coefficients",
    "perturb",
    "require_times",
    "require_positive",
    # What a network predicts
    "Prediction",
    "require_prediction",
    "to_x0",
    "from_x0",
    "convert",
    "Scalings",
    "edm_scalings",
    # Networks as denoisers
    "FunctionNetwork",
    "from_function",
    "parametrize",
    # Time grids
    "uniform_grid",
    "flow_grid",
    "logsnr_grid",
    "karras_grid",
    "discrete_grid",
    "sigmas_grid",
    "kl_optimal_grid",
    "beta_grid",
    "linear_quadratic_grid",
    "align_your_steps_grid",
    "shift_grid",
    # How short steps must be
    "stiffness",
    "flow_stiffness",
    "stiffness_grid",
    # Times to train at
    "stratified",
    "uniform_t",
    "log_normal_t",
    "logit_normal_t",
    # Losses of a denoiser
    "prediction_weight",
    "min_snr_weight",
    "edm_weight",
    "elbo_weight",
    "sigmoid_weight",
    "data_scale",
    "denoising_loss",
]
