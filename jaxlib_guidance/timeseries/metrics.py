"""Scores of forecasts. Forecasts are samples ``[N, S, *E]`` of targets ``[N, *E]``.

``*E`` is the horizon, or the horizon and several series. A missing target (NaN) never
counts; a NaN in a forecast makes its score NaN, for a sampler that diverged should not
look good by the samples that did not.
"""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.types import Array, at_least_float32

LEVELS = tuple(i / 10 for i in range(1, 10))

Rule = Literal["gluonts", "linear"]


def sample_quantiles(
    samples: Array, levels: Sequence[float] = LEVELS, *, rule: Rule = "gluonts"
) -> Array:
    """Quantiles of samples.

    Args:
      samples: ``[N, S, *E]``.
      levels: Between 0 and 1.
      rule: "gluonts" takes the sorted sample at ``round((S - 1) q)``, halves to the
        even index; "linear" interpolates, as `jnp.quantile`.

    Returns:
      ``[N, Q, *E]``.

    Raises:
      ValueError: Levels outside [0, 1]; an unknown rule; samples of fewer dimensions.
    """
    if rule not in ("gluonts", "linear"):
        raise ValueError(f"rule is {rule!r}; expected 'gluonts' or 'linear'")
    if not len(levels) or not all(0 <= q <= 1 for q in levels):
        raise ValueError(f"levels are {tuple(levels)}; expected numbers in [0, 1]")
    if samples.ndim < 2:
        raise ValueError(f"samples have shape {samples.shape}; expected [N, S, ...]")
    samples = at_least_float32(samples)
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
      samples: ``[N, S, *E]``.
      target: ``[N, *E]``.
      levels: Of the quantiles.
      rule: Of `sample_quantiles`.
      mask: ``[N, *E]``; what is 0 or False does not count.

    Returns:
      A number.
    """
    _require_samples(samples, target)
    quantiles = sample_quantiles(samples, levels, rule=rule)
    return wql_of_quantiles(quantiles, target, levels=levels, mask=mask)


def wql_of_quantiles(
    quantiles: Array,
    target: Array,
    *,
    levels: Sequence[float] = LEVELS,
    mask: Array | None = None,
) -> Array:
    """``mean_q 2 sum |(f_q - y) (1[y <= f_q] - q)| / sum |y|`` over all that counts.

    A ratio of sums: score all windows at once rather than averaging batches.

    Args:
      quantiles: ``[N, Q, *E]``, one for each level.
      target: ``[N, *E]``.
      levels: ``Q`` levels.
      mask: ``[N, *E]``; what is 0 or False does not count.

    Returns:
      A number, not finite when all targets are 0 or missing.

    Raises:
      ValueError: Shapes that do not agree.
    """
    _require_samples(quantiles, target, "quantiles")
    if quantiles.shape[1] != len(levels):
        raise ValueError(f"got {quantiles.shape[1]} quantiles for {len(levels)} levels")
    f, y = at_least_float32(quantiles), at_least_float32(target)[:, None]
    q = jnp.asarray(levels, f.dtype).reshape(1, -1, *(1,) * (f.ndim - 2))
    loss = 2 * jnp.abs((f - y) * ((y <= f).astype(f.dtype) - q))
    counts = _counts(target, mask)
    total = jnp.sum(jnp.where(counts[:, None], loss, 0)) / len(levels)
    return total / _sum(jnp.abs(y[:, 0]), counts)


def crps_ensemble(samples: Array, target: Array, *, fair: bool = False) -> Array:
    """``E|X - y| - E|X - X'| / 2`` of each target, with X, X' uniform on the samples.

    Args:
      samples: ``[N, S, *E]``.
      target: ``[N, *E]``.
      fair: Let X and X' be different samples: unbiased for the forecast that the
        samples were drawn from, so that ensembles of other sizes can be compared.

    Returns:
      ``[N, *E]`` in the target's unit; NaN where it is missing.

    Raises:
      ValueError: Shapes that do not agree; one sample and ``fair``.

    Reference: Gneiting and Raftery, 2007, eq. 21; fair, Ferro, 2014.
    """
    _require_samples(samples, target)
    size = samples.shape[1]
    _require_fair(size, fair)
    gap = at_least_float32(samples) - at_least_float32(target)[:, None]
    ranked = jnp.sort(gap, axis=1)
    # sum_ij |x_i - x_j| = 2 sum_i (2 i - S - 1) x_(i): no pairs.
    weight = 2 * jnp.arange(1, size + 1, dtype=gap.dtype) - (size + 1)
    weight = weight.reshape(1, -1, *(1,) * (gap.ndim - 2))
    pairs = size * (size - 1 if fair else size)
    spread = jnp.sum(weight * ranked, 1) / pairs if size > 1 else 0.0
    return jnp.mean(jnp.abs(gap), 1) - spread


def energy_score(
    samples: Array, target: Array, *, fair: bool = False, mask: Array | None = None
) -> Array:
    """``E|X - y| - E|X - X'| / 2`` with the Euclidean norm over ``*E``.

    The CRPS of whole paths, or of several series at once: it sees dependence, which the
    CRPS of single steps does not.

    Args:
      samples: ``[N, S, *E]``.
      target: ``[N, *E]``.
      fair: Let X and X' be different samples.
      mask: ``[N, *E]``; the norm leaves out what is 0 or False.

    Returns:
      ``[N]``.

    Raises:
      ValueError: Shapes that do not agree; one sample and ``fair``.

    Reference: Gneiting and Raftery, 2007, eq. 22.
    """
    _require_samples(samples, target)
    size = samples.shape[1]
    _require_fair(size, fair)
    x, y = _flat(samples, target, mask)

    def from_all(_, member):
        return None, jnp.sum(_norm(x - member[:, None]), 1)

    # A scan over members: all pairs at once would be S times the samples.
    _, sums = jax.lax.scan(from_all, None, jnp.moveaxis(x, 1, 0))
    pairs = size * (size - 1 if fair else size)
    spread = jnp.sum(sums, 0) / (2 * pairs) if size > 1 else 0.0
    return jnp.mean(_norm(x - y[:, None]), 1) - spread


def variogram_score(
    samples: Array, target: Array, *, p: float = 0.5, mask: Array | None = None
) -> Array:
    """``sum_ij (|y_i - y_j|^p - E|X_i - X_j|^p)^2`` over pairs of entries of ``*E``.

    More sensitive to wrong correlations than `energy_score`, blind to a shift of all.

    Args:
      samples: ``[N, S, *E]``.
      target: ``[N, *E]``.
      p: Order, above 0.
      mask: ``[N, *E]``; pairs with an entry that is 0 or False do not count.

    Returns:
      ``[N]``; each pair counts twice, as (i, j) and (j, i).

    Raises:
      ValueError: Shapes that do not agree; an order that is not positive.

    Reference: Scheuerer and Hamill, 2015, eq. 2, with weights 1.
    """
    _require_samples(samples, target)
    if p <= 0:
        raise ValueError(f"p is {p}; expected above 0")
    x, y = _flat(samples, target, mask)

    def variogram(path):
        gap = jnp.abs(path[:, :, None] - path[:, None])
        # Zero on the diagonal, where a power below 1 has no derivative.
        return jnp.where(gap == 0, 0, jnp.where(gap == 0, 1, gap) ** p)

    def add(total, member):
        return total + variogram(member), None

    own = variogram(y)
    mean, _ = jax.lax.scan(add, jnp.zeros_like(own), jnp.moveaxis(x, 1, 0))
    kept = _counts(target, mask).reshape(len(y), -1)
    pairs = kept[:, :, None] & kept[:, None]
    gaps = jnp.where(pairs, (own - mean / x.shape[1]) ** 2, 0)
    return jnp.sum(gaps, (1, 2))


def coverage(
    samples: Array, target: Array, *, level: float = 0.8, mask: Array | None = None
) -> Array:
    """Share of targets inside the central interval that should hold ``level`` of them.

    Args:
      samples: ``[N, S, *E]``.
      target: ``[N, *E]``.
      level: Between 0 and 1.
      mask: ``[N, *E]``; what is 0 or False does not count.

    Raises:
      ValueError: Shapes that do not agree; a level outside (0, 1).
    """
    _require_samples(samples, target)
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; expected between 0 and 1")
    ends = ((1 - level) / 2, (1 + level) / 2)
    low, high = jnp.moveaxis(sample_quantiles(samples, ends, rule="linear"), 1, 0)
    y = at_least_float32(target)
    inside = ((low <= y) & (y <= high)).astype(y.dtype)
    inside = jnp.where(jnp.isnan(low + high), jnp.nan, inside)
    counts = _counts(target, mask)
    return _sum(inside, counts) / jnp.sum(counts, dtype=y.dtype)


def nd(forecast: Array, target: Array, *, mask: Array | None = None) -> Array:
    """Normalised deviation, ``sum |f - y| / sum |y|``, of forecasts ``[N, *E]``."""
    f, y, counts = _point(forecast, target, mask)
    return _sum(jnp.abs(f - y), counts) / _sum(jnp.abs(y), counts)


def nrmse(forecast: Array, target: Array, *, mask: Array | None = None) -> Array:
    """``sqrt(mean (f - y)^2) / mean |y|`` of a point forecast ``[N, *E]``."""
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
      target: ``[N, H]``.
      history: ``[N, P]``, NaN where missing.
      season: Steps of a season, below P.
      mask: ``[N, H]``; what is 0 or False does not count.

    Returns:
      A number. Windows without a target, or whose history repeats itself exactly or is
      not known for two seasons, are left out.

    Raises:
      ValueError: Shapes that do not agree; a season that the history does not hold.

    Reference: Hyndman and Koehler, 2006.
    """
    f, y, counts = _point(forecast, target, mask)
    if history.ndim != 2 or len(history) != len(y) or y.ndim != 2:
        raise ValueError(
            f"history has shape {history.shape} and target {target.shape}; expected "
            "[N, P] and [N, H]"
        )
    if not 1 <= season < history.shape[1]:
        raise ValueError(
            f"season is {season}; expected 1 to {history.shape[1] - 1} for a history "
            f"of {history.shape[1]}"
        )
    h = at_least_float32(history)
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


