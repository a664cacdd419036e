"""From series to a `Forecast` in one call, of any number of steps."""

import jax
import numpy as np

from jaxlib_guidance.data import Series, stamps
from jaxlib_guidance.rng import fold, sample_keys
from jaxlib_guidance.timeseries._dated import Forecast
from jaxlib_guidance.timeseries._forecaster import (
    Forecaster,
    in_batches,
    read_windows,
)
from jaxlib_guidance.timeseries._guidance_settings import GuidanceSettings
from jaxlib_guidance.timeseries._positions import rolling_positions, series_ends
from jaxlib_guidance.types import Array, PyTree


def predict(
    forecaster: Forecaster,
    params: PyTree,
    key: Array,
    series: Series,
    samples: int = 100,
    *,
    horizon: int | None = None,
    end: np.ndarray | None = None,
    guidance: GuidanceSettings | None = None,
    batch: int = 16,
) -> Forecast:
    """Forecasts what comes after the last value of each series.

    A longer horizon than the model's is drawn piece by piece: each path goes on from
    itself, as if it had been observed. It compiles once for each call and piece; where
    calls are many, jit `Forecaster.paths`.

    Args:
      forecaster: Forecaster, from `load_forecaster`.
      params: Its parameters.
      key: One typed key. Path ``j`` of series ``i`` depends on it, ``i`` and ``j``.
      series: Series ``[N, T]``, from `load_series`, of the model's frequency.
      samples: Number ``S`` of paths of each series.
      horizon: Steps to forecast; None is the layout's.
      end: Column of each series at which its forecast begins, int ``[N]``, for
        back-tests; None is after its last value.
      guidance: Settings of the sampling; None is the stored ones, "conditional" or
        "quantile" or whichever is first.
      batch: Number of series that are forecast at once.

    Returns:
      The `Forecast`, of ``horizon`` steps.

    Raises:
      TypeError: A forecaster or series of another kind.
      ValueError: Series of another frequency than the model's, or too short for a
        window; no stored guidance and none given; a horizon, a number of paths or of
        series at once that is no whole number from 1; an end that is not one column
        for each series, or lies after its last value.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from jaxlib_guidance import data, timeseries
      >>> counts = np.abs(np.sin(np.arange(1100) / 4))[None]
      >>> series = data.load_series(counts, freq="h", start="2025-01-01")
      >>> model, params = timeseries.load_forecaster("pedestrians")
      >>> predict(model, params, jax.random.key(0), series, 2).paths.shape
      (1, 2, 24)
    """
    if not isinstance(forecaster, Forecaster):
        raise TypeError(
            f"forecaster is {type(forecaster).__name__}; expected a Forecaster, the "
            "first of what load_forecaster gives, with its params second"
        )
    forecaster.require_series(series)
    layout = forecaster.layout
    horizon = layout.horizon if horizon is None else horizon
    for name, number in (("horizon", horizon), ("samples", samples), ("batch", batch)):
        _require_count(name, number)
    if layout.joint != 1:
        raise ValueError("the layout has joint series; call Forecaster.paths")
    guidance = _stored(forecaster) if guidance is None else guidance
    ends = series_ends(series.values) if end is None else _ends(end, series)
    starts = _first_stamps(series, ends)
    pieces, current, at = [], series, ends
    while sum(piece.shape[-1] for piece in pieces) < horizon:
        own = _keys(key, len(ends), samples, len(pieces))
        count = 1 if pieces else samples
        drawn = _piece(forecaster, params, own, current, at, count, guidance, batch)
        if not np.isfinite(drawn).all():
            raise ValueError("paths are not finite: the guidance scale is too large")
        if not pieces:
            # From here on each path is a series.
            current, at = _repeated(series, samples), np.repeat(ends, samples)
        pieces.append(drawn.reshape(len(ends), samples, -1))
        current, at = _extended(current, at, drawn.reshape(-1, drawn.shape[-1]))
    paths = np.concatenate(pieces, -1)[..., :horizon]
    return Forecast(paths, series.names, starts, series.freq)


def _require_count(name, number):
    """Raises unless a number is whole and at least 1."""
    whole = isinstance(number, (int, np.integer)) and not isinstance(number, bool)
    if not whole or number < 1:
        raise ValueError(f"{name} is {number}; expected at least 1, a whole number")


def _ends(end, series):
    """Columns at which forecasts begin, one for each series, int ``[N]``."""
    ends, last = np.asarray(end), series_ends(series.values)
    if ends.shape != last.shape:
        raise ValueError(
            f"end has shape {ends.shape}; expected {last.shape}, a column each series"
        )
    if not np.issubdtype(ends.dtype, np.integer):
        raise ValueError(f"end is {ends.dtype}; expected whole numbers")
    wrong = np.flatnonzero((ends < 0) | (ends > last))
    if len(wrong):
        i = wrong[0]
        raise ValueError(
            f"end is {ends[i]} for series {series.names[i]!r}; expected 0 to "
            f"{last[i]}, the column after its last value"
        )
    return ends


def _first_stamps(series, ends):
    """Stamps of the columns at which forecasts begin, NaT where there are none."""
    unknown = np.datetime64("NaT", "s")
    if not series.freq:
        return np.full(len(ends), unknown)
    return np.array(
        [
            unknown if np.isnat(at) else stamps(at, series.freq, 1, int(end))[0]
            for at, end in zip(series.start, ends, strict=True)
        ]
    )


def _keys(key, count, samples, piece):
    """Keys of the series, and of later pieces those of their paths."""
    each = sample_keys(key, count)
    if not piece:
        return each
    rows, paths = np.indices((count, samples), np.uint32).reshape(2, -1)
    return fold(jax.vmap(jax.random.fold_in)(each[rows], paths), piece)


def _stored(forecaster):
    """The stored settings that the training recipe would take."""
    found = forecaster.guidance
    for name in ("conditional", "quantile", *found):
        if name in found:
            return found[name]
    raise ValueError("guidance is None, and none is stored with the forecaster")


def _piece(forecaster, params, keys, series, ends, count, guidance, batch):
    """Paths ``[N, count, H]`` of the layout's horizon from the columns ``ends``."""
    layout = forecaster.layout
    sizes = {"context": layout.context, "horizon": layout.horizon, "lags": layout.lags}
    rows, starts = rolling_positions(
        series.values, **sizes, rolls=1, end=ends + layout.horizon, names=series.names
    )
    inputs = read_windows(series, layout).inputs(rows, starts)

    @jax.jit
    def draw(params, keys, inputs):
        return forecaster.paths(params, keys, inputs, count, guidance)

    whole = in_batches(lambda *part: draw(params, *part), batch, keys, inputs)
    return whole[..., -layout.horizon :]


def _repeated(series, count):
    return Series(
        np.repeat(series.values, count, 0),
        tuple(name for name in series.names for _ in range(count)),
        np.repeat(series.start, count),
        series.freq,
    )


def _extended(series, ends, drawn):
    """The series with what was drawn after the columns ``ends``, and the new ends."""
    length = drawn.shape[-1]
    room = max(0, int(ends.max()) + length - series.values.shape[1])
    values = np.pad(series.values, ((0, 0), (0, room)), constant_values=np.nan)
    columns = ends[:, None] + np.arange(length)
    np.put_along_axis(values, columns, drawn, 1)
    return series._replace(values=values), ends + length
