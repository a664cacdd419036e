"""Forecasts, fills, refines or invents series with a model of train/timeseries.py.

    python sample/forecast.py                          # the model in the package
    python sample/forecast.py --task impute --hide random
    python sample/forecast.py --task refine --base ridge
    python sample/forecast.py --task synthesize
    python sample/forecast.py --weights runs/pedestrians/ema.npz

Each writes a picture, and the numbers beside it as ``.npz``: paths ``[N, S, L]`` in the
unit of the series. The guidance is what the search on validation windows found, with
its sampler; --energy and --scale choose another. Path ``j`` of window ``i`` depends on
--seed, ``i`` and ``j`` alone.
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

import jaxlib_guidance as jg
from jaxlib_guidance.data.timeseries import load_series
from jaxlib_guidance.timeseries.baselines import (
    FOUR_WEEKS,
    fit_ridge_forecaster,
    past_values,
    seasonal_naive,
)
from jaxlib_guidance.timeseries.energies import Observed
from jaxlib_guidance.timeseries.forecaster import (
    Forecaster,
    Guidance,
    WindowReader,
    in_batches,
    load_forecaster,
    read_windows,
)
from jaxlib_guidance.timeseries.metrics import wql
from jaxlib_guidance.timeseries.positions import (
    rolling_positions,
    training_batch,
    training_positions,
)
from jaxlib_guidance.timeseries.refine import (
    base_paths,
    completed,
    refine,
    representative_time,
)
from jaxlib_guidance.timeseries.synthesize import synthesize, without_past
from jaxlib_guidance.timeseries.windows import (
    blackout_begin,
    blackout_end,
    forecast_mask,
    random_missing,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to draw."""

    weights: str = "pedestrians"
    """A file of train/timeseries.py, or the name of a model in the package."""
    task: Literal["forecast", "impute", "refine", "synthesize"] = "forecast"
    source: str | None = None
    """Series, as `load_series` takes them; None is what the model was trained on."""
    series: tuple[int, ...] = (0, 4, 8, 12)
    """Which of them."""
    rolls: int = 1
    """Windows of each, at its end."""
    ahead: bool = False
    """Forecast what comes after the last value, in place of the last values."""
    samples: int = 50
    energy: Literal["quantile", "square"] = "quantile"
    scale: float | None = None
    """Guidance scale; None is the best on validation windows."""
    hide: Literal["none", "random", "begin", "end"] = "none"
    """Half of the context to hide; for "impute", "none" is "random"."""
    base: Literal["naive", "week", "weeks", "ridge", "bootstrap"] = "naive"
    """Forecast to refine."""
    noise: float = 0.1
    """Of refinement's moves; 0 is maximum likelihood."""
    step_size: float = 0.1
    seed: int = 0
    out: Path = Path("out/forecast.png")


@dataclasses.dataclass(frozen=True)
class Setup:
    """A forecaster, its parameters and the series that it is asked about."""

    forecaster: Forecaster
    params: Any
    reader: WindowReader
    names: tuple[str, ...]
    batch: int = 19
    """Windows forecast at once."""

    @property
    def data(self) -> dict[str, Any]:
        """Context, horizon and lags."""
        layout = self.forecaster.layout
        return {
            "context": layout.context,
            "horizon": layout.horizon,
            "lags": layout.lags,
        }

    def training_windows(self, count: int) -> Any:
        """Rows and starts of windows from before validation and test."""
        values, layout = np.asarray(self.reader.values), self.forecaster.layout
        rolls = self.forecaster.about["training"]["data"]["rolls"]
        end = values.shape[1] - 2 * rolls * layout.horizon
        positions = training_positions(values, **self.data, end=end)
        return training_batch(1, 0, count, positions)


def set_up(weights: str | Path, source: str | None = None) -> Setup:
    """Reads weights and series; by default those that the model was trained on."""
    forecaster, params = load_forecaster(weights)
    series = load_series(source or forecaster.about["training"]["data"]["source"])
    reader = read_windows(series, forecaster.layout)
    return Setup(forecaster, params, reader, series.names)


def guidance_of(forecaster: Forecaster, name: str, scale: float | None) -> Guidance:
    """What was found on validation windows, or with another scale.

    Raises:
      ValueError: A name that was not searched.
    """
    name = "told" if forecaster.layout.told else name
    if name not in forecaster.guidance:
        raise ValueError(
            f"no guidance {name!r} is stored; expected one of "
            f"{tuple(forecaster.guidance)}"
        )
    found = forecaster.guidance[name]
    return found if scale is None else dataclasses.replace(found, scale=scale)


