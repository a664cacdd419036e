"""Denoising losses, one number for each sample, and the field's weightings.

Every loss is ``w(t) mean((x0_hat - x0)^2)``: what a network predicts and how its error
is weighted are separate choices, and a weighting is a function ``(process, t) -> [B]``
of the noise level. Nothing is averaged over the batch here; that is the train step's
business, which knows about padding, accumulation and devices.
"""

from collections.abc import Callable

import jax.numpy as jnp

from jaxlib_guidance.calls import process_of
from jaxlib_guidance.diffusion._predict import (
    Prediction,
    edm_scalings,
    require_prediction,
)
from jaxlib_guidance.diffusion._process import perturb, slopes
from jaxlib_guidance.types import Array, Denoiser, Process, PyTree, at_least_float32

Weighting = Callable[[Process, Array], Array]


def prediction_weight(process: Process, t: Array, kind: Prediction) -> Array:
    """The weight that makes the x0 error the plain error of another prediction.

    eps: ``(alpha / sigma)^2``, the SNR; score: ``(alpha / sigma^2)^2``; v:
    ``((alpha^2 + sigma^2) / sigma)^2``, which is SNR + 1 on a variance preserving
    process; velocity: ``(sigma' alpha / sigma - alpha')^2``; x0: 1.

    Args:
      process: The noise process.
      t: Times, any shape; ``sigma(t)`` must not be 0.
      kind: The prediction whose plain error is meant.

    Returns:
      The weights, of ``t``'s shape.

    Raises:
      ValueError: Unknown ``kind``.
    """
    require_prediction(kind, "kind")
    alpha, sigma, slope_a, slope_s = slopes(process, t)
    match kind:
        case "x0":
            return jnp.ones_like(alpha)
        case "eps":
            return (alpha / sigma) ** 2
        case "score":
            return (alpha / sigma**2) ** 2
        case "v":
            return ((alpha**2 + sigma**2) / sigma) ** 2
        case "velocity":
            return (slope_s * alpha / sigma - slope_a) ** 2


def min_snr_weight(process: Process, t: Array, gamma: float = 5.0) -> Array:
    """``min(SNR, gamma)``: the eps loss with its weight near the data bounded.

    Args:
      process: The noise process.
      t: Times, any shape.
      gamma: Ceiling of the weight; infinity gives back the eps loss.

    Returns:
      The weights, of ``t``'s shape.

    Reference: Hang et al., arXiv 2303.09556, section 3.4.
    """
    return jnp.minimum(prediction_weight(process, t, "eps"), gamma)


def edm_weight(process: Process, t: Array, sigma_data: float = 0.5) -> Array:
    """``1 / c_out^2 = (sigma^2 + alpha^2 s^2) / (sigma s)^2``.

    With `edm_scalings` of the same ``s = sigma_data`` the error of the raw network then
    has weight 1 at every noise level.

    Args:
      process: The noise process.
      t: Times, any shape.
      sigma_data: Standard deviation of the data.

    Returns:
      The weights, of ``t``'s shape.

    Reference: Karras et al., arXiv 2206.00364, table 1 (``lambda(sigma)``).
    """
    return 1 / edm_scalings(process, t, sigma_data).c_out ** 2


def elbo_weight(process: Process, t: Array) -> Array:
    """``-(1/2) d logsnr/dt SNR``: the likelihood bound, for ``t`` uniform.

    Computed as ``alpha (alpha sigma' - alpha' sigma) / sigma^3``, which is finite where
    alpha is 0.

    Args:
      process: The noise process.
      t: Times, any shape.

    Returns:
      The weights, of ``t``'s shape.

    Reference: Kingma et al., arXiv 2107.00630, eq. 17.
    """
    alpha, sigma, slope_a, slope_s = slopes(process, t)
    return alpha * (alpha * slope_s - slope_a * sigma) / sigma**3


def sigmoid_weight(process: Process, t: Array, bias: float = -3.0) -> Array:
    """``-(1/2) d logsnr/dt e^b sigmoid(logsnr - b)``, for ``t`` uniform.

    The likelihood bound with eps weight ``sigmoid(b - logsnr)``: details finer than
    ``logsnr = b`` count little. The derivative makes the loss an integral over log-SNR,
    so it does not depend on the schedule, only on its ends.

    Args:
      process: The noise process.
      t: Times, any shape.
      bias: Log-SNR ``b`` at which the weight is halved; the lower, the more the loss
        attends to coarse structure.

    Returns:
      The weights, of ``t``'s shape.

    Reference: Kingma and Gao, arXiv 2303.00848; Hoogeboom et al., arXiv
    2410.19324, section 3 ("sigmoid loss").
    """
    alpha, sigma, slope_a, slope_s = slopes(process, t)
    slope = alpha * slope_s - slope_a * sigma
    return alpha * slope / (sigma * (sigma**2 + alpha**2 * jnp.exp(-bias)))


def denoising_loss(
    denoiser: Denoiser,
    x0: Array,
    eps: Array,
    t: Array,
    cond: PyTree = None,
    *,
    weighting: Prediction | Weighting = "eps",
    process: Process | None = None,
) -> Array:
    """``w(t) mean((D(alpha x0 + sigma eps, t, cond) - x0)^2)`` for each sample.

    Args:
      denoiser: The network, made by `parametrize`.
      x0: Data ``[B, *S]``.
      eps: Standard normal noise ``[B, *S]``.
      t: Times ``[B]``; `uniform_t` and `log_normal_t` draw them.
      cond: Condition pytree, every leaf ``[B, ...]``; None for no condition.
      weighting: The prediction whose plain error to minimise, or a function such as
        `edm_weight` or ``functools.partial(min_snr_weight, gamma=5.0)``.
      process: The noise process; None takes the denoiser's.

    Returns:
      ``[B]``, float32: mean over the elements of a sample, no mean over samples.

    Raises:
      ValueError: ``t`` is not ``[B]``, ``eps`` differs from ``x0`` in shape, or the
        weighting is unknown or returns another shape.
    """
    process = process_of(denoiser, process)
    x0, t = at_least_float32(x0), at_least_float32(t)
    if t.shape != x0.shape[:1]:
        raise ValueError(
            f"t has shape {t.shape}; expected one a sample, {x0.shape[:1]}"
        )
    x_t = perturb(process, x0, at_least_float32(eps), t)
    error = denoiser(x_t, t, cond).x0 - x0
    each = jnp.mean(jnp.square(error), axis=tuple(range(1, error.ndim)))
    if callable(weighting):
        weight = weighting(process, t)
    else:
        require_prediction(weighting, "weighting")
        weight = prediction_weight(process, t, weighting)
    if weight.shape != t.shape:
        raise ValueError(f"weighting returned shape {weight.shape}; expected {t.shape}")
    return weight * each
