"""Layers that networks share."""

from jaxlib_guidance.models.layers._attention import Attention
from jaxlib_guidance.models.layers._embed import (
    Condition,
    ConditionEmbed,
    drop_condition,
    grid_positions,
    sinusoidal,
)
from jaxlib_guidance.models.layers._fusion import (
    fusion_weights,
    probability_fusion,
    weighted_experts,
)
from jaxlib_guidance.models.layers._gates import SEGate, StepGate
from jaxlib_guidance.models.layers._motion_attention import MotionAttention
from jaxlib_guidance.models.layers._s4 import (
    S4D,
    Sampled,
    convolve,
    discretise,
    impulse_response,
    initial_poles,
    layer_spectrum,
    spectrum,
)

__all__ = [
    # Attention with named sites
    "Attention",
    # Embeddings of time, place and condition
    "sinusoidal",
    "grid_positions",
    "Condition",
    "ConditionEmbed",
    "drop_condition",
    # Several experts' distributions as one
    "fusion_weights",
    "weighted_experts",
    "probability_fusion",
    # Gates of residual blocks
    "SEGate",
    "StepGate",
    # Frames and the motions between them
    "MotionAttention",
    # Structured state spaces
    "initial_poles",
    "Sampled",
    "discretise",
    "impulse_response",
    "spectrum",
    "convolve",
    "layer_spectrum",
    "S4D",
]
