"""Trains a class-conditional diffusion model of images, and shows what it learned.

    python train/images.py                      # bundled digits, minutes on a CPU
    python train/images.py --data.source cifar10 --model.kind unet --model.width 128
    python train/images.py --help

A run lives in one folder: config.json, metrics.jsonl, checkpoints/, samples/*.png and
at the end ema.npz, which `load_pretrained` and sample/images.py read. Stop it as you
like (Ctrl-C, SIGTERM, kill -9) and start it again with the same arguments: it goes on
with the same next batch.
"""

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from tqdm import tqdm

import jaxlib_guidance as jg
from jaxlib_guidance import rng
from jaxlib_guidance.data.images import Images, batch_indices, load_images
from jaxlib_guidance.data.pictures import save_grid
from jaxlib_guidance.diffusion import losses, noise_levels
from jaxlib_guidance.models.embed import drop_condition
from jaxlib_guidance.models.pretrained import (
    ClassifierModel,
    DiffusionModel,
    from_config,
    load_pretrained,
)
from jaxlib_guidance.testing.fidelity import frechet_distance, kernel_distance
from jaxlib_guidance.training.checkpoint import Checkpoints, export_weights
from jaxlib_guidance.training.parallel import data_mesh, replicate, shard_batch
from jaxlib_guidance.training.run import MetricLog, StopSignal, claim
from jaxlib_guidance.training.state import init_state
from jaxlib_guidance.training.step import make_train_step


@dataclasses.dataclass(frozen=True)
class Data:
    """What to learn."""

    source: str = "digits"
    """"digits", a folder with a sub-folder for each class, or a name of TFDS."""
    size: int | None = None
    """Side to crop and resize to; None keeps the images' own."""
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
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; parameters, norms and outputs are float32 always."""
    remat: bool = False
    """Recompute blocks on the backward pass, to save memory."""
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
    """Of weighting "sigmoid"."""
    min_snr_gamma: float = 5.0
    """Of weighting "min_snr"."""
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
    accumulate: int = 1
    """Micro-batches in which a batch is processed, to save memory."""
    learning_rate: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.995


@dataclasses.dataclass(frozen=True)
class Log:
    """What to write and when; may be changed when a run is resumed."""

    every: int = 25
    save_every: int = 200
    sample_every: int = 400
    tensorboard: bool = False
    store: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type in which ema.npz stores weights."""


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
    log: Log = Log()


def describe(config: Config, shape: tuple[int, ...], classes: int, scale: float) -> Any:
    """The model's configuration, as it is stored with the weights."""
    model, objective = config.model, config.objective
    network: dict[str, Any] = {
        "kind": model.kind,
        "width": model.width,
        "heads": model.heads,
        "classes": classes,
        "dtype": model.precision,
        "remat": model.remat,
    }
    if model.kind == "dit":
        network |= {"depth": model.depth, "patch": model.patch, "scan": model.scan}
    else:
        network |= {"blocks": model.depth}
    options: dict[str, Any] = {"predicts": objective.predicts}
    if objective.predicts == "edm":
        options = {"predicts": "x0", "precondition": True, "sigma_data": scale}
    return {
        "network": network,
        "process": {"kind": objective.process},
        "parametrize": options,
        "shape": list(shape),
        "classes": classes,
    }


