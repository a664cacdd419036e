"""Scores of forecasts. Forecasts are samples ``[N, S, *E]`` of targets ``[N, *E]``.

``*E`` is the horizon, or the horizon and several series. A missing target (NaN) never
counts, and a score of nothing is NaN. A NaN in a forecast makes its score NaN, for a
sampler that diverged should not look good by the samples that did not. Scores are the
same in any unit: plain lists and integers will do, and values of 1e-30 or 1e30.
"""

from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.timeseries._units import unit_of
from jaxlib_guidance.types import Array, at_least_float32

LEVELS = tuple(i / 10 for i in range(1, 10))

Rule = Literal["gluonts", "linear"]


def sample_quantiles(
    samples: Array, levels: Sequence[float] = LEVELS, *, rule: Rule = "gluonts"
) -> Array:
    """Quantiles of samples at given levels.

    Args:
      samples: Forecast samples ``[N, S, *E]``.
      levels: Levels ``[Q]`` of the quantiles, between 0 and 1.
      rule: "gluonts" takes the sorted sample at ``round((S - 1) q)``, halves to the
        even index; "linear" interpolates, as `jnp.quantile`.

    Returns:
      ``[N, Q, *E]``, NaN where one of the samples is NaN.

    Raises:
      ValueError: Levels outside [0, 1]; an unknown rule; samples of fewer dimensions.
    """
    if rule not in ("gluonts", "linear"):
        raise ValueError(f"rule is {rule!r}; expected 'gluonts' or 'linear'")
    if not len(levels) or not all(0 <= q <= 1 for q in levels):
        raise ValueError(f"levels are {tuple(levels)}; expected numbers in [0, 1]")
    samples = at_least_float32(jnp.asarray(samples))
    if samples.ndim < 2:
        raise ValueError(f"samples have shape {samples.shape}; expected [N, S, ...]")
    if rule == "linear":
        at = jnp.asarray(levels, samples.dtype)
        return jnp.moveaxis(jnp.quantile(samples, at, axis=1), 0, 1)
    # numpy's round in float64, so that the indices are those of GluonTS.
    index = np.round((samples.shape[1] - 1) * np.asarray(levels)).astype(int)
    ranked = jnp.sort(samples, axis=1)[:, index]
    # Sorting puts NaN last, where most quantiles would not see it.
    broken = jnp.isnan(samples).any(1, keepdims=True)
    return jnp.where(broken, jnp.nan, ranked)


def wql(
    samples: Array,
    target: Array,
    *,
    levels: Sequence[float] = LEVELS,
    rule: Rule = "gluonts",
    mask: Array | None = None,
) -> Array:
    """Weighted quantile loss, often reported as CRPS: `wql_of_quantiles` of samples.

    The defaults are GluonTS's ``mean_wQuantileLoss``. Numbers by other levels or by the
    other rule cannot be compared with it, nor can `crps_ensemble`. The loss of a single
    sample is `nd`.

    Args:
      samples: Forecast samples ``[N, S, *E]``.
      target: Observed values ``[N, *E]``, NaN where missing.
      levels: Levels of the quantiles; 0.1, 0.2, ..., 0.9 by default.
      rule: How quantiles are read from samples, see `sample_quantiles`.
      mask: Which targets count ``[N, *E]``; None counts all that are known.

    Returns:
      A number; NaN where no target counts, and not finite where all are 0.

    Raises:
      ValueError: Shapes that do not agree; levels outside [0, 1].
    """
    samples, target = _samples_and_target(samples, target)
    quantiles = sample_quantiles(samples, levels, rule=rule)
    return wql_of_quantiles(quantiles, target, levels=levels, mask=mask)