def draw_paths(
    setup: Setup, key: Any, inputs: Any, samples: int, guidance: Guidance
) -> np.ndarray:
    """Paths ``[N, S, L]`` in the unit of the series."""

    @jax.jit
    def run(params, keys, inputs):
        return setup.forecaster.paths(params, keys, inputs, samples, guidance)

    keys = jg.sample_keys(key, len(inputs.x))
    return in_batches(partial(run, setup.params), setup.batch, keys, inputs)


def hide(setup: Setup, how: str, count: int, key: Any) -> Any:
    """The mask of forecasts of which half of the context is hidden."""
    cut = (setup.forecaster.layout.context, setup.forecaster.layout.horizon)
    half = cut[0] // 2
    if how == "random":
        return random_missing(jg.sample_keys(key, count), *cut, half)
    if how == "none":
        return forecast_mask(*cut)
    return {"begin": blackout_begin, "end": blackout_end}[how](*cut, half)


def base_forecast(
    setup: Setup, name: str, rows: Any, starts: Any, count: int
) -> jax.Array:
    """Another forecaster's samples ``[N, S, H]`` or point forecast ``[N, H]``."""
    layout = setup.forecaster.layout
    horizon, past = layout.horizon, max(FOUR_WEEKS)
    history = setup.reader.whole(rows, starts, past)[:, :-horizon]
    if name in ("naive", "week"):
        return seasonal_naive(history, horizon, {"naive": 24, "week": 168}[name])
    if name == "weeks":
        return past_values(history, horizon, FOUR_WEEKS)
    train = np.asarray(setup.reader.whole(*setup.training_windows(6000)))
    whole = train[np.isfinite(train[:, -horizon:]).all(1)]
    ridge = fit_ridge_forecaster(jnp.asarray(whole), horizon)
    context = history[:, -layout.context :]
    if name == "ridge":
        return ridge.mean(context)
    keys = jg.sample_keys(jax.random.key(3), len(rows))
    return ridge.sample(keys, context, count)