def make_loss(model: DiffusionModel, config: Config, scale: float) -> Any:
    """``(params, batch, keys [B]) -> (loss [B], metrics)``."""
    objective, process = config.objective, model.process
    weightings: dict[str, Any] = {
        "edm": partial(losses.edm_weight, sigma_data=scale),
        "min_snr": partial(losses.min_snr_weight, gamma=objective.min_snr_gamma),
        "sigmoid": partial(losses.sigmoid_weight, bias=objective.sigmoid_bias),
    }
    weighting = weightings.get(objective.weighting, objective.weighting)
    shape = {"mean": objective.level_mean, "std": objective.level_std}
    levels = {
        "uniform": noise_levels.uniform_t,
        "log_normal": partial(noise_levels.log_normal_t, **shape),
        "logit_normal": partial(noise_levels.logit_normal_t, **shape),
    }[objective.levels]

    def loss(params, batch, keys):
        images = batch["image"]
        if config.data.flip:
            mirrored = rng.uniform(rng.fold(keys, 2)) < 0.5
            images = jnp.where(
                mirrored[:, None, None, None], images[:, :, ::-1], images
            )
        eps = rng.normal(rng.fold(keys, 0), images.shape[1:])
        label = drop_condition(
            rng.fold(keys, 1), batch["label"], model.classes, objective.label_dropout
        )
        each = losses.denoising_loss(
            model.denoiser(params),
            process,
            images,
            eps,
            levels(process, batch["u"]),
            label,
            weighting=weighting,
        )
        return each, {}

    return loss


def make_sampler(model: DiffusionModel, steps: int) -> Any:
    """``(params, key, labels, weight) -> images``, compiled: guided samples."""
    grid = model.grid(steps)

    @jax.jit
    def run(params, key, labels, weight):
        keys = jg.sample_keys(key, labels.shape[0])
        return jg.sample(
            keys,
            model.denoiser(params),
            model.process,
            jg.dpmpp_2m(),
            grid,
            model.shape,
            labels,
            guidance=jg.chain(jg.cfg(weight, null=model.classes)),
        )[0]

    return run


def evaluate(
    model: DiffusionModel,
    params: Any,
    config: Config,
    data: Images,
    test: Images,
    judge: str,
) -> dict[str, dict[str, float]]:
    """Scores samples without and with guidance, with training data as the floor.

    Distances are to held-out data, in the judge's features.
    """
    wanted = config.evaluation
    classify, judge_params = load_pretrained(judge)
    assert isinstance(classify, ClassifierModel)
    score = jax.jit(partial(classify, judge_params))
    held_out = score(test.images)
    labels = np.arange(wanted.count) % len(test.classes)
    sampler = make_sampler(model, wanted.solver_steps)
    real = (score(data.images[: wanted.count]), data.labels[: wanted.count])
    rows: dict[str, Any] = {"training data": real}
    for weight in (0.0, wanted.weight):
        images = sampler(params, jax.random.key(config.seed + 1), labels, weight)
        rows[f"samples, cfg {weight:g}"] = score(images), labels
    results = {}
    for name, (judged, truth) in rows.items():
        results[name] = {
            "accuracy": float(np.mean(judged.logits.argmax(-1) == truth)),
            "frechet": frechet_distance(judged.features, held_out.features),
            "kernel": kernel_distance(judged.features, held_out.features),
        }
    return results


