"""Windows of series with lags as channels, and masks of what is visible in a window.

A window is cut in two steps. `cut_segments` takes the values from the longest lag
before the window to its end; `make_windows` hides what is not visible *there*, in the
one place where every feature is read from, and only then scales and lays out the lags.
So a hidden value can reach neither the scale nor a lag channel.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.rng import require_keys
from jaxlib_guidance.timeseries._units import over, unit_of
from jaxlib_guidance.types import Array, at_least_float32, concrete

# Lags of the published models: days 1 to 7 and weeks 2 to 4; periods of 30 days to a
# year.
HOURLY_LAGS = tuple(24 * day for day in (1, 2, 3, 4, 5, 6, 7, 14, 21, 28))
DAILY_LAGS = tuple(30 * month for month in range(1, 13))

# Scale of rows in which nothing has a size.
SMALLEST_SCALE = 1e-10


class Windows(NamedTuple):
    """A batch of windows as a diffusion model sees them; ``L = context + horizon``.

    Attributes:
      x: Scaled values ``[B, L, C]``. Channel 0 is the series, channel ``j`` its value
        ``lags[j - 1]`` steps before; 0 where ``mask`` is 0. With ``D`` joint series
        each of these is a group of ``D`` channels.
      mask: ``[B, L, C]``, 1 where ``x`` is known and 0 elsewhere.
      scale: Value by which ``x`` was divided, ``[B]``, or ``[B, D]`` of joint series.
    """

    x: Array
    mask: Array
    scale: Array


def cut_segments(
    series: Array,
    rows: Array,
    starts: Array,
    *,
    context: int,
    horizon: int,
    lags: Sequence[int] = (),
) -> Array:
    """The values from ``max(lags)`` before each window to its end.

    Args:
      series: Values ``[S, T]``, NaN where missing; ``[S, T, D]`` for ``D`` joint series
        or covariates.
      rows: Which series, int ``[B]``.
      starts: Column at which each window's context begins, int ``[B]``.
      context: Steps of context.
      horizon: Steps of forecast; 0 for none.
      lags: Steps back of the lagged values, see `make_windows`; empty for none.

    Returns:
      ``[B, max(lags) + context + horizon]`` (``[..., D]``), NaN outside the series: a
      window may end after it, to forecast what has not happened yet.

    Raises:
      TypeError: No array.
      ValueError: Wrong shapes; a context, horizon or lag that is not a length; rows
        outside the series, unless they are traced.
    """
    past, length = window_lengths(context, horizon, lags)
    _require_series(series)
    rows, starts = jnp.asarray(rows), jnp.asarray(starts)
    if rows.ndim != 1 or rows.shape != starts.shape:
        raise ValueError(
            f"rows and starts have shapes {rows.shape} and {starts.shape}; expected [B]"
        )
    which = concrete(rows)
    if which is not None and not ((which >= 0) & (which < len(series))).all():
        raise ValueError(f"rows name series {which}, but there are {len(series)}")
    columns = starts[:, None] - past + jnp.arange(past + length, dtype=starts.dtype)
    # Below zero would count from the end.
    columns = jnp.where(columns < 0, series.shape[1], columns)
    series = at_least_float32(series)
    return series.at[rows[:, None], columns].get(mode="fill", fill_value=jnp.nan)


def make_windows(
    segments: Array,
    *,
    context: int,
    horizon: int,
    lags: Sequence[int] = (),
    observed: Array | None = None,
    default_scale: Array | float | None = None,
    scale: Array | None = None,
) -> Windows:
    """Hides, scales and lays out lags.

    Args:
      segments: Values ``[B, max(lags) + context + horizon]`` (``[..., D]``) from
        `cut_segments`, NaN where missing.
      context: Steps of context.
      horizon: Steps of forecast.
      lags: Steps back of each further channel, such as `HOURLY_LAGS`; empty for none.
      observed: Which steps of the window are visible, bool ``[L]`` or ``[B, L]`` (or
        ``[B, L, D]``), such as `forecast_mask`; the rest becomes unknown, also where it
        comes back as a lag. None shows all, for training.
      default_scale: Scale of windows whose context is zero or unknown, scalar or
        ``[B]`` (``[B, D]``); None takes the batch's mean, see `mean_absolute_scale`.
      scale: Value to divide by, ``[B]`` (or ``[B, D]``); None takes
        `mean_absolute_scale` of the visible context.

    Returns:
      `Windows` of length ``L = context + horizon``.

    Raises:
      ValueError: Wrong shapes; a default that the scale leaves without effect.
    """
    past, length = window_lengths(context, horizon, lags)
    if segments.ndim not in (2, 3) or segments.shape[1] != past + length:
        raise ValueError(
            f"segments have shape {segments.shape}; expected [B, {past + length}], the "
            "longest lag, the context and the horizon"
        )
    segments = at_least_float32(segments)
    known = ~jnp.isnan(segments)
    if observed is not None:
        known = known.at[:, past:].min(_window_mask(observed, known[:, past:]))
    values = jnp.where(known, segments, 0)
    if scale is None:
        now = slice(past, past + context)
        scale = mean_absolute_scale(values[:, now], known[:, now], default_scale)
    elif default_scale is not None:
        raise ValueError("default_scale would have no effect beside a scale")
    else:
        scale = at_least_float32(jnp.asarray(scale))
        _require_rows(scale, values, "scale")
    values = over(values, scale[:, None])

    def channels(a):
        each = [a[:, past - lag : past - lag + length] for lag in (0, *lags)]
        return jnp.stack(each, 2).reshape(len(a), length, -1)

    return Windows(channels(values), channels(known).astype(values.dtype), scale)


def mean_absolute_scale(
    values: Array, observed: Array, default: Array | float | None = None
) -> Array:
    """Mean absolute value of the known part of the context.

    ``sum(|y| m) / sum(m)``, for values in any unit: the released code has at least
    1e-10, and sums that overflow.

    Args:
      values: Values ``[B, context]`` (or ``[B, context, D]``), finite.
      observed: Which of them are known, in the same shape, bool or 0 and 1.
      default: Scale of a row that is nothing but zeros or unknown, scalar or ``[B]``
        (``[B, D]``). None takes the mean over the whole batch, as GluonTS and the
        released code do; otherwise a row's scale does not depend on its batch.

    Returns:
      ``[B]`` (or ``[B, D]``), in float32 at least: a sum of half-precision values
      would overflow. `SMALLEST_SCALE` where the default is 0 too.

    Raises:
      ValueError: A default of another shape.

    Reference: Kollovieh et al., arXiv 2307.11494, the released code's scaler.
    """
    values = at_least_float32(values)
    m = observed.astype(values.dtype)
    size, count = jnp.abs(values) * m, jnp.sum(m, 1)
    unit = unit_of(size, 1)
    total = jnp.sum(size / unit, 1)
    own = total / jnp.maximum(count, 1) * unit[:, 0]
    if default is None:
        unit = unit_of(size, (0, 1))
        whole = jnp.sum(jnp.sum(size / unit, 1), 0)
        fallback = whole / jnp.maximum(jnp.sum(count, 0), 1) * unit[0, 0]
    else:
        fallback = jnp.asarray(default, values.dtype)
        if fallback.ndim:
            _require_rows(fallback, values, "default")
    scale = jnp.where(total > 0, own, fallback)
    return jnp.where(scale > 0, scale, SMALLEST_SCALE)


def forecast_mask(context: int, horizon: int) -> Array:
    """The mask of a forecast: the context is visible and the horizon is not.

    Args:
      context: Steps of context.
      horizon: Steps of forecast.

    Returns:
      bool ``[L]``.
    """
    window_lengths(context, horizon, ())
    return jnp.arange(context + horizon) < context


def random_missing(keys: Array, context: int, horizon: int, count: int) -> Array:
    """A forecast with ``count`` steps of each context hidden at random (RM).

    Args:
      keys: Typed keys ``[B]``; a row's mask depends on its own key alone.
      context: Steps of context.
      horizon: Steps of forecast.
      count: Number of steps to hide; half the context in the published protocol.

    Returns:
      bool ``[B, L]``.
    """
    require_keys(keys)
    known = forecast_mask(context, horizon)
    _require_count(count, context)
    rank = jax.vmap(lambda key: jax.random.permutation(key, context))(keys)
    return known & jnp.pad(rank >= count, ((0, 0), (0, horizon)))


def blackout_begin(context: int, horizon: int, count: int) -> Array:
    """A forecast with the first ``count`` steps of the context hidden (BM-B).

    Args:
      context: Steps of context.
      horizon: Steps of forecast.
      count: Number of steps to hide; half the context in the published protocol.

    Returns:
      bool ``[L]``.
    """
    _require_count(count, context)
    known = forecast_mask(context, horizon)
    return known & (jnp.arange(context + horizon) >= count)


def blackout_end(context: int, horizon: int, count: int) -> Array:
    """A forecast with the last ``count`` steps of the context hidden (BM-E).

    Args:
      context: Steps of context.
      horizon: Steps of forecast.
      count: Number of steps to hide; half the context in the published protocol.

    Returns:
      bool ``[L]``.
    """
    _require_count(count, context)
    known = forecast_mask(context, horizon)
    return known & (jnp.arange(context + horizon) < context - count)


def window_lengths(context: int, horizon: int, lags: Sequence[int]) -> tuple[int, int]:
    """Checks the sizes of windows.

    Args:
      context: Steps of context, at least 1.
      horizon: Steps of forecast, at least 0.
      lags: Different steps back, each at least 1; empty for none.

    Returns:
      ``(longest lag, context + horizon)``; 0 without lags.

    Raises:
      TypeError: Lags that are no sequence.
      ValueError: A context, horizon or lag that is not a length.
    """
    whole = all(isinstance(size, (int, np.integer)) for size in (context, horizon))
    if not whole or context < 1 or horizon < 0:
        raise ValueError(
            f"context {context}, horizon {horizon}; expected at least 1 and 0"
        )
    if not isinstance(lags, Sequence):
        raise TypeError(f"lags is {lags!r}; expected a tuple")
    if any(lag < 1 for lag in lags) or len(set(lags)) < len(lags):
        raise ValueError(f"lags are {tuple(lags)}; expected different steps back")
    return max(lags, default=0), context + horizon


def _require_series(series: Array | np.ndarray) -> None:
    """Raises unless ``series`` is an array ``[S, T]`` or ``[S, T, D]``."""
    shape = getattr(series, "shape", None)
    if shape is None:
        raise TypeError(
            f"series is a {type(series).__name__}; expected an array [S, T], such as "
            "the values of load_series"
        )
    if len(shape) not in (2, 3):
        raise ValueError(f"series has shape {shape}; expected [S, T] or [S, T, D]")


def _window_mask(observed, known):
    """``observed`` in the shape of the window ``known``."""
    observed = jnp.asarray(observed)
    allowed = {known.shape[1:2], known.shape[:2], known.shape}
    if observed.shape not in allowed:
        raise ValueError(
            f"observed has shape {observed.shape}; expected one of {sorted(allowed)}"
        )
    observed = observed.astype(bool)
    if observed.ndim == 1:
        observed = observed[None]
    if observed.ndim < known.ndim:
        observed = observed[..., None]
    return jnp.broadcast_to(observed, known.shape)


def _require_rows(scale, values, name):
    """Raises unless there is one scale for each series of each row of ``values``."""
    wanted = (values.shape[0], *values.shape[2:])
    if scale.shape != wanted:
        raise ValueError(f"{name} has shape {scale.shape}; expected {wanted}")


def _require_count(count, context):
    if not 0 <= count <= context:
        raise ValueError(f"count is {count}; expected 0 to {context}, the context")
