"""Forecasts, repairs and synthetic series from one diffusion model of windows."""

from jaxlib_guidance.timeseries._adapters import (
    from_gluonts,
    from_statsforecast,
    quantiles_to_samples,
)
from jaxlib_guidance.timeseries._baselines import (
    FOUR_WEEKS,
    LAST_WEEK,
    Ridge,
    RidgeForecaster,
    fit_ridge,
    fit_ridge_forecaster,
    past_values,
    scale_context,
    seasonal_naive,
)
from jaxlib_guidance.timeseries._dated import Forecast
from jaxlib_guidance.timeseries._forecast import forecast, infill, paths_of
from jaxlib_guidance.timeseries._forecaster import (
    Forecaster,
    WindowReader,
    default_scale,
    in_batches,
    load_forecaster,
    read_windows,
)
from jaxlib_guidance.timeseries._guidance_settings import SAMPLERS, GuidanceSettings
from jaxlib_guidance.timeseries._layout import Inputs, Layout
from jaxlib_guidance.timeseries._metrics import (
    LEVELS,
    coverage,
    mase,
    nd,
    nrmse,
    sample_quantiles,
    wql,
    wql_of_quantiles,
)
from jaxlib_guidance.timeseries._positions import (
    Positions,
    calendar,
    rolling_positions,
    series_ends,
    training_batch,
    training_positions,
)
from jaxlib_guidance.timeseries._predict import predict
from jaxlib_guidance.timeseries._refine import (
    base_paths,
    completed,
    noise_errors,
    refine,
    representative_time,
)
from jaxlib_guidance.timeseries._scoring import (
    crps_ensemble,
    energy_score,
    variogram_score,
)
from jaxlib_guidance.timeseries._sktime import sktime_forecaster
from jaxlib_guidance.timeseries._synthesize import (
    downstream_score,
    linear_predictive_score,
    synthesize,
    without_past,
)
from jaxlib_guidance.timeseries._windows import (
    DAILY_LAGS,
    HOURLY_LAGS,
    SMALLEST_SCALE,
    Windows,
    blackout_begin,
    blackout_end,
    cut_segments,
    forecast_mask,
    make_windows,
    mean_absolute_scale,
    random_missing,
    window_lengths,
)

__all__ = [
    # Windows and what of them is observed
    "HOURLY_LAGS",
    "DAILY_LAGS",
    "SMALLEST_SCALE",
    "Windows",
    "cut_segments",
    "make_windows",
    "mean_absolute_scale",
    "forecast_mask",
    "random_missing",
    "blackout_begin",
    "blackout_end",
    "window_lengths",
    # Where windows are cut
    "Positions",
    "training_positions",
    "training_batch",
    "rolling_positions",
    "series_ends",
    "calendar",
    # What a network is given of a window
    "Inputs",
    "Layout",
    # Forecasts by observation guidance
    "infill",
    "paths_of",
    "forecast",
    # A model with its settings
    "SAMPLERS",
    "GuidanceSettings",
    "Forecaster",
    "load_forecaster",
    "WindowReader",
    "default_scale",
    "read_windows",
    "in_batches",
    # Forecasts as others hold them
    "Forecast",
    "predict",
    "sktime_forecaster",
    # Refinement of other forecasts
    "noise_errors",
    "representative_time",
    "refine",
    "base_paths",
    "completed",
    # Synthetic series
    "synthesize",
    "without_past",
    "downstream_score",
    "linear_predictive_score",
    # Baselines
    "LAST_WEEK",
    "FOUR_WEEKS",
    "past_values",
    "seasonal_naive",
    "Ridge",
    "fit_ridge",
    "RidgeForecaster",
    "fit_ridge_forecaster",
    "scale_context",
    # Forecasts of other libraries
    "quantiles_to_samples",
    "from_gluonts",
    "from_statsforecast",
    # Metrics
    "LEVELS",
    "sample_quantiles",
    "wql",
    "wql_of_quantiles",
    "coverage",
    "nd",
    "nrmse",
    "mase",
    # Scores of paths
    "crps_ensemble",
    "energy_score",
    "variogram_score",
]
