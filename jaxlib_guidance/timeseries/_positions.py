"""Where windows begin, chosen on the host, and what the calendar says there.

A training batch is a function of ``(seed, step)``: there is no iterator, and nothing to
save but the step.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxlib_guidance.data import batch_indices, stamps
from jaxlib_guidance.timeseries._windows import _require_series, window_lengths


class Positions(NamedTuple):
    """Where windows may begin: ``first, ..., first + count - 1`` of each series.

    Attributes:
      first: Column of the first start of each series, int64 ``[S]``.
      count: Number of starts of each series, int64 ``[S]``.
    """

    first: np.ndarray
    count: np.ndarray


def series_ends(series: np.ndarray) -> np.ndarray:
    """The column after the last known value of each series.

    Series share their columns but need not end together: each is tested at its own end,
    and what comes next begins there.

    Args:
      series: Values ``[S, T]`` (or ``[S, T, D]``), NaN where missing.

    Returns:
      int64 ``[S]``; 0 for a series without a value.
    """
    _require_series(series)
    known = _known(series)
    last = known.shape[1] - np.argmax(known[:, ::-1], 1)
    return np.where(np.any(known, 1), last, 0)


def training_positions(
    series: np.ndarray,
    *,
    context: int,
    horizon: int,
    lags: Sequence[int] = (),
    end: int | np.ndarray | None = None,
    names: Sequence[str] | None = None,
) -> Positions:
    """Every start of a window with its whole past and future inside its series.

    A series reaches from its first known value to its last.

    Args:
      series: Values ``[S, T]`` (or ``[S, T, D]``), NaN where missing.
      context: Steps of context.
      horizon: Steps of forecast.
      lags: Steps back of the lagged values, see `make_windows`.
      end: Column after the last that may be used, one for all or one for each series
        ``[S]``, such as that at which the validation rolls begin. None is
        `series_ends`.
      names: Names of the series for the error; None names them by number.

    Returns:
      `Positions` of the series.

    Raises:
      ValueError: A series that is too short for one window; an end after the last
        column.
    """
    past, length = window_lengths(context, horizon, lags)
    _require_series(series)
    ends = series_ends(series)
    end = ends if end is None else np.broadcast_to(end, ends.shape)
    if end.max() > series.shape[1]:
        raise ValueError(
            f"end is {end.max()}; the series have {series.shape[1]} columns"
        )
    end = np.minimum(end, ends)
    begin = _first_columns(series)
    first = begin + past
    count = end - length - first + 1
    needed = f"{past + length} values, for lags of {past}, a context of {context} and"
    needed = f"{needed} a horizon of {horizon} steps"
    _require_long_enough(count, needed, begin, end, names, ends - end)
    return Positions(first, count)


def training_batch(
    seed: int, step: int, batch: int, positions: Positions
) -> tuple[np.ndarray, np.ndarray]:
    """The windows of a training step, a function of the arguments alone.

    They are an endless reading of shuffled epochs (`batch_indices`). Every position is
    as likely as every other, so longer series contribute more.

    Args:
      seed: Seed of the shuffling, not negative.
      step: Number of the step, from 0.
      batch: Number of windows in a batch.
      positions: Where windows may begin, from `training_positions`.

    Returns:
      ``(rows, starts)``, int32 ``[batch]`` each: series and columns.
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
    end: int | np.ndarray | None = None,
    names: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The windows whose horizons tile the end of each series, one after another.

    Args:
      series: Values ``[S, T]`` (or ``[S, T, D]``), NaN where missing.
      context: Steps of context.
      horizon: Steps of forecast.
      rolls: Number of windows of each series: 7 days in the published hourly protocol.
      lags: Steps back of the lagged values, see `make_windows`.
      end: Column after the last horizon, one for all or one for each series ``[S]``.
        None is `series_ends`, each series' own end; ``series_ends(series) - rolls *
        horizon`` is for validation before the test rolls, and ``series_ends(series) +
        horizon`` with one roll forecasts what comes next.
      names: Names of the series for the error; None names them by number.

    Returns:
      ``(rows, starts)``, int32 ``[rolls * S]`` each: series, and columns at which their
      context begins, the earliest roll of all series first. A roll may still lie in a
      gap of its series and have no value to be scored by.

    Raises:
      ValueError: A series that is too short for the earliest window; an end that is
        more than a horizon after a series' last value.
    """
    past, _ = window_lengths(context, horizon, lags)
    if horizon < 1 or rolls < 1:
        raise ValueError(f"horizon {horizon}, rolls {rolls}; expected at least 1")
    _require_series(series)
    ends = series_ends(series)
    end = ends if end is None else np.broadcast_to(end, ends.shape)
    beyond = np.flatnonzero(end - horizon > ends)
    if len(beyond):
        i = beyond[0]
        raise ValueError(
            f"end is {end[i]}; the last forecast of {horizon} steps of series "
            f"{_named(beyond, names)} would begin after its last value, at column "
            f"{ends[i]}. Take series_ends(series) for each series' own"
        )
    # [rolls, S]
    roll = end - horizon * np.arange(rolls, 0, -1)[:, None] - context
    begin = _first_columns(series)
    needed = f"{past + context} values, for lags of {past} and a context of {context}"
    needed = f"{needed} steps, before the first of {rolls} rolls of {horizon}"
    room = roll[0] - past - begin + 1
    first = roll[0] + context
    _require_long_enough(room, needed, begin, first, names, ends - first)
    rows = np.tile(np.arange(len(series)), rolls)
    return rows.astype(np.int32), roll.reshape(-1).astype(np.int32)


def calendar(start: np.ndarray, freq: str, steps: int) -> np.ndarray:
    """Sine and cosine of the hour of the day, day of the week and day of the year.

    They are known for the future too: `cut_segments` cuts them as it cuts the series.

    Args:
      start: Stamp of column 0 of each series, datetime64 ``[S]``.
      freq: Spacing of the columns as pandas writes it, such as "h".
      steps: Number of columns; may be more than the series have.

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


def _known(series):
    """Which steps ``[S, T]`` have a value, of any of ``D`` series."""
    known = ~np.isnan(np.asarray(series))
    return np.any(known.reshape(*known.shape[:2], -1), -1)


def _first_columns(series):
    known = _known(series)
    return np.where(np.any(known, 1), np.argmax(known, 1), known.shape[1])


def _named(which, names):
    shown = [names[i] if names is not None else int(i) for i in which[:5]]
    return f"{shown} and {len(which) - 5} more" if len(which) > 5 else f"{shown}"


def _require_long_enough(room, needed, begin, end, names, behind):
    """Raises for series without ``room``; ``behind`` is what follows their ends."""
    short = np.flatnonzero(room < 1)
    if len(short):
        i = short[0]
        there = f"{max(0, end[i] - begin[i])} values before column {max(0, end[i])}"
        if end[i] <= 0:
            there = "none before the windows that are kept apart"
        kept = max(0, behind[i])
        if kept:
            whole = end[i] - begin[i] + 1 - room[i] + kept
            there += f", and {kept} that are kept apart: it takes {whole} in all"
        raise ValueError(
            f"series {_named(short, names)} are too short: they need {needed}, and "
            f"the first has {there}. Leave them out, or take shorter lags, a shorter "
            "context or horizon, or fewer rolls"
        )
