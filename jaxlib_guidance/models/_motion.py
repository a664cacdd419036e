"""A network of motions whose attention says which frame follows which word."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxlib_guidance.attention import (
    capture_at,
    captured,
    edit_features,
    enter_layer,
    leave_layer,
)
from jaxlib_guidance.models._dit_block import plain_norm
from jaxlib_guidance.models.layers._attention import Attention
from jaxlib_guidance.models.layers._embed import ConditionEmbed
from jaxlib_guidance.types import Array, Captures, PyTree, require_places


class _CLRBlock(nn.Module):
    """Convolution over time, attention of frames to frames, then to words, and an MLP.

    Attributes:
      width: Number of channels of the output.
      heads: Number of attention heads.
      kernel: What computes unedited maps; see `attention.attend`.
      dtype: Type of the computation; the residual stream and norms are float32.
    """

    width: int
    heads: int
    kernel: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Array,
        c: Array,
        context: Array | None,
        mask: Array | None,
        *,
        control: Mapping[str, Any],
        capture: Mapping[str, bool | Callable[[Array], Array]],
    ) -> tuple[Array, dict[str, Array]]:
        """``(x [B, T, width], maps)`` with edits and maps named "attn" and "cross"."""
        dense, maps = {"dtype": self.dtype}, {}

        def conv(name, h, **options):
            layer = nn.Conv(self.width, (5,), name=name, **dense, **options)
            return layer(h.astype(self.dtype)).astype(jnp.float32)

        parts = nn.Dense(
            2 * self.width,
            kernel_init=nn.initializers.zeros,
            name="modulation",
            **dense,
        )(nn.silu(c))[:, None]
        scale, shift = jnp.split(parts.astype(jnp.float32), 2, -1)
        h = plain_norm(conv("conv_in", x))
        h = nn.silu(h * (1 + scale) + shift)
        h = conv("conv_out", h, kernel_init=nn.initializers.zeros)
        if x.shape[-1] != self.width:
            x = nn.Dense(self.width, name="skip", **dense)(x).astype(jnp.float32)
        h = x + h
        layer_edit = control.get("attn")
        h, own_edit = enter_layer(h, layer_edit)
        before, edits = h, {**control, "attn": own_edit}
        for name in ("attn",) if context is None else ("attn", "cross"):
            tokens = nn.LayerNorm(dtype=jnp.float32, name=f"{name}_norm")(h)
            layer = Attention(
                self.heads,
                zero_init=True,
                kernel=self.kernel,
                name=name,
                **dense,
            )
            out, probs = layer(
                tokens.astype(self.dtype),
                *((context, mask) if name == "cross" else ()),
                edit=edits.get(name),
                capture=capture[name],
            )
            h = h + out.astype(jnp.float32)
            if probs is not None:
                maps[name] = probs
        out = nn.LayerNorm(dtype=jnp.float32, name="mlp_norm")(h).astype(self.dtype)
        out = nn.gelu(nn.Dense(4 * self.width, name="mlp_in", **dense)(out))
        out = nn.Dense(
            self.width, kernel_init=nn.initializers.zeros, name="mlp_out", **dense
        )(out)
        h = leave_layer(h + out.astype(jnp.float32), before, layer_edit)
        return h, maps


class MotionCLR(nn.Module):
    """U-Net over time of motions and words: ``(x, c_noise, cond) -> (value, maps)``.

    Each block convolves over time, then lets frames attend to frames and frames to
    words, so that the maps say which frame follows which word, and edits of them edit
    the motion. Sites are "down0/attn", "down0/cross", ..., "mid/attn", ...,
    "up0/cross"; level 0 has all frames, each further one half. Taps are these and the
    features "down0", ..., "mid", ..., "up0", which accept edits. Norms are of a frame
    alone.

    Attributes:
      width: Number of channels.
      levels: Number of levels.
      heads: Number of attention heads.
      text: Number of features of text embeddings, or None for no text.
      kernel: What computes unedited maps; see `attention.attend`.
      time_scale: Factor of ``c_noise``: 1000 suits times in [0, 1], 1 step numbers,
        10 EDM's ``log(sigma) / 4``.
      time_window: Half of the range of ``c_noise`` over which to average its embedding;
        0 takes it at the level itself. See `ConditionEmbed`.
      dtype: Type of convolutions and attention. Parameters, residual stream, norms,
        softmax and output head are float32.

    Reference: Chen et al., MotionCLR, arXiv 2410.18977, section 3, and the authors'
      code, whose blocks come in twos, at four levels of width 512, and whose words are
      encoded by CLIP.
    """

    width: int = 64
    levels: int = 2
    heads: int = 4
    text: int | None = 64
    kernel: str | None = None
    time_scale: float = 1000.0
    time_window: float = 0.0
    dtype: Any = jnp.float32

    # `capture` may map taps to functions.
    reduces = True
    classes = None

    @property
    def sites(self) -> tuple[str, ...]:
        """The attention sites, in the order of the computation."""
        kinds = ("attn",) if self.text is None else ("attn", "cross")
        return tuple(f"{place}/{kind}" for place in self._places for kind in kinds)

    @property
    def taps(self) -> tuple[str, ...]:
        """What can be captured: maps ``[B, H, Q, M]``, features ``[B, T, width]``."""
        return (*self.sites, *self._places)

    @property
    def feature_sites(self) -> tuple[str, ...]:
        """What accepts an edit of features, the blocks' outputs."""
        return self._places

    @property
    def _places(self):
        down = tuple(f"down{level}" for level in range(self.levels))
        return (*down, "mid", *(f"up{i}" for i in reversed(range(self.levels))))

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
          x: Motions ``[B, T, C]``, ``T`` a multiple of ``2 ** (levels - 1)``.
          c_noise: Noise level of each sample ``[B]``, which `parametrize` chooses.
          cond: Condition: None, text ``[B, M, F]`` or a dict; see `ConditionEmbed`.
          control: Edits by attention site or feature.
          capture: Taps to return, or a function of each to return instead.

        Returns:
          ``(value, maps)``: float32 of x's shape, and the taps.

        Raises:
          ValueError: A number of frames that cannot be halved; unknown sites or taps.
        """
        control = require_places(self, control, capture)
        factor = 2 ** (self.levels - 1)
        if x.ndim != 3 or x.shape[1] % factor:
            raise ValueError(
                f"x has shape {x.shape}; expected [B, T, C] with T a multiple of "
                f"{factor}, which {self.levels} levels need"
            )
        c, context, mask = ConditionEmbed(
            self.width,
            text=self.text,
            time_scale=self.time_scale,
            time_window=self.time_window,
            dtype=self.dtype,
            name="condition",
        )(jnp.broadcast_to(c_noise, x.shape[:1]), cond)
        maps = {}

        def block(place, h):
            layer = _CLRBlock(
                self.width, self.heads, self.kernel, self.dtype, name=place
            )
            kinds = ("attn", "cross")
            h, found = layer(
                *(h, c, context, mask),
                control={
                    kind: control[f"{place}/{kind}"]
                    for kind in kinds
                    if f"{place}/{kind}" in control
                },
                capture={
                    kind: capture_at(f"{place}/{kind}", capture) for kind in kinds
                },
            )
            maps.update({f"{place}/{kind}": value for kind, value in found.items()})
            h = edit_features(h, control.get(place))
            if place in capture:
                maps[place] = captured(h, capture_at(place, capture))
            return h

        def conv(name, h, **options):
            layer = nn.Conv(self.width, (3,), dtype=self.dtype, name=name, **options)
            return layer(h.astype(self.dtype)).astype(jnp.float32)

        h, skips = conv("conv_in", x), []
        for level in range(self.levels):
            h = block(f"down{level}", h)
            skips.append(h)
            if level < self.levels - 1:
                h = conv(f"down{level}_halve", h, strides=2)
        h = block("mid", h)
        for level in reversed(range(self.levels)):
            h = block(f"up{level}", jnp.concatenate([h, skips.pop()], -1))
            if level:
                h = conv(f"up{level}_double", jnp.repeat(h, 2, axis=1))
        h = nn.silu(nn.LayerNorm(dtype=jnp.float32, name="head_norm")(h))
        value = nn.Conv(
            x.shape[-1], (3,), kernel_init=nn.initializers.zeros, name="head"
        )(h)
        return value, {name: maps[name] for name in capture}
