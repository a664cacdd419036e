"""A trained model of windows with the series that it is asked about, and its steps."""

import dataclasses
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from bases import fit_ridge

from jaxlib_guidance.data import load_series, parse_freq
from jaxlib_guidance.guidance import Observed
from jaxlib_guidance.timeseries import (
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
        positions = training_positions(values, **self.data, end=self.end)
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
    series, freq = load_series(source, **given), forecaster.about.get("freq")
    if freq and (not series.freq or parse_freq(series.freq) != parse_freq(freq)):
        raise ValueError(
            f"{source} has the frequency {series.freq or 'unknown'!r}, but the "
            f"model is of series of {freq!r}; pass --freq if only the source is silent"
        )
    reader = read_windows(series, forecaster.layout)
    return Setup(forecaster, params, reader, series.names, series.freq)
