"""Laws, exact oracles and tiny networks, for our tests and for yours."""

from jaxlib_guidance.testing._check import (
    check_loss,
    check_method,
    check_sampler,
    check_term,
)
from jaxlib_guidance.testing._fidelity import (
    frechet_distance,
    judge_samples,
    kernel_distance,
)
from jaxlib_guidance.testing._gaussian_process import (
    GaussianProcess,
    condition,
    gaussian_process,
    process_denoiser,
    seasonal_cov,
)
from jaxlib_guidance.testing._method_case import method_shape, method_term
from jaxlib_guidance.testing._mixtures import (
    GaussianMixture,
    component_log_density,
    draw_exact,
    exact_denoiser,
    gaussian_mixture,
    given_label,
    given_observation,
    label_log_prob,
    log_density,
    observation_log_prob,
    posterior_mean,
    score,
)
from jaxlib_guidance.testing._nets import randomise, tiny_dit, tiny_unet
from jaxlib_guidance.testing._probability_flow import (
    exact_flow,
    plane_mixture,
    posterior_mean64,
    space_mixture,
)

__all__ = [
    # Laws of a term, a solver and a loss of your own
    "check_term",
    "check_sampler",
    "check_loss",
    # Rows of the catalogue of guidance methods
    "check_method",
    "method_term",
    "method_shape",
    # Gaussian mixtures: exact scores, posteriors, samples
    "GaussianMixture",
    "gaussian_mixture",
    "component_log_density",
    "log_density",
    "posterior_mean",
    "score",
    "exact_denoiser",
    "draw_exact",
    "given_label",
    "label_log_prob",
    "given_observation",
    "observation_log_prob",
    # Tiny networks
    "randomise",
    "tiny_dit",
    "tiny_unet",
    # Gaussian processes
    "GaussianProcess",
    "gaussian_process",
    "seasonal_cov",
    "process_denoiser",
    "condition",
    # Exact probability flows
    "plane_mixture",
    "space_mixture",
    "posterior_mean64",
    "exact_flow",
    # Distances between sets of samples
    "frechet_distance",
    "kernel_distance",
    "judge_samples",
]
