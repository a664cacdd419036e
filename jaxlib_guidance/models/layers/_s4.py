"""Diagonal state spaces: a linear recurrence that runs as a convolution.

A channel is the system ``x' = A x + u``, ``y = 2 Re(C x) + D u`` with a diagonal
complex ``A``, one of each conjugate pair. Sampled with step ``dt`` its response to an
impulse is a sum of geometric series, ``K_l = 2 Re sum_n c_n a_n^l``, so training and
sampling see whole sequences at once, and a test can step through them.

References: Gu et al., S4, arXiv 2111.00396; S4D, 2206.11893.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.types import Array

POLES = ("lin", "inv", "legs")
RULES = ("zoh", "bilinear")


def initial_poles(kind: str, n: int) -> np.ndarray:
    """The eigenvalues ``A`` that a layer starts from.

    "lin": ``-1/2 + i pi n``. "inv": ``-1/2 + i (2N / pi) (2N / (2n + 1) - 1)``. "legs":
    those of the HiPPO-LegS matrix's normal part, ``eig(A + P P^T)``, whose real part is
    ``-1/2`` too.

    Args:
      kind: Name of the spectrum: "lin", "inv" or "legs".
      n: Number ``N`` of conjugate pairs.

    Returns:
      Complex128 ``[N]``, imaginary parts positive.

    Raises:
      ValueError: Unknown kind or ``n`` below 1.

    Reference: arXiv 2206.11893, section 4.
    """
    if kind not in POLES:
        raise ValueError(f"poles is {kind!r}; expected one of {POLES}")
    if n < 1:
        raise ValueError(f"state is {n}; expected at least one pair")
    index, full = np.arange(n), 2 * n
    match kind:
        case "lin":
            frequency = np.pi * index
        case "inv":
            frequency = full / np.pi * (full / (2 * index + 1) - 1)
        case _:
            # A + P P^T = -1/2 I + S with S skew: i S is Hermitian with real spectrum.
            root = np.sqrt(2 * np.arange(full) + 1.0)
            lower = np.tril(np.outer(root, root), -1) / 2
            frequency = np.linalg.eigvalsh(1j * (lower.T - lower))[n:]
    return -0.5 + 1j * frequency


class Sampled(NamedTuple):
    """A continuous system at steps of ``dt``.

    Attributes:
      log_decay: ``log a``, complex ``[H, N]``: the state is multiplied by ``a``.
      gain: What an input adds to the state, complex ``[H, N]``.
    """

    log_decay: Array
    gain: Array


def discretise(poles: Array, log_dt: Array, rule: str = "zoh") -> Sampled:
    """``x_{l+1} = a x_l + b u_l`` for ``x' = A x + u``.

    "zoh" holds the input for a step: ``a = exp(dt A)``, ``b = (a - 1) / A``. "bilinear"
    is the trapezoidal rule: ``a = (1 + dt A / 2) / (1 - dt A / 2)``, ``b = dt / (1 - dt
    A / 2)``, which folds no frequency above ``1 / (2 dt)`` onto a lower one.

    Args:
      poles: Eigenvalues ``A [H, N]``, complex.
      log_dt: Logarithm of the step sizes ``[H]``.
      rule: Rule of the discretisation, "zoh" or "bilinear".

    Returns:
      The system at steps of ``dt``, ``[H, N]``.

    Raises:
      ValueError: Unknown rule.
    """
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}; expected one of {RULES}")
    dt = jnp.exp(log_dt)[:, None].astype(poles.dtype)
    step = dt * poles
    if rule == "zoh":
        return Sampled(step, jnp.expm1(step) / poles)
    half = step / 2
    return Sampled(jnp.log((1 + half) / (1 - half)), dt / (1 - half))


def impulse_response(sampled: Sampled, c: Array, length: int) -> Array:
    """``K_l = 2 Re sum_n c_n b_n a_n^l`` for ``l = 0, ..., length - 1``.

    With ``l = i m + j`` a pole's powers are products of about ``2 sqrt(length)``
    exponentials in place of ``length``.

    Args:
      sampled: System at steps of ``dt``, ``[H, N]``.
      c: Output weights ``[..., H, N]``, complex.
      length: Number of terms of the response.

    Returns:
      Real ``[..., H, length]``.
    """
    m = max(1, math.isqrt(length))
    powers = lambda n, stride: jnp.exp(  # noqa: E731
        sampled.log_decay[..., None]
        * jnp.asarray(stride * np.arange(n), sampled.log_decay.dtype)
    )
    fine, coarse = powers(m, 1), powers(-(-length // m), m)
    coarse = (c * sampled.gain)[..., None] * coarse
    # Re(p q) as real products: complex contractions are slow on CPU and TPU.
    pick = "...hni,hnj->...hij"
    response = jnp.einsum(pick, coarse.real, fine.real)
    response -= jnp.einsum(pick, coarse.imag, fine.imag)
    return 2 * response.reshape(*response.shape[:-2], -1)[..., :length]


def spectrum(kernels: Array) -> Array:
    """What `convolve` multiplies by: the transform of both directions' kernels.

    Args:
      kernels: Responses ``[2, H, L]`` to the past, with lag 0, and to the future, from
        lag 1 on; or ``[1, H, L]``, causal.

    Returns:
      Complex ``[H, L + 1]``.

    Raises:
      ValueError: Kernels of another shape.
    """
    if kernels.ndim != 3 or len(kernels) not in (1, 2):
        raise ValueError(
            f"kernels have shape {kernels.shape}; expected [2, H, L] or [1, H, L]"
        )
    causal = kernels[0]
    future = kernels[1, :, ::-1] if len(kernels) == 2 else jnp.zeros_like(causal)
    return jnp.fft.rfft(jnp.concatenate([causal, future], -1))


def convolve(u: Array, spectrum: Array) -> Array:
    """``y_t = sum_j k0_j u_{t-j} + sum_j k1_j u_{t+1+j}``, zero beyond the ends.

    Args:
      u: Input ``[B, L, H]``.
      spectrum: Transformed kernels ``[H, L + 1]``, from `spectrum`.

    Returns:
      Output ``[B, L, H]``.

    Raises:
      ValueError: An input that is no batch of sequences; a spectrum of another length.
    """
    _require_sequences(u)
    length = u.shape[1]
    if spectrum.shape != (u.shape[2], length + 1):
        raise ValueError(
            f"spectrum has shape {spectrum.shape}; expected "
            f"{(u.shape[2], length + 1)} for u of shape {u.shape}"
        )
    # Channels first: the transform then runs along memory.
    inputs = jnp.fft.rfft(jnp.swapaxes(u, 1, 2), 2 * length)
    return jnp.swapaxes(jnp.fft.irfft(inputs * spectrum)[..., :length], 1, 2)


def layer_spectrum(
    params: Mapping[str, Array], length: int, rule: str = "zoh"
) -> Array:
    """All that an `S4D` layer does, as one spectrum.

    Args:
      params: Parameters of the layer.
      length: Length ``L`` of the sequences.
      rule: Rule of the discretisation, "zoh" or "bilinear".

    Returns:
      Complex ``[H, L + 1]``, for `convolve`.
    """
    # Stored as a logarithm, the real part stays negative whatever the optimiser does.
    poles = jax.lax.complex(-jnp.exp(params["log_neg_re"]), params["im"])
    c = jax.lax.complex(params["c"][..., 0], params["c"][..., 1])
    sampled = discretise(poles, params["log_dt"], rule)
    kernels = impulse_response(sampled, c, length)
    # D u is a response without delay.
    return spectrum(kernels.at[0, :, 0].add(params["d"]))


def _require_sequences(u):
    if u.ndim != 3:
        raise ValueError(f"u has shape {u.shape}; expected [B, L, H]")


class S4D(nn.Module):
    """A diagonal state-space layer over ``[B, L, H]``, in both directions.

    The transformed kernel depends on parameters and length only. A variable "spectrum"
    in the collection "kernels", where there is one, takes its place: see
    `TSDiff.kernels`.

    Attributes:
      state: Number ``N`` of conjugate pairs of a channel.
      poles: Name of the initial eigenvalues ``A``; see `initial_poles`.
      rule: Rule of the discretisation, "zoh" or "bilinear"; see `discretise`.
      bidirectional: Whether an output depends on the future too.
      dt_min: Smallest initial step size; they are log-uniform.
      dt_max: Largest initial step size.

    Raises:
      ValueError: When called: an input that is not ``[B, L, H]``; step sizes out of
        order or not above 0.
    """

    state: int = 64
    poles: str = "lin"
    rule: str = "zoh"
    bidirectional: bool = True
    dt_min: float = 1e-3
    dt_max: float = 1e-1

    @nn.compact
    def __call__(self, u: Array) -> Array:
        """``[B, L, H] -> [B, L, H]``, in ``u``'s type; computed in float32 at least."""
        _require_sequences(u)
        if not 0 < self.dt_min <= self.dt_max:
            raise ValueError(
                f"dt_min and dt_max are {self.dt_min} and {self.dt_max}; expected "
                "0 < dt_min <= dt_max"
            )
        width, length = u.shape[-1], u.shape[1]
        params = self._params(width)
        if self.has_variable("kernels", "spectrum"):
            made: Any = self.get_variable("kernels", "spectrum")
        else:
            made = layer_spectrum(params, length, self.rule)
        wide = u.astype(params["d"].dtype)
        return convolve(wide, made).astype(u.dtype)

    def _params(self, width):
        poles = initial_poles(self.poles, self.state)
        shape, ways = (width, self.state), 2 if self.bidirectional else 1

        def repeat(row):
            return lambda key: jnp.tile(jnp.asarray(row, jnp.float32), (width, 1))

        def log_dt(key):
            low, high = math.log(self.dt_min), math.log(self.dt_max)
            return low + (high - low) * jax.random.uniform(key, (width,), jnp.float32)

        normal = nn.initializers.normal
        return {
            "log_dt": self.param("log_dt", log_dt),
            "log_neg_re": self.param("log_neg_re", repeat(np.log(-poles.real))),
            "im": self.param("im", repeat(poles.imag)),
            "c": self.param("c", normal(0.5**0.5), (ways, *shape, 2)),
            "d": self.param("d", normal(1.0), (width,)),
        }
