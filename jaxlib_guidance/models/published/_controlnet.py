"""ControlNets: a second way down, whose features are added to the first one's."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlib_guidance.models._adapters import Adapted
from jaxlib_guidance.models.published._configuration import configured
from jaxlib_guidance.models.published._folder import Part
from jaxlib_guidance.models.published._tensors import Place, fill, parameter_shapes
from jaxlib_guidance.models.published._unet import UNet2DCondition
from jaxlib_guidance.models.published._unet_load import NEUTRAL, example_arguments
from jaxlib_guidance.types import Array, PyTree


class _HintEmbedding(nn.Module):
    channels: tuple[int, ...]
    width: int
    dtype: Any

    @nn.compact
    def __call__(self, hint):
        def conv(name, h, features, strides=1):
            layer = nn.Conv(
                features, (3, 3), strides, padding=1, dtype=self.dtype, name=name
            )
            return layer(h)

        h = nn.silu(conv("conv_in", hint, self.channels[0]))
        pairs = zip(self.channels[:-1], self.channels[1:], strict=True)
        for i, (own, wider) in enumerate(pairs):
            h = nn.silu(conv(f"blocks.{2 * i}", h, own))
            h = nn.silu(conv(f"blocks.{2 * i + 1}", h, wider, 2))
        return conv("conv_out", h, self.width)


class ControlNet(UNet2DCondition):
    """The way down of `UNet2DCondition` with a picture that steers it.

    Attributes are the keys of the published ``config.json``, those of the network and:

    Attributes:
      conditioning_channels: Number of channels of the picture.
      conditioning_embedding_out_channels: Number of channels of each stage of its
        embedding, each of which but the first halves its size.

    Reference: Zhang et al., arXiv 2302.05543; diffusers' ``ControlNetModel``.
    """

    conditioning_channels: int = 3
    conditioning_embedding_out_channels: tuple[int, ...] = (16, 32, 96, 256)

    @nn.compact
    def __call__(  # pyrefly: ignore
        self, x: Array, c_noise: Array, cond: Mapping[str, PyTree]
    ) -> dict[str, PyTree]:
        """What is added to the skips and the middle of the network.

        Args:
          x: Latents ``[B, H, W, C]``.
          c_noise: Timestep of each sample ``[B]``.
          cond: The network's condition, with "hint", pictures ``[B, 8 H, 8 W, 3]`` in
            [0, 1].

        Returns:
          ``{"down": one array for each skip, "mid"}``, for ``cond["residuals"]``.

        Raises:
          ValueError: No hint, or one of another size.
        """
        widths = self.conditioning_embedding_out_channels
        factor = 2 ** (len(widths) - 1)
        batch, height, width = x.shape[:3]
        want = batch, factor * height, factor * width, self.conditioning_channels
        hint = cond.get("hint")
        if hint is None or jnp.shape(hint) != want:
            got = "absent" if hint is None else f"of shape {jnp.shape(hint)}"
            raise ValueError(f"cond['hint'] is {got}; expected {want}")
        x = self._input(x, {**cond, "image": None})
        run = self._begin(x, c_noise, cond, {}, ())
        hint = jnp.asarray(hint, self.dtype)
        h = self._first(x) + _HintEmbedding(
            widths,
            self.block_out_channels[0],
            self.dtype,
            name="controlnet_cond_embedding",
        )(hint)
        h, skips = self._descend(h, run)

        def out(name, h):
            return nn.Dense(h.shape[-1], dtype=self.dtype, name=name)(h)

        down = [out(f"controlnet_down_blocks.{i}", a) for i, a in enumerate(skips)]
        return {"down": down, "mid": out("controlnet_mid_block", h)}


def with_controlnet(
    network: Adapted, controlnet: Callable[..., PyTree], scale: Array | float = 1.0
) -> Adapted:
    """A network to whose features those of a ControlNet are added.

    Args:
      network: The network, from `from_linen`.
      controlnet: ``(x, c_noise, cond) -> residuals``, a ControlNet with its parameters.
      scale: Factor of what is added, scalar or ``[B]``.

    Returns:
      A network with the same sites, whose condition has also "hint".
    """

    def call(x, c_noise, cond, **options):
        own = {k: a for k, a in cond.items() if k != "hint"}
        residuals = controlnet(x, c_noise, cond)
        factor = jnp.reshape(jnp.asarray(scale, jnp.float32), (-1, 1, 1, 1))
        scaled = jax.tree.map(lambda a: (factor * a).astype(a.dtype), residuals)
        return network.call(x, c_noise, own | {"residuals": scaled}, **options)

    return dataclasses.replace(network, call=call)


def load_controlnet(
    part: Part, *, dtype: Any = jnp.float32, sharding: Place = None
) -> tuple[ControlNet, PyTree]:
    """A ControlNet of Stable Diffusion and its parameters from its published folder.

    Args:
      part: The folder, from `open_part`.
      dtype: Type of the parameters and of the computation.
      sharding: Where the parameters go; see `fill`.

    Returns:
      ``(module, parameters)``, for ``StableDiffusion.denoiser(params, controlnet=...)``
      with the parameters as ``params["controlnet"]``.

    Raises:
      ValueError: A ControlNet of another network, such as that of SD3 or Flux, or a
        configuration that the module does not compute.
      CorruptFileError: Tensors that do not fit the configuration.
    """
    neutral = NEUTRAL | {"controlnet_conditioning_channel_order": "rgb"}
    where = f"{part.path}/config.json"
    kind = part.config.get("_class_name", "ControlNetModel")
    if kind != "ControlNetModel":
        raise ValueError(
            f"{where}: _class_name is {kind!r}; expected 'ControlNetModel', which "
            "steers Stable Diffusion 1.x, 2.x and XL"
        )
    module = configured(ControlNet, part.config, neutral, where, dtype=dtype)
    x, t, cond = example_arguments(module)
    factor = 2 ** (len(module.conditioning_embedding_out_channels) - 1)
    sides = (factor * side for side in x.shape[1:3])
    hint = jax.ShapeDtypeStruct((1, *sides, module.conditioning_channels), jnp.float32)
    shapes = parameter_shapes(module.init, x, t, cond | {"hint": hint})
    params = fill(
        shapes, part.tensors, dtype=dtype, sharding=sharding, where=str(part.path)
    )
    return module, params
