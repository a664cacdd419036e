"""Checkpoints: written, read, checked."""

from jaxlib_guidance.training.saving._checkpoint import Checkpoints
from jaxlib_guidance.training.saving._errors import (
    CorruptCheckpointError,
    FolderInUseError,
    SaveError,
)
from jaxlib_guidance.training.saving._restore_weights import restore_weights

__all__ = [
    # Checkpoints of a state
    "Checkpoints",
    "restore_weights",
    # What can go wrong
    "SaveError",
    "CorruptCheckpointError",
    "FolderInUseError",
]
