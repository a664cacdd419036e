"""Forecasts of other libraries as samples, and the samples' quantiles back."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.timeseries import (
    LEVELS,
    from_gluonts,
    from_statsforecast,
    quantiles_to_samples,
    sample_quantiles,
)


def test_samples_have_the_quantiles_they_came_from():
    rng = np.random.default_rng(0)
    quantiles = jnp.asarray(np.sort(rng.normal(size=(2, 9, 3)), 1), jnp.float32)
    # Sample i has level (i + 1) / 100, so the levels themselves are among 99.
    samples = quantiles_to_samples(quantiles, LEVELS, 99)
    np.testing.assert_allclose(samples[:, 9:90:10], quantiles, atol=1e-5)
    np.testing.assert_allclose(samples[:, 14], quantiles[:, :2].mean(1), atol=1e-5)
    # Constant beyond the outermost.
    np.testing.assert_array_equal(samples[:, :9], samples[:, 9:10].repeat(9, 1))
    assert (np.diff(samples, axis=1) >= 0).all()
    back = sample_quantiles(samples, LEVELS, rule="gluonts")
    np.testing.assert_allclose(back, quantiles, atol=0.2)


def test_crossing_and_single_quantiles():
    crossed = jnp.asarray([[[3.0], [1.0]]])
    np.testing.assert_allclose(
        quantiles_to_samples(crossed, (0.25, 0.75), 3)[0, :, 0], [1, 2, 3]
    )
    one = quantiles_to_samples(jnp.asarray([[[5.0, 6.0]]]), (0.5,), 4)
    np.testing.assert_array_equal(one, [[[5, 6]] * 4])


def test_gluonts_forecasts_by_samples_and_by_quantiles():
    samples = np.arange(12.0).reshape(2, 2, 3)
    got = from_gluonts(SimpleNamespace(samples=each) for each in samples)
    np.testing.assert_array_equal(got, samples)
    table = np.array([[9.0] * 3, [2.0] * 3, [1.0] * 3, [0.0] * 3])
    keys = ["mean", "0.9", "0.5", "0.1"]
    forecast = SimpleNamespace(forecast_array=table, forecast_keys=keys)
    got = from_gluonts([forecast], count=9)
    np.testing.assert_allclose(got[0, [0, 4, 8], 0], [0, 1, 2], atol=1e-6)
    odd = SimpleNamespace(samples=samples[0, :, :2])
    with pytest.raises(ValueError, match=r"shapes \[\(2, 2\), \(2, 3\)\]"):
        from_gluonts([SimpleNamespace(samples=samples[0]), odd])
    with pytest.raises(ValueError, match="got 0 forecasts"):
        from_gluonts([])


def test_statsforecast_frames():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "unique_id": ["b", "a", "b", "a"],
            "ds": [2, 2, 1, 1],
            "ETS": [4.0, 2.0, 3.0, 1.0],
            "ETS-lo-80": [3.0, 1.0, 2.0, 0.0],
            "ETS-hi-80": [6.0, 4.0, 5.0, 3.0],
            "ETS-lo-97.5": [0.0] * 4,
            "ETS-hi-97.5": [9.0] * 4,
            "Naive": [1.0, 2.0, 3.0, 4.0],
        }
    )
    got = from_statsforecast(frame, "ETS", ["b", "a"], count=9)
    assert got.shape == (2, 9, 2)
    np.testing.assert_allclose(got[:, 4], [[3, 4], [1, 2]], atol=1e-6)
    np.testing.assert_allclose(got[:, 0], [[2, 3], [0, 1]], atol=1e-6)
    np.testing.assert_allclose(got[:, 8], [[5, 6], [3, 4]], atol=1e-6)
    point = from_statsforecast(frame, "Naive", ["a"])
    np.testing.assert_array_equal(point, [[[4, 2]]])
    with pytest.raises(ValueError, match="model is 'MSTL'"):
        from_statsforecast(frame, "MSTL", ["a"])
    with pytest.raises(ValueError, match=r"no series \['c'\]"):
        from_statsforecast(frame, "ETS", ["a", "c"])
    twice = pd.concat([frame, frame[:1]])
    with pytest.raises(ValueError, match=r"series \['b'\] have a stamp twice"):
        from_statsforecast(twice, "ETS", ["a", "b"])
    assert from_statsforecast(twice, "Naive", ["a"]).shape == (1, 1, 2)
    with pytest.raises(ValueError, match=r"horizons are \[1, 2\]"):
        from_statsforecast(frame[:3], "ETS", ["a", "b"])


def nixtla(**columns):
    pd = pytest.importorskip("pandas")
    frame = {name.replace("_", "-"): [value] for name, value in columns.items()}
    return pd.DataFrame({"unique_id": "a", "ds": [1]} | frame)


def test_a_missing_quantile_moves_no_other():
    nan = np.nan
    got = quantiles_to_samples([[[nan], [10.0], [20.0]]], (0.1, 0.5, 0.9), 9)
    assert np.isnan(got).all()
    for absent in ("M_lo_80", "M_hi_80", "M_lo_95", "M"):
        row = {"M": 10.0, "M_lo_80": 5.0, "M_hi_80": 20.0, "M_lo_95": 0.0}
        frame = nixtla(**(row | {absent: nan}))
        assert np.isnan(from_statsforecast(frame, "M", ["a"], 9)).all()
    table, keys = np.array([[0.0, nan], [1.0, 1.0], [2.0, 2.0]]), ["0.1", "0.5", "0.9"]
    forecast = SimpleNamespace(forecast_array=table, forecast_keys=keys)
    got = from_gluonts([forecast], count=9)[0]
    # Other steps of the same window are known.
    np.testing.assert_allclose(got[[0, 4, 8], 0], [0, 1, 2], atol=1e-6)
    assert np.isnan(got[:, 1]).all()
    # An unbounded quantile reaches no sample above the next one.
    got = quantiles_to_samples([[[-np.inf], [0.0], [9.0]]], (0.0, 0.1, 1.0), 9)
    np.testing.assert_allclose(got[0, :, 0], np.arange(9.0), atol=1e-6)


def test_the_median_of_nixtla_is_not_its_mean():
    # neuralforecast writes the mean of a distribution under the model's own name.
    spread = np.arange(0, 22.5, 2.5)
    row = {"N_median": 10.0, "N_lo_80": 0.0, "N_hi_80": 20.0}
    for mean in ({"N": 15.0}, {"N": 50.0}, {}):
        got = from_statsforecast(nixtla(**mean, **row), "N", ["a"], 9)
        np.testing.assert_allclose(got[0, :, 0], spread, atol=1e-5)
    # TimeGPT names levels in percent.
    frame = nixtla(T=10.0, T_q_10=0.0, T_q_90=20.0)
    got = from_statsforecast(frame, "T", ["a"], 9)
    np.testing.assert_allclose(got[0, :, 0], spread, atol=1e-5)
    frame = nixtla(T=15.0, T_q_10=0.0, T_q_50=10.0, T_q_90=20.0)
    got = from_statsforecast(frame, "T", ["a"], 9)
    np.testing.assert_allclose(got[0, :, 0], spread, atol=1e-5)


@pytest.mark.parametrize(
    ("row", "model", "message"),
    [
        (
            {"M_median": 1.0, "M_lo_80": 0.0},
            "M-median",
            "one quantile of the model 'M'",
        ),
        ({"M": 1.0, "M_lo_80": 0.0}, "M-lo-80", "one quantile of the model 'M'"),
        ({"M": 1.0, "M_low_80": 0.0}, "M", r"\['M-low-80'\], which are no quantile"),
        ({"M": 1.0, "M_lo_120": 0.0}, "M", r"\['M-lo-120'\], which are no quantile"),
        ({"M": 1.0, "M_lo_80": 0.0, "M_q_10": 0.0}, "M", "both of the level 0.1"),
        ({"M_lo_80": 0.0}, "M", "one quantile of 'M', .* says nothing about"),
        ({"M": 50.0, "M_lo_80": 0.0, "M_hi_80": 20.0}, "M", "a mean and no median"),
        ({"M": -1.0, "M_lo_80": 0.0, "M_lo_95": -5.0}, "M", "a mean and no median"),
    ],
)
def test_columns_that_are_not_understood_are_refused(row, model, message):
    with pytest.raises(ValueError, match=message):
        from_statsforecast(nixtla(**row), model, ["a"], 9)


def test_keys_of_gluonts_are_numbers_however_written():
    def read(*keys):
        table = 10.0 * np.arange(len(keys))[:, None]
        forecast = SimpleNamespace(forecast_array=table, forecast_keys=list(keys))
        return from_gluonts([forecast], count=9)[0, :, 0]

    # The line from 0 at level 0 to 20 at level 1.
    for keys in (("0.0", "0.5", "1.0"), ("0", ".5", "1"), ("p0", "p50", "p100")):
        np.testing.assert_allclose(read(*keys), np.arange(2.0, 20, 2), atol=1e-5)
    np.testing.assert_allclose(read("1e-05", "0.99999")[4], 5, atol=1e-4)
    for keys in (("0.5", "q90"), ("0.5", "1.5"), ("0.5", "median"), ("0.5", "")):
        with pytest.raises(ValueError, match="expected 'mean' or a level"):
            read(*keys)
    with pytest.raises(ValueError, match="level 0.5 twice"):
        read("0.5", "p50")
    with pytest.raises(ValueError, match="none of them a quantile"):
        read("mean")


@pytest.mark.parametrize("levels", [(0.5, 0.1), (0.1, 0.1), (0.5, 1.2), (0.5,)])
def test_levels_that_do_not_work(levels):
    with pytest.raises(ValueError, match="levels"):
        quantiles_to_samples(jnp.ones((1, 2, 3)), levels, 5)


@pytest.mark.filterwarnings("ignore")
def test_gluonts_itself():
    pd = pytest.importorskip("pandas")
    forecast = pytest.importorskip("gluonts.model.forecast")
    start = pd.Period("2020-01-01", "h")
    table = np.arange(9.0).reshape(3, 3)
    keys = ["mean", "0.1", "0.9"]
    got = from_gluonts([forecast.QuantileForecast(table, start, keys)], count=9)
    np.testing.assert_allclose(got[0, [0, 8]], table[1:])
    got = from_gluonts([forecast.SampleForecast(table, start)])
    np.testing.assert_array_equal(got, table[None])
