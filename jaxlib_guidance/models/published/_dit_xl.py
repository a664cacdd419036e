"""DiT-XL/2, the class-conditional transformer of Peebles and Xie, as published."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlib_guidance.attention import (
    capture_at,
    captured,
    edit_features,
    enter_layer,
    leave_layer,
)
from jaxlib_guidance.models._patches import unpatchify
from jaxlib_guidance.models.published._configuration import ANY, configured
from jaxlib_guidance.models.published._folder import Part
from jaxlib_guidance.models.published._layers import (
    ProjectedAttention,
    TimestepEmbedding,
    timestep_sinusoid,
)
from jaxlib_guidance.models.published._tensors import (
    Change,
    Place,
    fill,
    parameter_shapes,
)
from jaxlib_guidance.models.published._transformer import (
    FeedForward,
    Modulation,
    PatchEmbed,
    labels_of,
    modulate,
    plain,
    sincos_positions,
)
from jaxlib_guidance.types import Array, Captures, PyTree, require_places


class _LabelTime(nn.Module):
    """Time and label as one vector."""

    width: int
    classes: int
    dtype: Any

    @nn.compact
    def __call__(self, sinusoid, label):
        embed = TimestepEmbedding(self.width, self.dtype, name="timestep_embedder")
        table = nn.Embed(
            self.classes + 1,
            self.width,
            dtype=self.dtype,
            name="class_embedder.embedding_table",
        )
        return embed(sinusoid) + table(label)


class _Block(nn.Module):
    heads: int
    act: str
    norm_eps: float
    kernel: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x, c, edit, grid, capture):
        width = x.shape[-1]
        x, own_edit = enter_layer(x, edit)
        before = x
        parts = Modulation(6, width, self.dtype, name="norm1")(c)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = parts
        attention = ProjectedAttention(
            self.heads, bias=True, kernel=self.kernel, dtype=self.dtype, name="attn1"
        )
        h = modulate(plain(x), shift, scale).astype(self.dtype)
        h, probs = attention(h, edit=own_edit, grid=grid, capture=capture)
        x = x + gate[:, None] * h.astype(jnp.float32)
        h = modulate(plain(x, self.norm_eps), shift_mlp, scale_mlp).astype(self.dtype)
        h = FeedForward(4 * width, self.act, self.dtype, name="ff")(h)
        x = x + gate_mlp[:, None] * h.astype(jnp.float32)
        return leave_layer(x, before, edit), probs


class DiTXL(nn.Module):
    """DiT as published: ``(x, c_noise, cond) -> (value, maps)``.

    Sites are "block0/attn", ...; taps are these and the blocks' outputs "block0", ...,
    which accept edits of features.
    ``c_noise`` is the timestep 0, ..., 999, the condition is labels ``[B]`` or None for
    the null class, whose label is the number of classes.

    Attributes are the keys of the published ``config.json``.

    Attributes:
      num_attention_heads: Number of attention heads.
      attention_head_dim: Number of features of a head.
      in_channels: Number of channels of the latents.
      out_channels: Number of channels of the network's output; None is the input's.
      num_layers: Number of blocks.
      sample_size: Side of the latents in training, to which positions are stretched.
      patch_size: Side of a patch.
      num_embeds_ada_norm: Number of classes.
      activation_fn: Activation of the MLPs.
      norm_eps: Number added to the variances of the second norm of a block.
      freq_shift: Number taken from the count of the time's frequencies.
      variance: Whether the value has all channels, the learned variance's too; else it
        has those of x.
      kernel: What computes unedited maps; see `attention.attend`.
      dtype: Type of the blocks' computation. Residual stream, norms, softmax and output
        head are float32.

    Reference: Peebles and Xie, arXiv 2212.09748; diffusers' ``DiTTransformer2DModel``.
    """

    num_attention_heads: int = 16
    attention_head_dim: int = 72
    in_channels: int = 4
    out_channels: int | None = None
    num_layers: int = 28
    sample_size: int = 32
    patch_size: int = 2
    num_embeds_ada_norm: int = 1000
    activation_fn: str = "gelu-approximate"
    norm_eps: float = 1e-5
    freq_shift: float = 0.0
    variance: bool = False
    kernel: str | None = None
    dtype: Any = jnp.float32

    # `capture` may map taps to functions.
    reduces = True

    @property
    def classes(self) -> int:
        """Number of classes; the label of that number is the null class."""
        return self.num_embeds_ada_norm

    @property
    def sites(self) -> tuple[str, ...]:
        """The attention sites, first block first."""
        return tuple(f"block{i}/attn" for i in range(self.num_layers))

    @property
    def feature_sites(self) -> tuple[str, ...]:
        """What accepts an edit of features, the blocks' outputs."""
        return tuple(f"block{i}" for i in range(self.num_layers))

    @property
    def taps(self) -> tuple[str, ...]:
        """What can be captured: maps ``[B, H, T, T]`` and outputs ``[B, T, W]``."""
        return self.sites + self.feature_sites

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
          x: Latents ``[B, H, W, C]``.
          c_noise: Timestep of each sample ``[B]``.
          cond: Labels ``[B]``, or None for the null class.
          control: Edits by attention site or feature.
          capture: Taps to return, or a function of each to return instead.

        Returns:
          ``(value, maps)``: float32 of x's shape, with ``variance`` of all channels.

        Raises:
          ValueError: A shape that patches do not divide, another condition, or unknown
            sites or taps.
        """
        control = require_places(self, control, capture)
        label = labels_of(cond, self.classes, x.shape[0])
        width = self.num_attention_heads * self.attention_head_dim
        embed = PatchEmbed(width, self.patch_size, dtype=self.dtype, name="pos_embed")
        h, grid = embed(x)
        base = self.sample_size // self.patch_size
        h = h + sincos_positions(grid, width, base)
        time = jnp.broadcast_to(c_noise, x.shape[:1])
        sinusoid = timestep_sinusoid(time, 256, freq_shift=self.freq_shift)
        # The folder has this in each block, and the head has the first block's.
        conditions = [
            _LabelTime(
                *(width, self.classes, self.dtype),
                name=f"transformer_blocks.{i}.norm1.emb",
            )(sinusoid, label)
            for i in range(self.num_layers)
        ]
        maps = {}
        for i, c in enumerate(conditions):
            h, probs = _Block(
                self.num_attention_heads,
                self.activation_fn,
                self.norm_eps,
                self.kernel,
                self.dtype,
                name=f"transformer_blocks.{i}",
            )(
                *(h, c, control.get(f"block{i}/attn"), grid),
                capture_at(f"block{i}/attn", capture),
            )
            if probs is not None:
                maps[f"block{i}/attn"] = probs
            h = edit_features(h, control.get(f"block{i}"))
            if f"block{i}" in capture:
                maps[f"block{i}"] = captured(h, capture_at(f"block{i}", capture))
        parts = nn.Dense(2 * width, dtype=jnp.float32, name="proj_out_1")(
            nn.silu(conditions[0].astype(jnp.float32))
        )
        shift, scale = jnp.split(parts, 2, -1)
        channels = self.out_channels or self.in_channels
        out = nn.Dense(
            self.patch_size**2 * channels, dtype=jnp.float32, name="proj_out_2"
        )(modulate(plain(h), shift, scale))
        value = unpatchify(out.astype(jnp.float32), grid, self.patch_size)
        value = value if self.variance else value[..., : x.shape[-1]]
        return value, {name: maps[name] for name in capture}


# Keys that do not change what the network computes, or that files have but one way.
NEUTRAL = {
    **dict.fromkeys(("dropout", "norm_num_groups"), ANY),
    **dict.fromkeys(("attention_bias",), True),
    **dict.fromkeys(("upcast_attention",), (True, False)),
    "norm_type": "ada_norm_zero",
    "attention_type": "default",
}


def load_dit_xl(
    part: Part,
    *,
    dtype: Any = jnp.float32,
    sharding: Place = None,
    change: Change | None = None,
    as_trained: bool = True,
) -> tuple[DiTXL, PyTree]:
    """DiT and its parameters from a published part.

    Args:
      part: The part, from `open_part`.
      dtype: Type of the parameters and of the computation.
      sharding: Where the parameters go; see `fill`.
      change: Change of each tensor while it is read; see `fill`.
      as_trained: Whether the time's frequencies and the second norm are those of the
        authors' code, which trained the weights. False computes as diffusers does, with
        other frequencies and the norm's ``eps`` of the configuration.

    Returns:
      ``(module, parameters)``.

    Raises:
      ValueError: A configuration that the module does not compute.
      CorruptFileError: Tensors that do not fit the configuration.
    """
    where = f"{part.path}/config.json"
    module = configured(DiTXL, part.config, NEUTRAL, where, freq_shift=1.0, dtype=dtype)
    if as_trained:
        module = module.clone(freq_shift=0.0, norm_eps=1e-6)
    side = module.patch_size
    x = jax.ShapeDtypeStruct((1, side, side, module.in_channels), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    shapes = parameter_shapes(module.init, x, t)
    params = fill(
        shapes,
        part.tensors,
        dtype=dtype,
        sharding=sharding,
        change=change,
        where=str(part.path),
    )
    return module, params
