"""Blocks of Stable Diffusion's networks: residual, resizing, transformer."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxlib_guidance.attention import (
    Edit,
    capture_at,
    enter_layer,
    leave_layer,
)
from jaxlib_guidance.models.published._layers import (
    GroupNorm,
    LayerNorm,
    ProjectedAttention,
    gelu,
)
from jaxlib_guidance.types import Array, Captures

# Of the GroupNorm before a transformer, whatever ``norm_eps`` says.
TRANSFORMER_EPS = 1e-6


class ResnetBlock(nn.Module):
    """Residual block; the embedding of time is added before the second norm.

    Attributes:
      channels: Number of channels of the output.
      groups: Number of groups of the norms.
      eps: Number added to the variances.
      dtype: Type of the convolutions.
    """

    channels: int
    groups: int
    eps: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, emb: Array | None = None) -> Array:
        """``[B, H, W, C] -> [B, H, W, channels]``, given ``emb [B, F]`` or nothing."""

        def norm(name, h):
            return GroupNorm(self.groups, self.eps, self.dtype, name=name)(h)

        def conv(name, h):
            return nn.Conv(
                self.channels, (3, 3), padding=1, dtype=self.dtype, name=name
            )(h)

        h = conv("conv1", nn.silu(norm("norm1", x)))
        if emb is not None:
            layer = nn.Dense(self.channels, dtype=self.dtype, name="time_emb_proj")
            h = h + layer(nn.silu(emb))[:, None, None]
        h = conv("conv2", nn.silu(norm("norm2", h)))
        if x.shape[-1] != self.channels:
            x = nn.Dense(self.channels, dtype=self.dtype, name="conv_shortcut")(x)
        return x + h


class Downsample(nn.Module):
    """A convolution that halves the size: ``ceil(n / 2)`` of an odd one.

    Attributes:
      padding: Pixels before and after each side: (1, 1) in the network, (0, 1) in the
        autoencoder's encoder.
      dtype: Type of the convolution.
    """

    padding: tuple[int, int] = (1, 1)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``[B, H, W, C] -> [B, h, w, C]``."""
        return nn.Conv(
            x.shape[-1],
            (3, 3),
            strides=2,
            padding=(self.padding, self.padding),
            dtype=self.dtype,
            name="conv",
        )(x)


class Upsample(nn.Module):
    """The nearest pixels, then a convolution.

    Attributes:
      dtype: Type of the convolution.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, size: tuple[int, int] | None = None) -> Array:
        """``[B, H, W, C] -> [B, *size, C]``; None doubles the size."""
        for axis, new in enumerate(size or (2 * x.shape[1], 2 * x.shape[2]), start=1):
            old = x.shape[axis]
            # Of an odd size PyTorch takes other pixels than `jax.image.resize`.
            x = jnp.take(x, jnp.arange(new) * old // new, axis)
        return nn.Conv(x.shape[-1], (3, 3), padding=1, dtype=self.dtype, name="conv")(x)


class _TransformerBlock(nn.Module):
    heads: int
    kernel: str | None
    dtype: Any

    @nn.compact
    def __call__(self, h, context, grid, *, control, capture):
        layer_edit, maps, width = control.get("attn"), {}, h.shape[-1]
        h, own = enter_layer(h, layer_edit)
        before, edits = h, {**control, "attn": own}

        def norm(name, h):
            return LayerNorm(dtype=self.dtype, name=name)(h)

        kinds = (("attn", "attn1", None), ("cross", "attn2", context))
        for i, (kind, name, source) in enumerate(kinds):
            out, probs = ProjectedAttention(
                self.heads, kernel=self.kernel, dtype=self.dtype, name=name
            )(
                norm(f"norm{i + 1}", h),
                source,
                edit=edits.get(kind),
                grid=grid,
                capture=capture.get(kind, False),
            )
            h = h + out
            if probs is not None:
                maps[kind] = probs
        gated = nn.Dense(8 * width, dtype=self.dtype, name="ff.net.0.proj")
        value, gate = jnp.split(gated(norm("norm3", h)), 2, -1)
        h = h + nn.Dense(width, dtype=self.dtype, name="ff.net.2")(value * gelu(gate))
        return leave_layer(h, before, layer_edit), maps


class Transformer2D(nn.Module):
    """Transformer blocks over the pixels of a feature map, with cross-attention.

    Attributes:
      depth: Number of blocks.
      heads: Number of attention heads.
      groups: Number of groups of the norm.
      kernel: What computes unedited maps; see `attention.attend`.
      remat: Whether the backward pass recomputes each block.
      dtype: Type of the computation.
    """

    depth: int
    heads: int
    groups: int
    kernel: str | None = None
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Array,
        context: Array,
        place: str,
        *,
        control: Mapping[str, Edit],
        capture: Captures,
    ) -> tuple[Array, dict[str, Array]]:
        """``(x [B, H, W, C], maps)``; the sites of block k are "PLACE/k/attn|cross".

        Args:
          x: Feature map ``[B, H, W, C]``.
          context: Text ``[B, M, F]``.
          place: Where in the network this is, the first part of the sites' names.
          control: Attention edits by site.
          capture: Taps of the whole network.
        """
        norm = GroupNorm(self.groups, TRANSFORMER_EPS, self.dtype, name="norm")
        width, maps = x.shape[-1], {}
        h = norm(x).reshape(x.shape[0], -1, width)
        h = nn.Dense(width, dtype=self.dtype, name="proj_in")(h)
        for k in range(self.depth):
            sites = {kind: f"{place}/{k}/{kind}" for kind in ("attn", "cross")}
            block = _TransformerBlock(
                self.heads, self.kernel, self.dtype, name=f"transformer_blocks.{k}"
            )
            wanted = {kind: capture_at(s, capture) for kind, s in sites.items()}

            def call(block, h, context, edits, wanted=wanted):
                return block(h, context, x.shape[1:3], control=edits, capture=wanted)

            run = nn.remat(call) if self.remat else call
            edits = {kind: control[s] for kind, s in sites.items() if s in control}
            h, found = run(block, h, context, edits)
            maps |= {sites[kind]: probs for kind, probs in found.items()}
        h = nn.Dense(width, dtype=self.dtype, name="proj_out")(h)
        return x + h.reshape(x.shape), maps
