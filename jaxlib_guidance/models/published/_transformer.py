"""What published diffusion transformers share: patches, positions, modulation."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.models.published._layers import activation
from jaxlib_guidance.types import Array, PyTree, concrete


class PatchEmbed(nn.Module):
    """Images as tokens by a convolution that steps as far as it sees, "proj".

    Attributes:
      width: Number of features of a token.
      patch: Side of a patch.
      table: Side of the stored table of positions, "pos_embed", whose centre is used;
        None for no such table.
      dtype: Type of the computation.
    """

    width: int
    patch: int
    table: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, tuple[int, int]]:
        """``[B, H, W, C] -> (tokens [B, T, width] in float32, grid)``.

        Raises:
          ValueError: Another rank, sides that the patch does not divide, or a grid
            beyond the table.
        """
        sides = x.shape[1:3]
        if x.ndim != 4 or any(side % self.patch for side in sides):
            raise ValueError(
                f"x has shape {x.shape}; expected [B, H, W, C] with sides that are "
                f"multiples of {self.patch}"
            )
        side = (self.patch, self.patch)
        conv = nn.Conv(self.width, side, side, "VALID", dtype=self.dtype, name="proj")
        h = conv(x.astype(self.dtype)).astype(jnp.float32)
        grid = (h.shape[1], h.shape[2])
        if self.table is not None:
            h = h + self._centre(grid, self.table)
        return h.reshape(x.shape[0], -1, self.width), grid

    def _centre(self, grid, side):
        held = self.param("pos_embed", nn.initializers.zeros, (1, side**2, self.width))
        if max(grid) > side:
            raise ValueError(f"x has {grid} tokens; positions are for at most {side}")
        top, left = ((side - count) // 2 for count in grid)
        held = held.astype(jnp.float32).reshape(1, side, side, self.width)
        return held[:, top : top + grid[0], left : left + grid[1]]


def sincos_positions(
    grid: tuple[int, int], width: int, base: int, scale: float = 1.0
) -> np.ndarray:
    """Positions ``[T, width]`` of the tokens of a grid, of the column first.

    Half of the features tell the column and half the row, each by sines and then
    cosines. Unlike `models.grid_positions` in both, as the published weights need it.

    Args:
      grid: Rows and columns.
      width: Number of features, a multiple of 4.
      base: Number of rows and columns at the size of training, to which those of
        another size are stretched.
      scale: Number by which positions are divided.
    """
    share = width // 4
    rates = 1.0 / 10000.0 ** (np.arange(share, dtype=np.float64) / share)

    def axis(count):
        stretch = np.float32(count / base)
        return np.arange(count, dtype=np.float32) / stretch / np.float32(scale)

    rows, columns = np.meshgrid(axis(grid[0]), axis(grid[1]), indexing="ij")
    parts = []
    for place in (columns, rows):
        angle = place.reshape(-1, 1).astype(np.float64) * rates
        parts += [np.sin(angle), np.cos(angle)]
    return np.concatenate(parts, -1).astype(np.float32)


def modulate(x: Array, shift: Array, scale: Array) -> Array:
    """``x (1 + scale) + shift`` in float32, with ``shift`` and ``scale`` ``[B, W]``."""
    x, shift, scale = (a.astype(jnp.float32) for a in (x, shift, scale))
    return x * (1 + scale[:, None]) + shift[:, None]


class Modulation(nn.Module):
    """``[B, F] -> count`` vectors ``[B, width]``: "linear" after SiLU, float32.

    Attributes:
      count: Number of vectors.
      width: Number of features of each.
      dtype: Type of the computation.
    """

    count: int
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, c: Array) -> list[Array]:
        """The vectors, in their order in the file."""
        layer = nn.Dense(self.count * self.width, dtype=self.dtype, name="linear")
        return jnp.split(layer(nn.silu(c)).astype(jnp.float32), self.count, -1)


class FeedForward(nn.Module):
    """diffusers' MLP of a token: "net.0.proj", an activation, "net.2".

    Attributes:
      hidden: Number of hidden features.
      act: Activation, by its published name.
      dtype: Type of the computation.
    """

    hidden: int
    act: str = "gelu-approximate"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``[B, T, W] -> [B, T, W]``."""
        h = nn.Dense(self.hidden, dtype=self.dtype, name="net.0.proj")(x)
        h = activation(self.act, "activation_fn")(h)
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="net.2")(h)


class RMSNorm(nn.Module):
    """Division by the root mean square of the last axis, with a weight, in float32.

    Attributes:
      eps: Number added to the mean square.
      dtype: Type of the result.
    """

    eps: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``[..., C] -> [..., C]``."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        h = x.astype(jnp.float32)
        h = h * jax.lax.rsqrt(jnp.mean(h * h, -1, keepdims=True) + self.eps)
        return (h * scale.astype(jnp.float32)).astype(self.dtype)


def labels_of(cond: PyTree, classes: int, batch: int, *, null: bool = True) -> Array:
    """Labels ``[B]`` of a condition; one that is none embeds as NaN.

    Args:
      cond: Labels ``[B]``, a dict with "label", or None for the null class.
      classes: Number of classes.
      batch: Number of samples.
      null: Whether there is a null class, whose label is the number of classes.

    Raises:
      ValueError: Another condition, or a label that is known to be none of the classes.
    """
    if cond is None and null:
        return jnp.full((batch,), classes, jnp.int32)
    found: dict[str, Any] = dict(cond) if isinstance(cond, Mapping) else {"label": cond}
    if list(found) != ["label"] or found["label"] is None:
        raise ValueError(f"cond is {cond!r:.80}; expected integer labels ({batch},)")
    label = jnp.asarray(found["label"])
    if label.shape != (batch,) or not jnp.issubdtype(label.dtype, jnp.integer):
        raise ValueError(
            f"cond is {label.dtype}{label.shape}; expected integer labels ({batch},)"
        )
    count = classes + null
    known = concrete(label)
    if known is not None and ((known < 0) | (known >= count)).any():
        raise ValueError(
            f"cond has labels {known.min()} to {known.max()}; expected 0 to {count - 1}"
        )
    # Below 0 an index would count from the end; above, the embedding is NaN.
    return jnp.where(label < 0, count, label)


def plain(x: Array, eps: float = 1e-6) -> Array:
    """Layer normalisation without parameters, in float32."""
    x = x.astype(jnp.float32)
    x = x - jnp.mean(x, -1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps)
