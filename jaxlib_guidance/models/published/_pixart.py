"""PixArt-alpha and -sigma: DiT's blocks with one modulation for all, and a text."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlib_guidance.attention import (
    Edit,
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
from jaxlib_guidance.models.published._mmdit import read_prompt
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
    modulate,
    plain,
    sincos_positions,
)
from jaxlib_guidance.types import Array, Captures, PyTree, require_places


class _Conditions(nn.Module):
    """Time and, at 1024 pixels, the size of the picture as one vector."""

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, time, sizes):
        def embed(name, value, width):
            layer = TimestepEmbedding(width, self.dtype, name=name)
            h = timestep_sinusoid(value.reshape(-1), 256).astype(self.dtype)
            return layer(h).reshape(time.shape[0], -1)

        c = embed("timestep_embedder", time, self.width)
        if sizes is None:
            return c
        named = zip(
            ("resolution_embedder", "aspect_ratio_embedder"), sizes, strict=True
        )
        own = [embed(name, value, self.width // 3) for name, value in named]
        return c + jnp.concatenate(own, -1)


class _Block(nn.Module):
    heads: int
    act: str
    eps: float
    kernel: str | None
    dtype: Any

    @nn.compact
    def __call__(
        self,
        x: Array,
        text: Array,
        mask: Array | None,
        parts: Array,
        edits: Mapping[str, Edit],
        wanted: Mapping[str, bool | Callable[[Array], Array]],
        grid: tuple[int, int],
    ):
        width, own = x.shape[-1], edits.get("attn")
        x, edit = enter_layer(x, own)
        before, maps = x, {}
        table = self.param("scale_shift_table", nn.initializers.zeros, (6, width))
        moves = jnp.moveaxis(parts + table.astype(jnp.float32), 1, 0)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = moves

        def attention(name, h, *context, edit, capture):
            layer = ProjectedAttention(
                self.heads, bias=True, kernel=self.kernel, dtype=self.dtype, name=name
            )
            h = h.astype(self.dtype)
            out, probs = layer(h, *context, edit=edit, grid=grid, capture=capture)
            return out.astype(jnp.float32), probs

        h = modulate(plain(x, self.eps), shift, scale)
        out, probs = attention("attn1", h, edit=edit, capture=wanted["attn"])
        maps |= {} if probs is None else {"attn": probs}
        x = x + gate[:, None] * out
        # There is no norm before the text.
        out, probs = attention(
            *("attn2", x, text, mask), edit=edits.get("cross"), capture=wanted["cross"]
        )
        maps |= {} if probs is None else {"cross": probs}
        x = x + out
        h = modulate(plain(x, self.eps), shift_mlp, scale_mlp).astype(self.dtype)
        h = FeedForward(4 * width, self.act, self.dtype, name="ff")(h)
        x = x + gate_mlp[:, None] * h.astype(jnp.float32)
        return leave_layer(x, before, own), maps


class PixArt(nn.Module):
    """PixArt as published: ``(x, c_noise, cond) -> (value, maps)``.

    Sites are "block0/attn", "block0/cross", ...; taps are these and the blocks' outputs
    "block0", ..., which accept edits of features. ``c_noise`` is the timestep 0, ...,
    999.

    Attributes are the keys of the published ``config.json``.

    Attributes:
      num_attention_heads: Number of attention heads.
      attention_head_dim: Number of features of a head.
      in_channels: Number of channels of the latents.
      out_channels: Number of channels of the network's output.
      num_layers: Number of blocks.
      sample_size: Side of the latents in training, to which positions are stretched.
      patch_size: Side of a patch.
      caption_channels: Number of features of the text's states.
      cross_attention_dim: Number of features of a token; heads times features.
      activation_fn: Activation of the MLPs.
      norm_eps: Number added to the variances of the blocks' norms.
      interpolation_scale: Number by which positions are divided; None is
        ``sample_size / 64``, at least 1.
      use_additional_conditions: Whether the condition has the picture's size; None is
        where ``sample_size`` is 128.
      variance: Whether the value has all channels, the learned variance's too; else it
        has those of x.
      kernel: What computes unedited maps; see `attention.attend`.
      dtype: Type of the blocks' computation. Residual stream, norms, softmax and output
        head are float32.

    Reference: Chen et al., arXiv 2310.00426; diffusers' ``PixArtTransformer2DModel``.
    """

    num_attention_heads: int = 16
    attention_head_dim: int = 72
    in_channels: int = 4
    out_channels: int | None = 8
    num_layers: int = 28
    sample_size: int = 128
    patch_size: int = 2
    caption_channels: int = 4096
    cross_attention_dim: int = 1152
    activation_fn: str = "gelu-approximate"
    norm_eps: float = 1e-6
    interpolation_scale: float | None = None
    use_additional_conditions: bool | None = None
    variance: bool = False
    kernel: str | None = None
    dtype: Any = jnp.float32

    # `capture` may map taps to functions.
    reduces = True

    @property
    def sized(self) -> bool:
        """Whether the condition has the picture's size."""
        given = self.use_additional_conditions
        return self.sample_size == 128 if given is None else given

    @property
    def sites(self) -> tuple[str, ...]:
        """The attention sites, in the order of the computation."""
        return tuple(
            f"{b}/{kind}" for b in self.feature_sites for kind in ("attn", "cross")
        )

    @property
    def feature_sites(self) -> tuple[str, ...]:
        """What accepts an edit of features, the blocks' outputs."""
        return tuple(f"block{i}" for i in range(self.num_layers))

    @property
    def taps(self) -> tuple[str, ...]:
        """What can be captured: maps ``[B, H, T, M]`` and outputs ``[B, T, W]``."""
        return self.sites + self.feature_sites

    @nn.compact
    def __call__(
        self,
        x: Array,
        c_noise: Array,
        cond: PyTree,
        *,
        control: Mapping[str, Any] | None = None,
        capture: Captures = (),
    ) -> tuple[Array, dict[str, Array]]:
        """Evaluates the network.

        Args:
          x: Latents ``[B, H, W, C]``.
          c_noise: Timestep of each sample ``[B]``.
          cond: "text", states ``[B, M, F]`` of T5; "text_mask", ``bool [B, M]``, False
            on padding, or none; and, for networks of 1024 pixels, "resolution" ``[B,
            2]``, height and width, and "aspect_ratio" ``[B, 1]``, height over width.
          control: Edits by attention site or feature.
          capture: Taps to return, or a function of each to return instead.

        Returns:
          ``(value, maps)``: float32 of x's shape, with ``variance`` of all channels.

        Raises:
          ValueError: A shape that patches do not divide, another condition, or unknown
            sites or taps.
        """
        control = require_places(self, control, capture)
        rest = dict(cond) if isinstance(cond, Mapping) else {}
        mask = rest.pop("text_mask", None)
        sizes = {"resolution": 2, "aspect_ratio": 1} if self.sized else {}
        given = read_prompt(
            *(rest or cond, x.shape[0]), {"text": self.caption_channels, **sizes}
        )
        text = given["text"].astype(self.dtype)
        if mask is not None and mask.shape != text.shape[:2]:
            raise ValueError(
                f"cond's text_mask is {mask.shape}; expected {text.shape[:2]}"
            )
        width = self.num_attention_heads * self.attention_head_dim
        embed = PatchEmbed(width, self.patch_size, dtype=self.dtype, name="pos_embed")
        h, grid = embed(x)
        base = self.sample_size // self.patch_size
        stretch = self.interpolation_scale or max(self.sample_size // 64, 1)
        h = h + sincos_positions(grid, width, base, stretch)
        time = jnp.broadcast_to(c_noise, x.shape[:1])
        c = _Conditions(width, self.dtype, name="adaln_single.emb")(
            time, tuple(given[name] for name in sizes) or None
        )
        parts = jnp.stack(Modulation(6, width, self.dtype, name="adaln_single")(c), 1)
        for name in ("linear_1", "linear_2"):
            layer = nn.Dense(width, dtype=self.dtype, name=f"caption_projection.{name}")
            text = layer(text if name == "linear_1" else jax.nn.gelu(text))
        maps = {}
        for i, place in enumerate(self.feature_sites):
            kinds = ("attn", "cross")
            block = _Block(
                *(self.num_attention_heads, self.activation_fn, self.norm_eps),
                *(self.kernel, self.dtype),
                name=f"transformer_blocks.{i}",
            )
            h, found = block(
                *(h, text, None if mask is None else mask.astype(bool), parts),
                {
                    k: control[f"{place}/{k}"]
                    for k in kinds
                    if f"{place}/{k}" in control
                },
                {k: capture_at(f"{place}/{k}", capture) for k in kinds},
                grid,
            )
            maps |= {f"{place}/{kind}": value for kind, value in found.items()}
            h = edit_features(h, control.get(place))
            if place in capture:
                maps[place] = captured(h, capture_at(place, capture))
        table = self.param("scale_shift_table", nn.initializers.zeros, (2, width))
        shift, scale = (
            row.astype(jnp.float32) + c.astype(jnp.float32) for row in table
        )
        channels = self.out_channels or self.in_channels
        out = nn.Dense(
            self.patch_size**2 * channels, dtype=jnp.float32, name="proj_out"
        )(modulate(plain(h), shift, scale))
        value = unpatchify(out.astype(jnp.float32), grid, self.patch_size)
        value = value if self.variance else value[..., : x.shape[-1]]
        return value, {name: maps[name] for name in capture}


NEUTRAL = {
    # Keys without effect, or of which files have one value.
    **dict.fromkeys(("dropout", "norm_num_groups", "num_embeds_ada_norm"), ANY),
    "attention_bias": True,
    "attention_type": "default",
    "norm_type": "ada_norm_single",
    # The softmax is float32 always.
    "upcast_attention": (True, False),
}


def load_pixart(
    part: Part,
    *,
    dtype: Any = jnp.float32,
    sharding: Place = None,
    change: Change | None = None,
) -> tuple[PixArt, PyTree]:
    """PixArt and its parameters from a published part.

    Args:
      part: The part, from `open_part`.
      dtype: Type of the parameters and of the computation.
      sharding: Where the parameters go; see `fill`.
      change: Change of each tensor while it is read; see `fill`.

    Returns:
      ``(module, parameters)``.

    Raises:
      ValueError: A configuration that the module does not compute.
      CorruptFileError: Tensors that do not fit the configuration.
    """
    where = f"{part.path}/config.json"
    module = configured(PixArt, part.config, NEUTRAL, where, dtype=dtype)
    width = module.num_attention_heads * module.attention_head_dim
    if module.cross_attention_dim != width or module.caption_channels is None:
        key, want = "cross_attention_dim", width
        if module.caption_channels is None:
            key, want = "caption_channels", "a number"
        raise ValueError(
            f"{where}: {key!r} is {getattr(module, key)}, which PixArt does not "
            f"compute; expected {want}"
        )
    side = module.patch_size
    cond = {"text": jnp.zeros((1, 1, module.caption_channels))}
    if module.sized:
        cond |= {"resolution": jnp.zeros((1, 2)), "aspect_ratio": jnp.zeros((1, 1))}
    shapes = parameter_shapes(
        module.init,
        jax.ShapeDtypeStruct((1, side, side, module.in_channels), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.float32),
        cond,
    )
    params = fill(
        shapes,
        part.tensors,
        dtype=dtype,
        sharding=sharding,
        change=change,
        where=str(part.path),
    )
    return module, params
