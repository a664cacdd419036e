"""Gaussian processes: series whose exact denoiser and forecasts are known.

For ``x0 ~ N(0, S)`` and ``x_t = alpha x0 + sigma eps`` the posterior mean is linear in
``x_t``, and what is observed of a window gives the distribution of the rest in closed
form.
Self-guidance and refinement are tested against these, and so can yours be.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.types import (
    Array,
    Denoised,
    Denoiser,
    Process,
    at_least_float32,
    pytree_dataclass,
)


@pytree_dataclass
class GaussianProcess:
    """A Gaussian distribution of windows ``[L]``. Build it with `gaussian_process`.

    Attributes:
      variances: Eigenvalues of the covariance ``[L]``.
      axes: Eigenvectors of the covariance in columns ``[L, L]``.
    """

    variances: Array
    axes: Array

    @property
    def cov(self) -> Array:
        """``S [L, L]``."""
        return (self.axes * self.variances) @ self.axes.T


def gaussian_process(cov: Any) -> GaussianProcess:
    """The process with a given covariance and mean 0.

    Args:
      cov: Covariance ``[L, L]``, symmetric and positive semi-definite.

    Raises:
      ValueError: ``cov`` is not square, not symmetric, or has a negative eigenvalue.
    """
    cov = np.asarray(cov, np.float64)
    if cov.ndim != 2 or cov.shape[0] != cov.shape[1] or not np.allclose(cov, cov.T):
        raise ValueError(f"cov has shape {cov.shape}; expected symmetric [L, L]")
    values, vectors = np.linalg.eigh(cov)
    if values[0] < -1e-9 * values[-1]:
        raise ValueError(f"cov has a negative eigenvalue, {values[0]}")
    kind = jnp.result_type(float)
    return GaussianProcess(
        jnp.asarray(np.maximum(values, 0), kind), jnp.asarray(vectors, kind)
    )


def seasonal_cov(
    length: int, period: float, memory: float, noise: float = 0.1
) -> np.ndarray:
    """A season that drifts, and noise: ``exp(-d / memory) cos(2 pi d / period)``.

    Args:
      length: Number of steps ``L``.
      period: Length of the season, in steps.
      memory: Number of steps over which the season keeps its phase and size.
      noise: Variance of the white noise that is added to each step.

    Returns:
      Float64 ``[L, L]``, of variance ``1 + noise``.
    """
    d = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
    season = np.exp(-d / memory) * np.cos(2 * np.pi * d / period)
    return season + noise * np.eye(length)


def process_denoiser(distribution: GaussianProcess, process: Process) -> Denoiser:
    """``E[x0 | x_t] = alpha S (alpha^2 S + sigma^2 I)^-1 x_t``, for ``x [B, L, 1]``.

    Args:
      distribution: Distribution of x0.
      process: Noise process.

    Returns:
      A denoiser of states ``[B, L, 1]``, which ignores its condition.
    """

    def apply(x, t, cond, *, control, capture):
        x = at_least_float32(x)
        t = jnp.broadcast_to(at_least_float32(t), x.shape[:1])
        alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
        gain = (
            alpha
            * distribution.variances
            / (alpha**2 * distribution.variances + sigma**2)
        )
        along = jnp.einsum("blc,lk->bkc", x, distribution.axes)
        x0 = jnp.einsum("bkc,lk->blc", gain[..., None] * along, distribution.axes)
        return Denoised(x0)

    return Denoiser(apply, process=process)


def condition(
    distribution: GaussianProcess, observed: Any, y: Any, noise: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of ``x0`` given ``y = x0 + sqrt(noise) eps`` where observed.

    Args:
      distribution: Distribution of x0.
      observed: Whether each step is observed, bool ``[L]``.
      y: Observations ``[L]`` or ``[B, L]``; what is not observed may be anything.
      noise: Variance of the observations' noise; 0 means exact observations.

    Returns:
      The mean ``[L]`` or ``[B, L]`` and the covariance ``[L, L]``, float64.
    """
    cov = np.asarray(distribution.cov, np.float64)
    visible = np.flatnonzero(observed)
    inner = cov[np.ix_(visible, visible)] + noise * np.eye(len(visible))
    gain = np.linalg.solve(inner, cov[visible]).T
    known = np.asarray(y, np.float64)[..., visible]
    return known @ gain.T, cov - gain @ cov[visible]