def find_time(setup: Setup, count: int = 256) -> jax.Array:
    """The noise level that refinement denoises at, from training windows."""
    forecaster = setup.forecaster
    layout, process = forecaster.layout, forecaster.model.process
    cut = setup.reader.cut(*setup.training_windows(count))
    mask = forecast_mask(layout.context, layout.horizon)
    inputs = layout.inputs(observed=mask, truth=True, **cut)
    keys = jg.sample_keys(jax.random.key(4), count)

    @jax.jit
    def find(params, inputs):
        denoiser, times = forecaster.model.denoiser(params), forecaster.grid(50)[:-1]
        return representative_time(
            keys, denoiser, process, inputs.x, times, inputs.cond, inputs.mask
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
    forecaster = setup.forecaster
    layout, process = forecaster.layout, forecaster.model.process
    paths = base_paths(base, samples)
    start = completed(inputs, layout, paths, whole=energy == "quantile")
    cond = jax.tree.map(lambda leaf: jnp.repeat(leaf, samples, 0), inputs.cond)
    keys = jg.sample_keys(jax.random.key(5), len(start.y))
    options |= {"energy": energy}

    @jax.jit
    def run(params, t, keys, start: Observed, cond):
        denoiser = forecaster.model.denoiser(params)
        return refine(keys, denoiser, process, start, cond, t=t, **options)

    apply = partial(run, setup.params, t)
    end = in_batches(apply, samples * setup.batch, keys, start, cond)
    end = end[:, -layout.horizon :, 0].reshape(paths.shape)
    return np.asarray(layout.restore(jnp.asarray(end), inputs.scale))


def invent(setup: Setup, count: int, key: Any) -> np.ndarray:
    """Windows that know the calendar alone, ``[N, L]``, in scaled units."""
    forecaster = setup.forecaster
    layout, process = forecaster.layout, forecaster.model.process
    cut = setup.reader.cut(*setup.training_windows(count))
    nothing = jnp.zeros(layout.context + layout.horizon)
    cond = layout.inputs(observed=nothing, **cut).cond
    cond = None if cond is None else without_past(layout, cond)

    @jax.jit
    def run(params, keys, cond):
        denoiser, grid = forecaster.model.denoiser(params), forecaster.grid(20)
        return synthesize(keys, denoiser, process, layout, cond, grid=grid)

    keys = jg.sample_keys(key, count)
    return in_batches(partial(run, setup.params), 500, keys, cond)


def draw_panels(
    out: Path,
    names: list[str],
    truth: np.ndarray,
    paths: np.ndarray,
    horizon: int,
    hidden: np.ndarray | None = None,
) -> None:
    """History, median and bands of 50 and 90 %, one panel for each window.

    Args:
      out: PNG file.
      names: Titles.
      truth: ``[N, L]``, NaN where unknown.
      paths: ``[N, S, L]``.
      horizon: Steps of forecast at the end.
      hidden: bool ``[N, L]``, steps of the history that the model did not see.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(2, len(names))
    lines = -(-len(names) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(5 * columns, 2.2 * lines), squeeze=False
    )
    hours = np.arange(truth.shape[1]) - (truth.shape[1] - horizon)
    for i, axis in enumerate(axes.flat):
        if i >= len(names):
            axis.axis("off")
            continue
        low, q1, mid, q3, high = np.quantile(paths[i], (0.05, 0.25, 0.5, 0.75, 0.95), 0)
        axis.fill_between(hours, low, high, color="C0", alpha=0.2, lw=0)
        axis.fill_between(hours, q1, q3, color="C0", alpha=0.35, lw=0)
        axis.plot(hours, mid, color="C0", lw=1.2, label="median, 50 % and 90 %")
        axis.plot(hours, truth[i], color="0.15", lw=0.9, label="observed")
        if hidden is not None and hidden.any():
            axis.plot(
                hours,
                np.where(hidden[i], truth[i], np.nan),
                ".",
                color="C3",
                ms=3,
                label="hidden",
            )
        if horizon:
            axis.axvline(-0.5, color="0.6", lw=0.8, ls="--")
        axis.set_title(names[i], fontsize=9)
        axis.tick_params(labelsize=7)
        axis.margins(x=0.01)
    axes.flat[0].legend(fontsize=7, frameon=False, loc="upper left")
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def run(config: Config) -> dict[str, Any]:
    """Does the task; returns what the ``.npz`` holds.

    Raises:
      ValueError: Series that do not exist; guidance that was not searched.
    """
    setup = set_up(config.weights, config.source)
    layout, key = setup.forecaster.layout, jax.random.key(config.seed)
    chosen, total = np.asarray(config.series), len(setup.names)
    if chosen.min() < 0 or chosen.max() >= total:
        raise ValueError(f"series {chosen.tolist()}; expected 0, ..., {total - 1}")
    if config.task == "synthesize":
        made = invent(setup, config.samples, key)
        titles = [f"synthetic {i}" for i in range(min(4, len(made)))]
        shown = made[: len(titles)]
        draw_panels(config.out, titles, shown, shown[:, None], 0)
        return {"paths": made}

    steps = setup.reader.values.shape[1]
    rows, starts = rolling_positions(
        np.asarray(setup.reader.values),
        **setup.data,
        rolls=config.rolls,
        end=steps + layout.horizon if config.ahead else None,
        names=setup.names,
    )
    keep = np.isin(rows, chosen)
    rows, starts = rows[keep], starts[keep]
    how = config.hide
    if config.task == "impute" and how == "none":
        how = "random"
    observed = hide(setup, how, len(rows), jax.random.fold_in(key, 1))
    inputs = setup.reader.inputs(rows, starts, observed)
    truth = np.asarray(setup.reader.whole(rows, starts))[:, -layout.length :]
    future = jnp.asarray(truth[:, -layout.horizon :])
    if config.task == "refine":
        base = base_forecast(setup, config.base, rows, starts, config.samples)
        options = {
            "t": find_time(setup),
            "noise": config.noise,
            "step_size": config.step_size,
        }
        drawn = refine_forecast(
            setup, base, inputs, config.samples, config.energy, **options
        )
        past = np.repeat(truth[:, None, : -layout.horizon], config.samples, 1)
        paths = np.concatenate([past, drawn], -1)
        before = base_paths(base, config.samples)
        print(f"weighted quantile loss of the base {float(wql(before, future)):.4f}")
    else:
        guidance = guidance_of(setup.forecaster, config.energy, config.scale)
        paths = draw_paths(setup, key, inputs, config.samples, guidance)
    if not config.ahead:
        score = float(wql(jnp.asarray(paths)[..., -layout.horizon :], future))
        print(f"weighted quantile loss of {len(rows)} windows {score:.4f}")
    seen = np.broadcast_to(observed, (len(rows), observed.shape[-1]))
    hidden = ~seen[:, -layout.length :]
    hidden[:, -layout.horizon :] = False
    titles = [setup.names[row] for row in rows]
    draw_panels(config.out, titles, truth, paths, layout.horizon, hidden)
    return {"paths": paths, "observed": truth, "rows": rows, "starts": starts}


def main(config: Config) -> None:
    """Runs and writes."""
    try:
        results = run(config)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"sample/forecast.py: {error}")
    numbers = config.out.with_suffix(".npz")
    np.savez_compressed(numbers, **results)
    print(f"{config.out} and {numbers}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
