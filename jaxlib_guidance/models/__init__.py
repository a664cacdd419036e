"""Reference networks with named attention sites, and adapters for foreign ones."""

from jaxlib_guidance.models.adapters import from_linen, from_nnx
from jaxlib_guidance.models.classifier import Classified, Classifier
from jaxlib_guidance.models.dit import DiT, stack_blocks, unstack_blocks
from jaxlib_guidance.models.embed import drop_condition
from jaxlib_guidance.models.generate import completion_logp, generate
from jaxlib_guidance.models.gguf import load_gguf
from jaxlib_guidance.models.lm import LM, lm_tiny, unembedding
from jaxlib_guidance.models.pretrained import from_config, load_pretrained
from jaxlib_guidance.models.safetensors import load_safetensors
from jaxlib_guidance.models.smollm2 import load_smollm2, smollm2_135m
from jaxlib_guidance.models.unet import UNet

__all__ = [
    "LM",
    "Classified",
    "Classifier",
    "DiT",
    "UNet",
    "completion_logp",
    "drop_condition",
    "from_config",
    "from_linen",
    "from_nnx",
    "generate",
    "lm_tiny",
    "load_gguf",
    "load_pretrained",
    "load_safetensors",
    "load_smollm2",
    "smollm2_135m",
    "stack_blocks",
    "unembedding",
    "unstack_blocks",
]
