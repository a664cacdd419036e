"""Reference networks with named attention sites, and adapters for foreign ones."""

from jaxlib_guidance.models import layers, lm, published
from jaxlib_guidance.models._adapters import Adapted, from_linen, from_nnx
from jaxlib_guidance.models._classifier import Classified, Classifier
from jaxlib_guidance.models._dit import DiT
from jaxlib_guidance.models._experts import (
    Experts,
    expert_index,
    experts,
    transfer_kl,
)
from jaxlib_guidance.models._lora import lora_init, lora_merge
from jaxlib_guidance.models._models import ClassifierModel, DiffusionModel
from jaxlib_guidance.models._motion import MotionCLR
from jaxlib_guidance.models._patches import patchify, unpatchify
from jaxlib_guidance.models._pretrained import (
    from_config,
    load_pretrained,
    pretrained_names,
    read_pretrained,
)
from jaxlib_guidance.models._stack import stack_blocks, unstack_blocks
from jaxlib_guidance.models._tsdiff import TSDiff, tsdiff_cpu, tsdiff_paper
from jaxlib_guidance.models._unet import UNet
from jaxlib_guidance.models.layers import *
from jaxlib_guidance.models.lm import *
from jaxlib_guidance.models.published import *

__all__ = [
    # Networks of Flax as networks of this library
    "Adapted",
    "from_linen",
    "from_nnx",
    # A classifier of noisy images
    "Classified",
    "Classifier",
    # Experts by noise range
    "expert_index",
    "Experts",
    "experts",
    "transfer_kl",
    # Low-rank changes of parameters
    "lora_init",
    "lora_merge",
    # Diffusion transformer
    "DiT",
    "patchify",
    "unpatchify",
    "stack_blocks",
    "unstack_blocks",
    # U-Net
    "UNet",
    # Motions
    "MotionCLR",
    # Windows of time series
    "TSDiff",
    "tsdiff_paper",
    "tsdiff_cpu",
    # What ships, by name
    "DiffusionModel",
    "ClassifierModel",
    "from_config",
    "pretrained_names",
    "read_pretrained",
    "load_pretrained",
]
__all__ += layers.__all__
__all__ += lm.__all__
__all__ += published.__all__
