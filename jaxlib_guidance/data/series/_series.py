"""Series as one array ``[S, T]``, NaN where nothing is known, and their calendar.

All series share the columns: the last column is the last value of each, and shorter
series are preceded by NaN. Only `start` says what the columns mean to a clock.
"""

import re
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

# Units as pandas writes them. Months and longer name the end at which they are stamped,
# which does not matter to a grid.
_SECONDS = {"s": 1, "min": 60, "t": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_MONTHS = {
    **dict.fromkeys(("m", "ms", "me"), 1),
    **dict.fromkeys(("q", "qs", "qe"), 3),
    **dict.fromkeys(("y", "ys", "ye", "a"), 12),
}


class Series(NamedTuple):
    """A set of series on one grid.

    Attributes:
      values: ``[S, T]`` float32, NaN where missing.
      names: Of the series.
      start: datetime64 ``[S]``, the stamp of column 0 of each; NaT when unknown.
      freq: Spacing of the columns as pandas writes it: "15min", "h", "D", "B", "W",
        "MS"; "" when unknown.
    """

    values: np.ndarray
    names: tuple[str, ...]
    start: np.ndarray
    freq: str

    @property
    def identity(self) -> str:
        """Changes with any value, name or stamp."""
        about = repr((self.names, self.start.tolist(), self.freq)).encode()
        code = zlib.crc32(np.ascontiguousarray(self.values).data, zlib.crc32(about))
        return f"{len(self.names)} series, crc32 {code:08x}"


def finish_series(
    each: Sequence[Any] | np.ndarray, names: Iterable[Any], start: Any, freq: str
) -> Series:
    """Checks series of any lengths and lays them on common columns, ends together.

    Args:
      each: The series, each ``[T_s]``, NaN or masked where missing.
      names: Of the series.
      start: Stamps of each series' first value ``[S]``; NaT when unknown.
      freq: Spacing, "" when unknown.

    Raises:
      TypeError, ValueError: See `load_series`.
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
    each = [np.asanyarray(row) for row in each]
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


def stamps(start: Any, freq: str, steps: int, first: int = 0) -> np.ndarray:
    """Stamps of columns ``first, ..., first + steps - 1`` of a grid.

    Args:
      start: Stamp of column 0.
      freq: Spacing as pandas writes it.
      steps: How many.
      first: Column of the first; may be negative.

    Returns:
      datetime64[s] ``[steps]``.

    Raises:
      ValueError: No stamp, or a spacing that is not known.
    """
    number, unit = parse_freq(freq)
    start = np.datetime64(start, "s")
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


def parse_freq(freq: str) -> tuple[int, str]:
    """A spacing as a number of "seconds", "weekdays" or "months"."""
    match = re.fullmatch(r"(\d*)([A-Za-z]+)(-[A-Za-z]+)?", freq or "")
    number, name = (int(match[1] or 1), match[2].lower()) if match else (0, "")
    if number and name in _SECONDS:
        return number * _SECONDS[name], "seconds"
    if number and name in _MONTHS:
        return number * _MONTHS[name], "months"
    if number and name == "b":
        return number, "weekdays"
    raise ValueError(
        f"freq is {freq!r}; expected a number (or none) and one of b, "
        f"{', '.join(_SECONDS | _MONTHS)}, such as '15min'"
    )
