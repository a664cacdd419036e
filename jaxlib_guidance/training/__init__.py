"""Training: a state, a step, a data mesh, a loop, and checkpoints."""

from jaxlib_guidance.training.checkpoint import (
    Checkpoints,
    CorruptCheckpointError,
    FolderInUseError,
    SaveError,
    export_weights,
    load_weights,
    restore_weights,
)
from jaxlib_guidance.training.fit import Log, fit
from jaxlib_guidance.training.launch import Hosts, Scale, start
from jaxlib_guidance.training.parallel import (
    data_mesh,
    local_rows,
    pmapped,
    replicate,
    shard_batch,
    state_sharding,
)
from jaxlib_guidance.training.state import TrainState, ema_update, init_state
from jaxlib_guidance.training.step import make_train_step

__all__ = [
    "Checkpoints",
    "CorruptCheckpointError",
    "FolderInUseError",
    "Hosts",
    "Log",
    "SaveError",
    "Scale",
    "TrainState",
    "data_mesh",
    "ema_update",
    "export_weights",
    "fit",
    "init_state",
    "load_weights",
    "local_rows",
    "make_train_step",
    "pmapped",
    "replicate",
    "restore_weights",
    "shard_batch",
    "start",
    "state_sharding",
]
