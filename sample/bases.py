"""Simple forecasts, to refine or to beat: of the same hour before, and ridge."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.data import parse_freq
from jaxlib_guidance.timeseries import (
    RidgeForecaster,
    cut_segments,
    fit_ridge_forecaster,
    past_values,
    seasonal_naive,
    training_batch,
    training_positions,
)

# Seasonal naive of a day or a week, and the quantiles of four weeks and yesterday.
BASES = ("naive", "week", "weeks")


def day_steps(freq: str) -> int:
    """Steps of a day.

    Raises:
      ValueError: A frequency that does not divide the day.
    """
    number, unit = parse_freq(freq) if freq else (0, "")
    if unit != "seconds" or 86_400 % number:
        raise ValueError(
            f"the frequency is {freq or 'unknown'!r}; forecasts of the same hour of "
            f"another day, {BASES}, need one that divides a day: take 'ridge'"
        )
    return 86_400 // number


def season_steps(freq: str) -> int:
    """Steps of a season: a day, of days and weekdays a week, of longer ones a year.

    Args:
      freq: Spacing as pandas writes it; "" is unknown, and has a season of one step.
    """
    number, unit = parse_freq(freq) if freq else (0, "")
    # A year of whole weeks.
    spans = {"seconds": (86_400, 7 * 86_400, 364 * 86_400)}
    spans |= {"weekdays": (5,), "months": (12,)}
    fits = (s // number for s in spans.get(unit, ()) if s > number and not s % number)
    return next(fits, 1)


def history_steps(freq: str) -> int:
    """Steps before the horizon that the longest of `same_hour` looks at."""
    return 28 * day_steps(freq)


def same_hour(name: str, history: Any, horizon: int, freq: str) -> jax.Array:
    """One of `BASES`: samples ``[N, S, H]`` or a point forecast ``[N, H]``."""
    day = day_steps(freq)
    if name == "weeks":
        lags = (day, *(7 * day * week for week in (1, 2, 3, 4)))
        return past_values(history, horizon, lags)
    return seasonal_naive(history, horizon, {"naive": day, "week": 7 * day}[name])


def fit_ridge(
    values: np.ndarray,
    context: int,
    horizon: int,
    end: int | np.ndarray,
    count: int = 6000,
) -> RidgeForecaster:
    """Ridge regression of random windows, the same for all who ask.

    Args:
      values: ``[S, T]``, NaN where missing.
      context: Steps of context.
      horizon: Steps of forecast.
      end: Column after the last that may be used, one for all or one for each series:
        where validation begins, for a forecaster that is compared with trained models
        to have the same values as they.
      count: Windows to draw; those with gaps in the horizon are left out.
    """
    cut = {"context": context, "horizon": horizon}
    positions = training_positions(values, **cut, end=end)
    given = map(jnp.asarray, (values, *training_batch(1, 0, count, positions)))
    windows = np.asarray(cut_segments(*given, **cut))
    whole = windows[np.isfinite(windows[:, -horizon:]).all(1)]
    return fit_ridge_forecaster(jnp.asarray(whole), horizon)
