"""File formats: weights, published tensors, exported programs."""

from jaxlib_guidance.files._bytes import CorruptFileError, map_bytes
from jaxlib_guidance.files._gguf import GGUFTensors, load_gguf
from jaxlib_guidance.files._program import export_sampler, load_exported
from jaxlib_guidance.files._safetensors import load_safetensors
from jaxlib_guidance.files._torch import load_torch
from jaxlib_guidance.files._weights import export_weights, load_weights

__all__ = [
    # Files in memory
    "CorruptFileError",
    "map_bytes",
    # Weights of this library
    "export_weights",
    "load_weights",
    # safetensors
    "load_safetensors",
    # PyTorch's zips, without PyTorch
    "load_torch",
    # GGUF
    "GGUFTensors",
    "load_gguf",
    # A sampler as one exported program
    "export_sampler",
    "load_exported",
]
