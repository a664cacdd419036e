"""Reference networks with named attention sites, and adapters for foreign ones."""

from jaxlib_guidance.models.adapters import from_linen, from_nnx
from jaxlib_guidance.models.classifier import Classified, Classifier
from jaxlib_guidance.models.dit import DiT, stack_blocks, unstack_blocks
from jaxlib_guidance.models.embed import drop_condition
from jaxlib_guidance.models.pretrained import from_config, load_pretrained
from jaxlib_guidance.models.unet import UNet

__all__ = [
    "Classified",
    "Classifier",
    "DiT",
    "UNet",
    "drop_condition",
    "from_config",
    "from_linen",
    "from_nnx",
    "load_pretrained",
    "stack_blocks",
    "unstack_blocks",
]
