"""A forecaster of windows as an estimator of sktime, imported when it is asked for."""

import functools
import os
from typing import Any

import jax
import numpy as np

from jaxlib_guidance.data import load_series
from jaxlib_guidance.timeseries._forecaster import load_forecaster
from jaxlib_guidance.timeseries._predict import predict


def sktime_forecaster(
    weights: str | os.PathLike = "pedestrians", samples: int = 100, seed: int = 0
) -> Any:
    """A trained model as a forecaster of sktime, for its pipelines and back-tests.

    ``fit`` only takes note of the series: the model is trained already, and forecasts
    any series of its frequency. ``predict`` gives means, ``predict_quantiles`` and
    ``predict_interval`` are of the paths, and the forecasting horizon may be any number
    of steps, see `predict`.

    Args:
      weights: Name or file of the model, see `load_forecaster`.
      samples: Number of paths.
      seed: Seed of the paths.

    Returns:
      A ``BaseForecaster`` of sktime, whose parameters are those of this function.

    Raises:
      ModuleNotFoundError: sktime is not installed.
    """
    return _estimator()(weights=weights, samples=samples, seed=seed)


@functools.cache
def _estimator() -> type:
    import pandas as pd
    from sktime.forecasting.base import BaseForecaster

    class DiffusionForecaster(BaseForecaster):
        _tags = {  # noqa: RUF012
            "y_inner_mtype": "pd.Series",
            "X_inner_mtype": "pd.DataFrame",
            "requires-fh-in-fit": False,
            "capability:pred_int": True,
            "capability:insample": False,
            "capability:missing_values": True,
        }

        def __init__(self, weights="pedestrians", samples=100, seed=0):
            self.weights, self.samples, self.seed = weights, samples, seed
            super().__init__()

        def _fit(self, y, X, fh):
            self._model, self._params = load_forecaster(self.weights)
            index = y.index
            if isinstance(index, pd.PeriodIndex):
                index = index.to_timestamp()
            frame = pd.DataFrame({"y": y.to_numpy(float)}, index=index)
            freq = self._model.about.get("freq") or None
            self._series, self._drawn = load_series(frame, freq=freq), None
            return self

        def _paths(self, fh):
            steps = np.asarray(fh.to_relative(self.cutoff), int)
            longest = int(steps.max())
            if self._drawn is None or self._drawn.horizon < longest:
                key = jax.random.key(self.seed)
                options = {"horizon": max(longest, self._model.layout.horizon)}
                self._drawn = predict(
                    self._model,
                    self._params,
                    key,
                    self._series,
                    self.samples,
                    **options,
                )
            return self._drawn, steps - 1, fh.to_absolute_index(self.cutoff)

        def _predict(self, fh, X):
            drawn, steps, index = self._paths(fh)
            return pd.Series(drawn.mean[0, steps], index=index, name=self._y.name)

        def _predict_quantiles(self, fh, X, alpha):
            drawn, steps, index = self._paths(fh)
            names = self._get_varnames()
            columns = pd.MultiIndex.from_product([names, alpha])
            found = drawn.quantile(alpha)[0][:, steps].T
            return pd.DataFrame(found, index=index, columns=columns)

    return DiffusionForecaster
