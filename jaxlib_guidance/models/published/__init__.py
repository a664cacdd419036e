"""Published image models, from the folders in which they are published."""

from jaxlib_guidance.models.published._adm import ADM, adm_preset, load_adm
from jaxlib_guidance.models.published._clip_text import (
    CLIPText,
    TextStates,
    load_clip_text,
)
from jaxlib_guidance.models.published._dit_xl import DiTXL, load_dit_xl
from jaxlib_guidance.models.published._folder import (
    Part,
    open_part,
    read_index,
    read_json,
)
from jaxlib_guidance.models.published._tensors import (
    count_parameters,
    fill,
    named_tensors,
    parameter_shapes,
    tensor_name,
)

__all__ = [
    # Folders and their parts
    "read_index",
    "read_json",
    "open_part",
    "Part",
    # Parameters from tensors with published names, and back
    "fill",
    "named_tensors",
    "tensor_name",
    "parameter_shapes",
    "count_parameters",
    # Text encoders
    "TextStates",
    "CLIPText",
    "load_clip_text",
    # Class-conditional networks
    "DiTXL",
    "load_dit_xl",
    "ADM",
    "adm_preset",
    "load_adm",
]
