"""Training: a state, a step, a data mesh, a loop, and checkpoints."""

from jaxlib_guidance.training import saving
from jaxlib_guidance.training._fit import Fitted, Log, fit
from jaxlib_guidance.training._homeostasis import homeostatic_rate, shifted_rate
from jaxlib_guidance.training._latents import (
    contrastive_loss,
    latent_loss,
    latent_targets,
)
from jaxlib_guidance.training._launch import FREE, Hosts, Scale, start
from jaxlib_guidance.training._options import require_ranges
from jaxlib_guidance.training._parallel import (
    batch_sharding,
    data_mesh,
    local_rows,
    pmapped,
    replicate,
    replicated,
    shard_batch,
    state_sharding,
)
from jaxlib_guidance.training._recipe import Run, open_run, settings_of, usage_errors
from jaxlib_guidance.training._run import (
    MetricLog,
    OtherRunError,
    StopSignal,
    claim,
    require_effect,
    write_text,
)
from jaxlib_guidance.training._state import (
    TrainState,
    ema_decay_at,
    ema_update,
    init_state,
)
from jaxlib_guidance.training._step import Loss, Step, make_train_step
from jaxlib_guidance.training.saving import *

__all__ = [
    # State
    "TrainState",
    "init_state",
    "ema_decay_at",
    "ema_update",
    # Step
    "Loss",
    "Step",
    "make_train_step",
    # Latents to predict
    "latent_targets",
    "latent_loss",
    "contrastive_loss",
    # A rate that follows a need
    "shifted_rate",
    "homeostatic_rate",
    # Loop
    "Log",
    "Fitted",
    "fit",
    # Devices
    "data_mesh",
    "batch_sharding",
    "replicated",
    "state_sharding",
    "local_rows",
    "shard_batch",
    "replicate",
    "pmapped",
    # Hosts
    "FREE",
    "Scale",
    "Hosts",
    "start",
    # What recipes share
    "Run",
    "open_run",
    "settings_of",
    "usage_errors",
    "require_ranges",
    # A folder, a log, a signal
    "OtherRunError",
    "write_text",
    "claim",
    "require_effect",
    "MetricLog",
    "StopSignal",
]
__all__ += saving.__all__
