"""The options of train/emoji.py."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, arg

from jaxlib_guidance.training import Hosts, Log, Scale


@dataclasses.dataclass(frozen=True)
class Model:
    """The network."""

    kind: Literal["dit", "unet"] = "dit"
    """A transformer or a U-Net."""
    width: int = 128
    """Features of a token, or channels of a U-Net's first level."""
    depth: int = 6
    """Blocks of a DiT; blocks of each level of a U-Net."""
    heads: int = 4
    """Attention heads."""
    patch: int = 4
    """Side of a DiT's patches."""
    multipliers: tuple[int, ...] = (1, 2, 3)
    """Channels of a U-Net's levels over its width; the last has attention."""
    time_scale: float = 10.0
    """Factor of the level that the network is told, log(sigma / alpha) / 4, before its
    sinusoids; of large ones it learns single levels by heart."""


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

    steps: Annotated[int, arg(aliases=["--steps"])] = 12_000
    """Steps of training."""
    batch: Annotated[int, arg(aliases=["--batch"])] = 32
    """Images of a step."""
    learning_rate: Annotated[float, arg(aliases=["--learning-rate"])] = 1.5e-3
    """Largest rate."""
    warmup: int = 100
    """Steps over which the rate rises."""
    decay: float = 0.25
    """Share of the steps over which the rate falls to 0."""
    clip: float = 1.0
    """Largest global norm of a gradient."""
    ema: float = 0.998
    """Decay of the average of parameters that is evaluated and kept."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A training run."""

    directory: Path = Path("runs/emoji")
    """Folder of the run."""
    seed: int = 0
    """Of the weights, the order of images and the noise."""
    model: Model = Model()
    objective: Objective = Objective()
    optimiser: Optimiser = Optimiser()
    weight: float = 2.0
    """Classifier-free guidance weight of the pictures of samples; 0 is none."""
    solver_steps: int = 18
    """Steps of the sampler."""
    weak: int = 0
    """Step after which weak.safetensors is written, for autoguidance; 0 writes none."""
    log: Log = Log(eval_every=1000)
    scale: OmitArgPrefixes[Scale] = Scale()
    hosts: OmitArgPrefixes[Hosts] = Hosts()
    store: Literal["float32", "bfloat16", "float16"] = "float16"
    """Type in which weights are stored."""
