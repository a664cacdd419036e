"""Forecasts as others hold them: by date, in their frames and their estimators."""

import dataclasses

import jax
import matplotlib
import numpy as np
import pandas as pd
import pytest

from jaxlib_guidance.data import Series, load_series
from jaxlib_guidance.models import from_config, tsdiff_cpu
from jaxlib_guidance.testing import randomise
from jaxlib_guidance.timeseries import (
    Forecast,
    Forecaster,
    GuidanceSettings,
    Layout,
    from_gluonts,
    from_statsforecast,
    load_forecaster,
    predict,
    sktime_forecaster,
    wql,
)

matplotlib.use("Agg")
QUICK = GuidanceSettings(steps=2)


@pytest.fixture(scope="module")
def made():
    paths = np.random.default_rng(0).normal(size=(2, 400, 5)).astype(np.float32)
    start = np.array(["2025-01-31", "2024-02-29"], "datetime64[s]")
    return Forecast(paths, ("a", "b"), start, "ME")


def test_it_has_dates_and_quantiles(made):
    want = pd.date_range("2025-01-31", periods=5, freq="ME")
    np.testing.assert_array_equal(made.dates[0], want.to_numpy())
    assert made.dates[1, 1] == np.datetime64("2024-03-31")
    assert (len(made), made.horizon) == (2, 5)
    normal = [-1.2816, 0, 1.2816]
    got = made.quantile([0.1, 0.5, 0.9])
    assert got.shape == (2, 3, 5)
    np.testing.assert_allclose(got.mean((0, 2)), normal, atol=0.05)
    np.testing.assert_array_equal(made.median, got[:, 1])
    np.testing.assert_allclose(made.mean, made.paths.mean(1))
    np.testing.assert_array_equal(made["b"].paths, made[1].paths)
    np.testing.assert_array_equal(made[-1].paths, made[1:].paths)
    assert made["b"].names == ("b",)
    assert repr(made) == "Forecast(2 series, 400 paths of 5 steps, freq='ME')"


def test_nixtla_s_frame_is_read_back(made):
    frame = made.frame("ours", intervals=(80, 95))
    assert list(frame.columns[:3]) == ["unique_id", "ds", "ours"]
    assert len(frame) == 10
    again = from_statsforecast(frame, "ours", ("a", "b"), 99)
    np.testing.assert_allclose(np.median(again, 1), made.median, atol=1e-5)
    # The mean stands in the model's column, as Nixtla's libraries have it.
    np.testing.assert_allclose(frame["ours"].to_numpy().reshape(2, 5), made.mean)


@pytest.mark.filterwarnings("ignore")
def test_gluonts_holds_the_same_paths(made):
    pytest.importorskip("gluonts")
    monthly = made.to_gluonts()
    np.testing.assert_array_equal(from_gluonts(monthly), made.paths)
    assert monthly[0].item_id == "a"
    assert monthly[0].start_date == pd.Period("2025-01", "M")
    np.testing.assert_allclose(
        monthly[1].quantile(0.9), made.quantile(0.9)[1], atol=0.05
    )
    for freq in ("15min", "h", "D", "B", "W-SUN", "MS", "QE-DEC", "YS"):
        each = dataclasses.replace(made, freq=freq).to_gluonts()[0]
        assert len(each.index) == 5


def test_a_picture_has_dates_and_what_was_observed(made):
    values = np.arange(60, dtype=np.float32).reshape(2, 30)
    start = np.array(["2023-01-31", "2023-01-31"], "datetime64[s]")
    series = Series(values, ("b", "a"), start, "ME")
    axes = made.plot(series, history=12)
    assert [axis.get_title() for axis in axes] == ["a", "b"]
    observed = axes[0].get_lines()[1]
    # Two years of months of "a", and of the dates that are forecast.
    when, drawn = observed.get_data()
    assert when[0] == np.datetime64("2024-01-31")
    np.testing.assert_array_equal(drawn, values[1, 12:29])
    with pytest.raises(ValueError, match="series has no 'a'; expected"):
        made.plot(series._replace(names=("b", "c")))
    with pytest.raises(ValueError, match="1 axes for 2 forecasts"):
        made.plot(axes=axes[:1])


def test_what_is_no_forecast_is_refused(made):
    with pytest.raises(ValueError, match=r"paths have shape \(2, 5\); expected \[N"):
        dataclasses.replace(made, paths=made.mean)
    with pytest.raises(ValueError, match="2 forecasts, 1 names and 2 stamps"):
        dataclasses.replace(made, names=("a",))
    with pytest.raises(ValueError, match=r"level is 10; expected 0 to 1"):
        made.quantile(10)
    with pytest.raises(ValueError, match="has no dates: .* Pass freq and start"):
        dataclasses.replace(made, freq="").frame()
    with pytest.raises(KeyError, match="'c' is none of"):
        made["c"]


@pytest.fixture(scope="module")
def hourly():
    """Two series of hours that end on different days."""
    hours = np.arange(1200)
    array = np.stack([200 + 150 * np.sin(hours * np.pi / 12), 20 + hours % 24])
    array[1, 1100:] = np.nan
    return load_series(array, freq="h", start="2025-01-01", names=("long", "short"))


@pytest.fixture(scope="module")
def model():
    """The bundled model's layout with a tiny network."""
    whole, _ = load_forecaster("pedestrians")
    layout = whole.layout
    about = tsdiff_cpu(layout.length, layout.channels, layout.features)
    about["network"] |= {"width": 8, "blocks": 1, "state": 2}
    tiny = from_config(about)
    params = tiny.init(jax.random.key(0))
    return dataclasses.replace(whole, model=tiny), randomise(jax.random.key(1), params)


