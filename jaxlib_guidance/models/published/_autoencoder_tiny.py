"""The tiny autoencoder (TAESD), a cheap preview and a cheap map to pixels."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlib_guidance.models.published._configuration import ANY, configured
from jaxlib_guidance.models.published._folder import Part
from jaxlib_guidance.models.published._layers import activation
from jaxlib_guidance.models.published._tensors import Place, fill, parameter_shapes
from jaxlib_guidance.types import Array, PyTree


class _Half(nn.Module):
    """What encoder and decoder share: the published keys, and the layers."""

    in_channels: int = 3
    out_channels: int = 3
    encoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    decoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    act_fn: str = "relu"
    latent_channels: int = 4
    num_encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    num_decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)
    scaling_factor: float = 1.0
    shift_factor: float | None = 0.0
    dtype: Any = jnp.float32

    @property
    def factor(self) -> int:
        """Pixels along a side for each latent."""
        return 2 ** (len(self.num_encoder_blocks) - 1)

    def conv(self, name, h, features, **options):
        layer = nn.Conv(
            features, (3, 3), padding=1, dtype=self.dtype, name=name, **options
        )
        return layer(h)

    def block(self, name, h):
        act = activation(self.act_fn, "act_fn")
        before, width = h, h.shape[-1]
        for i in (0, 2, 4):
            h = self.conv(f"{name}.conv.{i}", h, width)
            h = h if i == 4 else act(h)
        return nn.relu(h + before)


class AutoencoderTinyEncoder(_Half):
    """Pictures to latents, in the form of `AutoencoderKLEncoder`.

    Attributes are the keys of the published ``config.json``, with diffusers' defaults.

    Reference: github.com/madebyollin/taesd; diffusers' ``AutoencoderTiny``.
    """

    # The other half's tensors, which need not be used.
    other: ClassVar[tuple[str, ...]] = ("decoder.",)

    @nn.compact
    def __call__(self, images: Array) -> tuple[Array, Array]:
        """The latents, and zeros for their standard deviation.

        Args:
          images: Pictures ``[B, H, W, in_channels]`` in [-1, 1], whose sides ``factor``
            divides.

        Returns:
          ``(mean, std)``, each ``[B, h, w, latent_channels]`` float32, in the units of
          the diffusion's network.

        Raises:
          ValueError: Another shape.
        """
        if images.ndim != 4 or any(side % self.factor for side in images.shape[1:3]):
            raise ValueError(
                f"images has shape {images.shape}; expected [B, H, W, "
                f"{self.in_channels}] with sides that {self.factor} divides"
            )
        h, n = (0.5 * images + 0.5).astype(self.dtype), 0
        widths, counts = self.encoder_block_out_channels, self.num_encoder_blocks
        for i, (width, count) in enumerate(zip(widths, counts, strict=True)):
            halved = {"strides": 2, "use_bias": False} if i else {}
            h = self.conv(f"encoder.layers.{n}", h, width, **halved)
            for j in range(count):
                h = self.block(f"encoder.layers.{n + 1 + j}", h)
            n += 1 + count
        h = self.conv(f"encoder.layers.{n}", h, self.latent_channels)
        h = h.astype(jnp.float32)
        mean = (h - (self.shift_factor or 0.0)) * self.scaling_factor
        return mean, jnp.zeros_like(mean)


class AutoencoderTinyDecoder(_Half):
    """Latents to pictures, in the form of `AutoencoderKLDecoder`.

    Attributes are the keys of the published ``config.json``, with diffusers' defaults.

    Reference: github.com/madebyollin/taesd; diffusers' ``AutoencoderTiny``.
    """

    other: ClassVar[tuple[str, ...]] = ("encoder.",)

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
        z = z.astype(jnp.float32) / self.scaling_factor + (self.shift_factor or 0.0)
        # Latents beyond 3 are bent back, since the network has not seen any.
        h = (3 * jnp.tanh(z / 3)).astype(self.dtype)
        widths, counts = self.decoder_block_out_channels, self.num_decoder_blocks
        h = self.conv("decoder.layers.0", h, widths[0])
        h, n = activation(self.act_fn, "act_fn")(h), 2
        for i, (width, count) in enumerate(zip(widths, counts, strict=True)):
            for j in range(count):
                h = self.block(f"decoder.layers.{n + j}", h)
            n += count
            if i == len(counts) - 1:
                h = self.conv(f"decoder.layers.{n}", h, self.out_channels)
            else:
                h = jnp.repeat(jnp.repeat(h, 2, 1), 2, 2)
                h = self.conv(f"decoder.layers.{n + 1}", h, width, use_bias=False)
                n += 2
        return 2 * h.astype(jnp.float32) - 1


NEUTRAL = {
    # Of the pictures in which latents may be stored, and a copy of another key.
    **dict.fromkeys(("latent_magnitude", "latent_shift", "block_out_channels"), ANY),
    "upsample_fn": "nearest",
    "upsampling_scaling_factor": 2,
    "force_upcast": (True, False),
}


def load_autoencoder_tiny(
    part: Part, *, dtype: Any = jnp.float32, sharding: Place = None
) -> tuple[
    tuple[AutoencoderTinyEncoder, PyTree], tuple[AutoencoderTinyDecoder, PyTree]
]:
    """Both halves of a tiny autoencoder from a published part.

    They may stand in for a model's own: ``dataclasses.replace(model, decoder=...)``,
    with ``params["vae"]`` the parameters of both.

    Args:
      part: The part, from `open_part`.
      dtype: Type of the parameters and of the computation.
      sharding: Where the parameters go; see `fill`.

    Returns:
      ``((encoder, parameters), (decoder, parameters))``.

    Raises:
      ValueError: A configuration that the module does not compute.
      CorruptFileError: Tensors that do not fit the configuration.
    """
    where = f"{part.path}/config.json"

    def half(kind: Any) -> tuple[Any, PyTree]:
        module = configured(kind, part.config, NEUTRAL, where, dtype=dtype)
        for key in ("encoder_block_out_channels", "decoder_block_out_channels"):
            if len(set(getattr(module, key))) != 1:
                raise ValueError(
                    f"{where}: {key!r} is {getattr(module, key)}, which the tiny "
                    "autoencoder does not compute; expected one width for all"
                )
        encodes = kind is AutoencoderTinyEncoder
        side = module.factor if encodes else 1
        channels = module.in_channels if encodes else module.latent_channels
        x = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
        params = fill(
            parameter_shapes(module.init, x),
            part.tensors,
            dtype=dtype,
            sharding=sharding,
            ignored=module.other,
            where=str(part.path),
        )
        return module, params

    return half(AutoencoderTinyEncoder), half(AutoencoderTinyDecoder)
