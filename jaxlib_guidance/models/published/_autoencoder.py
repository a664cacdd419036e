"""The autoencoder of Stable Diffusion, SD3 and Flux: pictures to latents and back."""

import re
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlib_guidance.models.published._configuration import ANY, configured, for_each
from jaxlib_guidance.models.published._folder import Part
from jaxlib_guidance.models.published._layers import GroupNorm, ProjectedAttention
from jaxlib_guidance.models.published._tensors import Place, fill, parameter_shapes
from jaxlib_guidance.models.published._unet_blocks import (
    Downsample,
    ResnetBlock,
    Upsample,
)
from jaxlib_guidance.types import Array, PyTree

EPS = 1e-6
# Attention of older files, and its names now.
OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class _Half(nn.Module):
    """What encoder and decoder share: the published keys, and the layers."""

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    latent_channels: int = 4
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True
    force_upcast: bool = True
    dtype: Any = jnp.float32

    @property
    def factor(self) -> int:
        """Pixels along a side for each latent."""
        return 2 ** (len(self.block_out_channels) - 1)

    @property
    def shift(self) -> float:
        """What is taken from a latent before it is scaled."""
        return self.shift_factor or 0.0

    def conv(self, name, h, features, side=3):
        return nn.Conv(
            features, (side, side), padding=side // 2, dtype=self.dtype, name=name
        )(h)

    def resnet(self, name, h, channels):
        return ResnetBlock(channels, self.norm_num_groups, EPS, self.dtype, name=name)(
            h
        )

    def middle(self, name, h):
        width = self.block_out_channels[-1]
        h = self.resnet(f"{name}.resnets.0", h, width)
        if self.mid_block_add_attention:
            h = _PixelAttention(
                self.norm_num_groups, self.dtype, name=f"{name}.attentions.0"
            )(h)
        return self.resnet(f"{name}.resnets.1", h, width)

    def head(self, name, h, features):
        norm = GroupNorm(
            self.norm_num_groups, EPS, self.dtype, name=f"{name}.conv_norm_out"
        )
        return self.conv(f"{name}.conv_out", nn.silu(norm(h)), features)


class _PixelAttention(nn.Module):
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        h = GroupNorm(self.groups, EPS, self.dtype, name="group_norm")(x)
        h = h.reshape(x.shape[0], -1, x.shape[-1])
        # One head, with the names in the same place as the norm's.
        layer = ProjectedAttention(1, bias=True, dtype=self.dtype)
        nn.share_scope(self, layer)
        return x + layer(h)[0].reshape(x.shape)


