"""A trained model of windows with the series that it is asked about, and its steps."""

import dataclasses
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from bases import fit_ridge

from jaxlib_guidance.data import load_series, stamps
from jaxlib_guidance.guidance import Observed
from jaxlib_guidance.timeseries import (
    Forecast,
    Forecaster,
    RidgeForecaster,
    WindowReader,
    load_forecaster,
    read_windows,
    refine,
    series_ends,
    training_batch,
    training_positions,
)

# Of what the training recipe stores, what says where series come from.
SOURCE = ("freq", "start", "long", "shortest")


@dataclasses.dataclass(frozen=True)
class Setup:
    """A forecaster, its parameters and the series that it is asked about."""

    forecaster: Forecaster
    params: Any
    reader: WindowReader
    names: tuple[str, ...]
    freq: str
    start: np.ndarray
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

    @property
    def end(self) -> np.ndarray:
        """The column ``[S]`` of each series where validation begins."""
        rolls = self.forecaster.about["training"]["data"]["rolls"]
        ends = series_ends(np.asarray(self.reader.values))
        return ends - 2 * rolls * self.data["horizon"]

    def training_windows(self, count: int) -> Any:
        """Rows and starts of windows from before validation and test."""
        values = np.asarray(self.reader.values)
        try:
            positions = training_positions(
                values, **self.data, end=self.end, names=self.names
            )
        except ValueError as error:
            raise ValueError(
                "this task looks at windows from before validation and test, as "
                f"training does: {error}"
            ) from error
        return training_batch(1, 0, count, positions)

    @cached_property
    def ridge(self) -> RidgeForecaster:
        """Ridge regression of the context."""
        layout, values = self.forecaster.layout, np.asarray(self.reader.values)
        return fit_ridge(values, layout.context, layout.horizon, self.end)

    @cached_property
    def draw(self) -> Any:
        """`Forecaster.paths`, compiled once for all scales of an energy."""

        @partial(jax.jit, static_argnames=("samples", "how"))
        def draw(params, scale, keys, inputs, samples, how):
            guidance = how
            if how.energy is not None:
                guidance = dataclasses.replace(how, scale=scale)
            return self.forecaster.paths(params, keys, inputs, samples, guidance)

        return draw

    @cached_property
    def move(self) -> Any:
        """`refine`, compiled once for all noises and sizes of a step."""
        model = self.forecaster.model

        @partial(jax.jit, static_argnames="energy")
        def move(params, options, keys, start: Observed, cond, energy):
            denoiser = model.denoiser(params)
            return refine(keys, denoiser, start, cond, energy=energy, **options)

        return move


def choose(wanted: tuple[str, ...] | None, names: tuple[str, ...]) -> np.ndarray:
    """Numbers of series that are named or numbered; of None four from all over.

    Raises:
      ValueError: A series that is not there, or none at all.
    """
    total = len(names)
    if wanted is None:
        return np.arange(0, total, max(1, total // 4))[:4]
    numbers = [names.index(each) if each in names else each for each in wanted]
    try:
        found = np.array([int(each) for each in numbers], int)
    except ValueError:
        raise ValueError(
            f"series {list(wanted)}; expected numbers, or names such as {names[:3]}"
        ) from None
    if not found.size or found.min() < 0 or found.max() >= total:
        raise ValueError(f"series {found.tolist()}; expected 0, ..., {total - 1}")
    return found


def window_dates(setup: Setup, rows: Any, starts: Any) -> np.ndarray | None:
    """Stamps ``[N, L]`` of the steps that the network sees; None without a calendar.

    Args:
      setup: The series and their stamps.
      rows: Series of each window ``[N]``.
      starts: Columns at which the windows begin ``[N]``.
    """
    if not setup.freq or np.isnat(setup.start).any():
        return None
    layout = setup.forecaster.layout
    first = np.asarray(starts) + layout.context + layout.horizon - layout.length
    return np.stack(
        [
            stamps(setup.start[row], setup.freq, layout.length, int(at))
            for row, at in zip(rows, first, strict=True)
        ]
    )


def dated(setup: Setup, paths: Any, rows: Any, dates: Any) -> dict[str, Any]:
    """The horizons as a table by date, ``{"frame": ...}``; empty without stamps.

    Args:
      setup: The series and their stamps.
      paths: Paths ``[N, S, L]``.
      rows: Series of each window ``[N]``.
      dates: Stamps of the windows, from `window_dates`.
    """
    if dates is None:
        return {}
    horizon = setup.forecaster.layout.horizon
    names = tuple(setup.names[row] for row in rows)
    first, ahead = dates[:, -horizon], np.asarray(paths)[..., -horizon:]
    return {"frame": Forecast(ahead, names, first, setup.freq).frame()}


def set_up(weights: str | Path, source: str | None = None, **given: Any) -> Setup:
    """Reads weights and series; by default those that the model was trained on.

    Args:
      weights: A file of train/timeseries.py, or a name in the package.
      source: See `load_series`.
      **given: Its other arguments.

    Raises:
      ValueError: Series of another frequency than the model's.
    """
    forecaster, params = load_forecaster(weights)
    if source is None:
        stored = forecaster.about["training"]["data"]
        source = stored["source"]
        given = {name: stored[name] for name in SOURCE if name in stored}
    series = load_series(source, **given)
    forecaster.require_series(series, source, "pass --freq")
    reader = read_windows(series, forecaster.layout)
    return Setup(forecaster, params, reader, series.names, series.freq, series.start)
