"""Scores against GluonTS, scoringrules and properscoring, closed forms and brute force.

The golden numbers were computed by gluonts 0.17.0 (`Evaluator`, seasonality 5),
scoringrules 0.10.0 and properscoring 0.1 on `data(6, S, 10)` and, for MASE, the history
of `history()`; the last test computes them anew where those packages are installed.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.timeseries.metrics import (
    LEVELS,
    coverage,
    crps_ensemble,
    energy_score,
    mase,
    nd,
    nrmse,
    sample_quantiles,
    variogram_score,
    wql,
    wql_of_quantiles,
)


def data(n, s, h):
    """Samples and targets from a formula, the same in every version of numpy."""
    i, j, k = np.ogrid[1 : n + 1, 1 : s + 1, 1 : h + 1]
    target = 4 + 2 * np.sin(0.7 * i + 0.3 * k * k)[:, 0]
    samples = target[:, None] + 1.5 * np.sin(12.9 * i * j + 78.2 * k * j + j * j)
    return samples + 0.3, target


def history():
    return data(6, 1, 40)[1] + 0.01 * np.arange(40)


def with_gaps(target):
    target = target.copy()
    target[1, 3] = target[4, 0] = target[4, 1] = np.nan
    return target


def floats(*arrays):
    return tuple(jnp.asarray(a, jnp.float32) for a in arrays)


# S: wQL, its value with gaps, ND of the median, NRMSE of the mean, MASE of the median.
GLUONTS = {
    100: (0.100431082531, 0.099201016680, 0.085125001982, 0.075118674963, 0.216650552),
    16: (0.106820404222, 0.105294811369, 0.134912695595, 0.093304116978, 0.343957221),
    7: (0.123608964230, 0.121850607195, 0.140735679314, 0.118943564122, 0.358516372),
    1: (0.235758852025, 0.230759426128, 0.235758852025, 0.264599376026, 0.601369874),
}


@pytest.mark.parametrize("size", GLUONTS)
def test_point_and_quantile_scores_are_those_of_gluonts(size):
    samples, target = floats(*data(6, size, 10))
    gaps = jnp.asarray(with_gaps(np.asarray(target)))
    median, mean = sample_quantiles(samples, (0.5,))[:, 0], samples.mean(1)
    got = (
        wql(samples, target),
        wql(samples, gaps),
        nd(median, target),
        nrmse(mean, target),
        mase(median, target, floats(history())[0], season=5),
    )
    np.testing.assert_allclose(got, GLUONTS[size], rtol=2e-6)
    # A missing target is a masked one.
    masked = wql(samples, target, mask=~jnp.isnan(gaps))
    np.testing.assert_allclose(masked, wql(samples, gaps), rtol=1e-6)


# S: mean CRPS, the fair one; energy score, the fair one and variogram score of row 0.
RULES = {
    100: (0.377945967028, 0.371826817662, 1.151306451713, 1.127851254205, 9.4642232296),
    16: (0.414162627509, 0.376128220353, 1.290564597346, 1.144729756526, 10.0597763488),
    7: (0.471907065081, 0.386176585586, 1.397293850132, 1.054089221322, 11.6537185235),
}


@pytest.mark.parametrize("size", RULES)
def test_ensemble_scores_are_those_of_scoringrules(size):
    samples, target = floats(*data(6, size, 10))
    got = (
        crps_ensemble(samples, target).mean(),
        crps_ensemble(samples, target, fair=True).mean(),
        energy_score(samples, target)[0],
        energy_score(samples, target, fair=True)[0],
        variogram_score(samples, target)[0],
    )
    np.testing.assert_allclose(got, RULES[size], rtol=5e-6)


def test_ensemble_scores_are_their_double_sums():
    samples, target = data(3, 5, 4)
    x, y = floats(samples, target)
    gap = np.abs(samples[:, :, None] - samples[:, None]).sum((1, 2))
    first = np.abs(samples - target[:, None]).mean(1)
    np.testing.assert_allclose(crps_ensemble(x, y), first - gap / 50, rtol=1e-5)
    fair = crps_ensemble(x, y, fair=True)
    np.testing.assert_allclose(fair, first - gap / 40, rtol=1e-5)
    # With one entry the energy score is the CRPS.
    one = energy_score(x[..., :1], y[:, :1])
    np.testing.assert_allclose(one, crps_ensemble(x, y)[:, 0], rtol=1e-5)
    order = np.abs(samples[..., None] - samples[..., None, :]) ** 1.5
    own = np.abs(target[..., None] - target[:, None]) ** 1.5
    expected = ((order.mean(1) - own) ** 2).sum((1, 2))
    np.testing.assert_allclose(variogram_score(x, y, p=1.5), expected, rtol=1e-4)
    # Series and steps are all entries.
    joint = energy_score(x.reshape(3, 5, 2, 2), y.reshape(3, 2, 2))
    np.testing.assert_allclose(joint, energy_score(x, y), rtol=1e-6)


def test_the_fair_score_does_not_depend_on_the_ensemble():
    # A standard normal forecast of its own law: E CRPS = 1/sqrt(pi), fair at any size.
    draws = jax.random.normal(jax.random.key(0), (40_000, 4))
    target, samples = draws[:, 0], draws[:, 1:]
    got = crps_ensemble(samples, target, fair=True)
    error = float(got.std() / 200)
    np.testing.assert_allclose(got.mean(), 1 / np.sqrt(np.pi), atol=4 * error)
    # The plain one is larger by E|X - X'| / (2 S) = 1 / (sqrt(pi) S).
    plain = crps_ensemble(samples, target).mean()
    np.testing.assert_allclose(plain, 4 / 3 / np.sqrt(np.pi), atol=4 * error)


def test_many_levels_approach_the_crps():
    samples, target = floats(*data(6, 16, 10))
    fine = tuple((np.arange(2000) + 0.5) / 2000)
    steps = jnp.sort(samples, 1)[:, np.minimum((np.array(fine) * 16).astype(int), 15)]
    loss = wql_of_quantiles(steps, target, levels=fine)
    crps = crps_ensemble(samples, target).sum() / jnp.abs(target).sum()
    np.testing.assert_allclose(loss, crps, rtol=1e-3)


def test_quantile_rules():
    ramp = jnp.arange(16.0)[None, ::-1]
    # round(7.5) is 8, round(1.5) is 2 and round(13.5) is 14: halves go to the even.
    np.testing.assert_array_equal(sample_quantiles(ramp, (0.1, 0.5, 0.9)), [[2, 8, 14]])
    linear = sample_quantiles(ramp, LEVELS, rule="linear")
    np.testing.assert_allclose(linear[0], 15 * np.array(LEVELS), rtol=1e-6)
    single = sample_quantiles(ramp[:, :1], LEVELS)
    np.testing.assert_array_equal(single, np.full((1, 9), 15))


def test_one_sample_is_a_point_forecast():
    samples, target = floats(*data(6, 1, 10))
    expected = nd(samples[:, 0], target)
    np.testing.assert_allclose(wql(samples, target), expected, rtol=1e-6)
    crps = crps_ensemble(samples, target)
    np.testing.assert_allclose(crps, jnp.abs(samples[:, 0] - target), rtol=1e-6)


def test_coverage_counts():
    samples = jnp.broadcast_to(jnp.arange(101.0)[None, :, None], (2, 101, 4))
    target = jnp.asarray([[9.0, 10.0, 90.0, 91.0], [50.0, 50.0, np.nan, 50.0]])
    np.testing.assert_allclose(coverage(samples, target), 5 / 7)
    mask = jnp.asarray([[0, 1, 1, 0], [1, 0, 0, 0]])
    np.testing.assert_allclose(coverage(samples, target, mask=mask), 1)
    np.testing.assert_allclose(coverage(samples, target, level=0.85), 1)


def test_missing_history_and_repetition_in_mase():
    history = np.tile(np.arange(4.0), (3, 5))
    history[1:] += np.repeat(np.arange(5.0), 4)
    history[2, 4:8] = np.nan
    forecast = jnp.ones((3, 4))
    target = jnp.asarray([[2.0] * 4, [3.0] * 4, [4, 4, np.nan, 4]])
    # Row 0 repeats itself; the naive error of the others is 1.
    got = mase(forecast, target, *floats(history), season=4)
    np.testing.assert_allclose(got, (2 + 3) / 2, rtol=1e-6)


def test_a_nan_forecast_does_not_hide():
    samples, target = floats(*data(2, 16, 3))
    broken = samples.at[1, 3, 2].set(jnp.nan)
    assert np.isnan(wql(broken, target))
    assert np.isnan(wql(broken, target, rule="linear"))
    assert np.isnan(coverage(broken, target))
    for score in (crps_ensemble, energy_score, variogram_score):
        assert np.isnan(score(broken, target)[1]).any()
        assert np.isfinite(score(broken, target)[0]).all()
    # Where nothing is to be forecast it does not matter.
    mask = jnp.ones_like(target).at[1, 2].set(0)
    assert np.isfinite(wql(broken, target, mask=mask))
    np.testing.assert_allclose(
        energy_score(broken, target, mask=mask)[1],
        energy_score(samples[1:, :, :2], target[1:, :2])[0],
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        variogram_score(broken, target, mask=mask)[1],
        variogram_score(samples[1:, :, :2], target[1:, :2])[0],
        rtol=1e-6,
    )


def test_scores_under_transforms_and_in_low_precision():
    samples, target = floats(*data(4, 8, 5))

    def all_scores(x, y):
        return (
            wql(x, y),
            crps_ensemble(x, y, fair=True),
            energy_score(x, y),
            variogram_score(x, y),
            coverage(x, y),
        )

    plain = all_scores(samples, target)
    jitted = jax.jit(all_scores)(samples, target)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), plain, jitted
    )

    def total(x):
        _, crps, energy, variogram, _ = all_scores(x, target)
        return crps.sum() + energy.sum() + variogram.sum()

    slope = jax.jit(jax.grad(total))(samples.at[0, 1].set(samples[0, 0]))
    assert np.isfinite(slope).all()
    low = all_scores(samples.astype(jnp.bfloat16), target.astype(jnp.bfloat16))
    assert all(a.dtype == jnp.float32 for a in low)
    np.testing.assert_allclose(low[0], plain[0], rtol=0.02)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (
            lambda x, y: wql(x, y[:, :1]),
            r"samples have shape .* and the target \(2, 1\)",
        ),
        (lambda x, y: wql_of_quantiles(x, y), "got 4 quantiles for 9 levels"),
        (lambda x, y: wql(x, y, rule="nearest"), "rule is 'nearest'"),
        (lambda x, y: wql(x, y, levels=(1.5,)), r"levels are \(1.5,\)"),
        (lambda x, y: wql(x, y, mask=jnp.ones(3)), r"mask has shape \(3,\)"),
        (lambda x, y: crps_ensemble(x[:, :1], y, fair=True), "fair needs at least 2"),
        (lambda x, y: energy_score(x[:, :1], y, fair=True), "fair needs at least 2"),
        (lambda x, y: variogram_score(x, y, p=0), "p is 0"),
        (lambda x, y: coverage(x, y, level=80), "level is 80"),
        (lambda x, y: nd(x, y), "forecast has shape"),
        (lambda x, y: mase(y, y, y, season=3), "season is 3; expected 1 to 2"),
        (lambda x, y: mase(y, y, y[:1], season=1), "history has shape"),
    ],
)
def test_scores_that_do_not_work(score, message):
    with pytest.raises(ValueError, match=message):
        score(*floats(*data(2, 4, 3)))


def test_against_the_packages_themselves():
    rules = pytest.importorskip("scoringrules")
    proper = pytest.importorskip("properscoring")
    samples, target = data(6, 16, 10)
    x, y = floats(samples, target)
    last = np.moveaxis(samples, 1, -1)
    for reference in (
        rules.crps_ensemble(target, last, estimator="nrg"),
        proper.crps_ensemble(target, last),
    ):
        np.testing.assert_allclose(crps_ensemble(x, y), reference, rtol=1e-4)
    fair = rules.crps_ensemble(target, last, estimator="fair")
    np.testing.assert_allclose(crps_ensemble(x, y, fair=True), fair, rtol=1e-4)
    both = ((energy_score, rules.es_ensemble), (variogram_score, rules.vs_ensemble))
    for ours, theirs in both:
        np.testing.assert_allclose(ours(x, y), theirs(target, samples), rtol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_against_gluonts_itself():
    pytest.importorskip("gluonts")
    pd = pytest.importorskip("pandas")
    from gluonts.evaluation import Evaluator
    from gluonts.model.forecast import SampleForecast

    samples, target = data(6, 100, 10)
    target = with_gaps(target)
    hours = pd.period_range("2020-01-01", periods=50, freq="h")
    whole = np.concatenate([history(), target], 1)
    series = iter(pd.DataFrame(row, index=hours) for row in whole)
    forecasts = iter(SampleForecast(each, hours[40]) for each in samples)
    judge = Evaluator(quantiles=LEVELS, seasonality=5, num_workers=None)
    expected = judge(series, forecasts)[0]["mean_wQuantileLoss"]
    np.testing.assert_allclose(wql(*floats(samples, target)), expected, rtol=1e-6)
