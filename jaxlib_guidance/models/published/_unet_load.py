"""Stable Diffusion's U-Net from a published part."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.models.published._configuration import ANY, configured
from jaxlib_guidance.models.published._folder import Part
from jaxlib_guidance.models.published._tensors import (
    Change,
    Place,
    fill,
    parameter_shapes,
)
from jaxlib_guidance.models.published._unet import UNet2DCondition
from jaxlib_guidance.types import PyTree

NEUTRAL = {
    **dict.fromkeys(
        # Logits are float32 here always; a projection of one pixel is a dense layer.
        ("upcast_attention", "use_linear_projection", "dropout"),
        ANY,
    ),
    "act_fn": ("silu", "swish"),
    "addition_embed_type_num_heads": ANY,
    "attention_type": "default",
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "resnet_out_scale_factor": 1,
    "resnet_time_scale_shift": "default",
    "time_embedding_type": "positional",
}
BLOCKS = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": (None, "text_time"),
}


def load_unet(
    part: Part,
    *,
    dtype: Any = jnp.float32,
    sharding: Place = None,
    change: Change | None = None,
) -> tuple[UNet2DCondition, PyTree]:
    """Stable Diffusion's U-Net and its parameters from a published part.

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
    module = configured(UNet2DCondition, part.config, NEUTRAL, where, dtype=dtype)
    for key, known in BLOCKS.items():
        value = getattr(module, key)
        for each in value if isinstance(value, tuple) else (value,):
            if each not in known:
                raise ValueError(
                    f"{where}: {key!r} has {each!r}; expected one of {known}"
                )
    shapes = parameter_shapes(module.init, *example_arguments(module))
    params = fill(
        shapes,
        part.tensors,
        dtype=dtype,
        sharding=sharding,
        change=change,
        where=str(part.path),
    )
    return module, params


def example_arguments(module: UNet2DCondition) -> tuple[PyTree, ...]:
    """Shapes of arguments with which a network can be initialised."""
    side = 2 ** (len(module.block_out_channels) - 1)

    def shape(*sizes):
        return jax.ShapeDtypeStruct((1, *sizes), jnp.float32)

    cond = {"text": shape(1, module.cross_attention_dim)}
    if module.addition_embed_type is not None:
        sizes = 6 * (module.addition_time_embed_dim or 0)
        width = module.projection_class_embeddings_input_dim or 0
        cond |= {"pooled": shape(width - sizes), "time_ids": shape(6)}
    return shape(side, side, module.in_channels), shape(), cond
