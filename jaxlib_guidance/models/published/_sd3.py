"""Stable Diffusion 3 and 3.5: a transformer of image and text in joint attention."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlib_guidance.attention import capture_at, captured, edit_features
from jaxlib_guidance.models._patches import unpatchify
from jaxlib_guidance.models.published._configuration import configured
from jaxlib_guidance.models.published._folder import Part
from jaxlib_guidance.models.published._mmdit import JointBlock, TimeText, read_prompt
from jaxlib_guidance.models.published._tensors import (
    Change,
    Place,
    fill,
    parameter_shapes,
)
from jaxlib_guidance.models.published._transformer import (
    Modulation,
    PatchEmbed,
    modulate,
    plain,
)
from jaxlib_guidance.types import Array, Captures, PyTree, require_places


class SD3(nn.Module):
    """SD3's transformer as published: ``(x, c_noise, cond) -> (value, maps)``.

    Sites are "block0/joint", ..., and in blocks of dual attention, as SD3.5-medium has
    them, "block0/attn" of the image alone. A joint site's tokens are the image's, row
    by row, then the text's. Taps are the sites and the image's tokens after each block,
    "block0", ..., which accept edits of features.

    The value is a velocity; ``c_noise`` is the timestep, 1000 times the time.

    Attributes are the keys of the published ``config.json``.

    Attributes:
      sample_size: Side of the latents in training.
      patch_size: Side of a patch.
      in_channels: Number of channels of the latents.
      out_channels: Number of channels of the value; None is the input's.
      num_layers: Number of blocks.
      attention_head_dim: Number of features of a head.
      num_attention_heads: Number of attention heads.
      joint_attention_dim: Number of features of the text's states.
      caption_projection_dim: Number of features of a token; heads times features.
      pooled_projection_dim: Number of features of the pooled text.
      pos_embed_max_size: Side of the table of positions.
      dual_attention_layers: Blocks in which the image also attends to itself alone.
      qk_norm: "rms_norm" where queries and keys are normalised (3.5), or None.
      kernel: What computes unedited maps; see `attention.attend`.
      dtype: Type of the blocks' computation. Residual streams, norms, softmax and
        output head are float32.

    Reference: Esser et al., arXiv 2403.03206; diffusers' ``SD3Transformer2DModel``.
    """

    sample_size: int = 128
    patch_size: int = 2
    in_channels: int = 16
    out_channels: int | None = None
    num_layers: int = 18
    attention_head_dim: int = 64
    num_attention_heads: int = 18
    joint_attention_dim: int = 4096
    caption_projection_dim: int = 1152
    pooled_projection_dim: int = 2048
    pos_embed_max_size: int = 96
    dual_attention_layers: tuple[int, ...] = ()
    qk_norm: str | None = None
    kernel: str | None = None
    dtype: Any = jnp.float32

    # `capture` may map taps to functions.
    reduces = True

    @property
    def sites(self) -> tuple[str, ...]:
        """The attention sites, in the order of the computation."""
        return tuple(
            f"block{i}/{kind}"
            for i in range(self.num_layers)
            for kind in ("joint", "attn")
            if kind == "joint" or i in self.dual_attention_layers
        )

    @property
    def feature_sites(self) -> tuple[str, ...]:
        """What accepts an edit of features, the image's tokens after each block."""
        return tuple(f"block{i}" for i in range(self.num_layers))

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
          x: Latents ``[B, H, W, C]``.
          c_noise: Timestep of each sample ``[B]``, from 0 to 1000.
          cond: "text", states ``[B, M, F]``, and "pooled" ``[B, P]``.
          control: Edits by attention site or feature.
          capture: Taps to return, or a function of each to return instead.

        Returns:
          ``(value, maps)``: float32 of x's shape, and the taps.

        Raises:
          ValueError: A shape that patches do not divide or that is beyond the table of
            positions, another condition, or unknown sites or taps.
        """
        control = require_places(self, control, capture)
        widths = {
            "text": self.joint_attention_dim,
            "pooled": self.pooled_projection_dim,
        }
        given = read_prompt(cond, x.shape[0], widths)
        width = self.num_attention_heads * self.attention_head_dim
        embed = PatchEmbed(
            *(width, self.patch_size, self.pos_embed_max_size, self.dtype),
            name="pos_embed",
        )
        h, grid = embed(x)
        time = jnp.broadcast_to(c_noise, x.shape[:1])
        c = TimeText(width, dtype=self.dtype, name="time_text_embed")(
            time, given["pooled"]
        )
        text = nn.Dense(
            self.caption_projection_dim, dtype=self.dtype, name="context_embedder"
        )(given["text"].astype(self.dtype)).astype(jnp.float32)
        maps = {}
        for i in range(self.num_layers):
            place, kinds = f"block{i}", ("joint", "attn")
            block = JointBlock(
                self.num_attention_heads,
                qk_norm=self.qk_norm is not None,
                dual=i in self.dual_attention_layers,
                last=i == self.num_layers - 1,
                kernel=self.kernel,
                dtype=self.dtype,
                name=f"transformer_blocks.{i}",
            )
            h, text, found = block(
                *(h, text, c),
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
        scale, shift = Modulation(2, width, name="norm_out")(c.astype(jnp.float32))
        channels = self.out_channels or self.in_channels
        out = nn.Dense(
            self.patch_size**2 * channels, dtype=jnp.float32, name="proj_out"
        )(modulate(plain(h), shift, scale))
        value = unpatchify(out.astype(jnp.float32), grid, self.patch_size)
        return value, {name: maps[name] for name in capture}


def load_sd3(
    part: Part,
    *,
    dtype: Any = jnp.float32,
    sharding: Place = None,
    change: Change | None = None,
) -> tuple[SD3, PyTree]:
    """SD3's transformer and its parameters from a published part.

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
    module = configured(SD3, part.config, {}, where, dtype=dtype)
    width = module.num_attention_heads * module.attention_head_dim
    for key, value, known in (
        ("qk_norm", module.qk_norm, (None, "rms_norm")),
        ("caption_projection_dim", module.caption_projection_dim, (width,)),
    ):
        if value not in known:
            raise ValueError(
                f"{where}: {key!r} is {value!r}, which SD3 does not compute; expected "
                f"{' or '.join(map(repr, known))}"
            )
    side = module.patch_size
    shapes = parameter_shapes(
        module.init,
        jax.ShapeDtypeStruct((1, side, side, module.in_channels), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.float32),
        {
            "text": jnp.zeros((1, 1, module.joint_attention_dim)),
            "pooled": jnp.zeros((1, module.pooled_projection_dim)),
        },
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