def wql_of_quantiles(
    quantiles: Array,
    target: Array,
    *,
    levels: Sequence[float] = LEVELS,
    mask: Array | None = None,
) -> Array:
    """Weighted quantile loss of forecasts by quantiles.

    ``mean_q 2 sum |(f_q - y) (1[y <= f_q] - q)| / sum |y|`` over all that counts. It is
    a ratio of sums: score all windows at once rather than averaging batches.

    Args:
      quantiles: Forecast quantiles ``[N, Q, *E]``, one for each level.
      target: Observed values ``[N, *E]``, NaN where missing.
      levels: Levels ``[Q]`` of the quantiles, between 0 and 1.
      mask: Which targets count ``[N, *E]``; None counts all that are known.

    Returns:
      A number; NaN where no target counts, and not finite where all are 0.

    Raises:
      ValueError: Shapes that do not agree.
    """
    quantiles, target = _samples_and_target(quantiles, target, "quantiles")
    if quantiles.shape[1] != len(levels):
        raise ValueError(f"got {quantiles.shape[1]} quantiles for {len(levels)} levels")
    counts = _counted(target, mask)
    unit = _unit(target, counts)
    f, y = quantiles / unit, target[:, None] / unit
    q = jnp.asarray(levels, f.dtype).reshape(1, -1, *(1,) * (f.ndim - 2))
    loss = 2 * jnp.abs((f - y) * ((y <= f).astype(f.dtype) - q))
    total = jnp.sum(jnp.where(counts[:, None], loss, 0)) / len(levels)
    return total / _sum(jnp.abs(y[:, 0]), counts)


def coverage(
    samples: Array, target: Array, *, level: float = 0.8, mask: Array | None = None
) -> Array:
    """Share of targets inside the central interval that should hold ``level`` of them.

    Args:
      samples: Forecast samples ``[N, S, *E]``.
      target: Observed values ``[N, *E]``, NaN where missing.
      level: Nominal coverage of the interval, between 0 and 1.
      mask: Which targets count ``[N, *E]``; None counts all that are known.

    Returns:
      A number between 0 and 1; NaN where no target counts.

    Raises:
      ValueError: Shapes that do not agree; a level outside (0, 1).
    """
    samples, target = _samples_and_target(samples, target)
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; expected between 0 and 1")
    ends = ((1 - level) / 2, (1 + level) / 2)
    low, high = jnp.moveaxis(sample_quantiles(samples, ends, rule="linear"), 1, 0)
    y = target
    inside = ((low <= y) & (y <= high)).astype(y.dtype)
    inside = jnp.where(jnp.isnan(low + high), jnp.nan, inside)
    counts = _counted(target, mask)
    return _sum(inside, counts) / jnp.sum(counts, dtype=y.dtype)


def nd(forecast: Array, target: Array, *, mask: Array | None = None) -> Array:
    """Normalised deviation ``sum |f - y| / sum |y|`` of a point forecast.

    Args:
      forecast: Point forecast ``[N, *E]``.
      target: Observed values ``[N, *E]``, NaN where missing.
      mask: Which targets count ``[N, *E]``; None counts all that are known.

    Returns:
      A number; NaN where no target counts, and not finite where all are 0.

    Raises:
      ValueError: Shapes that do not agree.
    """
    f, y, counts = _point(forecast, target, mask)
    return _sum(jnp.abs(f - y), counts) / _sum(jnp.abs(y), counts)


def nrmse(forecast: Array, target: Array, *, mask: Array | None = None) -> Array:
    """Normalised error ``sqrt(mean (f - y)^2) / mean |y|`` of a point forecast.

    Args:
      forecast: Point forecast ``[N, *E]``.
      target: Observed values ``[N, *E]``, NaN where missing.
      mask: Which targets count ``[N, *E]``; None counts all that are known.

    Returns:
      A number; NaN where no target counts, and not finite where all are 0.

    Raises:
      ValueError: Shapes that do not agree.
    """
    f, y, counts = _point(forecast, target, mask)
    number = jnp.sum(counts, dtype=y.dtype)
    return jnp.sqrt(_sum((f - y) ** 2, counts) * number) / _sum(jnp.abs(y), counts)


