"""Flux: joint blocks, then blocks of one stream, with rotary positions."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.attention import (
    capture_at,
    captured,
    edit_features,
    enter_layer,
    leave_layer,
)
from jaxlib_guidance.models.published._configuration import configured
from jaxlib_guidance.models.published._folder import Part
from jaxlib_guidance.models.published._mmdit import (
    JointAttention,
    JointBlock,
    TimeText,
    read_prompt,
)
from jaxlib_guidance.models.published._tensors import (
    Change,
    Place,
    fill,
    parameter_shapes,
)
from jaxlib_guidance.models.published._transformer import Modulation, modulate, plain
from jaxlib_guidance.types import Array, Captures, PyTree, require_places

PATCH = 2
PERIOD = 10_000.0


def _pack(x: Array) -> tuple[Array, tuple[int, int]]:
    """Latents as tokens of patches of 2 x 2, whose features lead with the channel.

    Args:
      x: Latents ``[B, H, W, C]`` of even sides.

    Returns:
      ``(tokens [B, H W / 4, 4 C], grid)``.

    Raises:
      ValueError: Another rank, or odd sides.
    """
    if x.ndim != 4 or x.shape[1] % PATCH or x.shape[2] % PATCH:
        raise ValueError(f"x has shape {x.shape}; expected [B, H, W, C] of even sides")
    batch, height, width, channels = x.shape
    grid = height // PATCH, width // PATCH
    cells = x.reshape(batch, grid[0], PATCH, grid[1], PATCH, channels)
    return cells.transpose(0, 1, 3, 5, 2, 4).reshape(batch, -1, 4 * channels), grid


def _unpack(tokens: Array, grid: tuple[int, int]) -> Array:
    """The inverse of `_pack`: ``[B, T, 4 C] -> [B, H, W, C]``."""
    cells = tokens.reshape(tokens.shape[0], *grid, -1, PATCH, PATCH)
    sides = (size * PATCH for size in grid)
    return cells.transpose(0, 1, 4, 2, 5, 3).reshape(tokens.shape[0], *sides, -1)


def _rotation(count, grid, widths):
    """What turns neighbouring features of queries and keys by their positions."""
    places = np.zeros((count + grid[0] * grid[1], 3))
    rows = np.indices(grid).reshape(2, -1).T
    places[count:, 1:] = rows
    rates = (PERIOD ** -(np.arange(0, width, 2) / width) for width in widths)
    pairs = zip(places.T, rates, strict=True)
    angles = np.concatenate([np.outer(place, rate) for place, rate in pairs], -1)
    cos, sin = (f(angles).astype(np.float32)[:, None] for f in (np.cos, np.sin))

    def rotate(a):
        parts = a.astype(jnp.float32).reshape(*a.shape[:-1], -1, 2)
        first, second = parts[..., 0], parts[..., 1]
        turned = first * cos - second * sin, second * cos + first * sin
        return jnp.stack(turned, -1).reshape(a.shape).astype(a.dtype)

    return rotate


class _SingleBlock(nn.Module):
    """Attention and MLP of image and text in one stream, side by side."""

    heads: int
    kernel: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x, text, c, edit, capture, grid, rotate):
        width, count = x.shape[-1], text.shape[1]
        x, own_edit = enter_layer(x, edit)
        before = h = jnp.concatenate([text, x], 1)
        shift, scale, gate = Modulation(3, width, self.dtype, name="norm")(c)
        normed = modulate(plain(h), shift, scale).astype(self.dtype)
        layer = JointAttention(
            self.heads,
            qk_norm=True,
            image_out=False,
            kernel=self.kernel,
            dtype=self.dtype,
            name="attn",
        )
        out, _, probs = layer(
            *(normed, count), rotate=rotate, edit=own_edit, grid=grid, capture=capture
        )
        hidden = nn.Dense(4 * width, dtype=self.dtype, name="proj_mlp")(normed)
        both = jnp.concatenate([out, jax.nn.gelu(hidden)], -1)
        out = nn.Dense(width, dtype=self.dtype, name="proj_out")(both)
        h = leave_layer(h + gate[:, None] * out.astype(jnp.float32), before, edit)
        return h[:, count:], h[:, :count], probs


class Flux(nn.Module):
    """Flux's transformer as published: ``(x, c_noise, cond) -> (value, maps)``.

    Sites are "block0/joint", ... and then "single0/joint", ...; a site's tokens are the
    text's, then the image's, row by row. Taps are the sites and the image's tokens
    after each block, "block0", ..., "single0", ..., which accept edits of features.

    The value is a velocity; ``c_noise`` is the time in [0, 1]. Latents are whole: the
    network packs patches of 2 x 2 itself.

    Attributes are the keys of the published ``config.json``.

    Attributes:
      patch_size: 1, since latents were packed outside of the reference.
      in_channels: Number of features of a patch, four times the latents' channels.
      out_channels: Number of features of the output's patches; None is the input's.
      num_layers: Number of joint blocks.
      num_single_layers: Number of blocks of one stream.
      attention_head_dim: Number of features of a head.
      num_attention_heads: Number of attention heads.
      joint_attention_dim: Number of features of the text's states.
      pooled_projection_dim: Number of features of the pooled text.
      guidance_embeds: Whether the condition has a scale of guidance, which such a
        network was distilled for; that is not `cfg`.
      axes_dims_rope: Number of features of a head that each axis turns.
      kernel: What computes unedited maps; see `attention.attend`.
      dtype: Type of the blocks' computation. Residual streams, norms, softmax and
        output head are float32.

    Reference: github.com/black-forest-labs/flux; diffusers' ``FluxTransformer2DModel``.
    """

    patch_size: int = 1
    in_channels: int = 64
    out_channels: int | None = None
    num_layers: int = 19
    num_single_layers: int = 38
    attention_head_dim: int = 128
    num_attention_heads: int = 24
    joint_attention_dim: int = 4096
    pooled_projection_dim: int = 768
    guidance_embeds: bool = False
    axes_dims_rope: tuple[int, ...] = (16, 56, 56)
    kernel: str | None = None
    dtype: Any = jnp.float32

    # `capture` may map taps to functions.
    reduces = True

    @property
    def sites(self) -> tuple[str, ...]:
        """The attention sites, in the order of the computation."""
        return tuple(f"{place}/joint" for place in self.feature_sites)

    @property
    def feature_sites(self) -> tuple[str, ...]:
        """What accepts an edit of features, the image's tokens after each block."""
        joint = [f"block{i}" for i in range(self.num_layers)]
        return (*joint, *(f"single{i}" for i in range(self.num_single_layers)))

    @property
    def taps(self) -> tuple[str, ...]:
        """What can be captured: maps ``[B, H, T, T]`` and tokens ``[B, N, W]``."""
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
          x: Latents ``[B, H, W, C]`` of even sides.
          c_noise: Time of each sample ``[B]``, from 0 to 1.
          cond: "text", states ``[B, M, F]``, "pooled" ``[B, P]`` and, where guidance is
            embedded, "guidance" ``[B]``, such as 3.5.
          control: Edits by attention site or feature.
          capture: Taps to return, or a function of each to return instead.

        Returns:
          ``(value, maps)``: float32 of x's shape, and the taps.

        Raises:
          ValueError: Odd sides, another condition, or unknown sites or taps.
        """
        control = require_places(self, control, capture)
        guided = ("guidance",) if self.guidance_embeds else ()
        given = read_prompt(
            *(cond, x.shape[0]),
            {"text": self.joint_attention_dim, "pooled": self.pooled_projection_dim},
            guided,
        )
        if self.guidance_embeds and "guidance" not in given:
            raise ValueError(
                "cond has no guidance; this network needs its scale, such as 3.5"
            )
        width = self.num_attention_heads * self.attention_head_dim
        tokens, grid = _pack(x)

        def dense(name, tokens):
            layer = nn.Dense(width, dtype=self.dtype, name=name)
            return layer(tokens.astype(self.dtype)).astype(jnp.float32)

        h, text = dense("x_embedder", tokens), dense("context_embedder", given["text"])
        time = 1000.0 * jnp.broadcast_to(c_noise, x.shape[:1])
        scale = given.get("guidance")
        c = TimeText(width, self.guidance_embeds, self.dtype, name="time_text_embed")(
            time, given["pooled"], None if scale is None else 1000.0 * scale
        )
        rotate = _rotation(text.shape[1], grid, self.axes_dims_rope)
        maps = {}
        for i, place in enumerate(self.feature_sites):
            site, single_from = f"{place}/joint", self.num_layers
            edit, wanted = control.get(site), capture_at(site, capture)
            if i < single_from:
                block = JointBlock(
                    self.num_attention_heads,
                    text_first=True,
                    qk_norm=True,
                    kernel=self.kernel,
                    dtype=self.dtype,
                    name=f"transformer_blocks.{i}",
                )
                edits = {} if edit is None else {"joint": edit}
                h, text, found = block(
                    h, text, c, edits, {"joint": wanted}, grid, rotate
                )
                probs = found.get("joint")
            else:
                single = _SingleBlock(
                    *(self.num_attention_heads, self.kernel, self.dtype),
                    name=f"single_transformer_blocks.{i - single_from}",
                )
                h, text, probs = single(h, text, c, edit, wanted, grid, rotate)
            if probs is not None:
                maps[site] = probs
            h = edit_features(h, control.get(place))
            if place in capture:
                maps[place] = captured(h, capture_at(place, capture))
        scale, shift = Modulation(2, width, name="norm_out")(c.astype(jnp.float32))
        channels = self.out_channels or self.in_channels
        out = nn.Dense(channels, dtype=jnp.float32, name="proj_out")(
            modulate(plain(h), shift, scale)
        )
        return _unpack(out.astype(jnp.float32), grid), {n: maps[n] for n in capture}


def load_flux(
    part: Part,
    *,
    dtype: Any = jnp.float32,
    sharding: Place = None,
    change: Change | None = None,
) -> tuple[Flux, PyTree]:
    """Flux's transformer and its parameters from a published part.

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
    module = configured(Flux, part.config, {}, where, dtype=dtype)
    axes = module.axes_dims_rope
    for key, fits, want in (
        ("patch_size", module.patch_size == 1, "1"),
        (
            "axes_dims_rope",
            len(axes) == 3 and sum(axes) == module.attention_head_dim,
            f"three numbers whose sum is {module.attention_head_dim}",
        ),
    ):
        if not fits:
            raise ValueError(
                f"{where}: {key!r} is {getattr(module, key)!r}, which Flux does not "
                f"compute; expected {want}"
            )
    cond = {
        "text": jnp.zeros((1, 1, module.joint_attention_dim)),
        "pooled": jnp.zeros((1, module.pooled_projection_dim)),
    }
    if module.guidance_embeds:
        cond["guidance"] = jnp.zeros(1)
    shapes = parameter_shapes(
        module.init,
        jax.ShapeDtypeStruct((1, 2, 2, module.in_channels // 4), jnp.float32),
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
