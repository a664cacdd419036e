"""The published files of ADM: their flags by name, and their parameters."""

import os
from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.files import load_torch
from jaxlib_guidance.models.published._adm import ADM
from jaxlib_guidance.models.published._tensors import Place, fill, parameter_shapes
from jaxlib_guidance.types import PyTree


def _flags(side, classes, **flags):
    mult = {
        64: (1, 2, 3, 4),
        128: (1, 1, 2, 3, 4),
        256: (1, 1, 2, 2, 4, 4),
        512: (0.5, 1, 1, 2, 2, 4, 4),
    }[side]
    factors = tuple(side // size for size in (32, 16, 8))
    return dict(num_classes=classes, channel_mult=mult, attention_ds=factors) | flags


# The flags in guided-diffusion's README, by the names of the files without ".pt".
PRESETS: dict[str, dict[str, Any]] = {
    "64x64_diffusion": _flags(
        *(64, 1000),
        model_channels=192,
        num_res_blocks=3,
        use_new_attention_order=True,
    ),
    "128x128_diffusion": _flags(128, 1000, num_head_channels=None),
    "256x256_diffusion": _flags(256, 1000),
    "256x256_diffusion_uncond": _flags(256, None),
    "512x512_diffusion": _flags(512, 1000),
    "lsun_bedroom": _flags(256, None),
    "lsun_cat": _flags(256, None),
    "lsun_horse": _flags(256, None),
}


def adm_preset(name: str, **own: Any) -> ADM:
    """The network of a file that guided-diffusion publishes.

    Args:
      name: Name of the file without ".pt", such as "256x256_diffusion"; classifiers and
        upsamplers are other networks.
      **own: Attributes of `ADM` to set, such as ``dtype``.

    Raises:
      ValueError: An unknown name.
    """
    if name not in PRESETS:
        raise ValueError(f"name is {name!r}; expected one of {tuple(PRESETS)}")
    return ADM(**(PRESETS[name] | own))


def load_adm(
    path: str | os.PathLike,
    network: str | ADM,
    *,
    dtype: Any = jnp.float32,
    sharding: Place = None,
) -> tuple[ADM, PyTree]:
    """ADM and its parameters from a ``.pt`` file, without PyTorch.

    Args:
      path: File, as guided-diffusion publishes it.
      network: Name for `adm_preset`, or a network of yours: the file does not say how
        many heads there are.
      dtype: Type of the parameters and of the computation.
      sharding: Where the parameters go; see `fill`.

    Returns:
      ``(module, parameters)``.

    Raises:
      ValueError: An unknown name.
      CorruptFileError: A file that cannot be read, or tensors that do not fit.
    """
    module = adm_preset(network) if isinstance(network, str) else network
    module = module.clone(dtype=dtype)
    tensors, _ = load_torch(path)
    side = 2 ** (len(module.channel_mult) - 1)
    x = jax.ShapeDtypeStruct((1, side, side, module.in_channels), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    label = None
    if module.num_classes is not None:
        label = jax.ShapeDtypeStruct((1,), jnp.int32)
    shapes = parameter_shapes(module.init, x, t, label)
    params = fill(shapes, tensors, dtype=dtype, sharding=sharding, where=str(path))
    return module, params