def mase(
    forecast: Array,
    target: Array,
    history: Array,
    *,
    season: int,
    mask: Array | None = None,
) -> Array:
    """Mean absolute error over that of the seasonal naive forecast of the history.

    ``mean_n [ mean_h |f - y| / mean_t |h_t - h_{t - season}| ]``

    Args:
      forecast: Point forecast ``[N, H]``.
      target: Observed values ``[N, H]``, NaN where missing.
      history: Values before the horizon ``[N, P]``, NaN where missing.
      season: Steps of a season, from 1 to P - 1.
      mask: Which targets count ``[N, H]``; None counts all that are known.

    Returns:
      A number. Windows without a target, or whose history repeats itself exactly or is
      not known for two seasons, are left out; NaN where none is left.

    Raises:
      ValueError: Shapes that do not agree; a season that the history does not hold.

    Reference: Hyndman and Koehler, 2006.
    """
    forecast, target, h = (
        at_least_float32(jnp.asarray(a)) for a in (forecast, target, history)
    )
    if h.ndim != 2 or target.ndim != 2 or len(h) != len(target):
        raise ValueError(
            f"history has shape {h.shape} and target {target.shape}; expected [N, P] "
            "and [N, H]"
        )
    if not 1 <= season < h.shape[1]:
        raise ValueError(
            f"season is {season}; expected 1 to {h.shape[1] - 1} for a history of "
            f"{h.shape[1]}"
        )
    # In the unit of each window's history, by which its error is measured.
    unit = unit_of(h, 1)
    h = h / unit
    f, y, counts = _point(forecast, target, mask, unit)
    steps = jnp.abs(h[:, season:] - h[:, :-season])
    known = ~jnp.isnan(steps)

    def mean(a, kept):
        n = jnp.sum(kept, 1, dtype=a.dtype)
        return jnp.sum(jnp.where(kept, a, 0), 1) / jnp.maximum(n, 1), n > 0

    error, some = mean(jnp.abs(f - y), counts)
    naive, _ = mean(steps, known)
    some &= naive > 0
    ratio = jnp.where(some, error / jnp.where(some, naive, 1), 0)
    return jnp.sum(ratio) / jnp.sum(some, dtype=ratio.dtype)


def _samples_and_target(
    samples: Array, target: Array, name: str = "samples"
) -> tuple[Array, Array]:
    """Both as arrays of float32 at least, once ``samples`` are ``[N, S, *E]``.

    Raises:
      ValueError: Shapes that do not agree.
    """
    samples, target = (at_least_float32(jnp.asarray(a)) for a in (samples, target))
    if samples.ndim < 2 or (samples.shape[0], *samples.shape[2:]) != target.shape:
        raise ValueError(
            f"{name} have shape {samples.shape} and the target {target.shape}; "
            "expected [N, S, ...] and [N, ...]"
        )
    return samples, target


def _counted(target: Array, mask: Array | None) -> Array:
    """Which targets count: those that are known and that ``mask`` does not hide.

    Raises:
      ValueError: A mask of another shape.
    """
    known = ~jnp.isnan(target)
    if mask is None:
        return known
    mask = jnp.asarray(mask)
    if mask.shape != target.shape:
        raise ValueError(f"mask has shape {mask.shape}; expected {target.shape}")
    return known & mask.astype(bool)


def _sum(a, counts):
    return jnp.sum(jnp.where(counts, a, 0))


def _unit(target, counts):
    """One unit for all targets that count; their scores are ratios of sums."""
    return unit_of(jnp.where(counts, target, 0)).reshape(())


def _point(forecast, target, mask, unit=None):
    """Forecast and target over ``unit``, by default that of all, and what counts."""
    f, y = (at_least_float32(jnp.asarray(a)) for a in (forecast, target))
    if f.shape != y.shape:
        raise ValueError(
            f"forecast has shape {f.shape} and the target {y.shape}; expected the same"
        )
    counts = _counted(y, mask)
    unit = _unit(y, counts) if unit is None else unit
    return f / unit, y / unit, counts
