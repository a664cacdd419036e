"""The options of train/images.py, and what they are where they were left out."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, arg

from jaxlib_guidance.training import Hosts, Log, Scale, require_effect


@dataclasses.dataclass(frozen=True)
class Data:
    """What to learn."""

    source: Annotated[str, arg(aliases=["--source"])] = "digits"
    """"digits", "emoji", a folder of images or with a sub-folder of them for each
    class, or a name of TFDS."""
    size: Annotated[int | None, arg(aliases=["--size"])] = None
    """Side to crop and resize to; None keeps the images' own, and is 32 where they
    differ."""
    channels: Literal[1, 3] | None = None
    """1 to make them grey, 3 coloured."""
    stream: bool = False
    """Read images when their batch comes instead of holding all in memory; statistics
    and the evaluation then see 4,096 of them."""
    flip: bool = False
    """Whether to mirror half of the images."""
    classes: bool = True
    """Whether sub-folders are classes; without them the model has no condition."""
    bad: Literal["skip", "stop"] = "skip"
    """What to do about files that are no images: leave them out, and list them in
    left_out.txt, or stop."""


@dataclasses.dataclass(frozen=True)
class Model:
    """The network."""

    kind: Literal["dit", "unet"] = "dit"
    """A transformer or a U-Net."""
    width: int = 128
    """Features of a token, or channels of a U-Net's first level."""
    depth: int = 4
    """Blocks of a DiT; blocks of each level of a U-Net."""
    heads: int = 4
    """Attention heads."""
    patch: int | None = None
    """Side of a DiT's patches; None is the smallest from 2 that leaves at most 256."""
    time_scale: float | None = None
    """Factor of the noise level before its sinusoids: what turns fast between two
    evaluations no solver can follow. None is 10 for the level of predicts "edm", a
    quarter of log(sigma / alpha), and 1000 for times in [0, 1]."""
    scan: bool = False
    """Run a DiT's blocks as one scan, to compile deep ones in constant time."""


@dataclasses.dataclass(frozen=True)
class Objective:
    """Noise process, prediction and loss."""

    process: Literal["cosine", "linear", "edm", "flow"] = "cosine"
    """Noise process: variance-preserving, EDM's, or a rectified flow."""
    predicts: Literal["edm", "x0", "eps", "v", "velocity"] = "edm"
    """"edm" is EDM's preconditioning, the others plain predictions."""
    weighting: Literal["edm", "eps", "v", "velocity", "x0", "min_snr", "sigmoid"] = (
        "edm"
    )
    """Weight of a noise level in the loss: as if "eps", "v" ... were regressed, EDM's,
    min-SNR, or a sigmoid of the log-SNR."""
    sigmoid_bias: float = -3.0
    """Bias of weighting "sigmoid"."""
    min_snr_gamma: float = 5.0
    """Largest signal-to-noise ratio that weighting "min_snr" lets count."""
    levels: Literal["uniform", "log_normal", "logit_normal"] = "log_normal"
    """Distribution of training times; weighting "sigmoid" expects "uniform"."""
    level_mean: float = -0.6
    """Mean of the logarithm (or logit) of the noise level."""
    level_std: float = 1.2
    """Standard deviation of it."""
    label_dropout: float = 0.1
    """Share of samples trained without their label, for classifier-free guidance."""


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """Adam with warm-up and a linear decay to 0."""

    steps: Annotated[int, arg(aliases=["--steps"])] = 1200
    """Steps of training; a finished run given more goes on with them."""
    batch: Annotated[int, arg(aliases=["--batch"])] = 128
    """Images of a step."""
    learning_rate: Annotated[float, arg(aliases=["--learning-rate"])] = 2e-3
    """Largest rate."""
    warmup: int = 100
    """Steps over which the rate rises."""
    weight_decay: float = 0.0
    """AdamW's decay."""
    clip: float = 1.0
    """Largest global norm of a gradient."""
    ema: float = 0.995
    """Decay of the average of parameters that is evaluated and kept."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Pictures and figures of guided samples."""

    count: int = 500
    """Samples that the judge scores."""
    solver_steps: int = 18
    """Steps of the sampler."""
    weight: float = 1.0
    """Classifier-free guidance weight; 0 is none."""
    judge: str | None = "auto"
    """Classifier of clean images that scores samples: a name, a file of
    train/classifier.py or None; "auto" is the bundled one for the bundled digits and
    emoji as they are, and None for other data."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A training run."""

    directory: Path | None = None
    """Folder of the run; None is runs/ and the name of the source."""
    seed: int = 0
    """Of the weights, the order of images and the noise."""
    init: str | None = None
    """Weights to start from: a name of `load_pretrained` or an ema.safetensors, whose
    network and process are then taken. With other classes their embedding is new."""
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


BUNDLED = {"digits": ((8, 8, 1), "digits_judge"), "emoji": ((32, 32, 3), "emoji_judge")}


def completed(config: Config, shape: tuple[int, ...]) -> Config:
    """The configuration with what was left open: judge, patch, factor of the level.

    Args:
      config: Options as they were given.
      shape: Shape of an image.

    Raises:
      ValueError: Images of which no patch leaves few enough.
    """
    model, evaluation = config.model, config.evaluation
    if evaluation.judge == "auto":
        known = BUNDLED.get(config.data.source)
        judge = known[1] if known and known[0] == shape else None
        evaluation = dataclasses.replace(evaluation, judge=judge)
    if model.kind == "dit" and model.patch is None and config.init is None:
        model = dataclasses.replace(model, patch=patch_of(shape))
    if config.init is None:
        model = dataclasses.replace(model, time_scale=time_scale_of(config))
    return dataclasses.replace(config, model=model, evaluation=evaluation)


def time_scale_of(config: Config) -> float:
    """The factor by which a network's sinusoids follow the level that it is told."""
    if config.model.time_scale is not None:
        return config.model.time_scale
    return 10.0 if config.objective.predicts == "edm" else 1000.0


def patch_of(shape: tuple[int, ...], most: int = 256) -> int:
    """The smallest side from 2, or else 1, of patches that are at most so many.

    Args:
      shape: Shape of an image.
      most: Number of patches.

    Raises:
      ValueError: There is none.
    """
    height, width = shape[:2]
    for side in (*range(2, min(height, width) + 1), 1):
        fits = not (height % side or width % side)
        if fits and (height // side) * (width // side) <= most:
            return side
    raise ValueError(
        f"images are {height}x{width}, which no side of a patch divides into {most} "
        "patches or fewer; expected --data.size, such as 32, or --model.patch"
    )


def folder_of(config: Config) -> Path:
    """The folder of the run, named after its source if none was given."""
    if config.directory is not None:
        return config.directory
    name = Path(config.data.source).expanduser().absolute().name
    return Path("runs") / name.replace(":", "_")


def require_use(config: Config) -> None:
    """Raises for options that would change nothing."""
    objective = config.objective
    dit = config.model.kind == "dit", "a U-Net"
    levels = objective.levels != "uniform", 'levels "uniform"'
    weighting, other = objective.weighting, f'weighting "{objective.weighting}"'
    given = config.init is None, "weights to start from, which say what they are"
    settled = {
        f"model.{f.name}": given for f in dataclasses.fields(Model) if f.name != "scan"
    }
    settled |= {f"objective.{name}": given for name in ("process", "predicts")}
    require_effect(config, settled)
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
