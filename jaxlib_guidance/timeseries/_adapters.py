"""Forecasts of other libraries as samples ``[N, S, H]``, to be scored or refined.

Nothing is imported from those libraries: their objects are read by their attributes.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.guidance import spread_levels
from jaxlib_guidance.types import Array, at_least_float32


def quantiles_to_samples(
    quantiles: Array, levels: Sequence[float], count: int
) -> Array:
    """``count`` samples of each step, at the levels of `spread_levels`, sorted.

    Linear between the quantiles given and constant beyond them. Sample ``i`` has the
    level that refinement gives to path ``i``; taken together the samples of several
    steps are no joint law, for a quantile says nothing about dependence.

    Args:
      quantiles: ``[N, Q, H]``; crossing ones are put in order.
      levels: ``Q`` increasing levels.
      count: Samples.

    Returns:
      ``[N, count, H]``.

    Raises:
      ValueError: Levels that do not increase or do not fit the quantiles; a count that
        is no whole number from 1.
    """
    if quantiles.ndim != 3 or quantiles.shape[1] != len(levels):
        raise ValueError(
            f"quantiles have shape {quantiles.shape} for {len(levels)} levels; expected"
            " [N, Q, H]"
        )
    if list(levels) != sorted(set(levels)) or not 0 <= levels[0] <= levels[-1] <= 1:
        raise ValueError(f"levels are {tuple(levels)}; expected to rise within [0, 1]")
    ranked = jnp.sort(at_least_float32(quantiles), axis=1)
    at = spread_levels(count)
    right = np.clip(np.searchsorted(levels, at), 1, max(len(levels) - 1, 1))
    if len(levels) == 1:
        return jnp.repeat(ranked, count, axis=1)
    ends = np.asarray(levels, at.dtype)
    low, high = ends[right - 1], ends[right]
    share = jnp.asarray(np.clip((at - low) / (high - low), 0, 1), ranked.dtype)
    share = share[:, None]
    return ranked[:, right - 1] * (1 - share) + ranked[:, right] * share


def from_gluonts(forecasts: Iterable[Any], count: int = 100) -> np.ndarray:
    """GluonTS forecasts as samples.

    Args:
      forecasts: `SampleForecast` objects (``.samples [S, H]``), which keep their
        samples, or `QuantileForecast` ones (``.forecast_array``, ``.forecast_keys``).
      count: Samples of a forecast by quantiles.

    Returns:
      ``[N, S, H]`` in the order of the forecasts.

    Raises:
      ValueError: No forecasts, or such as do not agree.
    """

    def samples(forecast):
        if hasattr(forecast, "samples"):
            return np.asarray(forecast.samples, np.float32)
        rows = {}
        for key, row in zip(
            forecast.forecast_keys, forecast.forecast_array, strict=True
        ):
            # The mean is among the keys, but is no quantile.
            if re.fullmatch(r"0?\.\d+", str(key)):
                rows[float(key)] = row
        if not rows:
            raise ValueError(f"a forecast has keys {forecast.forecast_keys}")
        levels = sorted(rows)
        table = np.stack([rows[level] for level in levels])[None]
        return np.asarray(quantiles_to_samples(jnp.asarray(table), levels, count))[0]

    each = [samples(forecast) for forecast in forecasts]
    shapes = sorted({row.shape for row in each})
    if len(shapes) != 1 or len(shapes[0]) != 2:
        raise ValueError(
            f"got {len(each)} forecasts of shapes {shapes}; expected at least one, and "
            "the same [S, H] of univariate series for all"
        )
    return np.stack(each)


def from_statsforecast(
    frame: Any, model: str, names: Sequence[str], count: int = 100
) -> np.ndarray:
    """A forecast frame of statsforecast (or another of Nixtla's) as samples.

    Args:
      frame: Pandas frame with columns ``unique_id``, ``ds``, ``model`` and, for
        intervals, ``model-lo-80``, ``model-hi-80`` and so on.
      model: Name of the model's column.
      names: Series in the order of the result.
      count: Samples of a forecast with intervals; without them there is one.

    Returns:
      ``[len(names), count or 1, H]``.

    Raises:
      ValueError: A model or a series that the frame has not; stamps that a series has
        twice; horizons that differ.
    """
    if model not in frame.columns:
        raise ValueError(f"model is {model!r}; the frame has {list(frame.columns)}")
    columns = {0.5: model}
    for column in frame.columns:
        interval = re.fullmatch(re.escape(model) + r"-(lo|hi)-([\d.]+)", str(column))
        if interval:
            half = float(interval[2]) / 200
            columns[0.5 - half if interval[1] == "lo" else 0.5 + half] = column
    levels = sorted(columns)
    groups = dict(tuple(frame.sort_values("ds").groupby("unique_id")))
    absent = [name for name in names if name not in groups]
    if absent:
        raise ValueError(f"the frame has no series {absent[:5]}")
    again = [name for name in names if groups[name]["ds"].duplicated().any()]
    if again:
        raise ValueError(
            f"series {again[:5]} have a stamp twice in the frame; expected one row for "
            "each step, of one forecast"
        )
    each = [groups[name][[columns[q] for q in levels]].to_numpy().T for name in names]
    if len({row.shape for row in each}) != 1:
        raise ValueError(f"horizons are {sorted({row.shape[1] for row in each})}")
    table = np.stack(each).astype(np.float32)
    if len(levels) == 1:
        return table
    return np.asarray(quantiles_to_samples(jnp.asarray(table), levels, count))
