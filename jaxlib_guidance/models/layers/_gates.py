"""Gates of residual blocks: a factor for each channel, as the length of a step.

``x + g * f(x)`` with ``g`` in (0, 1) is an Euler step of ``x' = f(x)`` whose length a
small network chooses, for each sample and channel anew.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array, require_array


class SEGate(nn.Module):
    """Squeeze-and-excitation: a gate that sees what the block adds.

    ``g = sigmoid(W2 relu(W1 mean(f) + b1) + b2)``, the mean over places. A block is
    ``x + g * f``; where ``b2`` is large, ``g`` is 1 and the block is the plain one.

    Attributes:
      hidden: Width of the layer between, at least 1.
      dtype: Type of the computation; the means are float32.

    Reference: Hu et al., arXiv 1709.01507, eq. 3.
    """

    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, f: Array) -> Array:
        """The gate.

        Args:
          f: What the block adds to its input ``[B, *spatial, C]``.

        Returns:
          Gate ``[B, 1, ..., C]`` between 0 and 1, of the type of ``f``.

        Raises:
          TypeError: ``f`` is no array of real floats.
          ValueError: ``hidden`` below 1, or ``f`` of less than two axes.
        """
        _require(self, f)
        return _excite(self, f, _squeeze(self, f, "squeeze"))


class StepGate(nn.Module):
    """A gate that sees what the block adds, and what the block before has changed.

    ``g = sigmoid(W2 relu(W1 mean(f) + V mean(d) + b1) + b2)`` with the last change of
    the state ``d = x_k - x_{k-1}``. A solver that adapts its step compares these two:
    where ``f`` is not what it was a step ago, the system is stiff. Where ``V`` is 0 it
    is `SEGate`, whose parameters have the same names.

    Attributes:
      hidden: Width of the layer between, at least 1.
      dtype: Type of the computation; the means are float32.

    Reference: of our own, after the abstract of Huang et al., arXiv 2308.09939, whose
    StepNet may differ.
    """

    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, f: Array, change: Array) -> Array:
        """The gate.

        Args:
          f: What the block adds to its input ``[B, *spatial, C]``.
          change: Input of this block less that of the block before, of the shape of
            ``f``; zeros for the first block.

        Returns:
          Gate ``[B, 1, ..., C]`` between 0 and 1, of the type of ``f``.

        Raises:
          TypeError: ``f`` is no array of real floats, or ``change`` a list.
          ValueError: ``hidden`` below 1, ``f`` of less than two axes, or ``change`` of
            another shape.
        """
        _require(self, f)
        require_array("change", change)
        require_shape("change", change, jnp.shape(f))
        squeezed = _squeeze(self, f, "squeeze")
        return _excite(self, f, squeezed + _squeeze(self, change, "change", bias=False))


def _require(gate, f):
    if gate.hidden < 1:
        raise ValueError(f"hidden is {gate.hidden}; expected at least 1")
    require_array("f", f)
    if not jnp.issubdtype(jnp.result_type(f), jnp.floating):
        raise TypeError(f"f has dtype {jnp.result_type(f)}; expected real floats")
    if jnp.ndim(f) < 2:
        raise ValueError(f"f has shape {jnp.shape(f)}; expected [B, *spatial, C]")


def _squeeze(gate, a, name, bias=True):
    mean = jnp.mean(
        a.astype(jnp.float32), axis=tuple(range(1, a.ndim - 1)), keepdims=True
    )
    dense = nn.Dense(gate.hidden, use_bias=bias, dtype=gate.dtype, name=name)
    return dense(mean)


def _excite(gate, f, squeezed):
    dense = nn.Dense(f.shape[-1], dtype=gate.dtype, name="excite")
    return nn.sigmoid(dense(nn.relu(squeezed))).astype(f.dtype)
