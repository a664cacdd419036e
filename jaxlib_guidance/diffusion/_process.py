"""Noise processes ``x_t = alpha(t) x0 + sigma(t) eps``; ``t = 0`` is data.

A process is three functions of time and nothing else: ``alpha``, ``sigma`` and the
inverse of ``logsnr = 2 log(alpha / sigma)``. Time grids, losses and solvers are written
in these, never in a table of steps, so every solver runs on every process.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.diffusion._times import require_times
from jaxlib_guidance.reduce import sqrt
from jaxlib_guidance.types import (
    Array,
    Process,
    at_least_float32,
    expand,
    pytree_dataclass,
    require_array,
    require_process,
    static,
)


@pytree_dataclass
class VPLinear:
    """Variance preserving, linear ``beta(t) = b0 + t (b1 - b0)``, t in [0, 1].

    ``alpha = exp(-b0 t / 2 - (b1 - b0) t^2 / 4)``, ``sigma^2 = 1 - alpha^2``.

    Attributes:
      beta_min: Noise rate ``b0`` at ``t = 0``; may be traced and learned.
      beta_max: Noise rate ``b1`` at ``t = 1``; may be traced and learned.
      t_min: Lowest time at which a network is trained and sampled (static).
      t_max: Highest such time (static).

    Example:
      >>> import jaxlib_guidance as jg
      >>> process = jg.VPLinear()
      >>> round(float(process.alpha(1.0)), 4)
      0.0066

    Reference: Song et al., arXiv 2011.13456, eq. 33.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = static(default=1e-3)
    t_max: float = static(default=1.0)

    def _log_alpha(self, t):
        return -0.5 * self.beta_min * t - 0.25 * (self.beta_max - self.beta_min) * t**2

    def alpha(self, t: Array) -> Array:
        """``exp(-b0 t / 2 - (b1 - b0) t^2 / 4)``."""
        return jnp.exp(self._log_alpha(t))

    def sigma(self, t: Array) -> Array:
        """``sqrt(1 - alpha^2)``, without cancellation at small t."""
        return sqrt(-jnp.expm1(2 * self._log_alpha(t)))

    def t_of_logsnr(self, logsnr: Array) -> Array:
        """Root of the quadratic ``-2 log alpha = softplus(-logsnr)``."""
        c = jax.nn.softplus(-logsnr)
        slope = self.beta_max - self.beta_min
        return 2 * c / (self.beta_min + jnp.sqrt(self.beta_min**2 + 2 * slope * c))


@pytree_dataclass
class VPCosine:
    """Variance preserving cosine: ``alpha = cos(u)``, ``sigma = sin(u)``, t in [0, 1].

    ``u`` is such that ``logsnr = 2 log shift - 2 log tan(pi t / 2)``.

    Attributes:
      shift: A factor below 1 moves every time towards noise, as larger images need; it
        may be traced and learned.
      t_min: Lowest time at which a network is trained and sampled (static).
      t_max: Highest such time (static). It stays off 1, where ``alpha`` is 0 and eps
        says nothing about x0.

    Example:
      >>> import jaxlib_guidance as jg
      >>> process = jg.VPCosine()
      >>> round(float(process.alpha(0.5)), 3), round(float(process.sigma(0.5)), 3)
      (0.707, 0.707)

    Reference: Nichol and Dhariwal, arXiv 2102.09672, eq. 17; the shift: Hoogeboom et
    al., simple diffusion, arXiv 2301.11093, eq. 7.
    """

    shift: float = 1.0
    t_min: float = static(default=1e-3)
    t_max: float = static(default=0.999)

    def _sides(self, t):
        # sin(pi (1 - t) / 2) is cos(pi t / 2) without its rounding below 0 at t = 1.
        cosine = self.shift * jnp.sin(0.5 * math.pi * (1 - t))
        sine = jnp.sin(0.5 * math.pi * t)
        return cosine, sine, jnp.hypot(cosine, sine)

    def alpha(self, t: Array) -> Array:
        """``cos(pi t / 2)`` when ``shift`` is 1."""
        cosine, _, norm = self._sides(t)
        return cosine / norm

    def sigma(self, t: Array) -> Array:
        """``sin(pi t / 2)`` when ``shift`` is 1."""
        _, sine, norm = self._sides(t)
        return sine / norm

    def t_of_logsnr(self, logsnr: Array) -> Array:
        """``(2 / pi) atan(shift exp(-logsnr / 2))``."""
        return 2 / math.pi * jnp.arctan(self.shift * jnp.exp(-0.5 * logsnr))


