"""One function for every published folder."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.models.published._class_transformer import (
    ClassTransformer,
    load_class_transformer,
)
from jaxlib_guidance.models.published._folder import read_index
from jaxlib_guidance.models.published._lora import LoRA
from jaxlib_guidance.models.published._stable_diffusion import StableDiffusion
from jaxlib_guidance.models.published._stable_diffusion_load import (
    load_stable_diffusion,
)
from jaxlib_guidance.models.published._tensors import Place
from jaxlib_guidance.models.published._text_transformer import (
    TextTransformer,
)
from jaxlib_guidance.models.published._text_transformer_load import (
    load_flux_model,
    load_pixart_model,
    load_stable_diffusion_3,
)
from jaxlib_guidance.types import PyTree

# Loader of each class of network, which stands in the index as "unet" or "transformer".
LOADERS: Mapping[str, Callable[..., Any]] = {
    "UNet2DConditionModel": load_stable_diffusion,
    "SD3Transformer2DModel": load_stable_diffusion_3,
    "FluxTransformer2DModel": load_flux_model,
    "PixArtTransformer2DModel": load_pixart_model,
    # As diffusers' first release of DiT had it, and as it does now.
    "Transformer2DModel": load_class_transformer,
    "DiTTransformer2DModel": load_class_transformer,
}
Model = StableDiffusion | TextTransformer | ClassTransformer


def load_published(
    folder: str | os.PathLike,
    *,
    dtype: Any = jnp.float32,
    sharding: Place = None,
    parts: Sequence[str] | None = None,
    variant: str | None = None,
    lora: Sequence[LoRA] = (),
) -> tuple[Model, dict[str, PyTree]]:
    """A published model and its parameters, from the folder of its files.

    Args:
      folder: Folder with ``model_index.json``, as diffusers saves and hubs serve it.
        Nothing is downloaded.
      dtype: Type of the parameters and of the computation, whatever the file's. Norms
        and softmax are float32 always. ``jnp.bfloat16`` suits accelerators.
      sharding: Where the parameters go: one sharding for all, or a function ``(name,
        shape) -> Sharding`` of the tensor's name and the parameter's shape. Each device
        reads its own slices. None is the first device.
      parts: Parts to load, such as ``["unet"]``; None loads all that the model has.
      variant: Variant of the files, such as "fp16"; None takes the plain ones, or the
        only variant that there is.
      lora: Low-rank changes to merge into the parameters, from `read_lora`; of networks
        and CLIP's text encoders.

    Returns:
      ``(model, params)``: the model, without arrays, and a tree of parameters for each
      part, ``{"unet": ..., "vae": ..., "text_encoder": ...}``.

    Raises:
      FileNotFoundError: No such folder, or one that lacks files.
      CorruptFileError: Files that are damaged or do not fit each other; tensors that
        are missing, that nothing uses, or that have another shape.
      ValueError: A network of another class, a configuration that it does not compute,
        or unknown parts.

    Example:
      A picture from a folder on disk::

        model, params = load_published("stable-diffusion-v1-5", dtype=jnp.bfloat16)
        cond, null = model.prompts(params, ["a cat"])
        guidance = jg.chain(jg.cfg(6.5, null), jg.pag(2.0, "mid"))
        z, _ = jg.sample(keys, model.denoiser(params), jg.dpmpp_2m(),
                         model.grid(30, "dpm"), model.latent(512), cond,
                         guidance=guidance)
        images = model.decode(params, z)
    """
    index = read_index(folder)
    kind = index.get("unet", index.get("transformer"))
    if kind not in LOADERS:
        raise ValueError(
            f"{folder} has a network of class {kind!r}; expected one of "
            f"{', '.join(LOADERS)}"
        )
    options = {"dtype": dtype, "sharding": sharding, "parts": parts, "variant": variant}
    return LOADERS[kind](folder, lora=lora, **options)
