"""Noise processes ``x_t = alpha(t) x0 + sigma(t) eps``; ``t = 0`` is data.

A process is three functions of time and nothing else: ``alpha``, ``sigma`` and the
inverse of ``logsnr = 2 log(alpha / sigma)``. Time grids, losses and solvers are written
in these, never in a table of steps, so every solver runs on every process.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.types import (
    Array,
    Process,
    at_least_float32,
    expand,
    pytree_dataclass,
    static,
)


@pytree_dataclass
class VPLinear:
    """Variance preserving, linear ``beta(t) = b0 + t (b1 - b0)``, t in [0, 1].

    ``alpha = exp(-b0 t / 2 - (b1 - b0) t^2 / 4)``, ``sigma^2 = 1 - alpha^2``.
    Song et al., arXiv 2011.13456, eq. 33.
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
        return jnp.sqrt(-jnp.expm1(2 * self._log_alpha(t)))

    def t_of_logsnr(self, logsnr: Array) -> Array:
        """Root of the quadratic ``-2 log alpha = softplus(-logsnr)``."""
        c = jax.nn.softplus(-logsnr)
        slope = self.beta_max - self.beta_min
        return 2 * c / (self.beta_min + jnp.sqrt(self.beta_min**2 + 2 * slope * c))


@pytree_dataclass
class VPCosine:
    """Variance preserving cosine: ``alpha = cos(u)``, ``sigma = sin(u)``, t in [0, 1].

    ``u`` is such that ``logsnr = 2 log shift - 2 log tan(pi t / 2)``. A ``shift`` below
    1 moves every time towards noise, as larger images need (simple diffusion, arXiv
    2301.11093, eq. 7; the base schedule is Nichol and Dhariwal's, 2102.09672).
    ``t_max`` stays off 1 because there ``alpha`` is 0 and eps says nothing about x0.
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
class VPDiscrete:
    """Variance preserving with a table of betas, as DDPM-trained networks have.

    Step ``i`` of the table (0, ..., T-1) is time ``t = (i + 1) / T``, so ``t = 0`` is
    clean data. Between knots ``log alpha_bar`` is linear in t: solvers get continuous
    coefficients and `index` gives the network its (fractional) timestep.

    Attributes:
      log_alpha_bar: ``[T + 1]``, starting with 0. Build it with `vp_discrete`.
    """

    log_alpha_bar: Array
    t_min: float = static(default=1e-3)
    t_max: float = static(default=1.0)

    @property
    def steps(self) -> int:
        """Length ``T`` of the table."""
        return self.log_alpha_bar.shape[0] - 1

    def index(self, t: Array) -> Array:
        """The timestep ``t T - 1`` that a DDPM-trained network expects."""
        return t * self.steps - 1

    def _at(self, t):
        knots = jnp.linspace(0.0, 1.0, self.steps + 1, dtype=jnp.float32)
        return jnp.interp(t, knots, self.log_alpha_bar)

    def alpha(self, t: Array) -> Array:
        """``sqrt(alpha_bar)``."""
        return jnp.exp(0.5 * self._at(t))

    def sigma(self, t: Array) -> Array:
        """``sqrt(1 - alpha_bar)``."""
        return jnp.sqrt(-jnp.expm1(self._at(t)))

    def t_of_logsnr(self, logsnr: Array) -> Array:
        """Inverse of the piecewise linear ``log alpha_bar``."""
        knots = jnp.linspace(0.0, 1.0, self.steps + 1, dtype=jnp.float32)
        return jnp.interp(jax.nn.softplus(-logsnr), -self.log_alpha_bar, knots)


def vp_discrete(betas: Array | np.ndarray) -> VPDiscrete:
    """The process of a table of betas ``[T]``, each in (0, 1).

    ``alpha_bar_i = prod_{j<=i} (1 - beta_j)``. DDPM, arXiv 2006.11239, eq. 4.

    Raises:
      ValueError: Not one-dimensional, empty, or outside (0, 1).
    """
    table = np.asarray(betas, np.float64)
    if table.ndim != 1 or not table.size:
        raise ValueError(f"betas has shape {table.shape}; expected [T] with T >= 1")
    if not ((table > 0) & (table < 1)).all():
        raise ValueError("betas must lie strictly between 0 and 1")
    logs = np.concatenate([[0.0], np.cumsum(np.log1p(-table))])
    return VPDiscrete(jnp.asarray(logs, jnp.float32), t_min=1.0 / table.size)


def linear_betas(steps: int = 1000, first: float = 1e-4, last: float = 0.02):
    """DDPM's table, evenly spaced betas. arXiv 2006.11239, section 4."""
    return np.linspace(first, last, steps)


def scaled_linear_betas(steps: int = 1000, first: float = 0.00085, last: float = 0.012):
    """Latent diffusion's table, evenly spaced square roots. arXiv 2112.10752."""
    return np.linspace(first**0.5, last**0.5, steps) ** 2


def cosine_betas(steps: int = 1000, offset: float = 0.008, most: float = 0.999):
    """Improved DDPM's table. arXiv 2102.09672, eq. 17."""
    u = (np.linspace(0, 1, steps + 1) + offset) / (1 + offset)
    bar = np.cos(0.5 * math.pi * u) ** 2
    return np.minimum(1 - bar[1:] / bar[:-1], most)


@pytree_dataclass
class VE:
    """Variance exploding: ``alpha = 1``, ``sigma = t``; EDM's process.

    Karras et al., arXiv 2206.00364, table 1 (last column).
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

    Liu et al., arXiv 2209.03003; flow matching with the linear path, 2210.02747.
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
    """``2 log(alpha(t) / sigma(t))``; infinite where either is 0."""
    return 2 * (jnp.log(process.alpha(t)) - jnp.log(process.sigma(t)))


def coefficients(process: Process, t: Array, like: Array) -> tuple[Array, Array]:
    """``alpha(t)``, ``sigma(t)`` for ``t`` scalar or ``[B]``, broadcast to ``like``."""
    t = at_least_float32(t)
    return expand(process.alpha(t), like), expand(process.sigma(t), like)


def perturb(process: Process, x0: Array, eps: Array, t: Array) -> Array:
    """``x_t = alpha(t) x0 + sigma(t) eps``.

    Args:
      process: The noise process.
      x0: Data ``[B, *S]``.
      eps: Standard normal noise ``[B, *S]``.
      t: Scalar or ``[B]``.

    Returns:
      ``[B, *S]``.

    Raises:
      ValueError: ``eps`` of another shape, or ``t`` neither scalar nor ``[B]``.
    """
    if x0.shape != eps.shape:
        raise ValueError(f"eps has shape {eps.shape}; expected x0's, {x0.shape}")
    if jnp.shape(t) not in ((), x0.shape[:1]):
        raise ValueError(f"t has shape {jnp.shape(t)}; expected () or {x0.shape[:1]}")
    alpha, sigma = coefficients(process, t, x0)
    return alpha * x0 + sigma * eps
