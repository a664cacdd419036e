"""Operators of pictures and vectors: blur, averages, other sizes, matrices."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.guidance.posterior._operators import LinearMap
from jaxlib_guidance.types import Array, at_least_float32

Boundary = Literal["mirror", "periodic", "zero"]
_PADDING = {"mirror": "symmetric", "periodic": "wrap", "zero": "constant"}


@dataclasses.dataclass(frozen=True)
class _Blur:
    """Correlation with one kernel along some axes."""

    axes: tuple[int, ...]
    boundary: Boundary

    def __call__(self, kernel: Array, x: Array) -> Array:
        half = kernel.shape[0] // 2
        for axis in self.axes:
            around = [(half, half) if i == axis else (0, 0) for i in range(x.ndim)]
            padded = jnp.pad(x, around, mode=_PADDING[self.boundary])
            size = x.shape[axis]
            x = sum(
                (
                    kernel[i] * jax.lax.slice_in_dim(padded, i, i + size, axis=axis)
                    for i in range(kernel.shape[0])
                ),
                start=jnp.zeros_like(x),
            )
        return x


def gaussian_kernel(sigma: float, radius: int | None = None) -> Array:
    """Weights of a Gaussian blur at ``-r, ..., r``, with sum 1.

    Args:
      sigma: Standard deviation in pixels, positive.
      radius: Reach ``r`` in pixels; None takes 3 standard deviations, rounded up.

    Returns:
      float32 ``[2 r + 1]``.

    Raises:
      ValueError: A width that is not positive, or a radius below 0.
    """
    if not sigma > 0:
        raise ValueError(f"sigma is {sigma}; expected a positive width")
    radius = math.ceil(3 * sigma) if radius is None else radius
    if radius < 0:
        raise ValueError(f"radius is {radius}; expected at least 0")
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return jnp.asarray(weights / weights.sum(), jnp.float32)


def blurring(
    kernel: Any,
    shape: Sequence[int],
    axes: Sequence[int] = (0, 1),
    boundary: Boundary = "mirror",
) -> LinearMap:
    """Blur along axes: ``(A x)_i = sum_k kernel_k x_(i + k - r)`` along each in turn.

    Args:
      kernel: Weights ``[2 r + 1]``, such as `gaussian_kernel`'s.
      shape: Shape of one sample ``*S``.
      axes: Axes of a sample along which to blur, from 0.
      boundary: What lies beyond the border: "mirror" repeats the picture from its edge
        on, "periodic" begins it anew, "zero" is nothing.

    Returns:
      An operator with observations of the samples' shape.

    Raises:
      ValueError: A kernel that is not ``[2 r + 1]`` or longer than an axis allows, axes
        that are none, or an unknown boundary.
    """
    kernel, shape = at_least_float32(jnp.asarray(kernel)), tuple(shape)
    if kernel.ndim != 1 or kernel.shape[0] % 2 == 0:
        raise ValueError(
            f"kernel has shape {kernel.shape}; expected one axis of odd length"
        )
    if boundary not in _PADDING:
        raise ValueError(f"boundary is {boundary!r}; expected one of {list(_PADDING)}")
    wrong = [axis for axis in axes if not 0 <= axis < len(shape)]
    if wrong:
        raise ValueError(f"axes has {wrong}; expected 0, ..., {len(shape) - 1}")
    half = kernel.shape[0] // 2
    if any(half > shape[axis] for axis in axes):
        raise ValueError(
            f"kernel reaches {half} pixels; expected at most the samples' {shape}"
        )
    function = _Blur(tuple(axis + 1 for axis in axes), boundary)
    return LinearMap(kernel, function, shape)


@dataclasses.dataclass(frozen=True)
class _Pool:
    """Averages over blocks."""

    factors: tuple[int, ...]

    def __call__(self, x: Array) -> Array:
        pairs = zip(x.shape[1:], self.factors, strict=True)
        blocks = [part for size, f in pairs for part in (size // f, f)]
        split = x.reshape(x.shape[0], *blocks)
        return jnp.mean(split, axis=tuple(range(2, split.ndim, 2)))


def pooling(factors: Sequence[int], shape: Sequence[int]) -> LinearMap:
    """Averages over blocks: the low resolution of super-resolution.

    Args:
      factors: Size of a block along each axis of a sample, such as (4, 4, 1).
      shape: Shape of one sample ``*S``, whose axes the factors divide.

    Returns:
      An operator with observations of the pooled shape.

    Raises:
      ValueError: Factors that do not divide the shape.
    """
    factors, shape = tuple(factors), tuple(shape)
    if len(factors) != len(shape) or any(
        f < 1 or n % f for n, f in zip(shape, factors, strict=True)
    ):
        raise ValueError(f"factors are {factors}; expected divisors of shape {shape}")
    return LinearMap(None, _Pool(factors), shape)


@dataclasses.dataclass(frozen=True)
class _Resize:
    """Interpolation to another size."""

    size: tuple[int, ...]
    method: str

    def __call__(self, x: Array) -> Array:
        return jax.image.resize(x, (x.shape[0], *self.size), self.method)


def resizing(
    size: Sequence[int], shape: Sequence[int], method: str = "cubic"
) -> LinearMap:
    """Interpolation to another size, smoothed first where that is smaller.

    Args:
      size: Shape of one observation.
      shape: Shape of one sample ``*S``, with as many axes.
      method: Kernel of `jax.image.resize`: "linear", "cubic", "lanczos3", "lanczos5".

    Returns:
      An operator with observations of the new size.

    Raises:
      ValueError: Another number of axes, or an unknown method.
    """
    size, shape = tuple(size), tuple(shape)
    if len(size) != len(shape):
        raise ValueError(f"size is {size}; expected {len(shape)} axes as in {shape}")
    methods = ("linear", "cubic", "lanczos3", "lanczos5")
    if method not in methods:
        raise ValueError(f"method is {method!r}; expected one of {methods}")
    return LinearMap(None, _Resize(size, method), shape)


def _multiply(matrix: Array, x: Array) -> Array:
    flat = x.reshape(x.shape[0], -1)
    return jnp.einsum("pd,bd->bp", matrix, flat, precision=jax.lax.Precision.HIGHEST)


def projection(matrix: Any, shape: Sequence[int] | None = None) -> LinearMap:
    """A matrix that acts on the flattened sample: a projection, a random sensing.

    Args:
      matrix: ``A [P, D]``.
      shape: Shape of one sample ``*S``, of size ``D``; None means ``(D,)``.

    Returns:
      An operator with observations ``[B, P]``.

    Raises:
      ValueError: A matrix that does not fit the shape.
    """
    matrix = at_least_float32(jnp.asarray(matrix))
    if matrix.ndim != 2:
        raise ValueError(f"matrix has shape {matrix.shape}; expected [P, D]")
    shape = matrix.shape[1:] if shape is None else tuple(shape)
    if math.prod(shape) != matrix.shape[1]:
        raise ValueError(
            f"matrix has {matrix.shape[1]} columns; expected the {math.prod(shape)} "
            f"entries of a sample {shape}"
        )
    return LinearMap(matrix, _multiply, shape)
