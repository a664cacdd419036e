"""Where windows begin, chosen on the host, and what the calendar says there.

A training batch is a function of ``(seed, step)``: there is no iterator, and nothing to
save but the step.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxlib_guidance.data import batch_indices, stamps
from jaxlib_guidance.timeseries._windows import require_series, window_lengths


class Positions(NamedTuple):
    """Where windows may begin: ``first, ..., first + count - 1`` of each series.

    Attributes:
      first: Column of the first start, int64 ``[S]``.
      count: Number of starts, int64 ``[S]``.
    """

    first: np.ndarray
    count: np.ndarray


def training_positions(
    series: np.ndarray,
    *,
    context: int,
    horizon: int,
    lags: Sequence[int] = (),
    end: int | None = None,
    names: Sequence[str] | None = None,
) -> Positions:
    """Every start of a window with its whole past and future inside its series.

    A series begins with its first value that is not missing.

    Args:
      series: ``[S, T]`` (or ``[S, T, D]``).
      context: Steps of context.
      horizon: Steps of forecast.
      lags: Of `make_windows`.
      end: Column after the last that may be seen, such as that at which the validation
        rolls begin; None for all.
      names: Of the series, for the error.

    Raises:
      ValueError: A series that is too short for one window; an end after the last
        column.
    """
    past, length = window_lengths(context, horizon, lags)
    require_series(series)
    first = _first_columns(series) + past
    end = series.shape[1] if end is None else end
    if end > series.shape[1]:
        raise ValueError(f"end is {end}; the series have {series.shape[1]} columns")
    count = end - length - first + 1
    _require_long_enough(count, past + length, end, names)
    return Positions(first, count)


def training_batch(
    seed: int, step: int, batch: int, positions: Positions
) -> tuple[np.ndarray, np.ndarray]:
    """The windows of a training step, a function of the arguments alone.

    An endless reading of shuffled epochs, as `data.images.batch_indices`; every
    position is as likely as every other, so longer series contribute more.

    Args:
      seed: Of the shuffling.
      step: Number of the step.
      batch: Windows in a batch.
      positions: From `training_positions`.

    Returns:
      ``(rows, starts)``, int32 ``[batch]`` each.
    """
    ends = np.cumsum(positions.count)
    index = batch_indices(seed, step, batch, int(ends[-1]))
    rows = np.searchsorted(ends, index, side="right")
    starts = positions.first[rows] + index - (ends - positions.count)[rows]
    return rows.astype(np.int32), starts.astype(np.int32)


def rolling_positions(
    series: np.ndarray,
    *,
    context: int,
    horizon: int,
    rolls: int,
    lags: Sequence[int] = (),
    end: int | None = None,
    names: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The windows whose horizons tile the last ``rolls * horizon`` columns.

    Args:
      series: ``[S, T]`` (or ``[S, T, D]``).
      context: Steps of context.
      horizon: Steps of forecast.
      rolls: Windows of each series: 7 days in the published hourly protocol.
      lags: Of `make_windows`.
      end: Column after the last horizon. None for the last of the series;
        ``T - rolls * horizon`` for validation before the test rolls; ``T + horizon``
        with one roll to forecast what comes next.
      names: Of the series, for the error.

    Returns:
      ``(rows, starts)``, int32 ``[rolls * S]`` each, the earliest roll of all series
      first.

    Raises:
      ValueError: A series that is too short for the earliest window; an end that is
        more than a horizon after the last column.
    """
    past, _ = window_lengths(context, horizon, lags)
    if horizon < 1 or rolls < 1:
        raise ValueError(f"horizon {horizon}, rolls {rolls}; expected at least 1")
    require_series(series)
    end = series.shape[1] if end is None else end
    if end - horizon > series.shape[1]:
        raise ValueError(
            f"end is {end}; the last forecast of {horizon} steps would begin after the "
            f"{series.shape[1]} columns that there are"
        )
    roll = end - horizon * np.arange(rolls, 0, -1) - context
    room = roll[0] - past - _first_columns(series) + 1
    _require_long_enough(room, past + context, roll[0] + context, names)
    rows = np.tile(np.arange(len(series)), rolls)
    return rows.astype(np.int32), np.repeat(roll, len(series)).astype(np.int32)


def calendar(start: np.ndarray, freq: str, steps: int) -> np.ndarray:
    """Sine and cosine of the hour of the day, day of the week and day of the year.

    Known for the future too: `cut_segments` cuts them as it cuts the series.

    Args:
      start: Stamp of column 0 of each series, datetime64 ``[S]``.
      freq: Spacing, as in `data.series.Series`.
      steps: Columns; may be more than the series have.

    Returns:
      float32 ``[S, steps, 6]``.

    Raises:
      ValueError: A stamp that is NaT; a spacing that is not known.
    """

    def of(begin):
        when = stamps(begin, freq, steps)
        day, year = when.astype("datetime64[D]"), when.astype("datetime64[Y]")
        years = year, year + np.timedelta64(1, "Y")
        first, last = (y.astype("datetime64[D]") for y in years)
        # 1970-01-01 was a Thursday.
        weekday = (day.astype(np.int64) + 3) % 7
        turns = [(when - day) / np.timedelta64(1, "D"), weekday / 7]
        turns.append((when - first) / (last - first))
        angle = 2 * np.pi * np.stack(turns, -1)
        return np.concatenate([np.sin(angle), np.cos(angle)], -1)

    return np.stack([of(begin) for begin in np.atleast_1d(start)]).astype(np.float32)


def _first_columns(series):
    known = ~np.isnan(np.asarray(series))
    known = np.any(known.reshape(*known.shape[:2], -1), -1)
    return np.where(np.any(known, 1), np.argmax(known, 1), known.shape[1])


def _require_long_enough(room, needed, end, names):
    short = np.flatnonzero(room < 1)
    if len(short):
        which = [names[i] if names is not None else int(i) for i in short[:5]]
        more = f" and {len(short) - 5} more" if len(short) > 5 else ""
        raise ValueError(
            f"series {which}{more} are too short: a window and its lags need {needed} "
            f"values before column {end}; leave them out, or take a shorter context or "
            "shorter lags"
        )
