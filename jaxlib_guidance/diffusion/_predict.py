"""Conversions among what networks predict: x0, eps, score, v and velocity.

All five are affine in each other at a fixed ``x_t``, so any affine combination of
predictions whose coefficients sum to one gives the same sample in every space.
"""

from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp

from jaxlib_guidance.diffusion._process import Process, coefficients, slopes
from jaxlib_guidance.types import Array, at_least_float32, expand, require_process

Prediction = Literal["x0", "eps", "score", "v", "velocity"]


def require_prediction(kind: str, name: str) -> None:
    """Raises unless ``kind`` is one of the five predictions.

    Args:
      kind: Name of a prediction.
      name: Name of the argument, for the error.

    Raises:
      ValueError: Unknown ``kind``.
    """
    if kind not in get_args(Prediction):
        raise ValueError(f"{name} is {kind!r}; expected one of {get_args(Prediction)}")


def _slopes(process, t, like):
    *_, slope_a, slope_s = slopes(process, t)
    return expand(slope_a, like), expand(slope_s, like)


def to_x0(
    process: Process, kind: Prediction, value: Array, x_t: Array, t: Array
) -> Array:
    """The x0 estimate that a prediction implies.

    eps: ``(x_t - sigma eps) / alpha``; score: ``(x_t + sigma^2 score) / alpha``;
    v: ``(alpha x_t - sigma v) / (alpha^2 + sigma^2)``; velocity ``u = dx_t/dt``:
    ``(sigma' x_t - sigma u) / (sigma' alpha - sigma alpha')``.

    Args:
      process: The noise process.
      kind: What ``value`` is: "x0", "eps", "score", "v" or "velocity".
      value: The prediction ``[B, *S]``.
      x_t: Noisy state ``[B, *S]``.
      t: Time, scalar or ``[B]``; for eps and score ``alpha(t)`` must not be 0.

    Returns:
      The estimate ``[B, *S]``, at least float32.

    Raises:
      TypeError: ``process`` is not a noise process.
      ValueError: Unknown ``kind``.

    Reference: v: Salimans and Ho, arXiv 2202.00512, appendix D.
    """
    require_prediction(kind, "kind")
    value, x_t = at_least_float32(value), at_least_float32(x_t)
    alpha, sigma = coefficients(process, t, x_t)
    match kind:
        case "x0":
            return value
        case "eps":
            return (x_t - sigma * value) / alpha
        case "score":
            return (x_t + sigma**2 * value) / alpha
        case "v":
            return (alpha * x_t - sigma * value) / (alpha**2 + sigma**2)
        case "velocity":
            slope_a, slope_s = _slopes(process, t, x_t)
            return (slope_s * x_t - sigma * value) / (slope_s * alpha - sigma * slope_a)


def from_x0(
    process: Process, kind: Prediction, x0: Array, x_t: Array, t: Array
) -> Array:
    """The prediction that corresponds to an x0 estimate; the inverse of `to_x0`.

    Args:
      process: The noise process.
      kind: What to return: "x0", "eps", "score", "v" or "velocity".
      x0: Estimate of the data ``[B, *S]``.
      x_t: Noisy state ``[B, *S]``.
      t: Time, scalar or ``[B]``; ``sigma(t)`` must not be 0 unless ``kind`` is "x0".

    Returns:
      The prediction ``[B, *S]``, at least float32.

    Raises:
      TypeError: ``process`` is not a noise process.
      ValueError: Unknown ``kind``.
    """
    require_prediction(kind, "kind")
    x0, x_t = at_least_float32(x0), at_least_float32(x_t)
    if kind == "x0":
        return x0
    alpha, sigma = coefficients(process, t, x_t)
    eps = (x_t - alpha * x0) / sigma
    match kind:
        case "eps":
            return eps
        case "score":
            return -eps / sigma
        case "v":
            return alpha * eps - sigma * x0
        case "velocity":
            slope_a, slope_s = _slopes(process, t, x_t)
            return slope_a * x0 + slope_s * eps


def convert(
    process: Process,
    src: Prediction,
    dst: Prediction,
    value: Array,
    x_t: Array,
    t: Array,
) -> Array:
    """A prediction of one kind as another: `to_x0`, then `from_x0`.

    Args:
      process: The noise process.
      src: What ``value`` is: "x0", "eps", "score", "v" or "velocity".
      dst: What to return, one of the same five.
      value: The prediction ``[B, *S]``.
      x_t: Noisy state ``[B, *S]``.
      t: Time, scalar or ``[B]``.

    Returns:
      The other prediction ``[B, *S]``, at least float32.

    Raises:
      ValueError: Unknown ``src`` or ``dst``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxlib_guidance as jg
      >>> process, eps, x_t = jg.VE(), jnp.ones((1, 2)), jnp.full((1, 2), 5.0)
      >>> jg.convert(process, "eps", "x0", eps, x_t, 3.0).tolist()
      [[2.0, 2.0]]
    """
    require_prediction(dst, "dst")
    return from_x0(process, dst, to_x0(process, src, value, x_t, t), x_t, t)


class Scalings(NamedTuple):
    """EDM preconditioning: ``x0 = c_skip x_t + c_out F(c_in x_t, c_noise)``.

    Attributes:
      c_skip: Factor of the noisy state in the estimate.
      c_out: Factor of the network's output.
      c_in: Factor of the network's input, which gives it unit variance.
      c_noise: What the network receives as its noise level.
    """

    c_skip: Array
    c_out: Array
    c_in: Array
    c_noise: Array


def edm_scalings(process: Process, t: Array, sigma_data: float = 0.5) -> Scalings:
    """EDM's preconditioning for any process.

    With ``s = sigma_data`` and ``n^2 = sigma^2 + alpha^2 s^2``: ``c_in = 1 / n``,
    ``c_skip = alpha s^2 / n^2``, ``c_out = sigma s / n`` and
    ``c_noise = log(sigma / alpha) / 4``.
    All stay finite at ``alpha = 0``; ``c_noise`` is clipped to [-5, 5].

    Args:
      process: The noise process.
      t: Time, scalar or ``[B]``.
      sigma_data: Standard deviation of the data.

    Returns:
      Four arrays of ``t``'s shape.

    Reference: Karras et al., arXiv 2206.00364, eq. 7 and table 1, which are these at
    ``alpha = 1``.
    """
    require_process(process)
    t = at_least_float32(t)
    alpha, sigma = process.alpha(t), process.sigma(t)
    n = jnp.sqrt(sigma**2 + (alpha * sigma_data) ** 2)
    tiny = jnp.finfo(n.dtype).tiny
    level = jnp.log(jnp.maximum(sigma, tiny)) - jnp.log(jnp.maximum(alpha, tiny))
    return Scalings(
        c_skip=alpha * sigma_data**2 / n**2,
        c_out=sigma * sigma_data / n,
        c_in=1 / n,
        c_noise=jnp.clip(level / 4, -5, 5),
    )
