"""Conversions among what networks predict: x0, eps, score, v and velocity.

All five are affine in each other at a fixed ``x_t``, so any affine combination of
predictions whose coefficients sum to one gives the same sample in every space.
"""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from jaxlib_guidance.diffusion._process import Process, coefficients
from jaxlib_guidance.types import Array, at_least_float32, expand

Prediction = Literal["x0", "eps", "score", "v", "velocity"]


def require_prediction(kind: str, name: str) -> None:
    """Raises unless ``kind`` is one of the five predictions."""
    if kind not in get_args(Prediction):
        raise ValueError(f"{name} is {kind!r}; expected one of {get_args(Prediction)}")


def _slopes(process, t, like):
    t = at_least_float32(t)
    _, slope_a = jax.jvp(process.alpha, (t,), (jnp.ones_like(t),))
    _, slope_s = jax.jvp(process.sigma, (t,), (jnp.ones_like(t),))
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
      kind: What ``value`` is.
      value: ``[B, *S]``.
      x_t: Noisy state ``[B, *S]``.
      t: Scalar or ``[B]``; for eps and score ``alpha(t)`` must not be 0.

    Returns:
      ``[B, *S]``, at least float32.

    Raises:
      ValueError: Unknown ``kind``.
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
      kind: What to return.
      x0: ``[B, *S]``.
      x_t: Noisy state ``[B, *S]``.
      t: Scalar or ``[B]``; ``sigma(t)`` must not be 0 unless ``kind`` is x0.

    Returns:
      ``[B, *S]``, at least float32.

    Raises:
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
    """A prediction of one kind as another: `to_x0`, then `from_x0`."""
    require_prediction(dst, "dst")
    return from_x0(process, dst, to_x0(process, src, value, x_t, t), x_t, t)


class Scalings(NamedTuple):
    """EDM preconditioning: ``x0 = c_skip x_t + c_out F(c_in x_t, c_noise)``."""

    c_skip: Array
    c_out: Array
    c_in: Array
    c_noise: Array


def edm_scalings(process: Process, t: Array, sigma_data: float = 0.5) -> Scalings:
    """EDM's preconditioning for any process.

    With ``s = sigma_data`` and ``n^2 = sigma^2 + alpha^2 s^2``: ``c_in = 1 / n``,
    ``c_skip = alpha s^2 / n^2``, ``c_out = sigma s / n`` and
    ``c_noise = log(sigma / alpha) / 4``.
    At ``alpha = 1`` these are Karras et al., arXiv 2206.00364, eq. 7 and table 1; they
    stay finite at ``alpha = 0``, except ``c_noise``, which is held within +-5.

    Args:
      process: The noise process.
      t: Scalar or ``[B]``.
      sigma_data: Standard deviation of the data.
    """
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
