"""Sets of series from packages, JSON lines, arrays and data frames."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlib_guidance.data.series._json import load_json_series
from jaxlib_guidance.data.series._packaged import PACKAGED
from jaxlib_guidance.data.series._series import (
    Series,
    finish_series,
    parse_freq,
    stamps,
)


def load_series(
    source: Any,
    *,
    freq: str | None = None,
    start: Any = None,
    names: Sequence[str] | None = None,
    long: tuple[str, str, str] | None = None,
    split: str | None = None,
    shortest: int = 0,
) -> Series:
    """Loads a set of series.

    Stamps may come in any order; those that no row has become missing values. Constant
    series are kept: windows give them a scale of their own.

    Args:
      source: "pedestrians", "flights", "loads", "solar" or "wind": real hourly series
        of installed packages (`data.packaged_series`); a folder or file of JSON lines
        as GluonTS and Monash write them (`data.json_series`); an array ``[S, T]``, its
        ``.npy`` file, or a list of arrays ``[T_s]`` that end together; a pandas data
        frame, or its ``.csv`` or ``.parquet`` file with the stamps in the first column.
      freq: Spacing. With a data frame it may be left out: it is then the smallest
        spacing between stamps, unless it is an exception. With a packaged set or a JSON
        folder it is known.
      start: Of an array: the stamp of its first column, one or one for each series.
      names: Of an array's series.
      long: Of a data frame in long form: its columns of names, stamps and values, such
        as ``("unique_id", "ds", "y")``. Without it the frame is wide: stamps are the
        index and every column is a series.
      split: Of a JSON folder: which sub-folder.
      shortest: Series with fewer steps from their first value on are left out.

    Raises:
      TypeError: Values that are no numbers; a source of another kind.
      ValueError: An unknown name; an argument that the source has no use for; values
        that are infinite, or a series all missing; stamps that repeat or lie off the
        grid, or whose smallest spacing is an exception; rows without a name; no series
        as long as ``shortest``.
      ModuleNotFoundError: The package of a packaged set is not installed.
    """
    if shortest:
        found = load_series(
            source, freq=freq, start=start, names=names, long=long, split=split
        )
        return _without_short(found, shortest)
    given = {
        "freq": freq,
        "start": start,
        "names": names,
        "long": long,
        "split": split,
    }

    def only(*useful):
        idle = [
            name for name in given if given[name] is not None and name not in useful
        ]
        if idle:
            raise ValueError(f"{', '.join(idle)} would have no effect on this source")

    if isinstance(source, (str, Path)):
        if source in PACKAGED:
            only()
            return PACKAGED[source]()
        source = Path(source).expanduser()
        kind = source.suffix
        if kind == ".npy":
            only("freq", "start", "names")
            return _from_arrays(np.load(source), freq, start, names)
        if kind in (".csv", ".parquet"):
            only("freq", "long")
            return _from_frame(_read_frame(source, long), freq, long)
        only("split", "freq")
        return load_json_series(source, split=split, freq=freq)
    if hasattr(source, "columns") and hasattr(source, "index"):
        only("freq", "long")
        return _from_frame(source, freq, long)
    if isinstance(source, (list, tuple)) or hasattr(source, "__array__"):
        only("freq", "start", "names")
        return _from_arrays(source, freq, start, names)
    raise TypeError(
        f"source is a {type(source).__name__}; expected a name, a path, an array, a "
        "list of arrays or a data frame"
    )


def _without_short(series, shortest):
    lengths = series.values.shape[1] - (~np.isnan(series.values)).argmax(1)
    keep = lengths >= shortest
    if not keep.any():
        raise ValueError(
            f"shortest is {shortest}; the longest of the series has {lengths.max()} "
            "steps"
        )
    names = tuple(np.array(series.names)[keep].tolist())
    return Series(series.values[keep], names, series.start[keep], series.freq)


def _read_frame(path, long):
    import pandas as pd

    frame = pd.read_csv(path) if Path(path).suffix == ".csv" else pd.read_parquet(path)
    # Parquet keeps an index of stamps, which a table of text cannot.
    if long is None and frame.index.dtype.kind == "M":
        return frame
    stamps = frame.columns[0] if long is None else long[1]
    if stamps in frame.columns:
        frame[stamps] = pd.to_datetime(frame[stamps])
    return frame if long else frame.set_index(stamps)


def _from_arrays(source, freq, start, names):
    if freq is not None:
        parse_freq(freq)
    elif start is not None:
        raise ValueError("start says nothing without freq; pass both")
    if hasattr(source, "__array__"):
        source = np.asanyarray(source)
        if source.ndim != 2:
            raise ValueError(
                f"the array has shape {list(source.shape)}; expected [series, time]"
            )
    each = list(source)
    names = [str(i) for i in range(len(each))] if names is None else names
    # One stamp is of the first column; shorter series of a list begin after it.
    if start is None:
        begins = np.full(len(each), "NaT", "datetime64[s]")
    elif np.ndim(start) == 0:
        lengths = list(map(np.size, each))
        longest = max(lengths, default=0)
        begins = [stamps(start, freq, 1, longest - length)[0] for length in lengths]
    else:
        begins = np.asarray(start, "datetime64[s]")
    return finish_series(each, names, begins, freq or "")


def _from_frame(frame, freq, long):
    table = _rows_of(frame, long)
    clocks = [clock for _, clock, _ in table]
    freq = _spacing(clocks) if freq is None else freq
    start, last = min(c.min() for c in clocks), max(c.max() for c in clocks)
    number, unit = parse_freq(freq)
    # As many columns as the shortest such step could ask for.
    least = number * {"seconds": 1, "weekdays": 86_400, "months": 28 * 86_400}[unit]
    grid = stamps(start, freq, int((last - start).astype(int)) // least + 1)
    grid = grid[grid <= last]
    each = [_on_grid(name, clock, row, grid, freq) for name, clock, row in table]
    return finish_series(each, [name for name, _, _ in table], start, freq)


def _rows_of(frame, long):
    """``(name, stamps, values)`` of each series of a frame."""
    if long is None:
        if frame.index.dtype.kind != "M":
            raise ValueError(
                f"the frame's index is {frame.index.dtype}; expected stamps "
                "(pandas.to_datetime), or long=(name, stamp, value) columns"
            )
        groups = [
            (name, frame.index, frame.iloc[:, i])
            for i, name in enumerate(frame.columns)
        ]
    else:
        absent = [name for name in long if name not in frame.columns]
        if absent:
            raise ValueError(
                f"long names {absent}, but the columns are {list(frame.columns)}"
            )
        name, stamp, value = long
        nameless = int(frame[name].isna().sum())
        if nameless:
            raise ValueError(f"{nameless} rows have no name in the column {name!r}")
        groups = [(key, of[stamp], of[value]) for key, of in frame.groupby(name)]
    table = []
    for name, clock, row in groups:
        clock = clock.to_numpy()
        if clock.dtype.kind != "M":
            raise ValueError(
                f"series {name!r} has stamps of {clock.dtype}; expected datetime64 "
                "(pandas.to_datetime) without a time zone (tz_localize(None))"
            )
        if np.isnat(clock).any():
            raise ValueError(f"series {name!r} has a row without a stamp")
        table.append((name, clock.astype("datetime64[s]"), row.to_numpy()))
    if not table or not all(len(clock) for _, clock, _ in table):
        raise ValueError(f"the frame has shape {frame.shape}; expected rows and series")
    return table


def _spacing(clocks):
    gaps = np.concatenate([np.diff(np.unique(clock)) for clock in clocks])
    if not len(gaps):
        raise ValueError("no series has two stamps; pass freq")
    seconds = int(gaps.min().astype(int))
    if seconds >= 28 * 86_400:
        raise ValueError("the stamps are months or more apart; pass freq, such as 'MS'")
    # One odd stamp would make nearly all columns of a fine grid missing.
    every = np.unique(np.concatenate(clocks))
    columns = int((every[-1] - every[0]).astype(int)) // seconds + 1
    each, times = np.unique(gaps.astype(int), return_counts=True)
    usual = int(each[times.argmax()])
    if usual > seconds and 2 * len(every) < columns:
        raise ValueError(
            f"the smallest spacing of the stamps is {_written(seconds)}, but the usual "
            f"one is {_written(usual)}; pass freq, or mend the odd stamps"
        )
    return _written(seconds)


def _written(seconds):
    """A number of seconds as pandas writes a spacing."""
    sizes = {86_400: "D", 3_600: "h", 60: "min", 1: "s"}
    size = next(size for size in sizes if seconds % size == 0)
    return f"{seconds // size}{sizes[size]}" if seconds > size else sizes[size]


def _on_grid(name, clock, row, grid, freq):
    """A series' rows laid on the columns of all."""
    if row.dtype.kind not in "fiub":
        raise TypeError(f"series {name!r} has values of {row.dtype}; expected numbers")
    unique, counts = np.unique(clock, return_counts=True)
    again = unique[counts > 1]
    if len(again):
        raise ValueError(
            f"series {name!r} has {len(again)} repeated stamps, the first {again[0]}; "
            "keep or merge one row for each"
        )
    place = np.minimum(np.searchsorted(grid, clock), len(grid) - 1)
    off = clock[grid[place] != clock]
    if len(off):
        raise ValueError(
            f"series {name!r} has {len(off)} stamps off the grid of {freq!r} from "
            f"{grid[0]}, the first {off[0]}"
        )
    out = np.full(len(grid), np.nan)
    out[place] = row
    return out
