"""Proper scores of ensembles: of single steps, of whole paths, of several series.

Forecasts are samples ``[N, S, *E]`` of targets ``[N, *E]``, as in `metrics`.
"""

import jax
import jax.numpy as jnp

from jaxlib_guidance.timeseries._metrics import counted, require_samples
from jaxlib_guidance.types import Array, at_least_float32


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

    Reference: Gneiting and Raftery, 2007; fair, Ferro, 2014.
    """
    require_samples(samples, target)
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

    Reference: Gneiting and Raftery, 2007.
    """
    require_samples(samples, target)
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

    Reference: Scheuerer and Hamill, 2015, with weights 1.
    """
    require_samples(samples, target)
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
    kept = counted(target, mask).reshape(len(y), -1)
    pairs = kept[:, :, None] & kept[:, None]
    gaps = jnp.where(pairs, (own - mean / x.shape[1]) ** 2, 0)
    return jnp.sum(gaps, (1, 2))


def _require_fair(size, fair):
    if fair and size < 2:
        raise ValueError("fair needs at least 2 samples; got 1")


def _flat(samples, target, mask):
    """``[N, S, D]`` and ``[N, D]``, 0 in both where the target does not count."""
    counts = counted(target, mask)
    x = jnp.where(counts[:, None], at_least_float32(samples), 0)
    y = jnp.where(counts, at_least_float32(target), 0)
    return x.reshape(*x.shape[:2], -1), y.reshape(len(y), -1)


def _norm(a):
    """Euclidean over the last axis, with derivative 0 at 0."""
    square = jnp.sum(a * a, -1)
    return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))
