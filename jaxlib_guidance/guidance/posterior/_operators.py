"""What is observed of a sample: linear operators with their adjoints.

An operator maps samples ``x [B, *S]`` to observations ``A x [B, *M]`` when called, and
back by `transpose`; ``<A x, y> = <x, A^T y>`` for each sample. All are pytrees, so that
masks, kernels and matrices are arguments of the compiled sampler.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.types import (
    Array,
    PyTree,
    concrete,
    pytree_dataclass,
    static,
)


class Operator(Protocol):
    """A linear operator of samples, samples by themselves."""

    def __call__(self, x: Array) -> Array:
        """``A x [B, *M]`` of samples ``[B, *S]``."""
        ...

    def transpose(self, y: Array) -> Array:
        """``A^T y [B, *S]`` of observations ``[B, *M]``."""
        ...


@pytree_dataclass
class Masking:
    """Which entries are observed. Build it with `masking`.

    Attributes:
      mask: Factor of each entry, ``[*S]`` or ``[B, *S]``; 0 where nothing is known.
    """

    mask: Array

    def __call__(self, x: Array) -> Array:
        """``m x``."""
        if self.mask.shape not in (x.shape, x.shape[1:]):
            raise ValueError(
                f"the mask has shape {self.mask.shape}; expected that of a sample, "
                f"{x.shape[1:]}, or of all, {x.shape}"
            )
        return self.mask * x

    def transpose(self, y: Array) -> Array:
        """``m y``."""
        return self.mask * y


def masking(mask: Any) -> Masking:
    """The operator that keeps some entries: inpainting, forecasts, a box.

    What an observation says where the mask is 0, NaN too, has no effect.

    Args:
      mask: Factor of each entry from 0 to 1, ``[*S]`` or one for each sample ``[B,
        *S]``; 0 hides it.

    Returns:
      An operator with observations of the samples' shape.

    Raises:
      ValueError: A known value outside [0, 1].
    """
    values = concrete(mask)
    # Written so that NaN fails too.
    if values is not None and not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            f"mask has values from {values.min()} to {values.max()}; expected 0 to 1"
        )
    return Masking(jnp.asarray(mask, jnp.float32))


@pytree_dataclass
class LinearMap:
    """A linear function of samples of one shape. Build it with `linear_map`.

    Attributes:
      params: First argument of ``function`` when not None.
      function: ``([params,] x [B, *S]) -> [B, *M]`` (static).
      shape: Shape of one sample ``*S`` (static).
    """

    params: PyTree
    function: Callable[..., Array] = static()
    shape: tuple[int, ...] = static()

    def __call__(self, x: Array) -> Array:
        """``A x``."""
        if x.shape[1:] != self.shape:
            raise ValueError(
                f"samples have shape {x.shape[1:]}; expected the operator's, "
                f"{self.shape}"
            )
        return self.function(*(() if self.params is None else (self.params,)), x)

    def transpose(self, y: Array) -> Array:
        """``A^T y``, by transposing the function."""
        x = jax.ShapeDtypeStruct((y.shape[0], *self.shape), y.dtype)
        return jax.linear_transpose(self, x)(y)[0]


def linear_map(
    function: Callable[..., Array], shape: Sequence[int], params: PyTree = None
) -> LinearMap:
    """Any linear function as an operator; jax derives the adjoint.

    Args:
      function: ``x [B, *S] -> [B, *M]``, or ``(params, x)`` with ``params``; linear in
        ``x``, samples by themselves. One that is built anew compiles anew.
      shape: Shape of one sample ``*S``.
      params: Pytree that the function receives first, whose leaves are arguments of
        the compiled sampler; None for a function without one.

    Returns:
      An operator.

    Raises:
      TypeError: A function that jax cannot transpose.
      ValueError: A function whose value at 0, where it is known, is not 0.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxlib_guidance as jg
      >>> total = jg.guidance.linear_map(lambda x: x.sum(1, keepdims=True), (3,))
      >>> total.transpose(jnp.ones((1, 1))).tolist()
      [[1.0, 1.0, 1.0]]
    """
    made = LinearMap(params, function, tuple(int(n) for n in shape))
    zero = jnp.zeros((1, *made.shape), jnp.float32)
    out = jax.eval_shape(made, zero)
    try:
        jax.eval_shape(made.transpose, out)
    except (NotImplementedError, TypeError, AssertionError) as error:
        raise TypeError(f"function {function} is not linear: {error}") from error
    value = concrete(made(zero))
    if value is not None and np.any(value != 0):
        raise ValueError(
            f"function {function} is not linear: it is {value.flat[0]:g} at 0"
        )
    return made
