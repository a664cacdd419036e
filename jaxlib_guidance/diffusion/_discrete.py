"""The noise process of a table of betas, and the field's tables."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.reduce import sqrt
from jaxlib_guidance.types import Array, pytree_dataclass, static


@pytree_dataclass
class VPDiscrete:
    """Variance preserving with a table of betas, as DDPM-trained networks have.

    Step ``i`` of the table (0, ..., T-1) is time ``t = (i + 1) / T``, so ``t = 0`` is
    clean data. Between knots ``log alpha_bar`` is linear in t: solvers get continuous
    coefficients and `index` gives the network its (fractional) timestep. In the last
    step of a table with zero terminal SNR, whose end is ``-inf``, ``alpha`` itself is
    linear.

    Attributes:
      log_alpha_bar: Table ``[T + 1]``, starting with 0. Build it with `vp_discrete`.
      t_min: Lowest time at which a network is trained and sampled (static).
      t_max: Highest such time (static).

    Example:
      >>> import jaxlib_guidance as jg
      >>> process = jg.vp_discrete(jg.diffusion.linear_betas(1000))
      >>> process.steps, float(process.index(0.501))
      (1000, 500.0)
    """

    log_alpha_bar: Array
    t_min: float = static(default=1e-3)
    t_max: float = static(default=1.0)

    @property
    def steps(self) -> int:
        """Length ``T`` of the table."""
        return self.log_alpha_bar.shape[0] - 1

    def index(self, t: Array) -> Array:
        """The timestep ``t T - 1`` that a DDPM-trained network expects.

        A time on the table gives a whole number, whatever the rounding of ``t T``:
        numbers within 1e-3 of a whole one are rounded, so that a network may cut them
        to integers. Other times give a fraction.

        Args:
          t: Time in (0, 1], any shape.

        Returns:
          Numbers of ``t``'s shape, from 0 to ``T - 1`` for times on the table.
        """
        step = t * self.steps - 1
        whole = jnp.round(step)
        # The difference is 0 and keeps the slope T, which rounding would take away.
        straight = whole + (step - jax.lax.stop_gradient(step))
        return jnp.where(jnp.abs(step - whole) <= 1e-3, straight, step)

    def _at(self, t):
        """``log alpha_bar`` without the last step if that ends at ``-inf``, and how
        far ``t`` is into such a step, in [0, 1].
        """
        knots = jnp.linspace(0.0, 1.0, self.steps + 1, dtype=jnp.float32)
        table, ends = self._finite()
        into = t * self.steps - (self.steps - 1)
        # Not `clip`, which halves the slope at t = 1 itself.
        into = jnp.where(into > 1, 1, into)
        return jnp.interp(t, knots, table), jnp.where(ends & (into > 0), into, 0)

    def _finite(self):
        """The table with a last ``-inf`` replaced by its neighbour; whether it was."""
        ends = jnp.isneginf(self.log_alpha_bar[-1])
        last = jnp.where(ends, self.log_alpha_bar[-2], self.log_alpha_bar[-1])
        return self.log_alpha_bar.at[-1].set(last), ends

    def alpha(self, t: Array) -> Array:
        """``sqrt(alpha_bar)``."""
        log_bar, into = self._at(t)
        return jnp.exp(0.5 * log_bar) * (1 - into)

    def sigma(self, t: Array) -> Array:
        """``sqrt(1 - alpha_bar)``, without cancellation at small t."""
        log_bar, into = self._at(t)
        lost = jnp.exp(log_bar) * into * (2 - into)
        return sqrt(lost - jnp.expm1(log_bar))

    def t_of_logsnr(self, logsnr: Array) -> Array:
        """Inverse of the piecewise ``log alpha_bar``."""
        knots = jnp.linspace(0.0, 1.0, self.steps + 1, dtype=jnp.float32)
        table, ends = self._finite()
        cost = jax.nn.softplus(-logsnr)
        before = jnp.minimum(cost, -table[-2])
        # Beyond the last finite entry the table is flat: any larger knot will do there.
        grown = -table.at[-1].add(jnp.where(ends, -1.0, 0.0))
        t = jnp.interp(jnp.where(ends, before, cost), grown, knots)
        into = -jnp.expm1(-0.5 * jnp.where(ends, cost - before, 0))
        return jnp.minimum(t + into / self.steps, 1)


def vp_discrete(betas: Array | np.ndarray) -> VPDiscrete:
    """The process of a table of betas: ``alpha_bar_i = prod_{j<=i} (1 - beta_j)``.

    A network wrapped by `parametrize` with such a process is given the table's index.

    Args:
      betas: Variance of the noise that each step adds, ``[T]``, in (0, 1). The last may
        be 1: zero terminal SNR, see `rescale_zero_terminal_snr`, for networks that
        predict v or x0.

    Returns:
      The process, with times ``(i + 1) / T`` for the steps ``i`` of the table.

    Raises:
      ValueError: Another number of axes, no entry, an entry outside that range, or
        betas of which less than 1e-12 of the signal's variance is left: cumulative
        products (``alphas_cumprod``) or alphas, where betas are expected.

    Example:
      >>> import jaxlib_guidance as jg
      >>> process = jg.vp_discrete([0.1, 0.5])
      >>> round(float(process.alpha(1.0)) ** 2, 4)
      0.45

    Reference: Ho et al., DDPM, arXiv 2006.11239, eq. 4.
    """
    table = np.asarray(betas, np.float64)
    if table.ndim != 1 or not table.size:
        raise ValueError(f"betas has shape {table.shape}; expected [T] with T >= 1")
    inner = (table[:-1] > 0) & (table[:-1] < 1)
    if not (inner.all() and 0 < table[-1] <= 1):
        raise ValueError(
            "betas must lie strictly between 0 and 1; only the last may be 1 (zero "
            f"terminal SNR). They go from {table.min()} to {table.max()}"
        )
    with np.errstate(divide="ignore"):
        logs = np.concatenate([[0.0], np.cumsum(np.log1p(-table))])
    lowest = logs[-2] if table[-1] == 1 else logs[-1]
    if lowest < math.log(1e-12):
        raise ValueError(
            f"betas leave alpha_bar = exp({lowest:.0f}) of the signal; expected at "
            "least 1e-12. Are these alphas or alphas_cumprod? Betas are "
            "1 - alphas_cumprod[1:] / alphas_cumprod[:-1], after a first "
            "1 - alphas_cumprod[0]"
        )
    return VPDiscrete(jnp.asarray(logs, jnp.float32), t_min=1.0 / table.size)


def linear_betas(
    steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
) -> np.ndarray:
    """DDPM's table: evenly spaced betas.

    Args:
      steps: Length ``T`` of the table.
      beta_start: First beta.
      beta_end: Last beta.

    Returns:
      Float64 ``[T]``, for `vp_discrete`.

    Reference: Ho et al., arXiv 2006.11239, section 4.
    """
    return np.linspace(beta_start, beta_end, steps)


def scaled_linear_betas(
    steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012
) -> np.ndarray:
    """Latent diffusion's table: betas with evenly spaced square roots.

    Args:
      steps: Length ``T`` of the table.
      beta_start: First beta.
      beta_end: Last beta.

    Returns:
      Float64 ``[T]``, for `vp_discrete`.

    Reference: Rombach et al., arXiv 2112.10752.
    """
    return np.linspace(beta_start**0.5, beta_end**0.5, steps) ** 2


def cosine_betas(
    steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999
) -> np.ndarray:
    """Improved DDPM's table: ``alpha_bar = cos^2(pi/2 (u + s) / (1 + s))``.

    Args:
      steps: Length ``T`` of the table.
      offset: ``s``, which keeps the first betas from being too small.
      max_beta: Ceiling of the betas; 1 lets the table end at zero terminal SNR.

    Returns:
      Float64 ``[T]``, for `vp_discrete`.

    Reference: Nichol and Dhariwal, arXiv 2102.09672, eq. 17.
    """
    u = (np.linspace(0, 1, steps + 1) + offset) / (1 + offset)
    bar = np.cos(0.5 * math.pi * u) ** 2
    return np.minimum(1 - bar[1:] / bar[:-1], max_beta)


def sigmoid_betas(
    steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
) -> np.ndarray:
    """GeoDiff's table: ``beta_start + sigmoid(u) (beta_end - beta_start)``.

    ``u`` is even from -6 to 6. diffusers calls it "sigmoid".

    Args:
      steps: Length ``T`` of the table.
      beta_start: Beta that the table starts from, but for the sigmoid's end.
      beta_end: Beta that the table ends at, but for the sigmoid's end.

    Returns:
      Float64 ``[T]``, for `vp_discrete`.

    Reference: Xu et al., GeoDiff, arXiv 2203.02923; diffusers' ``DDPMScheduler``.
    """
    u = np.linspace(-6, 6, steps)
    return beta_start + (beta_end - beta_start) / (1 + np.exp(-u))


def laplace_betas(steps: int = 1000, max_beta: float = 0.999) -> np.ndarray:
    """The table of a log-SNR with a Laplace distribution, as diffusers computes it.

    ``alpha_bar = sqrt(snr / (1 + snr))`` with ``log snr = sgn(u) log(1 - 2 |u|) / 2``
    for ``u`` from -1/2 to 1/2. The square root is diffusers'; the paper has
    ``alpha_bar = snr / (1 + snr)``.

    Args:
      steps: Length ``T`` of the table.
      max_beta: Ceiling of the betas.

    Returns:
      Float64 ``[T]``, for `vp_discrete`.

    Reference: Hang et al., arXiv 2407.03297; diffusers' ``DDPMScheduler``.
    """
    u = np.linspace(-0.5, 0.5, steps + 1)
    log_snr = 0.5 * np.sign(u) * np.log(1 - 2 * np.abs(u) + 1e-6)
    bar = np.sqrt(1 / (1 + np.exp(-log_snr)))
    return np.minimum(1 - bar[1:] / bar[:-1], max_beta)


def exponential_betas(steps: int = 1000, rate: float = 12.0) -> np.ndarray:
    """Equal betas: ``alpha_bar = exp(-rate u)`` for ``u`` from 0 to 1.

    Args:
      steps: Length ``T`` of the table.
      rate: Logarithm of ``1 / alpha_bar`` at the end; 12 is diffusers'.

    Returns:
      Float64 ``[T]``, for `vp_discrete`.

    Reference: diffusers' ``betas_for_alpha_bar`` with "exp".
    """
    return np.full(steps, -math.expm1(-rate / steps))


def rescale_zero_terminal_snr(betas: Array | np.ndarray) -> np.ndarray:
    """A table moved and scaled so that its last step is pure noise.

    ``sqrt(alpha_bar_i) <- (sqrt(alpha_bar_i) - sqrt(alpha_bar_T)) sqrt(alpha_bar_1) /
    (sqrt(alpha_bar_1) - sqrt(alpha_bar_T))``: the first step stays as it is, the last
    beta becomes 1. A network sampled with it must predict v or x0, as eps says nothing
    about x0 in pure noise.

    Args:
      betas: Table ``[T]`` with entries in (0, 1) and at least two of them.

    Returns:
      Float64 ``[T]``, for `vp_discrete`.

    Raises:
      ValueError: A table of another shape or range.

    Reference: Lin et al., arXiv 2305.08891, algorithm 1.
    """
    table = np.asarray(betas, np.float64)
    if table.ndim != 1 or table.size < 2 or not ((table > 0) & (table <= 1)).all():
        raise ValueError(
            f"betas has shape {table.shape}; expected [T], T >= 2, with numbers in "
            "(0, 1]"
        )
    root = np.sqrt(np.cumprod(1 - table))
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    bar = root**2
    return 1 - np.append(bar[0], bar[1:] / bar[:-1])
