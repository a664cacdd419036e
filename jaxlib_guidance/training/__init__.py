"""Training: a state, a step, a data mesh, and checkpoints."""

from jaxlib_guidance.training.checkpoint import (
    Checkpoints,
    CorruptCheckpointError,
    export_weights,
    load_weights,
)
from jaxlib_guidance.training.parallel import (
    data_mesh,
    pmapped,
    replicate,
    shard_batch,
)
from jaxlib_guidance.training.state import TrainState, ema_update, init_state
from jaxlib_guidance.training.step import make_train_step

__all__ = [
    "Checkpoints",
    "CorruptCheckpointError",
    "TrainState",
    "data_mesh",
    "ema_update",
    "export_weights",
    "init_state",
    "load_weights",
    "make_train_step",
    "pmapped",
    "replicate",
    "shard_batch",
]
