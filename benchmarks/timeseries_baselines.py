"""What a forecaster must beat: simple and classical forecasts of real hourly series.

    pip install 'jaxlib-guidance[timeseries]'
    python benchmarks/timeseries_baselines.py                      # seconds
    python benchmarks/timeseries_baselines.py --classical          # ETS, MSTL: minutes
    python benchmarks/timeseries_baselines.py --data flights --rolls 14

The last ``rolls`` windows of every series are forecast, each from what came before it,
and scored as GluonTS does: weighted quantile loss (wQL) at nine levels. ND is the
deviation of the median; 80 % is how much the central interval of that level holds.
Ridge is fitted to windows from before the validation rolls, which come before the test
and are as many, as trained models are. ETS and MSTL are statsforecast's, fitted anew to
the last three weeks before each window.
"""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from jaxlib_guidance import timeseries
from jaxlib_guidance.data import load_series
from jaxlib_guidance.rng import sample_keys
from jaxlib_guidance.timeseries import (
    cut_segments,
    from_statsforecast,
    rolling_positions,
)

sys.path.append(str(Path(__file__).parents[1] / "sample"))
from bases import fit_ridge


@dataclasses.dataclass(frozen=True)
class Config:
    """Which series, and how much of them."""

    data: Literal["pedestrians", "flights", "loads", "solar", "wind"] = "pedestrians"
    rolls: int = 7
    context: int = 336
    horizon: int = 24
    samples: int = 100
    classical: bool = False
    """Also AutoETS and MSTL, which need statsforecast."""
    seed: int = 0
    out: Path | None = None
    """Markdown file to write the table to."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """Test windows, and the series that came before the first of them.

    Attributes:
      series: ``[S, T]``.
      end: Column ``[S]`` of each series at which validation begins.
      history: ``[N, 672]`` before each window's horizon.
      target: ``[N, H]``.
    """

    series: np.ndarray
    end: np.ndarray
    history: jax.Array
    target: jax.Array


def problem(config: Config) -> Problem:
    """The test windows of a packaged set."""
    series = load_series(config.data).values
    sizes = {"context": max(timeseries.FOUR_WEEKS), "horizon": config.horizon}
    rows, starts = rolling_positions(series, rolls=config.rolls, **sizes)
    segments = cut_segments(series, rows, starts, **sizes)
    history, target = jnp.split(segments, [sizes["context"]], 1)
    end = timeseries.series_ends(series) - 2 * config.horizon * config.rolls
    return Problem(series, end, history, target)


def forecasts(config: Config, given: Problem) -> Iterator[tuple[str, jax.Array]]:
    """Each baseline's name and samples ``[N, S, H]``."""
    for name, lags in (
        ("seasonal naive, day", (24,)),
        ("seasonal naive, week", (168,)),
        ("last 7 days", timeseries.LAST_WEEK),
        ("4 weeks and yesterday", timeseries.FOUR_WEEKS),
    ):
        yield name, timeseries.past_values(given.history, config.horizon, lags)
    forecaster = fit_ridge(given.series, config.context, config.horizon, given.end)
    context = given.history[:, -config.context :]
    yield "ridge", forecaster.mean(context)[:, None]
    keys = sample_keys(jax.random.key(config.seed), len(context))
    yield "ridge, bootstrap", forecaster.sample(keys, context, config.samples)
    if config.classical:
        yield from classical(given.history, config.horizon, config.samples)


def classical(
    history: jax.Array, horizon: int, samples: int
) -> Iterator[tuple[str, jax.Array]]:
    """AutoETS with a daily season, and MSTL of day and week with ETS for the rest."""
    import pandas as pd
    from statsforecast import StatsForecast
    from statsforecast.models import MSTL, AutoETS

    # These models cannot take missing values.
    past = pd.DataFrame(np.asarray(history[:, -504:]))
    past = past.interpolate(axis=1, limit_direction="both").to_numpy()
    names = range(len(past))
    hours = np.tile(pd.date_range("2000-01-03", periods=504, freq="h"), len(names))
    table = {"unique_id": np.repeat(names, 504), "ds": hours, "y": past.ravel()}
    models = [
        AutoETS(season_length=24, model="ZNA", alias="ETS"),
        MSTL([24, 168], AutoETS(model="ZZN"), alias="MSTL"),
    ]
    # The intervals whose ends are the nine levels; the centre is the median.
    frame = StatsForecast(models, freq="h").forecast(
        h=horizon, df=pd.DataFrame(table), level=[20, 40, 60, 80]
    )
    for model in models:
        yield (
            model.alias,
            jnp.asarray(from_statsforecast(frame, model.alias, names, samples)),
        )


def scores(samples: jax.Array, target: jax.Array) -> tuple[float, float, float]:
    """``(wQL, ND of the median, coverage of the 80 % interval)``."""
    median = timeseries.sample_quantiles(samples, (0.5,))[:, 0]
    inside = timeseries.coverage(samples, target, level=0.8)
    found = timeseries.wql(samples, target), timeseries.nd(median, target), inside
    wql, nd, covered = map(float, found)
    return wql, nd, covered


def main(config: Config) -> None:
    given = problem(config)
    lines = ["| forecast | wQL | ND | 80 % |", "| --- | --- | --- | --- |"]
    for name, samples in forecasts(config, given):
        wql, nd, inside = scores(samples, given.target)
        share = f"{inside:.2f}" if samples.shape[1] > 1 else "–"
        lines.append(f"| {name} | {wql:.4f} | {nd:.4f} | {share} |")
    head = f"{config.data}: {len(given.series)} series, {len(given.target)} windows"
    text = "\n".join([f"{head} of {config.horizon} hours", "", *lines, ""])
    print(text)
    if config.out is not None:
        config.out.parent.mkdir(parents=True, exist_ok=True)
        config.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Config))
