"""Trains a text-to-motion model of synthetic clips, whose attention can be edited.

    python train/motion.py                       # minutes on two cores of a CPU
    python train/motion.py --steps 300 --directory runs/try
    python train/motion.py --recorded --directory runs/recorded
    python train/motion.py --help

The clips are made by `data.make_motions`: an action, repeated one to five times in a
part of the clip, with words that say so. With --recorded they are those of people, by
`data.load_motions`, from a package that must be installed. The words are those of the
bundled vocabulary; a tenth of the clips is shown without any, so that the model draws
with and without.

A run lives in one folder: config.json, metrics.jsonl, checkpoints/, and, renewed at
every evaluation, ema.safetensors, which `load_pretrained` and sample/motion.py read.
Stop it as you like and start it again with the same arguments: it goes on with the same
next batch.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from tyro.conf import OmitArgPrefixes, arg

from jaxlib_guidance import diffusion, rng
from jaxlib_guidance.data import (
    Loader,
    embed_words,
    emoji_vocabulary,
    load_motions,
    make_motions,
)
from jaxlib_guidance.files import export_weights
from jaxlib_guidance.models import DiffusionModel, from_config
from jaxlib_guidance.training import (
    Hosts,
    Log,
    Scale,
    fit,
    init_state,
    open_run,
    require_ranges,
    settings_of,
    start,
    usage_errors,
)

# Words of a text that there is room for.
WORDS = 6


@dataclasses.dataclass(frozen=True)
class Model:
    """The network."""

    width: int = 64
    """Channels."""
    levels: int = 2
    """Levels; each further one has half of the frames."""
    heads: int = 4
    """Attention heads."""
    frames: int = 48
    """Frames of a clip."""
    time_scale: float = 10.0
    """Factor of the level that the network is told, log(sigma / alpha) / 4, before its
    sinusoids; of large ones it learns single levels by heart."""


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """Adam: warm-up, a constant rate, and a linear decay to 0."""

    steps: Annotated[int, arg(aliases=["--steps"])] = 4000
    """Steps of training."""
    batch: Annotated[int, arg(aliases=["--batch"])] = 32
    """Clips of a step."""
    learning_rate: Annotated[float, arg(aliases=["--learning-rate"])] = 2e-3
    """Largest rate."""
    warmup: int = 100
    """Steps over which the rate rises."""
    decay: float = 0.4
    """Share of the steps over which the rate falls to 0."""
    clip: float = 1.0
    """Largest global norm of a gradient."""
    ema: float = 0.998
    """Decay of the average of parameters that is evaluated and kept."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A training run."""

    directory: Path = Path("runs/motion")
    """Folder of the run."""
    seed: int = 0
    """Of the weights, the order of clips and the noise."""
    clips: int = 20_000
    """Number of clips of the training set."""
    recorded: bool = False
    """Whether clips are recorded ones."""
    drop: float = 0.1
    """Share of clips that are shown without words."""
    level_mean: float = -0.6
    """Mean of the logarithm of the noise level."""
    level_std: float = 1.4
    """Standard deviation of the logarithm of the noise level."""
    model: Model = Model()
    optimiser: Optimiser = Optimiser()
    log: Log = Log(eval_every=1000)
    scale: OmitArgPrefixes[Scale] = Scale()
    hosts: OmitArgPrefixes[Hosts] = Hosts()
    store: Literal["float32", "bfloat16", "float16"] = "float16"
    """Type in which weights are stored."""


def describe(config: Config, scale: float) -> dict[str, Any]:
    """The model's configuration, as it is stored with the weights."""
    model = config.model
    return {
        "network": {
            "kind": "motion",
            "width": model.width,
            "levels": model.levels,
            "heads": model.heads,
            "time_scale": model.time_scale,
            "text": emoji_vocabulary().vectors.shape[1],
            "dtype": config.scale.precision,
        },
        "process": {"kind": "cosine"},
        "parametrize": {"predicts": "x0", "precondition": True, "sigma_data": scale},
        "shape": [model.frames, 12],
    }


def make_loss(model: DiffusionModel, config: Config, scale: float) -> Any:
    """``(params, batch, keys [B]) -> (loss [B], metrics)``."""
    levels = {"mean": config.level_mean, "std": config.level_std}

    def loss(params, batch, keys):
        said = batch["mask"] & (rng.uniform(rng.fold(keys, 0)) >= config.drop)[:, None]
        each = diffusion.denoising_loss(
            model.denoiser(params),
            batch["poses"],
            rng.normal(rng.fold(keys, 1), batch["poses"].shape[1:]),
            diffusion.log_normal_t(model.process, batch["u"], **levels),
            {"text": batch["text"], "text_mask": said},
            weighting=partial(diffusion.edm_weight, sigma_data=scale),
        )
        return each, {}

    return loss


def make_optimiser(config: Optimiser) -> optax.GradientTransformation:
    """Adam with its schedule."""
    fall = max(1, round(config.decay * config.steps))
    peak = config.learning_rate
    rate = optax.join_schedules(
        [
            optax.linear_schedule(0.0, peak, config.warmup),
            optax.constant_schedule(peak),
            optax.linear_schedule(peak, 0.0, fall),
        ],
        [config.warmup, config.steps - fall],
    )
    return optax.adam(rate, b2=0.99)


def train(config: Config) -> bool:
    """Runs, or goes on with, a training run.

    Returns:
      Whether it is at its end.
    """
    require_ranges(config)
    run = open_run(config, settings_of(config), free=("directory", "log", "store"))
    source = load_motions if config.recorded else make_motions
    motions = source(config.seed, config.clips, config.model.frames)
    scale = round(float(np.std(motions.poses)), 3)
    about = describe(config, scale)
    model = from_config(about)
    assert isinstance(model, DiffusionModel)
    optim = config.optimiser
    tx = make_optimiser(optim)
    init_key, train_key, level_key = jax.random.split(jax.random.key(config.seed), 3)

    def make_state():
        return init_state(model.init(init_key), tx, train_key)

    state, sharding = run.place(make_state)
    loss = make_loss(model, config, scale)
    step = run.step(loss, tx, sharding, ema_decay=optim.ema, clip=optim.clip)
    mine = run.rows(optim.batch)
    text, mask = embed_words(motions.texts, WORDS)
    rows = {"poses": motions.poses, "text": text, "mask": mask}
    batches = Loader(rows, optim.batch, config.seed, part=mine)
    spread = jax.jit(
        lambda i: diffusion.stratified(
            jax.random.fold_in(level_key, i), jnp.arange(optim.batch), optim.batch
        )
    )

    def batch_at(i):
        return run.shard({**batches(i), "u": np.asarray(spread(i))[mine]})

    def eval_fn(done, state):
        ema = run.gather(state.ema)
        if run.chief:
            stored = about | {"training": run.settings}
            kind = jnp.dtype(config.store)
            export_weights(run.folder / "ema.safetensors", ema, stored, dtype=kind)

    if run.chief:
        count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        print(f"{count:,} parameters, {batches.total:,} clips")
    _, finished = fit(
        step,
        state,
        batch_at,
        steps=optim.steps,
        folder=run.folder,
        log=config.log,
        eval_fn=eval_fn,
    )
    if finished and run.chief:
        print(f"weights in {run.folder / 'ema.safetensors'}")
    return finished


if __name__ == "__main__":
    with usage_errors():
        config = tyro.cli(Config, description=__doc__)
        start(config.hosts)
        train(config)