@pytest.mark.parametrize(
    ("changed", "error", "told"),
    [
        ({"series": "D"}, ValueError, "series has the frequency 'D', but the model is"),
        ({"series": ""}, ValueError, "'unknown'.*of 'h'; pass freq to load_series"),
        ({"series": "frame"}, TypeError, "series is DataFrame; expected a Series"),
        ({"end": 1100}, ValueError, r"end has shape \(\); expected \(2,\)"),
        ({"end": [1100] * 3}, ValueError, r"end has shape \(3,\); expected \(2,\)"),
        ({"end": [9.5, 9.5]}, ValueError, "end is float64; expected whole numbers"),
        ({"end": [5, 1200]}, ValueError, "end is 1200 for series 'short'; .* 1100"),
        ({"horizon": 1.5}, ValueError, "horizon is 1.5; expected at least 1, a whole"),
        ({"samples": 0}, ValueError, "samples is 0; expected at least 1"),
        ({"batch": 0}, ValueError, "batch is 0; expected at least 1"),
        ({"forecaster": {}}, TypeError, "forecaster is dict; expected a Forecaster"),
    ],
)
def test_what_cannot_be_forecast_is_named(hourly, changed, error, told):
    about = {"freq": "h"}
    series = changed.get("series")
    if series == "frame":
        changed = changed | {"series": pd.DataFrame({"y": hourly.values[0]})}
    elif series is not None:
        changed = changed | {"series": hourly._replace(freq=series)}
    layout = Layout(context=48, horizon=12)
    given = {"forecaster": Forecaster(None, layout, {"x": QUICK}, about), "params": {}}
    given |= {"key": jax.random.key(0), "series": hourly}
    with pytest.raises(error, match=told):
        predict(**(given | changed))


@pytest.mark.slow
def test_each_series_is_forecast_from_its_own_end(model, hourly):
    found = predict(*model, jax.random.key(0), hourly, 2, horizon=30, guidance=QUICK)
    assert found.paths.shape == (2, 2, 30)
    first = np.datetime64("2025-01-01") + np.array([1200, 1100], "timedelta64[h]")
    np.testing.assert_array_equal(found.dates[:, 0], first)
    assert (found.paths >= 0).all()
    # A longer horizon begins as the model's own, and goes on.
    alone = predict(*model, jax.random.key(0), hourly, 2, guidance=QUICK)
    np.testing.assert_allclose(found.paths[..., :24], alone.paths, rtol=1e-4)
    assert np.ptp(found.paths[..., 24:], axis=1).max() > 0
    # A back-test hides what came after.
    back = {"guidance": QUICK, "end": np.array([1176, 1076])}
    before = predict(*model, jax.random.key(0), hourly, 2, **back)
    cut = hourly._replace(values=hourly.values[:, :1176].copy())
    cut.values[1, 1076:] = np.nan
    again = predict(*model, jax.random.key(0), cut, 2, guidance=QUICK)
    np.testing.assert_allclose(before.paths, again.paths, rtol=1e-4)
    with pytest.raises(ValueError, match="horizon is 0; expected at least 1"):
        predict(*model, jax.random.key(0), hourly, horizon=0)


@pytest.mark.slow
def test_long_forecasts_go_on_as_the_series_do(hourly):
    """Two days of a sine of a day, by pieces of a day."""
    end = np.array([1152, 1052])
    model = load_forecaster("pedestrians")
    found = predict(*model, jax.random.key(0), hourly, 16, horizon=48, end=end)
    truth = np.stack(
        [row[at : at + 48] for row, at in zip(hourly.values, end, strict=True)]
    )
    assert float(wql(found.paths, truth)) < 0.25
    second = float(wql(found.paths[..., 24:], truth[..., 24:]))
    assert second < 0.3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_sktime_takes_it_for_one_of_its_own(hourly):
    pytest.importorskip("sktime")
    from sktime.base import BaseObject
    from sktime.forecasting.base import ForecastingHorizon

    index = pd.date_range("2025-01-01", periods=1200, freq="h")
    y = pd.Series(hourly.values[0], index=index, name="counts")
    estimator = sktime_forecaster(samples=8)
    assert isinstance(estimator, BaseObject)
    estimator = estimator.clone().fit(y[:1176])
    got = estimator.predict(fh=[1, 2, 24])
    assert list(got.index) == list(index[[1176, 1177, 1199]])
    assert np.abs(got - y[got.index]).mean() < 80
    quantiles = estimator.predict_quantiles(fh=[1, 2], alpha=[0.1, 0.9])
    assert quantiles.shape == (2, 2)
    assert (quantiles.iloc[:, 0] <= quantiles.iloc[:, 1]).all()
    dates = ForecastingHorizon(index[1176:1180], is_relative=False)
    assert len(estimator.predict_interval(dates)) == 4


def test_forecasts_of_other_types():
    """Whole numbers have halves for a median; stamps and names may be lists."""
    made = Forecast(np.array([[[1], [2]]]), ["a"], ["2025-01-31"], "D")
    assert made.median.tolist() == [[1.5]]
    assert made["a"].dates[0, 0] == np.datetime64("2025-01-31")
    half = Forecast(jax.numpy.full((1, 2, 1), 1.5, "bfloat16"), ("a",), made.start, "D")
    assert half.mean.dtype == np.float32
    with pytest.raises(ValueError, match=r"paths have shape .1, 0, 2."):
        Forecast(np.zeros((1, 0, 2)), ("a",), made.start, "D")
