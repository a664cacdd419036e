"""Forecasts that a model must beat: seasonal naive, past weeks, and ridge regression.

Histories are ``[N, P]`` with NaN where missing and end where the forecast begins: all
but the last ``horizon`` columns of the segments of `cut_segments`. Point forecasts are
``[N, H]``, samples ``[N, S, H]``, in the unit of the history.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.rng import require_keys
from jaxlib_guidance.timeseries._units import unit_of
from jaxlib_guidance.timeseries._windows import mean_absolute_scale
from jaxlib_guidance.types import Array, at_least_float32, concrete, pytree_dataclass

# The same hour of the last seven days; of four weeks and of yesterday.
LAST_WEEK = tuple(24 * day for day in range(1, 8))
FOUR_WEEKS = (24, 168, 336, 504, 672)


def past_values(history: Array, horizon: int, lags: Sequence[int]) -> Array:
    """Values ``lag`` steps before each step of the horizon, as samples.

    They are the empirical distribution of past weeks: `LAST_WEEK` takes the same hour
    of the last seven days, `FOUR_WEEKS` the same hour and weekday of four weeks and of
    yesterday. A lag shorter than the horizon repeats. Where a value is missing, the
    mean of the step's other samples takes its place, or failing these the mean of the
    history.

    Args:
      history: Values before the forecast ``[N, P]``, NaN where missing.
      horizon: Steps of forecast.
      lags: Steps back, each giving a sample.

    Returns:
      ``[N, len(lags), H]``; NaN for a history that is all missing.

    Raises:
      ValueError: A lag that is not positive or further back than the history.
    """
    history = jnp.asarray(history)
    _require_history(history, horizon)
    steps = history.shape[1]
    if not len(lags) or not all(1 <= lag <= steps for lag in lags):
        raise ValueError(
            f"lags are {tuple(lags)}; expected 1 to {steps}, the length of the history"
        )
    history = at_least_float32(history)
    ahead = jnp.arange(horizon)
    columns = jnp.stack([steps - lag + ahead % lag for lag in lags])
    samples = history[:, columns]
    overall = _mean(history, (1,))[:, None, None]
    step = _mean(samples, (1,))[:, None]
    step = jnp.where(jnp.isnan(step), overall, step)
    return jnp.where(jnp.isnan(samples), step, samples)


def seasonal_naive(history: Array, horizon: int, season: int) -> Array:
    """The last season once more.

    Args:
      history: Values before the forecast ``[N, P]``, NaN where missing; see
        `past_values` for what takes their place.
      horizon: Steps of forecast.
      season: Steps of a season, from 1 to P.

    Returns:
      Point forecast ``[N, H]``.

    Raises:
      ValueError: A season that is not positive or longer than the history.
    """
    return past_values(history, horizon, (season,))[:, 0]


@pytree_dataclass
class Ridge:
    """A linear map of a context to a horizon.

    Attributes:
      weight: Coefficients ``[D, H]``.
      intercept: Value of the map at 0, ``[H]``.
    """

    weight: Array
    intercept: Array

    def __call__(self, x: Array) -> Array:
        """``x W + b`` for ``x [N, D]``."""
        return x @ self.weight + self.intercept


def fit_ridge(x: Array, y: Array, alpha: float = 1.0) -> Ridge:
    """``argmin |x W + b - y|^2 + alpha |W|^2``; the intercept is free.

    The estimator of scikit-learn's `Ridge`, and so of the linear predictive score.

    Args:
      x: Contexts ``[N, D]``, finite.
      y: Horizons ``[N, H]``, finite.
      alpha: Weight of the penalty, above 0.

    Returns:
      `Ridge`.

    Raises:
      ValueError: Shapes that do not agree; a penalty that is not positive.
    """
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not len(x):
        raise ValueError(
            f"x and y have shapes {x.shape} and {y.shape}; expected [N, D] and [N, H]"
        )
    if isinstance(alpha, (int, float)) and alpha <= 0:
        raise ValueError(f"alpha is {alpha}; expected above 0")
    x, y = at_least_float32(x), at_least_float32(y)
    middle, level = x.mean(0), y.mean(0)
    # The penalty as further rows: the normal equations would square the condition
    # number, which float32 cannot afford.
    penalty = jnp.sqrt(jnp.asarray(alpha, x.dtype)) * jnp.eye(x.shape[1], dtype=x.dtype)
    q, r = jnp.linalg.qr(jnp.concatenate([x - middle, penalty]))
    weight = jax.scipy.linalg.solve_triangular(r, q[: len(x)].T @ (y - level))
    return Ridge(weight, level - middle @ weight)


@pytree_dataclass
class RidgeForecaster:
    """Ridge regression of scaled windows, with what it got wrong in training.

    Attributes:
      ridge: Map from the scaled context to the scaled horizon.
      residuals: Scaled paths of errors in training ``[M, H]``.
    """

    ridge: Ridge
    residuals: Array

    def mean(self, context: Array) -> Array:
        """Point forecast of a context.

        Args:
          context: Values before the forecast ``[N, L]``, NaN where missing.

        Returns:
          ``[N, H]`` in the unit of the context.
        """
        x, scale = scale_context(context)
        return self.ridge(x) * scale[:, None]

    def sample(self, keys: Array, context: Array, count: int) -> Array:
        """Bootstrap: the point forecast plus ``count`` whole paths of past errors.

        Args:
          keys: Typed keys ``[N]``, one for each window.
          context: Values before the forecast ``[N, L]``, NaN where missing.
          count: Number of samples of each window.

        Returns:
          ``[N, count, H]`` in the unit of the context.
        """
        require_keys(keys)
        x, scale = scale_context(context)
        draw = jax.vmap(
            lambda key: jax.random.randint(key, (count,), 0, len(self.residuals))
        )(keys)
        paths = self.ridge(x)[:, None] + self.residuals[draw]
        return paths * scale[:, None, None]


def fit_ridge_forecaster(
    windows: Array, horizon: int, alpha: float = 1.0
) -> RidgeForecaster:
    """Fits `RidgeForecaster` to windows, each over the scale of its context.

    Args:
      windows: Unscaled windows ``[M, L + horizon]``. A missing value in the context
        becomes its mean; one in the horizon has no error to learn from.
      horizon: Steps of forecast.
      alpha: Weight of the penalty of `fit_ridge`, above 0.

    Returns:
      `RidgeForecaster` of contexts of length ``L``.

    Raises:
      ValueError: A window no longer than the horizon, or with a horizon not all known.
    """
    if windows.ndim != 2 or not 1 <= horizon < windows.shape[1]:
        raise ValueError(
            f"windows have shape {windows.shape}; expected [M, L + {horizon}]"
        )
    value = concrete(windows)
    if value is not None and np.isnan(value[:, -horizon:]).any():
        raise ValueError("windows have missing values in the horizon; leave them out")
    windows = at_least_float32(windows)
    x, scale = scale_context(windows[:, :-horizon])
    y = windows[:, -horizon:] / scale[:, None]
    ridge = fit_ridge(x, y, alpha)
    return RidgeForecaster(ridge, y - ridge(x))


def scale_context(context: Array) -> tuple[Array, Array]:
    """A context over its mean absolute value, and that value.

    Args:
      context: Values ``[N, L]``, NaN where missing.

    Returns:
      The scaled context ``[N, L]``, in which missing values are the mean of the known
      ones, and its scale ``[N]``; 1 where it is 0 or all missing.
    """
    context = at_least_float32(context)
    known = ~jnp.isnan(context)
    scale = mean_absolute_scale(jnp.where(known, context, 0), known, 1.0)
    mean = jnp.nan_to_num(_mean(context, (1,)))[:, None]
    return jnp.where(known, context, mean) / scale[:, None], scale


def _mean(a, axes):
    """Mean of what is known, NaN where nothing is."""
    known = ~jnp.isnan(a)
    a = jnp.where(known, a, 0)
    unit = unit_of(a, axes)
    total = jnp.sum(a / unit, axes)
    return total / jnp.sum(known, axes, dtype=a.dtype) * jnp.squeeze(unit, axes)


def _require_history(history, horizon):
    if history.ndim != 2 or horizon < 1:
        raise ValueError(
            f"history has shape {history.shape}, horizon {horizon}; expected [N, P] "
            "and at least 1"
        )