def _require_samples(samples, target, name="samples"):
    if samples.ndim < 2 or (samples.shape[0], *samples.shape[2:]) != target.shape:
        raise ValueError(
            f"{name} have shape {samples.shape} and the target {target.shape}; "
            "expected [N, S, ...] and [N, ...]"
        )


def _require_fair(size, fair):
    if fair and size < 2:
        raise ValueError("fair needs at least 2 samples; got 1")


def _counts(target, mask):
    """Which targets count, bool."""
    known = ~jnp.isnan(target)
    if mask is None:
        return known
    mask = jnp.asarray(mask)
    if mask.shape != target.shape:
        raise ValueError(f"mask has shape {mask.shape}; expected {target.shape}")
    return known & mask.astype(bool)


def _sum(a, counts):
    return jnp.sum(jnp.where(counts, a, 0))


def _point(forecast, target, mask):
    if forecast.shape != target.shape:
        raise ValueError(
            f"forecast has shape {forecast.shape} and the target {target.shape}; "
            "expected the same"
        )
    counts = _counts(target, mask)
    return at_least_float32(forecast), at_least_float32(target), counts


def _flat(samples, target, mask):
    """``[N, S, D]`` and ``[N, D]``, 0 in both where the target does not count."""
    counts = _counts(target, mask)
    x = jnp.where(counts[:, None], at_least_float32(samples), 0)
    y = jnp.where(counts, at_least_float32(target), 0)
    return x.reshape(*x.shape[:2], -1), y.reshape(len(y), -1)


def _norm(a):
    """Euclidean over the last axis, with derivative 0 at 0."""
    square = jnp.sum(a * a, -1)
    return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))
