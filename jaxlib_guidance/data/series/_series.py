"""Series as one array ``[S, T]``, NaN where nothing is known, and their calendar.

All series share the columns, and `Series.start` says what column 0 means to a clock.

The calendar is not pandas': arrays, JSON lines and the packaged sets are read without
it, and its grids are tied to an end of the step ("W" are Sundays), while GluonTS stamps
a week by its first day. From that end on the two are the same, and a test compares
them.
"""

import datetime
import re
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

# Units as pandas writes them today and wrote them before 2.2. Months and longer name
# the end at which they are stamped, which does not matter to a grid.
_SECONDS = {
    **dict.fromkeys(("s", "S"), 1),
    **dict.fromkeys(("min", "T"), 60),
    **dict.fromkeys(("h", "H"), 3_600),
    **dict.fromkeys(("D", "d"), 86_400),
    **dict.fromkeys(("W", "w"), 604_800),
}
_MONTHS = {
    **dict.fromkeys(("M", "MS", "ME"), 1),
    **dict.fromkeys(("Q", "QS", "QE"), 3),
    **dict.fromkeys(("Y", "YS", "YE", "A", "AS"), 12),
}
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_MONTH_NAMES = (
    *("JAN", "FEB", "MAR", "APR", "MAY", "JUN"),
    *("JUL", "AUG", "SEP", "OCT", "NOV", "DEC"),
)
# A date of at least a year and at most seconds, without a time zone.
_STAMP = re.compile(
    r"\d{4}(-\d{2}(-\d{2}([T ]\d{2}(:\d{2}(:\d{2}(\.0+)?)?)?)?)?)?", re.ASCII
)


class Series(NamedTuple):
    """A set of series on one grid.

    Attributes:
      values: Values ``[S, T]`` float32, NaN where missing. A series may begin after
        column 0 and end before the last column.
      names: Names of the series ``[S]``.
      start: Stamp of column 0 of each series, datetime64 ``[S]``; NaT when unknown.
      freq: Spacing of the columns as pandas writes it: "15min", "h", "D", "B", "W",
        "MS"; "" when unknown.
    """

    values: np.ndarray
    names: tuple[str, ...]
    start: np.ndarray
    freq: str

    @property
    def identity(self) -> str:
        """A short text that changes with any value, name or stamp."""
        about = repr((self.names, self.start.tolist(), self.freq)).encode()
        code = zlib.crc32(np.ascontiguousarray(self.values).data, zlib.crc32(about))
        return f"{len(self.names)} series, crc32 {code:08x}"


def finish_series(
    each: Sequence[Any] | np.ndarray, names: Iterable[Any], start: Any, freq: str
) -> Series:
    """Checks series of any lengths and lays them on common columns, ends together.

    Args:
      each: Values of the series, each ``[T_s]``; NaN, None or masked where missing.
      names: Names of the series ``[S]``.
      start: Stamps of each series' first value ``[S]``, or one for all; NaT when
        unknown.
      freq: Spacing as pandas writes it; "" when unknown.

    Returns:
      `Series` whose last column is the last of each.

    Raises:
      TypeError: Values that are no numbers.
      ValueError: Names that do not fit or repeat; infinite values; a series all
        missing.
    """
    names = tuple(map(str, names))
    if not len(each) or len(names) != len(each):
        raise ValueError(
            f"got {len(each)} series and {len(names)} names; expected as many of one "
            "as of the other, and at least 1"
        )
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise ValueError(f"names have the name {twice[0]!r} twice")
    each = [_without_none(np.asanyarray(row)) for row in each]
    for name, row in zip(names, each, strict=True):
        # JAX's bfloat16 is no kind of float to numpy.
        number = row.dtype.kind in "fiub" or row.dtype.name == "bfloat16"
        if row.ndim != 1 or not number:
            raise TypeError(
                f"series {name!r} is {row.dtype}{list(row.shape)}; expected numbers [T]"
            )
    length = max(map(len, each))
    values = np.full((len(each), length), np.nan, np.float32)
    start = np.array(np.broadcast_to(start, len(each)), "datetime64[s]")
    for i, row in enumerate(each):
        with np.errstate(over="ignore"):
            row = np.ma.filled(row.astype(np.float32), np.nan)
        if np.isinf(row).any():
            at = int(np.flatnonzero(np.isinf(row))[0])
            raise ValueError(
                f"series {names[i]!r} has an infinite float32 value at {at}; use NaN "
                "for a missing one"
            )
        if np.isnan(row).all():
            raise ValueError(f"series {names[i]!r} has no value; leave it out")
        values[i, length - len(row) :] = row
        if len(row) < length and not np.isnat(start[i]) and freq:
            start[i] = stamps(start[i], freq, 1, first=len(row) - length)[0]
    return Series(values, names, start, freq)


