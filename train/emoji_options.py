"""The options of train/emoji.py."""

import dataclasses
from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes

from jaxlib_guidance.training import Hosts, Log, Scale


@dataclasses.dataclass(frozen=True)
class Model:
    """The network."""

    kind: Literal["dit", "unet"] = "dit"
    width: int = 128
    depth: int = 6
    """Blocks of a DiT; blocks of each level of a U-Net."""
    heads: int = 4
    patch: int = 4
    """Side of a DiT's patches."""
    multipliers: tuple[int, ...] = (1, 2, 3)
    """Channels of a U-Net's levels over its width; the last has attention."""


@dataclasses.dataclass(frozen=True)
class Objective:
    """Loss, and what of the condition is left out."""

    level_mean: float = -0.4
    """Mean of the logarithm of the noise level."""
    level_std: float = 1.4
    """Standard deviation of the logarithm of the noise level."""
    drop_both: float = 0.1
    """Share of samples without any condition."""
    drop_text: float = 0.1
    """Share of samples with a category alone."""
    drop_label: float = 0.3
    """Share of samples with a text alone."""


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """Adam: warm-up, a constant rate, and a linear decay to 0."""

    steps: int = 12_000
    batch: int = 32
    learning_rate: float = 1.5e-3
    warmup: int = 100
    decay: float = 0.25
    """Share of the steps over which the rate falls to 0."""
    clip: float = 1.0
    ema: float = 0.998


@dataclasses.dataclass(frozen=True)
class Config:
    """A training run."""

    directory: Path = Path("runs/emoji")
    seed: int = 0
    model: Model = Model()
    objective: Objective = Objective()
    optimiser: Optimiser = Optimiser()
    weight: float = 2.0
    """Classifier-free guidance weight of the pictures of samples; 0 is none."""
    solver_steps: int = 18
    weak: int = 0
    """Step after which weak.safetensors is written, for autoguidance; 0 writes none."""
    log: Log = Log(eval_every=1000)
    scale: OmitArgPrefixes[Scale] = Scale()
    hosts: OmitArgPrefixes[Hosts] = Hosts()
    store: Literal["float32", "bfloat16", "float16"] = "float16"
    """Type in which weights are stored."""
