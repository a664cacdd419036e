"""ADM, the U-Net of guided-diffusion, by the names in its `.pt` files."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxlib_guidance.attention import (
    attend,
    capture_at,
    captured,
    edit_features,
    enter_layer,
    join_features,
    leave_layer,
)
from jaxlib_guidance.models.published._layers import GroupNorm, timestep_sinusoid
from jaxlib_guidance.models.published._transformer import labels_of
from jaxlib_guidance.types import Array, Captures, PyTree, require_places


def _conv(name, x, channels, dtype, **options):
    layer = nn.Conv(channels, (3, 3), dtype=dtype, name=name, padding=1, **options)
    return layer(x.astype(dtype)).astype(jnp.float32)


def _dense(name, x, channels, dtype):
    layer = nn.Dense(channels, dtype=dtype, name=name)
    return layer(x.astype(dtype)).astype(jnp.float32)


def _halved(x):
    batch, height, width, channels = x.shape
    cells = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return jnp.mean(cells, (2, 4))


def _doubled(x):
    return jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)


class _ResBlock(nn.Module):
    """Residual block, which may also halve or double the size."""

    channels: int
    groups: int
    film: bool
    dtype: Any
    resize: str = ""

    @nn.compact
    def __call__(self, x, emb):
        resize = {"": lambda a: a, "down": _halved, "up": _doubled}[self.resize]
        h = nn.silu(GroupNorm(self.groups, name="in_layers.0")(x))
        h, x = resize(h), resize(x)
        h = _conv("in_layers.2", h, self.channels, self.dtype)
        norm = GroupNorm(self.groups, name="out_layers.0")
        count = 2 if self.film else 1
        parts = _dense("emb_layers.1", nn.silu(emb), count * self.channels, self.dtype)[
            :, None, None
        ]
        if self.film:
            scale, shift = jnp.split(parts, 2, -1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + parts)
        h = _conv("out_layers.3", nn.silu(h), self.channels, self.dtype)
        if x.shape[-1] != self.channels:
            x = _dense("skip_connection", x, self.channels, self.dtype)
        return x + h


class _Attention(nn.Module):
    """Self-attention of pixels, whose order of q, k and v the file does not tell."""

    heads: int
    groups: int
    qkv_first: bool
    kernel: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x, edit, capture):
        h, own_edit = enter_layer(x.reshape(x.shape[0], -1, x.shape[-1]), edit)
        before, (batch, count, width) = h, h.shape
        parts = nn.Dense(3 * width, dtype=self.dtype, name="qkv")(
            GroupNorm(self.groups, dtype=self.dtype, name="norm")(h)
        )
        if self.qkv_first:
            q, k, v = jnp.moveaxis(parts.reshape(batch, count, 3, self.heads, -1), 2, 0)
        else:
            q, k, v = jnp.split(parts.reshape(batch, count, self.heads, -1), 3, -1)
        out, probs = attend(
            *(q, k, v, own_edit),
            grid=x.shape[1:3],
            capture=capture,
            kernel=self.kernel,
        )
        h = h + _dense("proj_out", out.reshape(h.shape), width, self.dtype)
        return leave_layer(h, before, edit).reshape(x.shape), probs


class ADM(nn.Module):
    """ADM as published: ``(x, c_noise, cond) -> (value, maps)``.

    Sites are named as in the authors' code, "input_blocks.14.1/attn", ...,
    "middle_block.1/attn", "output_blocks.3.1/attn", ...; taps are these and the outputs
    "input_blocks.0", ..., "middle_block", "output_blocks.0", ..., which accept edits of
    features, as do the joins with the way down, "output_blocks.0/join", ....

    ``c_noise`` is the timestep 0, ..., 999; the condition is labels ``[B]`` where there
    are classes. There is no null class: an unconditional model is another file.

    Attributes are the flags of guided-diffusion; `adm_preset` has those of its files.

    Attributes:
      model_channels: Number of channels at full size.
      channel_mult: Number of channels of each level over ``model_channels``.
      num_res_blocks: Number of residual blocks of a level on the way down; there is one
        more on the way up.
      attention_ds: Factors of reduction at which there is attention.
      in_channels: Number of channels of the images.
      out_channels: Number of channels of the network's output.
      num_classes: Number of classes, or None.
      num_heads: Number of attention heads, where ``num_head_channels`` is None.
      num_head_channels: Number of features of a head, or None.
      use_scale_shift_norm: Whether time scales and shifts the second norm; else it is
        added before.
      resblock_updown: Whether residual blocks halve and double the size; else
        convolutions do.
      use_new_attention_order: Whether q, k and v of all heads stand together; else
        those of a head do.
      groups: Number of groups of the norms.
      variance: Whether the value has all channels, the learned variance's too; else it
        has those of x.
      kernel: What computes unedited maps; see `attention.attend`.
      dtype: Type of convolutions and attention. Residual stream, norms, softmax and
        output head are float32.

    Reference: Dhariwal and Nichol, arXiv 2105.05233, and their code,
      github.com/openai/guided-diffusion.
    """

    model_channels: int = 256
    channel_mult: tuple[float, ...] = (1, 1, 2, 2, 4, 4)
    num_res_blocks: int = 2
    attention_ds: tuple[int, ...] = (8, 16, 32)
    in_channels: int = 3
    out_channels: int = 6
    num_classes: int | None = 1000
    num_heads: int = 4
    num_head_channels: int | None = 64
    use_scale_shift_norm: bool = True
    resblock_updown: bool = True
    use_new_attention_order: bool = False
    groups: int = 32
    variance: bool = False
    kernel: str | None = None
    dtype: Any = jnp.float32

    # `capture` may map taps to functions.
    reduces = True

    @property
    def sites(self) -> tuple[str, ...]:
        """The attention sites, in the order of the computation."""
        return tuple(
            f"{block}.{i}/attn"
            for block, layers in self._plan()
            for i, (kind, _) in enumerate(layers)
            if kind == "attention"
        )

    @property
    def feature_sites(self) -> tuple[str, ...]:
        """What accepts an edit of features, the blocks' outputs, joins with skips."""
        blocks = [block for block, _ in self._plan()]
        joins = (f"{block}/join" for block in blocks if block.startswith("output"))
        return (*blocks, *joins)

    @property
    def taps(self) -> tuple[str, ...]:
        """What can be captured: maps ``[B, H, Q, Q]``, features ``[B, h, w, C]``."""
        return (*self.sites, *(block for block, _ in self._plan()))

    def _plan(self):
        """The blocks in order: name, and layers as kind and channels."""
        plan: list[tuple[str, list[tuple[str, int]]]] = []
        channels = [int(m * self.model_channels) for m in self.channel_mult]
        last = len(channels) - 1

        def level(i, extra):
            yield "residual", channels[i]
            if 2**i in self.attention_ds:
                yield "attention", channels[i]
            if extra:
                yield extra, channels[i]

        plan.append(("input_blocks.0", [("conv", channels[0])]))
        for i in range(last + 1):
            for _ in range(self.num_res_blocks):
                plan.append((f"input_blocks.{len(plan)}", list(level(i, ""))))
            if i < last:
                plan.append((f"input_blocks.{len(plan)}", [("down", channels[i])]))
        middle = [("residual", channels[-1]), ("attention", channels[-1])]
        plan.append(("middle_block", [*middle, ("residual", channels[-1])]))
        n = 0
        for i in reversed(range(last + 1)):
            for j in range(self.num_res_blocks + 1):
                extra = "up" if i and j == self.num_res_blocks else ""
                plan.append((f"output_blocks.{n}", list(level(i, extra))))
                n += 1
        return plan

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
          x: Images ``[B, H, W, C]`` in [-1, 1], whose sides ``2 ** (levels - 1)``
            divides.
          c_noise: Timestep of each sample ``[B]``.
          cond: Labels ``[B]`` where there are classes, else None.
          control: Edits by attention site or feature.
          capture: Taps to return, or a function of each to return instead.

        Returns:
          ``(value, maps)``: float32 of x's shape, with ``variance`` of all channels.

        Raises:
          ValueError: Another rank, sides that cannot be halved, labels that are missing
            or have no use, or unknown sites or taps.
        """
        control = require_places(self, control, capture)
        self._require(x, cond)
        time = jnp.broadcast_to(c_noise, x.shape[:1])
        emb = timestep_sinusoid(time, self.model_channels)
        hidden = 4 * self.model_channels
        emb = nn.silu(_dense("time_embed.0", emb, hidden, self.dtype))
        emb = _dense("time_embed.2", emb, hidden, self.dtype)
        if self.num_classes is not None:
            label = labels_of(cond, self.num_classes, x.shape[0], null=False)
            table = {"dtype": jnp.float32, "name": "label_emb"}
            emb = emb + nn.Embed(self.num_classes, hidden, **table)(label)
        maps, skips, h = {}, [], x.astype(jnp.float32)
        for block, layers in self._plan():
            if block.startswith("output"):
                h = join_features(h, skips.pop(), control.get(f"{block}/join"))
            for i, (kind, channels) in enumerate(layers):
                name = f"{block}.{i}"
                site = f"{name}/attn"
                if kind == "attention":
                    edit, wanted = control.get(site), capture_at(site, capture)
                    h, probs = self._attention(name, channels)(h, edit, wanted)
                    if probs is not None:
                        maps[site] = probs
                else:
                    h = self._layer(name, kind, channels, h, emb)
            h = edit_features(h, control.get(block))
            if block.startswith("input"):
                skips.append(h)
            if block in capture:
                maps[block] = captured(h, capture_at(block, capture))
        h = nn.silu(GroupNorm(self.groups, name="out.0")(h))
        value = _conv("out.2", h, self.out_channels, jnp.float32)
        value = value if self.variance else value[..., : x.shape[-1]]
        return value, {name: maps[name] for name in capture}

    def _attention(self, name, channels):
        heads = self.num_heads
        if self.num_head_channels is not None:
            heads = channels // self.num_head_channels
        order = self.use_new_attention_order
        return _Attention(
            *(heads, self.groups, order, self.kernel, self.dtype), name=name
        )

    def _layer(self, name, kind, channels, h, emb):
        if kind == "conv":
            return _conv(name, h, channels, self.dtype)
        if kind == "residual" or self.resblock_updown:
            block = _ResBlock(
                *(channels, self.groups, self.use_scale_shift_norm, self.dtype),
                resize="" if kind == "residual" else kind,
                name=name,
            )
            return block(h, emb)
        if kind == "down":
            return _conv(f"{name}.op", h, channels, self.dtype, strides=2)
        return _conv(f"{name}.conv", _doubled(h), channels, self.dtype)

    def _require(self, x, cond):
        factor = 2 ** (len(self.channel_mult) - 1)
        if x.ndim != 4 or x.shape[1] % factor or x.shape[2] % factor:
            raise ValueError(
                f"x has shape {x.shape}; expected [B, H, W, C] with sides that are "
                f"multiples of {factor}"
            )
        if cond is not None and self.num_classes is None:
            raise ValueError("cond is given; this network is unconditional")
