"""Guidance whose strength depends on frequency or place."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.guidance._base import sample_axes
from jaxlib_guidance.guidance._combine import Combine, combine
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.reduce import divide, known_false
from jaxlib_guidance.types import Array, Context, PyTree


@method(
    "combine",
    "c + w (high(d) + r low(d)), d = c - u, low by blurring at half resolution",
    space="any",
    evaluations=2,
    source="2506.19713",
    shape=(8, 8, 1),
    law="test_fdg_bands",
)
def fdg(weight: Any, null: PyTree, *, low: Any = 0.5, name: str = "uncond") -> Combine:
    """Frequency-decoupled guidance: weaker at low frequencies, where colours burn.

    ``x0 = c + w (high(d) + r low(d))`` with ``d = c - u``, ``low`` the coarse level of
    a Laplacian pyramid of two (blur, halve, enlarge, blur) and ``high`` the rest.
    The bands are linear, so the space does not matter. With ``low = 1`` it is `cfg`.

    Args:
      weight: Weight ``w`` of the high band, scalar or ``[B]``; 0 is off. The paper's
        scales (10, 5) for Stable Diffusion XL are ``w = 9`` and ``low = 4 / 9``.
      null: Condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      low: Ratio ``r`` of the low band's weight to the high one's, scalar or ``[B]``.
      name: Name of the branch; the default is shared with `cfg`.

    Returns:
      A guidance term for samples ``[H, W, C]`` of at least 2 x 2.

    Raises:
      TypeError: A number that is none.
      ValueError: While sampling, samples that are no images.

    Reference: Sadat et al., arXiv 2506.19713.
    """
    return combine(_fdg, weight, null, name=name, low=low)


def _fdg(c: Array, u: Array, weight: Array, ctx: Context, low: Array) -> Array:
    d = c - u
    _require_image("fdg", d)
    size = d.shape
    halved = _blurred(d)[:, ::2, ::2]
    coarse = _blurred(jax.image.resize(halved, size, "linear"))
    return weight * (d + (low - 1) * coarse)


def _blurred(x: Array) -> Array:
    """The binomial blur (1, 4, 6, 4, 1) / 16 along rows and columns, edges mirrored."""
    for axis in (1, 2):
        length = x.shape[axis]
        pad = [(2, 2) if i == axis else (0, 0) for i in range(x.ndim)]
        wide = jnp.pad(x, pad, mode="reflect" if length > 2 else "edge")
        parts = (
            share * jax.lax.slice_in_dim(wide, i, i + length, axis=axis)
            for i, share in enumerate((0.0625, 0.25, 0.375, 0.25, 0.0625))
        )
        x = sum(parts, jnp.zeros_like(x))
    return x


def _require_image(what: str, x: Array) -> None:
    if x.ndim != 4 or min(x.shape[1:3]) < 2:
        raise ValueError(
            f"{what} got samples of shape {x.shape[1:]}; expected images [H, W, C] of "
            "at least 2 x 2"
        )


@method(
    "combine",
    "u + s F^-1(gain F(c - u)), gain by whether the frequency is low",
    space="any",
    off="none; scale = 0 samples u",
    evaluations=2,
    source="2504.02154",
    strength="scale",
    example={"scale": 3.0, "cutoff": 0.3},
    shape=(8, 8, 1),
    skip={
        "weight_zero": "scale 0 is the unconditional estimate",
        "weight_zero_static": "scale 0 is the unconditional estimate",
    },
    law="test_fresca_scales_frequencies",
)
def fresca(
    scale: Any,
    null: PyTree,
    *,
    low: Any = 1.0,
    high: Any = 1.25,
    cutoff: Any = 0.3,
    name: str = "uncond",
) -> Combine:
    """FreSca: the contrast with its low and high frequencies scaled apart.

    ``x0 = u + s d'``, where ``d'`` is ``c - u`` with each Fourier coefficient times
    ``low`` if both its frequencies are within ``cutoff``, and by ``high`` otherwise.
    With gains of 1 it is `cfg` of weight ``s - 1``.

    Args:
      scale: Scale ``s`` of the contrast from the unconditional estimate, scalar or
        ``[B]``; 0 is the unconditional estimate, and not off.
      null: Condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      low: Gain of low frequencies, scalar or ``[B]``.
      high: Gain of high frequencies, scalar or ``[B]``.
      cutoff: Greatest low frequency as a share of the highest, scalar or ``[B]``, in
        [0, 1]. ComfyUI's 20 at a latent of 128 pixels is 20 / 64.
      name: Name of the branch; the default is shared with `cfg`.

    Returns:
      A guidance term for samples ``[H, W, C]`` of at least 2 x 2.

    Raises:
      TypeError: A number that is none.
      ValueError: A cutoff outside [0, 1]; while sampling, samples that are no images.

    Reference: Huang et al., arXiv 2504.02154; ComfyUI has the box of frequencies.
    """
    if known_false(lambda a: (a >= 0) & (a <= 1), cutoff):
        raise ValueError(f"fresca's cutoff is {cutoff}; expected a share in [0, 1]")
    numbers = {"scale": scale, "low": low, "high": high, "cutoff": cutoff}
    return combine(_fresca, 1.0, null, name=name, **numbers)


def _fresca(c, u, weight, ctx, scale, low, high, cutoff):
    d = c - u
    _require_image("fresca", d)
    coarse = _low_pass(_low_pass(d, 1, cutoff), 2, cutoff)
    return weight * (scale * (high * d + (low - high) * coarse) - d)


def _low_pass(x: Array, axis: int, cutoff: Array) -> Array:
    """Keeps the Fourier coefficients along rows or columns up to a frequency.

    By matrices of cosines and sines: a Fourier transform of a batch on several devices
    would gather it.
    """
    n = x.shape[axis]
    turns = np.outer(np.arange(n), np.arange(n)) % n * (2 * np.pi / n)
    level = 2 * np.abs(np.fft.fftfreq(n)).astype(np.float32)
    kept = jnp.asarray(level.reshape((1, n, 1, 1) if axis == 1 else (1, 1, n, 1)))
    kept = kept <= cutoff + 1e-6
    along = "ki,biwc->bkwc" if axis == 1 else "ki,bric->brkc"
    total = jnp.zeros_like(x)
    for wave in (np.cos(turns), np.sin(turns)):
        matrix = jnp.asarray(wave, x.dtype)
        part = jnp.where(kept, _times(along, matrix, x), 0)
        total = total + _times(along, matrix, part)
    return total / n


def _times(along: str, matrix: Array, x: Array) -> Array:
    return jnp.einsum(along, matrix, x, precision=jax.lax.Precision.HIGHEST)


@method(
    "combine",
    "u + S d at each place, S from high s where |d| is least to low s at the most",
    space="x0",
    off="none; scale = 0 samples u",
    evaluations=2,
    source="2604.26503",
    strength="scale",
    example={"scale": 1.5},
    shape=(8, 8, 1),
    skip={
        "weight_zero": "scale 0 is the unconditional estimate",
        "weight_zero_static": "scale 0 is the unconditional estimate",
    },
    law="test_samg_golden",
)
def samg(
    scale: Any,
    null: PyTree,
    *,
    low: Any = 2 / 3,
    high: Any = 1.6,
    name: str = "uncond",
) -> Combine:
    """SAMG: a scale of its own for each place, low where the predictions differ most.

    ``x0 = u + S d`` with ``d = c - u``, ``E`` the mean of ``d^2`` over channels,
    brought to [0, 1] by its extremes in the sample, and ``S = s (high - E (high -
    low))``. With ``low = high = 1`` it is `cfg` of weight ``s - 1``.

    Args:
      scale: Scale ``s``, scalar or ``[B]``; 0 is the unconditional estimate, and not
        off.
      null: Condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      low: Factor of the scale where the energy is greatest, scalar or ``[B]``.
      high: Factor of the scale where the energy is smallest, scalar or ``[B]``.
      name: Name of the branch; the default is shared with `cfg`.

    Returns:
      A guidance term.

    Raises:
      TypeError: A number that is none.

    Reference: Li et al., arXiv 2604.26503, read in AbstractEyes/comfy-cfg-megapack.
    """
    return combine(_samg, 1.0, null, name=name, scale=scale, low=low, high=high)


def _samg(c, u, weight, ctx, scale, low, high):
    d = c - u
    energy = jnp.mean(d**2, axis=-1, keepdims=True) if d.ndim > 2 else d**2
    axes = sample_axes(energy)
    least, most = (f(energy, axis=axes, keepdims=True) for f in (jnp.min, jnp.max))
    share = divide(energy - least, most - least)
    return weight * (scale * (high - share * (high - low)) - 1) * d
