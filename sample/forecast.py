"""Forecasts, fills, refines or invents series with a model of train/timeseries.py.

    python sample/forecast.py                          # the model in the package
    python sample/forecast.py --task impute --hide random
    python sample/forecast.py --task refine --base ridge
    python sample/forecast.py --task synthesize
    python sample/forecast.py --weights runs/pedestrians/ema.safetensors

Each writes a picture, and the numbers beside it as ``.npz``: paths ``[N, S, L]`` in the
unit of the series; with stamps also a ``.csv`` by date, in Nixtla's long form. The
guidance is what the search on validation windows found, with its sampler; --energy and
--scale choose another. Path ``j`` of window ``i`` depends on --seed, ``i`` and ``j``
alone.
"""

import dataclasses
import sys
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from forecast_bases import base_forecast, naive_loss
from forecast_setup import Setup, choose, dated, set_up, window_dates
from panels import draw_panels, require_writable

import jaxlib_guidance as jg
from jaxlib_guidance.diffusion import VPDiscrete, log_normal_t
from jaxlib_guidance.timeseries import (
    Forecaster,
    GuidanceSettings,
    base_paths,
    blackout_begin,
    blackout_end,
    completed,
    forecast_mask,
    in_batches,
    random_missing,
    representative_time,
    rolling_positions,
    series_ends,
    synthesize,
    without_past,
    wql,
)
from jaxlib_guidance.training import require_effect, require_ranges

