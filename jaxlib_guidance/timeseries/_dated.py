"""A forecast as others hold one: sample paths with dates, names, quantiles, a picture.

Pandas, matplotlib and gluonts are imported where they are asked for.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxlib_guidance.data import Series, stamps


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Sample paths of the steps after some stamp of each series.

    Attributes:
      paths: Sample paths ``[N, S, H]`` in the unit of the series.
      names: Names of the series ``[N]``; one with forecasts from several ends comes as
        often.
      start: Stamp of the first step of each, datetime64 ``[N]``; NaT if not known.
      freq: Spacing of the steps as pandas writes it, such as "h"; "" if not known.

    Raises:
      ValueError: Paths of another shape, or numbers of names or stamps that differ.
    """

    paths: np.ndarray
    names: tuple[str, ...]
    start: np.ndarray
    freq: str

    def __post_init__(self):
        paths = np.asarray(self.paths)
        # Quantiles of whole numbers are none, and halves lose digits.
        if paths.dtype != np.float64:
            paths = paths.astype(np.float32)
        object.__setattr__(self, "paths", paths)
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "start", np.asarray(self.start, "datetime64[s]"))
        if self.paths.ndim != 3 or not self.paths.shape[1]:
            raise ValueError(f"paths have shape {self.paths.shape}; expected [N, S, H]")
        if not len(self.paths) == len(self.names) == len(self.start):
            raise ValueError(
                f"{len(self.paths)} forecasts, {len(self.names)} names and "
                f"{len(self.start)} stamps; expected as many of each"
            )

    def __repr__(self) -> str:
        count, samples, horizon = self.paths.shape
        about = f"{count} series, {samples} paths of {horizon} steps"
        return f"Forecast({about}, freq={self.freq!r})"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, which: str | int | slice) -> "Forecast":
        """The forecasts of some series, by name or number."""
        if isinstance(which, str):
            if which not in self.names:
                raise KeyError(f"{which!r} is none of {self.names[:5]}")
            which = self.names.index(which)
        if not isinstance(which, slice):
            which = range(len(self))[which]
            which = slice(which, which + 1)
        some = self.paths[which], self.names[which], self.start[which]
        return Forecast(*some, self.freq)

    @property
    def horizon(self) -> int:
        """Number of steps ``H``."""
        return self.paths.shape[2]

    @property
    def dates(self) -> np.ndarray:
        """Stamps of the steps, datetime64[s] ``[N, H]``.

        Raises:
          ValueError: Series whose stamps are not known.
        """
        if not self.freq or np.isnat(self.start).any():
            raise ValueError(
                "the forecast has no dates: its series have no stamps or no frequency. "
                "Pass freq and start to load_series"
            )
        return np.stack([stamps(at, self.freq, self.horizon) for at in self.start])

    @property
    def mean(self) -> np.ndarray:
        """Mean of the paths, float32 ``[N, H]``."""
        return self.paths.mean(1)

    @property
    def median(self) -> np.ndarray:
        """Median of the paths, float32 ``[N, H]``."""
        return self.quantile(0.5)

    def quantile(self, level: float | Sequence[float]) -> np.ndarray:
        """Quantiles of each step.

        Args:
          level: Level within [0, 1], or ``Q`` of them.

        Returns:
          ``[N, H]``, or ``[N, Q, H]`` of several levels.

        Raises:
          ValueError: A level outside [0, 1].
        """
        levels = np.asarray(level, float)
        if not ((levels >= 0) & (levels <= 1)).all():
            raise ValueError(f"level is {level}; expected 0 to 1")
        found = np.quantile(self.paths, levels, axis=1).astype(self.paths.dtype)
        return found if levels.ndim == 0 else np.moveaxis(found, 0, 1)

    def frame(
        self, model: str = "TSDiff", intervals: Sequence[float] = (80, 95)
    ) -> Any:
        """The long frame of Nixtla's libraries, one row for each series and step.

        Args:
          model: Name of the column of the means; other columns begin with it.
          intervals: Percentages of central intervals, for "model-lo-80", "model-hi-80".

        Returns:
          Pandas frame with "unique_id", "ds", "model", "model-median" and the ends of
          the intervals, as `from_statsforecast` reads it.

        Raises:
          ValueError: Series without dates, or an interval outside (0, 100).
          ModuleNotFoundError: Pandas is not installed.
        """
        if not all(0 < each < 100 for each in intervals):
            raise ValueError(f"intervals are {tuple(intervals)}; expected 0 to 100")
        import pandas as pd

        columns = {
            "unique_id": np.repeat(self.names, self.horizon),
            "ds": self.dates.reshape(-1),
            model: self.mean.reshape(-1),
            f"{model}-median": self.median.reshape(-1),
        }
        for each in intervals:
            for side, level in (("lo", 50 - each / 2), ("hi", 50 + each / 2)):
                ends = self.quantile(level / 100).reshape(-1)
                columns[f"{model}-{side}-{each:g}"] = ends
        return pd.DataFrame(columns)

    def to_gluonts(self) -> list[Any]:
        """The forecasts as GluonTS holds them.

        Returns:
          A ``SampleForecast`` of each series, for GluonTS' ``Evaluator`` and plots.

        Raises:
          ValueError: Series without dates.
          ModuleNotFoundError: GluonTS is not installed.
        """
        import pandas as pd
        from gluonts.model.forecast import SampleForecast

        # A period has no end: "MS" and "ME" are the same months.
        freq = re.sub(r"^(\d*)(M|Q|Y)[SE]", r"\1\2", self.freq)
        first = (dates[0] for dates in self.dates)
        each = zip(self.paths, first, self.names, strict=True)
        return [
            SampleForecast(paths, pd.Period(at.item(), freq), item_id=name)
            for paths, at, name in each
        ]

    def plot(
        self,
        series: Series | None = None,
        *,
        history: int | None = None,
        intervals: Sequence[float] = (50, 90),
        axes: Any = None,
    ) -> Any:
        """Draws median and intervals by date, and what was observed, a panel a series.

        Args:
          series: Series that were forecast, found by their names; None draws the
            forecasts alone. What they have of the dates forecast is drawn too.
          history: Steps before the forecast to draw; None is four horizons.
          intervals: Percentages of the central intervals.
          axes: Matplotlib axes, as many as forecasts; None makes a figure, of the first
            nine.

        Returns:
          The axes ``[N]``.

        Raises:
          ValueError: Axes that are not as many; a series that is not there; no dates.
          ModuleNotFoundError: Matplotlib is not installed.
        """
        import matplotlib.pyplot as plt

        if axes is None:
            shown = min(9, len(self))
            columns = min(3, shown)
            lines = -(-shown // columns)
            size = (4.5 * columns, 2.4 * lines)
            figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False)
            for axis in axes.flat[shown:]:
                axis.axis("off")
            axes = axes.flat[:shown]
            figure.set_layout_engine("constrained")
        elif np.size(axes) != len(self):
            raise ValueError(f"{np.size(axes)} axes for {len(self)} forecasts")
        axes = np.ravel(axes)
        dates = self.dates
        for i, axis in enumerate(axes):
            for k, each in enumerate(sorted(intervals, reverse=True)):
                ends = (0.5 - each / 200, 0.5 + each / 200)
                low, high = self[i].quantile(ends)[0]
                shade = {"color": "C0", "alpha": 0.2 + 0.15 * k, "lw": 0}
                axis.fill_between(dates[i], low, high, label=f"{each:g} %", **shade)
            axis.plot(dates[i], self[i].median[0], color="C0", lw=1.2, label="median")
            if series is not None:
                steps = 4 * self.horizon if history is None else history
                when, values = _around(series, self.names[i], dates[i], steps)
                axis.plot(when, values, color="0.15", lw=0.9, label="observed")
            axis.set_title(self.names[i], fontsize=9)
            axis.tick_params(labelsize=7)
            axis.tick_params(axis="x", rotation=30)
            axis.margins(x=0.01)
        axes[0].legend(fontsize=7, frameon=False, loc="upper left")
        return axes


def _around(series, name, dates, history):
    """Stamps and values of a series before and at the dates of a forecast."""
    if name not in series.names:
        raise ValueError(f"series has no {name!r}; expected those that were forecast")
    row = series.names.index(name)
    when = stamps(series.start[row], series.freq, series.values.shape[1])
    begin = int(np.searchsorted(when, dates[0]))
    some = slice(max(0, begin - history), begin + len(dates))
    return when[some], series.values[row, some]
