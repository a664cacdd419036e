"""Published image models, from the folders in which they are published."""

from jaxlib_guidance.models.published._adm import ADM
from jaxlib_guidance.models.published._adm_load import adm_preset, load_adm
from jaxlib_guidance.models.published._autoencoder import (
    AutoencoderKLDecoder,
    AutoencoderKLEncoder,
    load_autoencoder,
)
from jaxlib_guidance.models.published._autoencoder_tiny import (
    AutoencoderTinyDecoder,
    AutoencoderTinyEncoder,
    load_autoencoder_tiny,
)
from jaxlib_guidance.models.published._class_transformer import (
    ClassTransformer,
    load_class_transformer,
)
from jaxlib_guidance.models.published._clip_text import (
    CLIPText,
    TextStates,
    load_clip_text,
)
from jaxlib_guidance.models.published._clip_tokens import (
    CLIPTokenizer,
    load_clip_tokenizer,
)
from jaxlib_guidance.models.published._controlnet import (
    ControlNet,
    load_controlnet,
    with_controlnet,
)
from jaxlib_guidance.models.published._dit_authors import load_dit_authors
from jaxlib_guidance.models.published._dit_xl import DiTXL, load_dit_xl
from jaxlib_guidance.models.published._flux import Flux, load_flux
from jaxlib_guidance.models.published._folder import (
    Part,
    open_part,
    read_index,
    read_json,
)
from jaxlib_guidance.models.published._load import load_published
from jaxlib_guidance.models.published._lora import LoRA, read_lora
from jaxlib_guidance.models.published._lora_train import (
    init_lora,
    merge_lora,
    write_lora,
)
from jaxlib_guidance.models.published._pixart import PixArt, load_pixart
from jaxlib_guidance.models.published._scheduler import Scheduler, read_scheduler
from jaxlib_guidance.models.published._sd3 import SD3, load_sd3
from jaxlib_guidance.models.published._single_file import open_single_file
from jaxlib_guidance.models.published._stable_diffusion import (
    StableDiffusion,
    latent_mask,
)
from jaxlib_guidance.models.published._stable_diffusion_load import (
    load_stable_diffusion,
)
from jaxlib_guidance.models.published._t5 import T5Encoder, load_t5
from jaxlib_guidance.models.published._t5_tokens import (
    Normaliser,
    T5Tokenizer,
    load_t5_tokenizer,
)
from jaxlib_guidance.models.published._tensors import (
    count_parameters,
    fill,
    named_tensors,
    parameter_shapes,
    tensor_name,
)
from jaxlib_guidance.models.published._text_transformer import (
    FluxModel,
    PixArtModel,
    StableDiffusion3,
    TextTransformer,
)
from jaxlib_guidance.models.published._text_transformer_load import (
    load_flux_model,
    load_pixart_model,
    load_stable_diffusion_3,
)
from jaxlib_guidance.models.published._unet import UNet2DCondition
from jaxlib_guidance.models.published._unet_load import example_arguments, load_unet

__all__ = [
    # Any published folder
    "load_published",
    # Stable Diffusion 1.x, 2.x and XL
    "StableDiffusion",
    "load_stable_diffusion",
    "UNet2DCondition",
    "load_unet",
    "example_arguments",
    "latent_mask",
    "ControlNet",
    "load_controlnet",
    "with_controlnet",
    # Stable Diffusion 3, Flux and PixArt, with their networks
    "StableDiffusion3",
    "load_stable_diffusion_3",
    "FluxModel",
    "load_flux_model",
    "PixArtModel",
    "load_pixart_model",
    "TextTransformer",
    "SD3",
    "load_sd3",
    "Flux",
    "load_flux",
    "PixArt",
    "load_pixart",
    # Class-conditional models and networks
    "ClassTransformer",
    "load_class_transformer",
    "DiTXL",
    "load_dit_xl",
    "load_dit_authors",
    "ADM",
    "adm_preset",
    "load_adm",
    # Autoencoders
    "AutoencoderKLEncoder",
    "AutoencoderKLDecoder",
    "load_autoencoder",
    "AutoencoderTinyEncoder",
    "AutoencoderTinyDecoder",
    "load_autoencoder_tiny",
    # Text encoders and their tokens
    "TextStates",
    "CLIPText",
    "load_clip_text",
    "T5Encoder",
    "load_t5",
    "CLIPTokenizer",
    "load_clip_tokenizer",
    "T5Tokenizer",
    "load_t5_tokenizer",
    "Normaliser",
    # Low-rank changes
    "LoRA",
    "read_lora",
    "init_lora",
    "merge_lora",
    "write_lora",
    # Schedulers
    "Scheduler",
    "read_scheduler",
    # Folders and their parts
    "read_index",
    "read_json",
    "open_part",
    "open_single_file",
    "Part",
    # Parameters from tensors with published names, and back
    "fill",
    "named_tensors",
    "tensor_name",
    "parameter_shapes",
    "count_parameters",
]
