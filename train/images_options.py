"""The options of train/images.py."""

import dataclasses
from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes

from jaxlib_guidance.training import Hosts, Log, Scale, require_effect


@dataclasses.dataclass(frozen=True)
class Data:
    """What to learn."""

    source: str = "digits"
    """"digits", a folder with a sub-folder for each class, or a name of TFDS."""
    size: int | None = None
    """Side to crop and resize to; None keeps the images' own."""
    channels: Literal[1, 3] | None = None
    """1 to make them grey, 3 coloured."""
    stream: bool = False
    """Read images when their batch comes instead of holding all in memory; statistics
    and the evaluation then see 4,096 of them."""
    flip: bool = False
    """Whether to mirror half of the images."""


@dataclasses.dataclass(frozen=True)
class Model:
    """The network."""

    kind: Literal["dit", "unet"] = "dit"
    width: int = 128
    depth: int = 4
    """Blocks of a DiT; blocks of each level of a U-Net."""
    heads: int = 4
    patch: int = 2
    """Side of a DiT's patches."""
    scan: bool = False
    """Run a DiT's blocks as one scan, to compile deep ones in constant time."""


@dataclasses.dataclass(frozen=True)
class Objective:
    """Noise process, prediction and loss."""

    process: Literal["cosine", "linear", "edm", "flow"] = "cosine"
    predicts: Literal["edm", "x0", "eps", "v", "velocity"] = "edm"
    """"edm" is EDM's preconditioning, the others plain predictions."""
    weighting: Literal["edm", "eps", "v", "velocity", "x0", "min_snr", "sigmoid"] = (
        "edm"
    )
    sigmoid_bias: float = -3.0
    """Bias of weighting "sigmoid"."""
    min_snr_gamma: float = 5.0
    """Largest signal-to-noise ratio that weighting "min_snr" lets count."""
    levels: Literal["uniform", "log_normal", "logit_normal"] = "log_normal"
    """Distribution of training times; weighting "sigmoid" expects "uniform"."""
    level_mean: float = -0.6
    level_std: float = 1.2
    label_dropout: float = 0.1
    """Share of samples trained without their label, for classifier-free guidance."""


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """Adam with warm-up and a linear decay to 0."""

    steps: int = 1200
    batch: int = 128
    learning_rate: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.995


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Pictures and figures of guided samples."""

    count: int = 500
    solver_steps: int = 18
    weight: float = 1.0
    """Classifier-free guidance weight; 0 is none."""
    judge: str | None = "digits_judge"
    """Classifier of clean images that scores samples: a name, a file or None."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A training run."""

    directory: Path = Path("runs/digits")
    seed: int = 0
    data: Data = Data()
    model: Model = Model()
    objective: Objective = Objective()
    optimiser: Optimiser = Optimiser()
    evaluation: Evaluation = Evaluation()
    log: Log = Log(eval_every=400)
    scale: OmitArgPrefixes[Scale] = Scale()
    hosts: OmitArgPrefixes[Hosts] = Hosts()
    store: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type in which ema.safetensors stores weights."""


def require_use(config: Config) -> None:
    """Raises for options that would change nothing."""
    objective = config.objective
    dit = config.model.kind == "dit", "a U-Net"
    levels = objective.levels != "uniform", 'levels "uniform"'
    weighting, other = objective.weighting, f'weighting "{objective.weighting}"'
    require_effect(
        config,
        {
            "model.patch": dit,
            "model.scan": dit,
            "objective.sigmoid_bias": (weighting == "sigmoid", other),
            "objective.min_snr_gamma": (weighting == "min_snr", other),
            "objective.level_mean": levels,
            "objective.level_std": levels,
        },
    )
