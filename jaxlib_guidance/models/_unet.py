"""A U-Net for images, with named attention sites at chosen levels."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlib_guidance.attention import (
    capture_at,
    captured,
    edit_features,
    enter_layer,
    join_features,
    leave_layer,
)
from jaxlib_guidance.models._norm import group_norm_layer
from jaxlib_guidance.models.layers._attention import Attention
from jaxlib_guidance.models.layers._embed import ConditionEmbed
from jaxlib_guidance.types import Array, Captures, PyTree, require_places


class _ResBlock(nn.Module):
    """Residual block whose second normalisation is modulated by ``c``.

    Attributes:
      channels: Number of channels of the output.
      dtype: Type of the convolutions.
    """

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, c: Array) -> Array:
        """``[B, H, W, C] -> [B, H, W, channels]`` in float32, given ``c [B, F]``."""

        def conv(name, h, **options):
            layer = nn.Conv(
                self.channels, (3, 3), dtype=self.dtype, name=name, **options
            )
            return layer(h.astype(self.dtype)).astype(jnp.float32)

        h = conv("conv_in", nn.silu(group_norm_layer(x.shape[-1], "norm_in")(x)))
        parts = nn.Dense(2 * self.channels, dtype=self.dtype, name="modulation")(
            nn.silu(c)
        )
        scale, shift = jnp.split(parts.astype(jnp.float32)[:, None, None], 2, -1)
        h = group_norm_layer(self.channels, "norm_out")(h) * (1 + scale) + shift
        h = conv("conv_out", nn.silu(h), kernel_init=nn.initializers.zeros)
        if x.shape[-1] != self.channels:
            x = nn.Dense(self.channels, dtype=self.dtype, name="skip")(x)
            x = x.astype(jnp.float32)
        return x + h


class _PixelAttention(nn.Module):
    """Attention of the pixels of a feature map to themselves, then to a text.

    Attributes:
      heads: Number of attention heads.
      kernel: What computes unedited maps; see `attention.attend`.
      dtype: Type of the computation.
    """

    heads: int
    kernel: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Array,
        context: Array | None,
        mask: Array | None,
        *,
        control: Mapping[str, Any],
        capture: Mapping[str, bool | Callable[[Array], Array]],
    ) -> tuple[Array, dict[str, Array]]:
        """``(x [B, H, W, C], maps)`` with edits and maps named "attn" and "cross"."""
        grid, maps = x.shape[1:3], {}
        h = x.reshape(x.shape[0], -1, x.shape[-1])
        layer_edit = control.get("attn")
        h, own_edit = enter_layer(h, layer_edit)
        before, edits = h, {**control, "attn": own_edit}
        for name in ("attn",) if context is None else ("attn", "cross"):
            tokens = group_norm_layer(x.shape[-1], f"{name}_norm")(h).astype(self.dtype)
            layer = Attention(
                self.heads,
                zero_init=True,
                kernel=self.kernel,
                dtype=self.dtype,
                name=name,
            )
            out, probs = layer(
                tokens,
                *((context, mask) if name == "cross" else ()),
                edit=edits.get(name),
                grid=grid,
                capture=capture[name],
            )
            h = h + out.astype(jnp.float32)
            if probs is not None:
                maps[name] = probs
        return leave_layer(h, before, layer_edit).reshape(x.shape), maps


class UNet(nn.Module):
    """U-Net: ``(x, c_noise, cond) -> (value, maps)``.

    Level 0 is the full resolution. Sites are "down1/attn", "mid/attn", "up1/attn", ...
    at the levels with attention, and "down1/cross", ... with text; taps are these and
    the features "down0", ..., "mid", ..., "up0" at the end of each level. Features
    accept edits, and so do the joins with the way down, "up1/join", ....

    Attributes:
      width: Number of channels at level 0.
      multipliers: Number of channels of each level over ``width``; each level halves
        the size.
      blocks: Number of residual blocks of a level, on the way down and on the way up.
      attention: Levels whose last block is followed by attention. "mid" always has it.
      heads: Number of attention heads.
      channels: Number of channels of the output; None means the input's.
      classes: Number of classes, or None; label ``classes`` is the null class.
      vector: Number of features of a vector condition, or None for no such condition.
      text: Number of features of text embeddings, or None for no text.
      kernel: What computes unedited maps; see `attention.attend`.
      time_scale: Factor of ``c_noise``: 1000 suits times in [0, 1], 1 step numbers,
        10 EDM's ``log(sigma) / 4``.
      time_window: Half of the range of ``c_noise`` over which to average its embedding;
        0 takes it at the level itself. See `ConditionEmbed`.
      dtype: Type of convolutions and attention. Parameters, residual stream, norms,
        softmax and output head are float32.
      remat: Whether the backward pass recomputes each residual block.

    Reference: Dhariwal and Nichol, arXiv 2105.05233, section 3 (adaptive group norm).
    """

    width: int = 64
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = (1, 2)
    heads: int = 4
    channels: int | None = None
    classes: int | None = None
    vector: int | None = None
    text: int | None = None
    kernel: str | None = None
    time_scale: float = 1000.0
    time_window: float = 0.0
    dtype: Any = jnp.float32
    remat: bool = False

    # `capture` may map taps to functions.
    reduces = True

    @property
    def sites(self) -> tuple[str, ...]:
        """The attention sites, in the order of the computation."""
        kinds = ("attn",) if self.text is None else ("attn", "cross")
        places = self._places(self.attention)
        return tuple(f"{place}/{kind}" for place in places for kind in kinds)

    @property
    def taps(self) -> tuple[str, ...]:
        """What can be captured: maps ``[B, H, Q, M]``, features ``[B, h, w, C]``."""
        return (*self.sites, *self._places(range(len(self.multipliers))))

    @property
    def feature_sites(self) -> tuple[str, ...]:
        """What accepts an edit of features, ends of levels, joins with skips."""
        levels = range(len(self.multipliers))
        joins = (f"up{level}/join" for level in reversed(levels))
        return (*self._places(levels), *joins)

    def _places(self, levels):
        levels = sorted(levels)
        down = [f"down{level}" for level in levels]
        return (*down, "mid", *(f"up{level}" for level in reversed(levels)))

    @nn.compact
    def __call__(
        self,
        x: Array,
        c_noise: Array,
        cond: PyTree = None,
        *,
        control: Mapping[str, Any] | None = None,
        capture: Captures = (),
    ) -> tuple[Array, dict[str, Array]]:
        """Evaluates the network.

        Args:
          x: Images ``[B, H, W, C]``, whose sides ``2 ** (levels - 1)`` divides.
          c_noise: Noise level of each sample ``[B]``, which `parametrize` chooses.
          cond: Condition: None, labels ``[B]``, a vector ``[B, F]``, text ``[B, M, F]``
            or a dict of these; see `ConditionEmbed`.
          control: Edits by attention site or feature.
          capture: Taps to return, or a function of each to return instead.

        Returns:
          ``(value, maps)``: float32 of x's shape (with ``channels``), and the taps.

        Raises:
          ValueError: Another rank, sides that cannot be halved, or unknown sites, taps
            or levels.
        """
        control = require_places(self, control, capture)
        self._require(x)
        c, context, mask = ConditionEmbed(
            4 * self.width,
            self.classes,
            self.vector,
            self.text,
            self.time_scale,
            self.time_window,
            self.dtype,
            name="condition",
        )(jnp.broadcast_to(c_noise, x.shape[:1]), cond)
        res_block = nn.remat(_ResBlock) if self.remat else _ResBlock
        maps = {}
        wanted = {name: capture_at(name, capture) for name in capture}

        def end(place, h):
            h = edit_features(h, control.get(place))
            if place in wanted:
                maps[place] = captured(h, wanted[place])
            return h

        def residual(name, h, level):
            channels = self.width * self.multipliers[level]
            return res_block(channels, self.dtype, name=name)(h, c)

        def attention(place, h):
            layer = _PixelAttention(
                self.heads, self.kernel, self.dtype, name=f"{place}_attention"
            )
            kinds = ("attn", "cross")
            h, found = layer(
                h,
                context,
                mask,
                control={
                    kind: control[f"{place}/{kind}"]
                    for kind in kinds
                    if f"{place}/{kind}" in control
                },
                capture={kind: wanted.get(f"{place}/{kind}", False) for kind in kinds},
            )
            maps.update({f"{place}/{kind}": value for kind, value in found.items()})
            return h

        def conv(name, h, **options):
            layer = nn.Conv(h.shape[-1], (3, 3), dtype=self.dtype, name=name, **options)
            return layer(h.astype(self.dtype)).astype(jnp.float32)

        h = nn.Conv(self.width, (3, 3), dtype=self.dtype, name="conv_in")(
            x.astype(self.dtype)
        ).astype(jnp.float32)
        skips, bottom = [], len(self.multipliers) - 1
        for level in range(bottom + 1):
            place = f"down{level}"
            for i in range(self.blocks):
                h = residual(f"{place}_block{i}", h, level)
                if i == self.blocks - 1 and level in self.attention:
                    h = attention(place, h)
                skips.append(h)
            h = skips[-1] = end(place, h)
            if level < bottom:
                h = conv(f"{place}_halve", h, strides=2)
        h = attention("mid", residual("mid_block0", h, bottom))
        h = residual("mid_block1", h, bottom)
        h = end("mid", h)
        for level in reversed(range(bottom + 1)):
            place = f"up{level}"
            for i in range(self.blocks):
                h = join_features(h, skips.pop(), control.get(f"{place}/join"))
                h = residual(f"{place}_block{i}", h, level)
            if level in self.attention:
                h = attention(place, h)
            h = end(place, h)
            if level:
                size = (h.shape[0], 2 * h.shape[1], 2 * h.shape[2], h.shape[3])
                h = conv(f"{place}_double", jax.image.resize(h, size, "nearest"))
        h = nn.silu(group_norm_layer(h.shape[-1], "head_norm")(h))
        value = nn.Conv(
            self.channels or x.shape[-1],
            (3, 3),
            kernel_init=nn.initializers.zeros,
            name="head",
        )(h)
        return value, {name: maps[name] for name in capture}

    def _require(self, x):
        levels = len(self.multipliers)
        beyond = [level for level in self.attention if level not in range(levels)]
        if beyond:
            raise ValueError(f"attention at levels {beyond}; there are {levels} levels")
        factor = 2 ** (levels - 1)
        if x.ndim != 4 or x.shape[1] % factor or x.shape[2] % factor:
            raise ValueError(
                f"x has shape {x.shape}; expected [B, H, W, C] with H and W multiples "
                f"of {factor}, which {levels} levels need: pad or crop"
            )
