"""Layers that published networks share, in their names and with their roundings.

Norms are computed in float32, whatever the types of activations and parameters; dense
layers and convolutions are Flax's own, in the type of the computation.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.attention import Edit, attend, self_only
from jaxlib_guidance.types import Array


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, in float32.

    Attributes:
      eps: Number added to the variance.
      affine: Whether there are a scale and a bias.
      dtype: Type of the result.
    """

    eps: float = 1e-5
    affine: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``[..., C] -> [..., C]``."""
        h = x.astype(jnp.float32)
        h = h - jnp.mean(h, -1, keepdims=True)
        h = h * jax.lax.rsqrt(jnp.mean(h * h, -1, keepdims=True) + self.eps)
        if self.affine:
            h = _affine(self, h)
        return h.astype(self.dtype)


class GroupNorm(nn.Module):
    """Group normalisation over all axes but the first, in float32.

    Attributes:
      groups: Number of groups, which divides the number of channels.
      eps: Number added to the variance.
      dtype: Type of the result.
    """

    groups: int = 32
    eps: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``[B, ..., C] -> [B, ..., C]``."""
        if x.shape[-1] % self.groups:
            raise ValueError(f"{self.groups} groups do not divide {x.shape[-1]}")
        h = x.astype(jnp.float32)
        h = h.reshape(x.shape[0], -1, self.groups, x.shape[-1] // self.groups)
        h = h - jnp.mean(h, (1, 3), keepdims=True)
        h = h * jax.lax.rsqrt(jnp.mean(h * h, (1, 3), keepdims=True) + self.eps)
        return _affine(self, h.reshape(x.shape)).astype(self.dtype)


def _affine(module, h):
    shape = h.shape[-1:]
    scale = module.param("scale", nn.initializers.ones, shape)
    bias = module.param("bias", nn.initializers.zeros, shape)
    return h * scale.astype(jnp.float32) + bias.astype(jnp.float32)


class ProjectedAttention(nn.Module):
    """Multi-head attention with diffusers' names: "to_q", "to_k", "to_v", "to_out.0".

    Attributes:
      heads: Number of heads.
      width: Number of features of all heads together; None is the input's.
      bias: Whether queries, keys and values have a bias; the output always has.
      kernel: What computes unedited maps; see `attention.attend`.
      dtype: Type of the computation; softmax is float32.
    """

    heads: int
    width: int | None = None
    bias: bool = False
    kernel: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Array,
        context: Array | None = None,
        mask: Array | None = None,
        *,
        edit: Edit | None = None,
        grid: tuple[int, ...] | None = None,
        capture: bool | Callable[[Array], Array] = False,
    ) -> tuple[Array, Array | None]:
        """``(out [B, Q, C], probs [B, H, Q, M] or None)``.

        Args:
          x: Tokens ``[B, Q, C]``.
          context: Tokens ``[B, M, F]`` to attend to; None means ``x``.
          mask: ``bool [B, M]``, False on padding.
          edit: What to change in the map, or None.
          grid: Shape of the token grid, for blurs; None is one axis.
          capture: Whether to return the map, or a function of it to return instead.

        Raises:
          ValueError: A self-attention edit with a context.
        """
        if context is not None and edit is not None:
            for name, used in self_only(edit):
                if used:
                    raise ValueError(
                        f"edit.{name} has no meaning at a cross-attention site; name "
                        "a self-attention site, '.../attn'"
                    )
        source = x if context is None else context
        width = self.width or x.shape[-1]

        def project(name, tokens):
            layer = nn.Dense(width, use_bias=self.bias, dtype=self.dtype, name=name)
            return layer(tokens).reshape(*tokens.shape[:2], self.heads, -1)

        q, k, v = project("to_q", x), project("to_k", source), project("to_v", source)
        out, probs = attend(
            *(q, k, v, edit),
            mask=mask,
            grid=grid,
            capture=capture,
            kernel=self.kernel,
        )
        out = out.reshape(*x.shape[:2], width)
        layer = nn.Dense(x.shape[-1], dtype=self.dtype, name="to_out.0")
        return layer(out), probs


def gelu(x: Array) -> Array:
    """The exact gelu, by the error function."""
    return jax.nn.gelu(x, approximate=False)


def quick_gelu(x: Array) -> Array:
    """``x sigmoid(1.702 x)``, which the first CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


# What configurations call them; "gelu_new" and its like are the tanh form.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "quick_gelu": quick_gelu,
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "gelu-approximate": jax.nn.gelu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "relu": jax.nn.relu,
}


def activation(name: str, key: str = "hidden_act") -> Callable[[Array], Array]:
    """An activation by its published name.

    Raises:
      ValueError: A name that is not known.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"{key} is {name!r}; expected one of {tuple(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def timestep_sinusoid(
    t: Array,
    width: int,
    *,
    flip_sin_to_cos: bool = True,
    freq_shift: float = 0.0,
    period: float = 10000.0,
) -> Array:
    """Sinusoids of timesteps: ``[B] -> [B, width]`` in float32.

    Args:
      t: Timesteps ``[B]``, which may be fractions.
      width: Number of features, even.
      flip_sin_to_cos: Whether the cosines stand before the sines.
      freq_shift: Number taken from the count of frequencies in the exponent.
      period: Longest period over ``2 pi``.
    """
    half = width // 2
    # PyTorch rounds the exponent to float32, which is seen at timestep 999.
    exponent = np.float32(-math.log(period)) * np.arange(half, dtype=np.float32)
    exponent = exponent / np.float32(half - freq_shift)
    rates = np.exp(exponent.astype(np.float64)).astype(np.float32)
    angles = t.astype(jnp.float32)[:, None] * rates
    parts = jnp.sin(angles), jnp.cos(angles)
    return jnp.concatenate(parts[::-1] if flip_sin_to_cos else parts, -1)


class TimestepEmbedding(nn.Module):
    """diffusers' MLP of an embedding: "linear_1", SiLU, "linear_2".

    Attributes:
      width: Number of features of both layers.
      dtype: Type of the computation.
    """

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``[B, F] -> [B, width]``."""
        h = nn.Dense(self.width, dtype=self.dtype, name="linear_1")(x)
        return nn.Dense(self.width, dtype=self.dtype, name="linear_2")(nn.silu(h))