class AutoencoderKLEncoder(_Half):
    """Pictures to the distribution of their latents.

    Attributes are the keys of the published ``config.json``, with diffusers' defaults.

    Reference: Rombach et al., arXiv 2112.10752; diffusers' ``AutoencoderKL``.
    """

    # The other half's tensors, which need not be used.
    other: ClassVar[tuple[str, ...]] = ("decoder.", "post_quant_conv.")

    @nn.compact
    def __call__(self, images: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the scaled latents.

        Args:
          images: Pictures ``[B, H, W, in_channels]`` in [-1, 1], whose sides ``factor``
            divides.

        Returns:
          ``(mean, std)``, each ``[B, h, w, latent_channels]`` float32, in the units of
          the diffusion's network.

        Raises:
          ValueError: Another shape.
        """
        factor = self.factor
        sides = images.shape[1:3]
        if images.ndim != 4 or any(side % factor for side in sides):
            raise ValueError(
                f"images has shape {images.shape}; expected [B, H, W, "
                f"{self.in_channels}] with sides that {factor} divides"
            )
        channels = self.block_out_channels
        h = self.conv("encoder.conv_in", images.astype(self.dtype), channels[0])
        for i, width in enumerate(channels):
            block = f"encoder.down_blocks.{i}"
            for j in range(self.layers_per_block):
                h = self.resnet(f"{block}.resnets.{j}", h, width)
            if i < len(channels) - 1:
                h = Downsample((0, 1), self.dtype, name=f"{block}.downsamplers.0")(h)
        h = self.middle("encoder.mid_block", h)
        h = self.head("encoder", h, 2 * self.latent_channels)
        if self.use_quant_conv:
            h = self.conv("quant_conv", h, 2 * self.latent_channels, 1)
        mean, log_var = jnp.split(h.astype(jnp.float32), 2, -1)
        std = jnp.exp(0.5 * jnp.clip(log_var, -30.0, 20.0))
        return (mean - self.shift) * self.scaling_factor, std * self.scaling_factor


class AutoencoderKLDecoder(_Half):
    """Latents to pictures.

    Attributes are the keys of the published ``config.json``, with diffusers' defaults.

    Reference: Rombach et al., arXiv 2112.10752; diffusers' ``AutoencoderKL``.
    """

    other: ClassVar[tuple[str, ...]] = ("encoder.", "quant_conv.")

    @nn.compact
    def __call__(self, z: Array) -> Array:
        """Pictures of latents.

        Args:
          z: Latents ``[B, h, w, latent_channels]`` in the units of the diffusion's
            network.

        Returns:
          Pictures ``[B, H, W, out_channels]``, float32, about in [-1, 1].

        Raises:
          ValueError: Another shape.
        """
        if z.ndim != 4 or z.shape[-1] != self.latent_channels:
            raise ValueError(
                f"z has shape {z.shape}; expected [B, h, w, {self.latent_channels}]"
            )
        h = (z.astype(jnp.float32) / self.scaling_factor + self.shift).astype(
            self.dtype
        )
        if self.use_post_quant_conv:
            h = self.conv("post_quant_conv", h, self.latent_channels, 1)
        h = self.conv("decoder.conv_in", h, self.block_out_channels[-1])
        h = self.middle("decoder.mid_block", h)
        widths = self.block_out_channels[::-1]
        for i, width in enumerate(widths):
            block = f"decoder.up_blocks.{i}"
            for j in range(self.layers_per_block + 1):
                h = self.resnet(f"{block}.resnets.{j}", h, width)
            if i < len(widths) - 1:
                h = Upsample(self.dtype, name=f"{block}.upsamplers.0")(h)
        return self.head("decoder", h, self.out_channels).astype(jnp.float32)


NEUTRAL = {
    **dict.fromkeys(("sample_size", "dropout"), ANY),
    "act_fn": ("silu", "swish"),
}
BLOCKS = {
    "down_block_types": "DownEncoderBlock2D",
    "up_block_types": "UpDecoderBlock2D",
}


def load_autoencoder(
    part: Part, *, dtype: Any = jnp.float32, sharding: Place = None
) -> tuple[tuple[AutoencoderKLEncoder, PyTree], tuple[AutoencoderKLDecoder, PyTree]]:
    """Both halves of an autoencoder from a published part.

    Args:
      part: The part, from `open_part`.
      dtype: Type of the parameters and of the computation. float16 would overflow in
        SDXL's.
      sharding: Where the parameters go; see `fill`.

    Returns:
      ``((encoder, parameters), (decoder, parameters))``.

    Raises:
      ValueError: A configuration that the module does not compute.
      CorruptFileError: Tensors that do not fit the configuration.
    """
    where = f"{part.path}/config.json"
    config = dict(part.config)
    stages = len(config.get("block_out_channels", (64,)))
    for key, kind in BLOCKS.items():
        found = tuple(config.pop(key, (kind,)))
        if set(found) != {kind} or len(for_each(found, stages, key)) != stages:
            raise ValueError(f"{where}: {key!r} is {found}; expected {kind!r} only")
    part = part.renamed(_renamed)

    def half(kind: Any) -> tuple[Any, PyTree]:
        module = configured(kind, config, NEUTRAL, where, dtype=dtype)
        if module.force_upcast and jnp.dtype(dtype) == jnp.float16:
            raise ValueError(
                f"dtype is float16, and {where} says that this autoencoder overflows "
                "in it (force_upcast); expected bfloat16 or float32"
            )
        encodes = kind is AutoencoderKLEncoder
        sides = (module.factor, module.in_channels) if encodes else (1, None)
        shape = (1, sides[0], sides[0], sides[1] or module.latent_channels)
        shapes = parameter_shapes(module.init, jax.ShapeDtypeStruct(shape, jnp.float32))
        params = fill(
            shapes,
            part.tensors,
            dtype=dtype,
            sharding=sharding,
            ignored=module.other,
            where=str(part.path),
        )
        return module, params

    return half(AutoencoderKLEncoder), half(AutoencoderKLDecoder)


def _renamed(name):
    match = re.fullmatch(r"(.*\.attentions\.\d+\.)(\w+)(\.\w+)", name)
    if match is None or match[2] not in OLD:
        return name
    return f"{match[1]}{OLD[match[2]]}{match[3]}"
