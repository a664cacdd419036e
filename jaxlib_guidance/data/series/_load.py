"""Sets of series from packages, JSON lines, arrays and data frames."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlib_guidance.data.series._json import load_json_series
from jaxlib_guidance.data.series._packaged import PACKAGED
from jaxlib_guidance.data.series._series import (
    Series,
    _read_stamp,
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

    Stamps may come in any order; those that no row has become missing values. Series of
    a data frame keep their own begin and end on the clock of all. Constant series are
    kept: windows give them a scale of their own.

    Args:
      source: "pedestrians", "flights", "loads", "solar" or "wind", real hourly series
        of installed packages; a folder or file of JSON lines as GluonTS and Monash
        write them (`load_json_series`); an array ``[S, T]``, its ``.npy`` file, or a
        list of arrays ``[T_s]`` that end together; a pandas data frame, or its ``.csv``
        or ``.parquet`` file with the stamps in the first column, as
        `pandas.to_datetime` reads them.
      freq: Spacing as pandas writes it, such as "h". None takes that of a packaged set
        or of a JSON folder's metadata, and of a data frame the smallest spacing between
        stamps, unless it is an exception.
      start: Stamp of an array's first column, one or one for each series; None is
        unknown.
      names: Names of an array's series; None numbers them.
      long: Columns of names, stamps and values of a data frame in long form, such as
        ``("unique_id", "ds", "y")``. None is the wide form: stamps are the index and
        every column is a series.
      split: Name of a JSON folder's sub-folder; None is "train" when there is one.
      shortest: Fewest steps from a series' first value to its last; shorter ones are
        left out.

    Returns:
      `Series` on one grid.

    Raises:
      TypeError: Values that are no numbers; a source of another kind; a start that is
        neither text nor a date.
      ValueError: An unknown name; an argument that the source has no use for; values
        that are infinite, or a series all missing; text that is no stamp; stamps that
        repeat, lie off the grid or have a fraction of a second, or whose smallest
        spacing is an exception; rows without a name; no series as long as ``shortest``.
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
    known = ~np.isnan(series.values)
    lengths = known.shape[1] - known.argmax(1) - known[:, ::-1].argmax(1)
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
    column = frame.columns[0] if long is None else long[1]
    if column in frame.columns:
        frame[column] = _read_stamps(frame[column], long)
    return frame if long else frame.set_index(column)


_YEAR_LAST = re.compile(r"(?<!\d)\d{1,2}[\s/.-]+\d{1,2}[\s/.-]+\d{4}(?!\d)")


def _read_stamps(column, long):
    """A column of a table as stamps."""
    import pandas as pd

    if not column.notna().any():
        raise ValueError(
            f"the column {column.name!r} has no stamps in {len(column)} rows"
        )
    hint = ""
    if long is None:
        hint = (
            "; in long form pass long=(name, stamp, value) (--data.long in the recipes)"
        )
    if (
        pd.api.types.is_integer_dtype(column)
        and column.between(1000_0101, 9999_1231).all()
    ):
        column = column.astype(str)
    # Pandas would take numbers, such as those of rows, for nanoseconds from 1970 on.
    if pd.api.types.is_numeric_dtype(column):
        raise ValueError(
            f"the column {column.name!r} has numbers and no stamps; write the table "
            f"without row numbers (to_csv(index=False)){hint}"
        )
    # Years that come first are followed by the month; others by neither for certain.
    first = str(column.dropna().iloc[0])
    orders = (False, True) if _YEAR_LAST.search(first) else (False,)
    found, why = [], None
    for day_first in orders:
        try:
            # Without one form for all, pandas warns and fills in what is not said.
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)
                # Nor does it say more where the first stamp fits one order alone.
                warnings.filterwarnings("ignore", "Parsing dates in")
                found.append(pd.to_datetime(column, dayfirst=day_first))
        except (ValueError, TypeError, UserWarning) as error:
            why = error
    if not found:
        what = "no stamps"
        if str(why).startswith(("time data", "unconverted data")):
            what += f" of one form ({re.split(r'[.] |, at', str(why))[0]})"
        raise ValueError(
            f"the column {column.name!r} has {what}, but values such as {first!r}{hint}"
        ) from why
    differ = np.flatnonzero((found[0] != found[-1]) & found[0].notna())
    if len(differ):
        last = differ[-1]
        raise ValueError(
            f"the column {column.name!r} has stamps such as {column.iloc[last]!r}, "
            "which may begin with the day or the month; write them as "
            f"{found[0].iloc[last]:%Y-%m-%d} or {found[1].iloc[last]:%Y-%m-%d}"
        )
    return found[0]


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
        begins = np.array([_read_stamp(each) for each in start])
    return finish_series(each, names, begins, freq or "")


def _from_frame(frame, freq, long):
    table = _rows_of(frame, long)
    clocks = [clock for _, clock, _ in table]
    freq = _spacing(clocks) if freq is None else freq
    start, last = min(c.min() for c in clocks), max(c.max() for c in clocks)
    number, unit = parse_freq(freq)
    # As many columns as the shortest such step could ask for.
    shortest = number * {"seconds": 1, "weekdays": 86_400, "months": 28 * 86_400}[unit]
    grid = stamps(start, freq, int((last - start).astype(int)) // shortest + 1)
    grid = grid[grid <= last]
    each = [_on_grid(name, clock, row, grid, freq) for name, clock, row in table]
    return finish_series(each, [name for name, _, _ in table], start, freq)


def _rows_of(frame, long):
    """``(name, stamps, values)`` of each series of a frame."""

    def numbers(row):
        if row.dtype == object:
            # None is missing, as NaN is; text stays text.
            row = row.where(row.notna(), np.nan).infer_objects()
        return row.to_numpy()

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
        seconds = clock.astype("datetime64[s]")
        if (seconds != clock).any():
            raise ValueError(
                f"series {name!r} has stamps with a fraction of a second; steps below "
                "a second are not offered (round them: dt.floor('s'))"
            )
        table.append((name, seconds, numbers(row)))
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
    common = int(each[times.argmax()])
    if common > seconds and 2 * len(every) < columns:
        raise ValueError(
            f"the smallest spacing of the stamps is {_written(seconds)}, but the most "
            f"common one is {_written(common)}; pass freq, or mend the odd stamps"
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
        raise TypeError(
            f"series {name!r} has values of {row.dtype}; expected numbers (in long "
            "form pass long=(name, stamp, value))"
        )
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
