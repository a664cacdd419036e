"""A small classifier: for classifier guidance, and to judge samples by."""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxlib_guidance.models._norm import group_norm_layer
from jaxlib_guidance.models.layers._embed import sinusoidal
from jaxlib_guidance.types import Array

ACTIVATIONS = ("silu", "relu", "softplus")


class Classified(NamedTuple):
    """What a classifier returns.

    Attributes:
      logits: Float32 ``[B, classes]``.
      features: Float32 ``[B, F]``, the last layer's input; what Frechet and kernel
        distances compare.
    """

    logits: Array
    features: Array


class Classifier(nn.Module):
    """Convolutions over any number of axes, pooled; none for plain vectors.

    Each width is a layer; from the second on it halves the size of the sample.

    Attributes:
      classes: Number of classes.
      widths: Number of channels of each layer.
      timed: Whether it receives the noise level, as a classifier of noisy samples does.
      time_scale: Factor of ``c_noise``: 1000 suits times in [0, 1], 1 step numbers.
      activation: "silu", "relu", or "softplus", the smooth stand-in for a trained
        "relu" (`guidance.softplus`), which needs no other weights.
      beta: Sharpness of "softplus", above 0.
      dtype: Type of the layers; norms and logits are float32.
      remat: Whether layers are recomputed on the backward pass, to save memory.
    """

    classes: int
    widths: tuple[int, ...] = (32, 64, 128)
    timed: bool = False
    time_scale: float = 1000.0
    activation: str = "silu"
    beta: float = 3.0
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, c_noise: Array | None = None) -> Classified:
        """Classifies.

        Args:
          x: Images, sequences or vectors ``[B, *spatial, C]``.
          c_noise: Noise level of each sample ``[B]``, with ``timed`` and only then.

        Returns:
          Logits ``[B, classes]`` and features ``[B, F]``.

        Raises:
          ValueError: ``c_noise`` missing or not asked for; an unknown activation or a
            sharpness of 0 or less.
        """
        if self.timed != (c_noise is not None):
            raise ValueError(
                f"classifier has timed={self.timed}; got c_noise "
                f"{None if c_noise is None else c_noise.shape}"
            )
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation is {self.activation!r}; expected one of {ACTIVATIONS}"
            )
        if not self.beta > 0:
            raise ValueError(f"beta is {self.beta}; expected above 0")
        axes = tuple(range(1, x.ndim - 1))
        time = None
        if c_noise is not None:
            level = jnp.broadcast_to(c_noise, x.shape[:1]).astype(jnp.float32)
            angles = sinusoidal(level * self.time_scale, 128).astype(self.dtype)
            time = nn.silu(nn.Dense(128, dtype=self.dtype, name="time")(angles))
        h = x.astype(self.dtype)
        for i in range(len(self.widths)):
            layer = partial(Classifier._layer, i=i)
            h = (nn.remat(layer) if self.remat else layer)(self, h, time)
        features = h.astype(jnp.float32)
        features = jnp.mean(features, axes) if axes else features
        return Classified(nn.Dense(self.classes, name="head")(features), features)

    def _layer(self, h, time, i):
        width, axes = self.widths[i], tuple(range(1, h.ndim - 1))
        if axes:
            kernel, strides = (3,) * len(axes), 2 if i else 1
            h = nn.Conv(width, kernel, strides, dtype=self.dtype, name=f"layer{i}")(h)
        else:
            h = nn.Dense(width, dtype=self.dtype, name=f"layer{i}")(h)
        h = group_norm_layer(width, f"norm{i}")(h.astype(jnp.float32))
        if time is not None:
            add = nn.Dense(width, dtype=self.dtype, name=f"time{i}")(time)
            h = h + add.reshape(-1, *(1 for _ in axes), width).astype(jnp.float32)
        if self.activation == "softplus":
            h = nn.softplus(h * self.beta) / self.beta
        else:
            h = nn.relu(h) if self.activation == "relu" else nn.silu(h)
        return h.astype(self.dtype)