# The options that a task has a use for, of those that are not for all.
USES = {
    "forecast": {"series", "rolls", "ahead", "energy", "scale", "hide"},
    "impute": {"series", "rolls", "ahead", "energy", "scale", "hide"},
    "refine": {
        *("series", "rolls", "ahead", "energy", "hide"),
        *("base", "noise", "step_size"),
    },
    "synthesize": set(),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What to draw."""

    weights: str = "pedestrians"
    """A file of train/timeseries.py, or the name of a model in the package."""
    task: Literal["forecast", "impute", "refine", "synthesize"] = "forecast"
    """What to make of the series."""
    source: str | None = None
    """Series, as train/timeseries.py takes them; None is what it was trained on."""
    freq: str | None = None
    """Spacing of the source's steps, where it does not say."""
    start: str | None = None
    """Stamp of the first column of a source that is an array."""
    long: tuple[str, str, str] | None = None
    """Columns of names, stamps and values of a source in long form."""
    series: tuple[str, ...] | None = None
    """Which of them, by name or number; None is four from all over."""
    rolls: int = 1
    """Windows of each, at its end."""
    ahead: bool = False
    """Forecast what comes after the last value, in place of the last values."""
    samples: int = 50
    """Paths of each window, or synthetic windows."""
    energy: Literal["quantile", "square"] = "quantile"
    """Distance of an estimate to what was observed, which guides."""
    scale: float | None = None
    """Guidance scale; None is the best on validation windows."""
    hide: Literal["none", "random", "begin", "end"] = "none"
    """Half of the context to hide; for "impute", "none" is "random"."""
    base: Literal["naive", "week", "weeks", "ridge", "bootstrap"] = "naive"
    """Forecast to refine."""
    noise: float = 0.1
    """Of refinement's moves; 0 is maximum likelihood."""
    step_size: float = 0.1
    """Of refinement's moves."""
    seed: int = 0
    """Of the noise that all samples start from."""
    out: Path = Path("out/forecast.png")


def guidance_of(
    forecaster: Forecaster, name: str, scale: float | None
) -> GuidanceSettings:
    """What was found on validation windows, or with another scale.

    Raises:
      ValueError: A name that was not searched.
    """
    name = "conditional" if forecaster.layout.conditional else name
    if name not in forecaster.guidance:
        raise ValueError(
            f"no guidance {name!r} is stored; expected one of "
            f"{tuple(forecaster.guidance)}"
        )
    found = forecaster.guidance[name]
    return found if scale is None else dataclasses.replace(found, scale=scale)


def draw_paths(
    setup: Setup, key: Any, inputs: Any, samples: int, guidance: GuidanceSettings
) -> np.ndarray:
    """Paths ``[N, S, L]`` in the unit of the series."""
    how = dataclasses.replace(guidance, scale=0.0)
    apply = partial(setup.draw, samples=samples, how=how)
    scale = jnp.float32(guidance.scale)
    keys = jg.sample_keys(key, len(inputs.x))
    return in_batches(partial(apply, setup.params, scale), setup.batch, keys, inputs)


def hide(setup: Setup, how: str, count: int, key: Any) -> Any:
    """The mask of forecasts of which half of the context is hidden."""
    cut = (setup.forecaster.layout.context, setup.forecaster.layout.horizon)
    half = cut[0] // 2
    if how == "random":
        return random_missing(jg.sample_keys(key, count), *cut, half)
    if how == "none":
        return forecast_mask(*cut)
    return {"begin": blackout_begin, "end": blackout_end}[how](*cut, half)


def training_times(forecaster: Forecaster) -> jax.Array:
    """Times that the model was trained at, in proportion to how often."""
    process = forecaster.model.process
    if isinstance(process, VPDiscrete):
        return jnp.arange(1.0, process.steps + 1) / process.steps
    # Quantiles of train/timeseries.py's log-normal distribution.
    return log_normal_t(process, jnp.arange(0.5, 50) / 50, -0.4, 1.4)


def find_time(setup: Setup, count: int = 256) -> jax.Array:
    """The noise level that refinement denoises at, from training windows."""
    forecaster = setup.forecaster
    layout = forecaster.layout
    cut = setup.reader.cut(*setup.training_windows(count))
    mask = forecast_mask(layout.context, layout.horizon)
    inputs = layout.inputs(observed=mask, truth=True, **cut)
    keys = jg.sample_keys(jax.random.key(4), count)
    times = training_times(forecaster)

    @jax.jit
    def find(params, inputs):
        denoiser = forecaster.model.denoiser(params)
        return representative_time(
            keys, denoiser, inputs.x, times, inputs.cond, inputs.mask
        )

    return find(setup.params, inputs)


def refine_forecast(
    setup: Setup,
    base: Any,
    inputs: Any,
    samples: int,
    energy: str,
    t: Any,
    **options: Any,
) -> np.ndarray:
    """A base forecast after refinement at noise level ``t``, ``[N, S, H]``."""
    layout = setup.forecaster.layout
    paths = base_paths(base, samples)
    start = completed(inputs, layout, paths, whole=energy == "quantile")
    cond = jax.tree.map(lambda leaf: jnp.repeat(leaf, samples, 0), inputs.cond)
    keys = jg.sample_keys(jax.random.key(5), len(start.y))
    move = partial(setup.move, energy=energy)
    apply = partial(move, setup.params, options | {"t": t})
    end = in_batches(apply, samples * setup.batch, keys, start, cond)
    end = end[:, -layout.horizon :, 0].reshape(paths.shape)
    return np.asarray(layout.restore(jnp.asarray(end), inputs.scale))


def invent(setup: Setup, count: int, key: Any) -> np.ndarray:
    """Windows that know the calendar alone, ``[N, L]``, in scaled units.

    Raises:
      ValueError: A model that was never trained without a past.
    """
    forecaster = setup.forecaster
    layout, process = forecaster.layout, forecaster.model.process
    preset = forecaster.about["training"]["model"]["preset"]
    if preset == "paper" and layout.conditional:
        raise ValueError("this model was always given a past and cannot do without")
    steps = process.steps if isinstance(process, VPDiscrete) else 20
    cut = setup.reader.cut(*setup.training_windows(count))
    nothing = jnp.zeros(layout.context + layout.horizon)
    cond = layout.inputs(observed=nothing, **cut).cond
    cond = None if cond is None else without_past(layout, cond)

    @jax.jit
    def run(params, keys, cond):
        denoiser, grid = forecaster.model.denoiser(params), forecaster.grid(steps)
        return synthesize(keys, denoiser, layout, cond, grid=grid)

    keys = jg.sample_keys(key, count)
    return in_batches(partial(run, setup.params), 500, keys, cond)


def require_use(config: Config, conditional: bool) -> None:
    """Raises where an option was chosen that the task has no use for."""
    used, by = USES[config.task], f"the task {config.task!r}"
    options = {name: (name in used, by) for name in sorted(set().union(*USES.values()))}
    if conditional and config.task in ("forecast", "impute"):
        by = "a conditional network"
        options |= {"energy": (False, by), "scale": (False, by)}
    for name in ("freq", "start", "long"):
        options[name] = (config.source is not None, "the series of training")
    require_effect(config, options)


def run(config: Config) -> dict[str, Any]:
    """Does the task; returns what the ``.npz`` holds.

    Raises:
      ValueError: Series that do not exist; guidance that was not searched; an option
        that would have no effect.
    """
    require_ranges(config)
    where = {"freq": config.freq, "start": config.start, "long": config.long}
    setup = set_up(config.weights, config.source, **where)
    layout, key = setup.forecaster.layout, jax.random.key(config.seed)
    require_use(config, layout.conditional)
    chosen = choose(config.series, setup.names)
    if config.task == "synthesize":
        made = invent(setup, config.samples, key)
        titles = [f"synthetic {i}" for i in range(min(4, len(made)))]
        shown = made[: len(titles)]
        draw_panels(config.out, titles, None, shown[:, None], 0)
        return {"paths": made}

    # Each series at its own end, whatever the others have.
    chosen = np.unique(chosen)
    values = np.asarray(setup.reader.values)[chosen]
    rows, starts = rolling_positions(
        values,
        **setup.data,
        rolls=config.rolls,
        end=series_ends(values) + layout.horizon if config.ahead else None,
        names=[setup.names[i] for i in chosen],
    )
    rows = chosen[rows]
    how = config.hide
    if config.task == "impute" and how == "none":
        how = "random"
    observed = hide(setup, how, len(rows), jax.random.fold_in(key, 1))
    inputs = setup.reader.inputs(rows, starts, observed)
    truth = np.asarray(setup.reader.whole(rows, starts))[:, -layout.length :]
    future = jnp.asarray(truth[:, -layout.horizon :])
    if config.task == "refine":
        base = base_forecast(setup, config.base, rows, starts, config.samples, observed)
        moves = {"noise": config.noise, "step_size": config.step_size}
        options = {"t": find_time(setup), **moves}
        drawn = refine_forecast(
            setup, base, inputs, config.samples, config.energy, **options
        )
        # Only the horizon is refined: what is hidden of the history stays unknown.
        visible = np.asarray(observed)[..., -layout.length : -layout.horizon]
        past = np.where(visible, truth[:, : -layout.horizon], np.nan)
        past = np.repeat(past[:, None], config.samples, 1)
        paths = np.concatenate([past, drawn], -1)
        if not config.ahead:
            before = float(wql(base_paths(base, config.samples), future))
            print(f"weighted quantile loss of the base {before:.4f}")
    else:
        guidance = guidance_of(setup.forecaster, config.energy, config.scale)
        paths = draw_paths(setup, key, inputs, config.samples, guidance)
    if not config.ahead:
        score = float(wql(jnp.asarray(paths)[..., -layout.horizon :], future))
        scored = int((~jnp.isnan(future)).any(1).sum())
        naive, season = naive_loss(setup, rows, starts, observed, future)
        print(
            f"weighted quantile loss of {scored} windows {score:.4f}, of the seasonal "
            f"naive forecast ({season} steps before) {naive:.4f}"
        )
        if scored < len(rows):
            print(f"{len(rows) - scored} windows have no observation to be scored by")
    diverged = ~np.isfinite(paths[..., -layout.horizon :]).all((1, 2))
    if diverged.any():
        raise ValueError(
            f"{diverged.sum()} of {len(rows)} windows have paths that are not finite; "
            "the guidance scale or the step is too large"
        )
    visible = np.broadcast_to(observed, (len(rows), observed.shape[-1]))
    hidden = ~visible[:, -layout.length :]
    hidden[:, -layout.horizon :] = False
    titles = [setup.names[row] for row in rows]
    dates = window_dates(setup, rows, starts)
    draw_panels(config.out, titles, truth, paths, layout.horizon, hidden, dates)
    found = {"paths": paths, "observed": truth, "rows": rows, "starts": starts}
    return found | dated(setup, paths, rows, dates)


def main(config: Config) -> None:
    """Runs and writes."""
    config = dataclasses.replace(config, out=config.out.expanduser())
    try:
        require_writable(config.out)
        results = run(config)
    except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"sample/forecast.py: {error}")
    numbers, table = (config.out.with_suffix(end) for end in (".npz", ".csv"))
    frame = results.pop("frame", None)
    np.savez_compressed(numbers, **results)
    if frame is not None:
        frame.to_csv(table, index=False)
    print(config.out, numbers, *([table] if frame is not None else []))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