def train(config: Config) -> dict[str, Any]:
    """Runs, or goes on with, a training run.

    Returns:
      The results of the evaluation, by row; empty if it was stopped before the end.
    """
    started = time.perf_counter()
    settings = as_json(config)
    folder = claim(config.directory, settings, free=("directory", "log"))
    data = load_images(config.data.source, "train", config.data.size)
    classes, shape = len(data.classes), data.images.shape[1:]
    scale = round(float(np.std(data.images)), 3)
    about = describe(config, shape, classes, scale)
    model = from_config(about)
    assert isinstance(model, DiffusionModel)
    judge = config.evaluation.judge
    if judge is not None and load_pretrained(judge)[0].shape != shape:
        raise ValueError(
            f"evaluation.judge is {judge!r}, of other images than {shape}; expected a "
            "classifier of these (see train/classifier.py) or None"
        )

    optim = config.optimiser
    rate = optax.join_schedules(
        [
            optax.linear_schedule(0.0, optim.learning_rate, optim.warmup),
            optax.linear_schedule(
                optim.learning_rate, 0.0, max(1, optim.steps - optim.warmup)
            ),
        ],
        [optim.warmup],
    )
    tx = optax.adamw(rate, b2=0.99, weight_decay=optim.weight_decay)
    mesh = data_mesh()
    init_key, train_key, level_key = jax.random.split(jax.random.key(config.seed), 3)
    step = make_train_step(
        make_loss(model, config, scale),
        tx,
        ema_decay=optim.ema,
        accumulate=optim.accumulate,
        clip=optim.clip,
        mesh=mesh,
    )
    state = replicate(mesh, init_state(model.init(init_key), tx, train_key))
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    sampler = make_sampler(model, config.evaluation.solver_steps)
    spread = jax.jit(
        lambda i: noise_levels.stratified(
            jax.random.fold_in(level_key, i), jnp.arange(optim.batch), optim.batch
        )
    )

    def batch_at(i):
        rows = batch_indices(config.seed, i, optim.batch, len(data.labels))
        rows = np.split(rows, jax.process_count())[jax.process_index()]
        u = np.split(np.asarray(spread(i)), jax.process_count())[jax.process_index()]
        picked = {"image": data.images[rows], "label": data.labels[rows], "u": u}
        return shard_batch(mesh, picked)

    def draw(params, name):
        labels = jnp.repeat(jnp.arange(min(classes, 10)), 10)
        key = jax.random.key(config.seed + 2)
        images = sampler(params, key, labels, config.evaluation.weight)
        save_grid(folder / "samples" / name, images, 10, max(1, 32 // shape[0]))

    with Checkpoints(folder / "checkpoints") as saved, StopSignal() as stop:
        restored = saved.restore_latest(state)
        state = state if restored is None else restored.state
        done = int(state.step)
        events = folder / "events" if config.log.tensorboard else None
        print(
            f"{count:,} parameters, {len(data.labels):,} images, "
            f"{mesh.size} device(s); "
            + (f"resumed after step {done}" if done else f"new run in {folder}"),
            flush=True,
        )
        with (
            MetricLog(folder / "metrics.jsonl", done, events) as log,
            tqdm(total=optim.steps, initial=done, dynamic_ncols=True) as bar,
        ):
            mark, recent = time.perf_counter(), []
            while done < optim.steps and not stop.requested:
                state, metrics = step(state, batch_at(done))
                done, last = done + 1, done + 1 == optim.steps
                recent.append(metrics)
                bar.update()
                if done % config.log.every == 0 or last:
                    mean = jax.tree.map(lambda *m: float(np.mean(m)), *recent)
                    now = time.perf_counter()
                    mean["steps_per_second"] = len(recent) / (now - mark)
                    mark, recent = now, []
                    log.write(done, mean)
                    bar.set_postfix(loss=f"{mean['loss']:.4f}")
                    if not np.isfinite(mean["loss"]):
                        raise FloatingPointError(f"loss {mean['loss']} at step {done}")
                if done % config.log.save_every == 0 or last:
                    saved.save(done, state)
                if done % config.log.sample_every == 0 and not last:
                    draw(state.ema, f"{done:07d}.png")
        saved.wait()
        if done < optim.steps:
            if done and done not in saved.steps():
                saved.save(done, state)
            print(f"stopped after step {done}; the same command goes on from there")
            return {}
    draw(state.ema, "final.png")
    about["training"] = {k: v for k, v in settings.items() if k != "directory"}
    store = jnp.dtype(config.log.store)
    export_weights(folder / "ema.npz", state.ema, about, dtype=store)
    minutes = (time.perf_counter() - started) / 60
    print(f"{minutes:.1f} minutes; weights in {folder / 'ema.npz'}")
    if judge is None:
        return {}
    test = load_images(config.data.source, "test", config.data.size)
    results = evaluate(model, state.ema, config, data, test, judge)
    print(f"{'':20} accuracy   Frechet    kernel   (judge: {judge})")
    for name, row in results.items():
        print(
            f"{name:20} {row['accuracy']:8.3f} {row['frechet']:9.3f} "
            f"{row['kernel']:9.4f}"
        )
    return results


def as_json(config: Any) -> dict[str, Any]:
    """The configuration as JSON can hold it."""
    values = dataclasses.asdict(config)
    values["directory"] = str(config.directory)
    return values


if __name__ == "__main__":
    train(tyro.cli(Config, description=__doc__))
