"""Forecasts of other libraries as samples ``[N, S, H]``, to be scored or refined.

Nothing is imported from those libraries: their objects are read by their attributes.
A column or key that says nothing about a quantile is an error, not left out.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.guidance import spread_levels
from jaxlib_guidance.types import Array, at_least_float32

# What follows a model's name in Nixtla's frames: an interval's end, a level in percent
# (TimeGPT) or the median.
_SUFFIX = re.compile(r"-(?:(lo|hi|q)-(\d+(?:\.\d+)?)|median)")


def quantiles_to_samples(
    quantiles: Array, levels: Sequence[float], count: int
) -> Array:
    """Samples of each step at evenly spread levels, sorted.

    They lie on the lines between the given quantiles and are constant beyond them.
    Sample ``i`` has the level ``(i + 1) / (count + 1)`` that refinement gives to path
    ``i`` (`spread_levels`). Taken together the samples of several steps are no joint
    distribution, for a quantile says nothing about dependence.

    Args:
      quantiles: Quantiles ``[N, Q, H]`` of each step; crossing ones are put in order.
      levels: Their levels ``[Q]``, increasing within [0, 1].
      count: Number of samples of each step, at least 1.

    Returns:
      ``[N, count, H]``; NaN at a step of which one of the quantiles is missing, for the
      others would move to wrong levels.

    Raises:
      ValueError: Levels that do not increase or do not fit the quantiles; a count that
        is no whole number from 1.
    """
    quantiles = at_least_float32(jnp.asarray(quantiles))
    if quantiles.ndim != 3 or quantiles.shape[1] != len(levels):
        raise ValueError(
            f"quantiles have shape {quantiles.shape} for {len(levels)} levels; expected"
            " [N, Q, H]"
        )
    if list(levels) != sorted(set(levels)) or not 0 <= levels[0] <= levels[-1] <= 1:
        raise ValueError(f"levels are {tuple(levels)}; expected to rise within [0, 1]")
    at = spread_levels(count)
    missing = jnp.isnan(quantiles).any(1, keepdims=True)
    ranked = jnp.where(missing, jnp.nan, jnp.sort(quantiles, axis=1))
    if len(levels) == 1:
        return jnp.repeat(ranked, count, axis=1)
    right = np.clip(np.searchsorted(levels, at), 1, len(levels) - 1)
    ends = np.asarray(levels, at.dtype)
    low, high = ends[right - 1], ends[right]
    share = jnp.asarray(np.clip((at - low) / (high - low), 0, 1), ranked.dtype)
    share = share[:, None]
    low, high = ranked[:, right - 1], ranked[:, right]
    # An infinite quantile, such as the level 0 of a normal, times 0 would be NaN.
    inside = jnp.where(share == 1, high, low * (1 - share) + high * share)
    return jnp.where(share == 0, low, inside)


def from_gluonts(forecasts: Iterable[Any], count: int = 100) -> np.ndarray:
    """Forecasts of GluonTS as samples.

    Args:
      forecasts: `SampleForecast` objects (``.samples [S, H]``), which keep their
        samples, or `QuantileForecast` objects (``.forecast_array``,
        ``.forecast_keys``), whose keys are levels such as "0.9", "1e-05" or "p90". The
        key "mean" is no quantile and is not used.
      count: Number of samples that stand for a forecast by quantiles.

    Returns:
      ``[N, S, H]`` in the order of the forecasts.

    Raises:
      ValueError: No forecasts, or forecasts of different shapes; a key that is no
        level; no quantile.
    """

    def samples(forecast):
        if hasattr(forecast, "samples"):
            return np.asarray(forecast.samples, np.float32)
        rows = {}
        for key, row in zip(
            forecast.forecast_keys, forecast.forecast_array, strict=True
        ):
            if str(key) != "mean":
                level = _gluonts_level(str(key))
                if level in rows:
                    raise ValueError(f"a forecast has the level {level} twice")
                rows[level] = row
        if not rows:
            raise ValueError(
                f"a forecast has the keys {list(forecast.forecast_keys)}, none of them "
                "a quantile; expected levels such as '0.9'"
            )
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
    """A forecast frame of Nixtla's statsforecast, neuralforecast or TimeGPT as samples.

    A model's quantiles are its columns ``model-lo-80`` and ``model-hi-80`` (the ends of
    an interval), ``model-q-10`` (a level in percent) and ``model-median``. The column
    ``model`` itself is the median of an interval's middle, unless the frame has the
    median in a column of its own: then it is the mean, and is not used.

    Args:
      frame: Pandas frame with the columns ``unique_id``, ``ds`` and those of the model.
      model: Name of the model, such as "AutoETS".
      names: Values of ``unique_id``, in the order of the result.
      count: Number of samples of a forecast with several quantiles; a forecast with one
        has one sample.

    Returns:
      ``[len(names), count or 1, H]``; NaN at steps of which a quantile is missing.

    Raises:
      ValueError: A model or a series that the frame does not have; a column of the
        model that says nothing about a quantile, or the same as another; one quantile
        alone that is not the median; a middle
        column outside its interval, which is a mean and no median; stamps that a series
        has twice; horizons that differ.
    """
    columns = _columns(frame, model)
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
    wanted = [columns[level] for level in levels]
    each = [groups[name][wanted].to_numpy(float, na_value=np.nan).T for name in names]
    if len({row.shape for row in each}) != 1:
        raise ValueError(f"horizons are {sorted({row.shape[1] for row in each})}")
    table = np.stack(each).astype(np.float32)
    if len(levels) == 1:
        return table
    if columns.get(0.5) == model:
        _require_median(table, levels.index(0.5), model)
    return np.asarray(quantiles_to_samples(jnp.asarray(table), levels, count))


def _gluonts_level(key):
    """The level that a key of GluonTS says: "0.9", "1", "1e-05" or "p90"."""
    try:
        level = int(key[1:]) / 100 if re.fullmatch(r"p\d+", key) else float(key)
    except ValueError:
        level = -1.0
    if not 0 <= level <= 1:
        raise ValueError(
            f"a forecast has the key {key!r}; expected 'mean' or a level in [0, 1]"
        )
    return level


def _columns(frame, model):
    """``{level: column}`` of a model."""
    whole = re.fullmatch(f"(.+){_SUFFIX.pattern}", model)
    if whole:
        raise ValueError(
            f"model is {model!r}, which is one quantile of the model {whole[1]!r}; "
            "pass that"
        )
    columns, strange = {}, []
    for column in map(str, frame.columns):
        if not column.startswith(f"{model}-"):
            continue
        found = _SUFFIX.fullmatch(column, len(model))
        level = _nixtla_level(found[1], found[2]) if found else None
        if level is None:
            strange.append(column)
        elif level in columns:
            raise ValueError(
                f"the columns {columns[level]!r} and {column!r} are both of the level "
                f"{level:g}; drop one"
            )
        else:
            columns[level] = column
    if strange:
        raise ValueError(
            f"the frame has the columns {strange}, which are no quantile of {model!r}; "
            "expected -lo-80, -hi-80, -q-10 or -median. Drop them, or rename them if "
            "they are another model's"
        )
    if 0.5 not in columns and model in frame.columns:
        columns[0.5] = model
    if not columns:
        raise ValueError(f"model is {model!r}; the frame has {list(frame.columns)}")
    if len(columns) == 1 and 0.5 not in columns:
        raise ValueError(
            f"the frame has one quantile of {model!r}, {list(columns.values())}, which "
            "says nothing about the others; expected its median or two of them"
        )
    return columns


def _nixtla_level(kind, number):
    if kind is None:
        return 0.5
    percent = float(number)
    level = {"lo": 50 - percent / 2, "hi": 50 + percent / 2, "q": percent}[kind] / 100
    # -lo-80 and -q-10 are the same level, in spite of rounding.
    return round(level, 10) if 0 <= level <= 1 else None


def _require_median(table, middle, model):
    """Raises where the model's own column lies outside its innermost interval."""
    own = table[:, middle]
    slack = 1e-5 * np.nanmax(np.abs(table), 1, initial=0)
    low = table[:, middle - 1] if middle else own
    high = table[:, middle + 1] if middle + 1 < table.shape[1] else own
    outside = int(((own < low - slack) | (own > high + slack)).sum())
    if outside:
        raise ValueError(
            f"{outside} values of the column {model!r} lie outside the model's "
            "innermost interval: it is a mean and no median. Drop the column to take "
            "the intervals alone"
        )