def _without_none(row):
    """An array of numbers and None as floats; any other as it is."""
    if row.dtype != object:
        return row
    flat = [np.nan if value is None else value for value in row.ravel()]
    if all(isinstance(value, (bool, int, float, np.number)) for value in flat):
        return np.array(flat, float).reshape(row.shape)
    return row


def stamps(start: Any, freq: str, steps: int, first: int = 0) -> np.ndarray:
    """Stamps of columns ``first, ..., first + steps - 1`` of a grid.

    Args:
      start: Stamp of column 0: a datetime64, a date or datetime without a time zone,
        or text such as "2025-01-31 06:00".
      freq: Spacing as pandas writes it, such as "h" or "MS".
      steps: Number of stamps.
      first: Column of the first stamp; may be negative.

    Returns:
      datetime64[s] ``[steps]``.

    Raises:
      TypeError: A start that is neither text nor a date.
      ValueError: Text that is no stamp; NaT; a spacing that is not known.
    """
    number, unit = parse_freq(freq)
    start = _read_stamp(start)
    if np.isnat(start):
        raise ValueError("start is NaT; expected the stamp of the first column")
    columns = number * np.arange(first, first + steps)
    day = start.astype("datetime64[D]")
    if unit == "weekdays":
        return np.busday_offset(day, columns, roll="forward") + (start - day)
    if unit == "months":
        return _months_from(day, columns) + (start - day)
    return start + columns.astype("timedelta64[s]")


def _months_from(day, months):
    """The same day of later months; of a month's last day, their last days."""

    def last_day(month):
        after = (month + np.timedelta64(1, "M")).astype("datetime64[D]")
        return after - np.timedelta64(1, "D")

    month = day.astype("datetime64[M]")
    grid = month + months.astype("timedelta64[M]")
    last = last_day(grid)
    if day == last_day(month):
        return last
    return np.minimum(grid.astype("datetime64[D]") + (day - month), last)


def _read_stamp(value: Any) -> np.datetime64:
    """A stamp as datetime64[s]; None is NaT.

    Raises:
      TypeError: A number, which could mean seconds, a year or nanoseconds.
      ValueError: Text that is no stamp; a time zone; a fraction of a second.
    """
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if value is None:
        return np.datetime64("NaT", "s")
    if isinstance(value, str):
        text = value.strip()
        if text != "NaT" and not _STAMP.fullmatch(text):
            raise ValueError(
                f"start is {value!r}; expected a stamp such as '2025-01-31 06:00:00', "
                "without a time zone or a fraction of a second"
            )
        return np.datetime64(text, "s")
    if not isinstance(value, (np.datetime64, datetime.date)):
        raise TypeError(
            f"start is {value!r}; expected a stamp such as '2025-01-31 06:00:00'"
        )
    if getattr(value, "tzinfo", None) is not None:
        raise ValueError(f"start is {value}; expected a stamp without a time zone")
    exact = np.datetime64(value)
    stamp = exact.astype("datetime64[s]")
    if stamp != exact and not np.isnat(stamp):
        raise ValueError(f"start is {value}; steps below a second are not offered")
    return stamp


def parse_freq(freq: str) -> tuple[int, str]:
    """A spacing as a number of "seconds", "weekdays" or "months".

    Args:
      freq: Spacing as pandas writes it: a number or none, a unit ("s", "min", "h",
        "D", "B", "W", "MS", "ME", "QS", "QE", "YS", "YE", or its name before pandas
        2.2), and of weeks, quarters and years an end such as "-SUN" or "-DEC". Case
        counts: "ms" are milliseconds, and steps below a second are not offered. The
        end says at which end of a step its stamp lies, which does not matter to a grid.

    Returns:
      The number and its unit, such as ``(900, "seconds")`` for "15min".

    Raises:
      ValueError: A spacing that is not one of these.
    """
    match = re.fullmatch(r"(\d*)([A-Za-z]+)(?:-([A-Z]+))?", freq or "", re.ASCII)
    number, name, end = match.groups() if match else ("0", "", None)
    number = int(number or 1)
    ends = ()
    if name in ("W", "w"):
        ends = _WEEKDAYS
    elif _MONTHS.get(name, 1) > 1:
        ends = _MONTH_NAMES
    if number and (end is None or end in ends):
        if name in _SECONDS:
            return number * _SECONDS[name], "seconds"
        if name in _MONTHS:
            return number * _MONTHS[name], "months"
        if name in ("B", "b"):
            return number, "weekdays"
    raise ValueError(
        f"freq is {freq!r}; expected a number (or none) and one of B, "
        f"{', '.join(_SECONDS | _MONTHS)}, such as '15min', 'W-SUN' or 'QE-DEC'"
    )