@pytree_dataclass
class VE:
    """Variance exploding: ``alpha = 1``, ``sigma = t``; EDM's process.

    Attributes:
      t_min: Lowest noise level at which a network is trained and sampled (static).
      t_max: Highest such noise level (static).

    Example:
      >>> import jaxlib_guidance as jg
      >>> float(jg.VE().sigma(80.0))
      80.0

    Reference: Karras et al., arXiv 2206.00364, table 1 (last column).
    """

    t_min: float = static(default=0.002)
    t_max: float = static(default=80.0)

    def alpha(self, t: Array) -> Array:
        """1."""
        return jnp.ones_like(t)

    def sigma(self, t: Array) -> Array:
        """``t``."""
        return t

    def t_of_logsnr(self, logsnr: Array) -> Array:
        """``exp(-logsnr / 2)``."""
        return jnp.exp(-0.5 * logsnr)


@pytree_dataclass
class RectifiedFlow:
    """Straight paths: ``alpha = 1 - t``, ``sigma = t``, t in [0, 1].

    Attributes:
      t_min: Lowest time at which a network is trained and sampled (static).
      t_max: Highest such time (static).

    Example:
      >>> import jaxlib_guidance as jg
      >>> float(jg.RectifiedFlow().alpha(0.25))
      0.75

    Reference: Liu et al., arXiv 2209.03003; flow matching with the linear path: Lipman
    et al., arXiv 2210.02747.
    """

    t_min: float = static(default=1e-3)
    t_max: float = static(default=1.0)

    def alpha(self, t: Array) -> Array:
        """``1 - t``."""
        return 1 - t

    def sigma(self, t: Array) -> Array:
        """``t``."""
        return t

    def t_of_logsnr(self, logsnr: Array) -> Array:
        """``1 / (1 + exp(logsnr / 2))``."""
        return jax.nn.sigmoid(-0.5 * logsnr)


def logsnr(process: Process, t: Array) -> Array:
    """``2 log(alpha(t) / sigma(t))``; infinite where either is 0.

    Args:
      process: The noise process.
      t: Times, any shape.

    Returns:
      Log signal-to-noise ratios, of ``t``'s shape.
    """
    return 2 * (jnp.log(process.alpha(t)) - jnp.log(process.sigma(t)))


def slopes(process: Process, t: Array) -> tuple[Array, Array, Array, Array]:
    """``alpha``, ``sigma`` and their derivatives in time.

    Args:
      process: The noise process.
      t: Times, any shape.

    Returns:
      ``(alpha, sigma, d alpha / dt, d sigma / dt)``, each of ``t``'s shape.
    """
    t = at_least_float32(t)
    one = jnp.ones_like(t)
    alpha, slope_a = jax.jvp(process.alpha, (t,), (one,))
    sigma, slope_s = jax.jvp(process.sigma, (t,), (one,))
    return alpha, sigma, slope_a, slope_s


def coefficients(process: Process, t: Array, like: Array) -> tuple[Array, Array]:
    """``alpha(t)`` and ``sigma(t)``, ready to broadcast.

    Args:
      process: The noise process.
      t: Time, scalar or ``[B]``.
      like: An array ``[B, *S]`` to broadcast against.

    Returns:
      Two arrays, scalar or ``[B, 1, ...]``.
    """
    require_process(process)
    t = at_least_float32(t)
    return expand(process.alpha(t), like), expand(process.sigma(t), like)


def perturb(process: Process, x0: Array, eps: Array, t: Array) -> Array:
    """``x_t = alpha(t) x0 + sigma(t) eps``: data with noise.

    Args:
      process: The noise process.
      x0: Data ``[B, *S]``.
      eps: Standard normal noise ``[B, *S]``.
      t: Time, scalar or ``[B]``.

    Returns:
      The noisy state ``[B, *S]``.

    Raises:
      TypeError: ``process`` is not a noise process.
      ValueError: ``eps`` of another shape, or ``t`` neither scalar nor ``[B]``, or
        outside the process's times.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxlib_guidance as jg
      >>> x0, eps = jnp.ones((2, 3)), jnp.zeros((2, 3))
      >>> jg.perturb(jg.RectifiedFlow(), x0, eps, jnp.array([0.0, 0.5]))[:, 0].tolist()
      [1.0, 0.5]
    """
    require_array("x0", x0)
    require_array("eps", eps)
    if x0.shape != eps.shape:
        raise ValueError(f"eps has shape {eps.shape}; expected x0's, {x0.shape}")
    if np.shape(t) not in ((), x0.shape[:1]):
        raise ValueError(f"t has shape {np.shape(t)}; expected () or {x0.shape[:1]}")
    require_times(process, t)
    alpha, sigma = coefficients(process, t, x0)
    return alpha * x0 + sigma * eps
