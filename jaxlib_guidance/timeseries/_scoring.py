"""Proper scores of ensembles: of single steps, of whole paths, of several series.

Forecasts are samples ``[N, S, *E]`` of targets ``[N, *E]``, as in `wql`. A window of
which no target is known has the score NaN: average with `jnp.nanmean`.
"""

import jax
import jax.numpy as jnp

from jaxlib_guidance.timeseries._metrics import _counted, _samples_and_target
from jaxlib_guidance.timeseries._units import unit_of
from jaxlib_guidance.types import Array


def crps_ensemble(samples: Array, target: Array, *, fair: bool = False) -> Array:
    """Continuous ranked probability score of each target.

    ``E|X - y| - E|X - X'| / 2`` with X and X' uniform on the samples.

    Args:
      samples: Forecast samples ``[N, S, *E]``.
      target: Observed values ``[N, *E]``, NaN where missing.
      fair: Whether X and X' are different samples, which is unbiased for the forecast
        that the samples were drawn from, so that ensembles of other sizes can be
        compared. False lets them be the same sample.

    Returns:
      ``[N, *E]`` in the target's unit; NaN where the target is missing.

    Raises:
      ValueError: Shapes that do not agree, or one sample with ``fair``.

    Reference: Gneiting and Raftery, 2007, equation 20; fair, Ferro, 2014.
    """
    samples, target = _samples_and_target(samples, target)
    size = samples.shape[1]
    _require_fair(size, fair)
    gap = samples - target[:, None]
    unit = unit_of(gap, 1)
    gap = gap / unit
    ranked = jnp.sort(gap, axis=1)
    # sum_ij |x_i - x_j| = 2 sum_i (2 i - S - 1) x_(i): no pairs.
    weight = 2 * jnp.arange(1, size + 1, dtype=gap.dtype) - (size + 1)
    weight = weight.reshape(1, -1, *(1,) * (gap.ndim - 2))
    pairs = size * (size - 1 if fair else size)
    spread = jnp.sum(weight * ranked, 1) / pairs if size > 1 else 0.0
    return (jnp.mean(jnp.abs(gap), 1) - spread) * unit[:, 0]


def energy_score(
    samples: Array, target: Array, *, fair: bool = False, mask: Array | None = None
) -> Array:
    """Energy score: the CRPS of whole paths, or of several series at once.

    ``E|X - y| - E|X - X'| / 2`` with the Euclidean norm over ``*E``. It sees
    dependence, which the CRPS of single steps does not.

    Args:
      samples: Forecast samples ``[N, S, *E]``.
      target: Observed values ``[N, *E]``, NaN where missing.
      fair: Whether X and X' are different samples, see `crps_ensemble`.
      mask: Which targets count ``[N, *E]``; the norm leaves out what is 0 or False.
        None counts all that are known.

    Returns:
      ``[N]`` in the target's unit; NaN for a window of which no target counts.

    Raises:
      ValueError: Shapes that do not agree, or one sample with ``fair``.

    Reference: Gneiting and Raftery, 2007, equation 22.
    """
    samples, target = _samples_and_target(samples, target)
    size = samples.shape[1]
    _require_fair(size, fair)
    x, y, kept = _flat(samples, target, mask)
    unit = _unit_of_windows(x, y)
    x, y = x / unit[:, None, None], y / unit[:, None]

    def from_all(_, member):
        return None, jnp.sum(_norm(x - member[:, None]), 1)

    # A scan over members: all pairs at once would be S times the samples.
    _, sums = jax.lax.scan(from_all, None, jnp.moveaxis(x, 1, 0))
    pairs = size * (size - 1 if fair else size)
    spread = jnp.sum(sums, 0) / (2 * pairs) if size > 1 else 0.0
    score = jnp.mean(_norm(x - y[:, None]), 1) - spread
    return jnp.where(kept.any(1), score * unit, jnp.nan)


def variogram_score(
    samples: Array, target: Array, *, p: float = 0.5, mask: Array | None = None
) -> Array:
    """Variogram score: how well the samples' dependence fits the target's.

    ``sum_ij (|y_i - y_j|^p - E|X_i - X_j|^p)^2`` over pairs of entries of ``*E``. It is
    more sensitive to wrong correlations than `energy_score`, and blind to a shift of
    all entries.

    Args:
      samples: Forecast samples ``[N, S, *E]``.
      target: Observed values ``[N, *E]``, NaN where missing.
      p: Order of the variogram, above 0.
      mask: Which targets count ``[N, *E]``; pairs with an entry that is 0 or False are
        left out. None counts all that are known.

    Returns:
      ``[N]``; each pair counts twice, as (i, j) and (j, i). NaN for a window with fewer
      than two targets that count, which has no pair.

    Raises:
      ValueError: Shapes that do not agree; an order that is not positive.

    Reference: Scheuerer and Hamill, 2015, equation 8 with weights 1.
    """
    samples, target = _samples_and_target(samples, target)
    if p <= 0:
        raise ValueError(f"p is {p}; expected above 0")
    x, y, kept = _flat(samples, target, mask)
    unit = _unit_of_windows(x, y)
    x, y = x / unit[:, None, None], y / unit[:, None]

    def variogram(path):
        gap = jnp.abs(path[:, :, None] - path[:, None])
        # Zero on the diagonal, where a power below 1 has no derivative.
        return jnp.where(gap == 0, 0, jnp.where(gap == 0, 1, gap) ** p)

    def add(total, member):
        return total + variogram(member), None

    own = variogram(y)
    mean, _ = jax.lax.scan(add, jnp.zeros_like(own), jnp.moveaxis(x, 1, 0))
    pairs = kept[:, :, None] & kept[:, None]
    gaps = jnp.where(pairs, (own - mean / x.shape[1]) ** 2, 0)
    score = jnp.sum(gaps, (1, 2)) * unit ** (2 * p)
    return jnp.where(kept.sum(1) > 1, score, jnp.nan)


def _require_fair(size, fair):
    if fair and size < 2:
        raise ValueError("fair needs at least 2 samples; got 1")


def _flat(samples, target, mask):
    """``[N, S, D]``, ``[N, D]``, 0 in both where not counted, and what counts."""
    kept = _counted(target, mask)
    x = jnp.where(kept[:, None], samples, 0)
    y = jnp.where(kept, target, 0)
    rows = len(y)
    return x.reshape(*x.shape[:2], -1), y.reshape(rows, -1), kept.reshape(rows, -1)


def _unit_of_windows(x, y):
    """One unit for each window ``[N]``, of samples ``[N, S, D]`` and target."""
    return jnp.maximum(unit_of(x, (1, 2))[:, 0, 0], unit_of(y, 1)[:, 0])


def _norm(a):
    """Euclidean over the last axis, with derivative 0 at 0."""
    square = jnp.sum(a * a, -1)
    return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))
