"""Layers that networks share."""

from jaxlib_guidance.models.layers._attention import Attention
from jaxlib_guidance.models.layers._embed import (
    Condition,
    ConditionEmbed,
    drop_condition,
    sinusoidal,
)
from jaxlib_guidance.models.layers._s4 import (
    S4D,
    Sampled,
    convolve,
    discretise,
    impulse_response,
    layer_spectrum,
    spectrum,
)

__all__ = [
    # Attention with named sites
    "Attention",
    # Embeddings of time, place and condition
    "sinusoidal",
    "Condition",
    "ConditionEmbed",
    "drop_condition",
    # Structured state spaces
    "Sampled",
    "discretise",
    "impulse_response",
    "spectrum",
    "convolve",
    "layer_spectrum",
    "S4D",
]
