"""Windows of series in steps, from what they are in time."""

from typing import Any

from jaxlib_guidance.data import parse_freq
from jaxlib_guidance.timeseries import DAILY_LAGS, HOURLY_LAGS

DAY, YEAR = 86_400, 365.25 * 86_400


def window_sizes(preset: str, freq: str) -> dict[str, Any]:
    """Sizes of windows in steps for series of a frequency; empty if it has none.

    Steps that divide a day have a day ahead of two weeks, with lags of one to four
    weeks, and see three days. Days and weekdays have a week ahead of four. Weeks, and
    multiples of days that divide a year into eight and more, have two months ahead of a
    year, with the year before. Months and quarters have a year ahead of three, with one
    to three years before, and years two ahead of eight.

    Args:
      preset: "cpu" or "paper".
      freq: Spacing as pandas writes it; "" is unknown.
    """
    number, unit = parse_freq(freq) if freq else (0, "")
    week = {(DAY, "seconds"): 7, (1, "weekdays"): 5}.get((number, unit))
    if preset == "paper":
        if week:
            return {"context": 360, "horizon": 30, "lags": DAILY_LAGS}
        hourly = {"context": 336, "horizon": 24, "lags": HOURLY_LAGS}
        return hourly if (number, unit) == (3600, "seconds") else {}
    if week:
        lags = tuple(week * n for n in (1, 2, 3, 4))
        return {"context": 4 * week, "horizon": week, "view": week, "lags": lags}
    if unit == "seconds" and not DAY % number:
        day = DAY // number
        sizes = {"context": 14 * day, "horizon": day, "view": 3 * day}
        return sizes | {"lags": tuple(7 * day * n for n in (1, 2, 3, 4))}
    if unit == "seconds" and not number % DAY and number <= YEAR / 8:
        year = round(YEAR / number)
        ahead = max(1, year // 6)
        return {"context": year, "horizon": ahead, "view": ahead, "lags": (year,)}
    if unit == "months" and not 12 % number and number < 12:
        year = 12 // number
        sizes = {"context": 3 * year, "horizon": year, "view": year}
        return sizes | {"lags": (year, 2 * year, 3 * year)}
    if unit == "months" and number == 12:
        return {"context": 8, "horizon": 2, "view": 8, "lags": ()}
    return {}


def steps_of(option: str, size: int | str | None, freq: str) -> int | None:
    """A number of steps, which may be given as a time.

    Args:
      option: Name of the option, for the error.
      size: Steps, or a time as pandas writes it, such as "7D"; None stays None.
      freq: Spacing of the steps.

    Raises:
      ValueError: A time that is no whole number of steps.
    """
    if size is None or isinstance(size, int):
        return size
    length, kind = parse_freq(size)
    number, unit = parse_freq(freq) if freq else (0, "")
    if (kind, unit) == ("seconds", "weekdays") and not length % (7 * DAY):
        length, kind = 5 * length // (7 * DAY), unit
    if kind != unit or length % number:
        raise ValueError(
            f"{option} has {size!r}, which is no whole number of steps of "
            f"{freq or 'unknown length'!r}"
        )
    return length // number
