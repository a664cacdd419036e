"""Scores against GluonTS, scoringrules and properscoring, closed forms and brute force.

The golden numbers were computed by gluonts 0.17.0 (`Evaluator`, seasonality 5),
scoringrules 0.10.0 and properscoring 0.1 on `data(6, S, 10)` and, for MASE, the history
of `history()`; the last test computes them anew where those packages are installed.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.timeseries import (
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


@jax.jit
def point_scores(samples, target, gaps, history):
    median, mean = sample_quantiles(samples, (0.5,))[:, 0], samples.mean(1)
    return (
        wql(samples, target),
        wql(samples, gaps),
        nd(median, target),
        nrmse(mean, target),
        mase(median, target, history, season=5),
        # A missing target is a masked one.
        wql(samples, target, mask=~jnp.isnan(gaps)),
    )


@pytest.mark.parametrize("size", GLUONTS)
def test_point_and_quantile_scores_are_those_of_gluonts(size):
    samples, target = data(6, size, 10)
    got = point_scores(*floats(samples, target, with_gaps(target), history()))
    expected = GLUONTS[size]
    np.testing.assert_allclose(got, (*expected, expected[1]), rtol=2e-6)


# S: mean CRPS, the fair one; energy score, the fair one and variogram score of row 0.
RULES = {
    100: (0.377945967028, 0.371826817662, 1.151306451713, 1.127851254205, 9.4642232296),
    16: (0.414162627509, 0.376128220353, 1.290564597346, 1.144729756526, 10.0597763488),
}


@jax.jit
def ensemble_scores(samples, target):
    return (
        crps_ensemble(samples, target),
        crps_ensemble(samples, target, fair=True),
        energy_score(samples, target),
        energy_score(samples, target, fair=True),
        variogram_score(samples, target),
    )


@pytest.mark.parametrize("size", RULES)
def test_ensemble_scores_are_those_of_scoringrules(size):
    crps, fair, *paths = ensemble_scores(*floats(*data(6, size, 10)))
    got = crps.mean(), fair.mean(), *(path[0] for path in paths)
    np.testing.assert_allclose(got, RULES[size], rtol=5e-6)


def test_a_score_of_nothing_is_no_score():
    nan = np.nan
    samples = 2 * jnp.ones((3, 5, 2))
    target = jnp.array([[1.0, 1], [nan, nan], [1, nan]])
    root = np.sqrt(2)
    for fair in (False, True):
        energy = energy_score(samples, target, fair=fair)
        np.testing.assert_allclose(energy, [root, nan, 1], rtol=1e-6)
    np.testing.assert_allclose(np.nanmean(energy), (root + 1) / 2, rtol=1e-6)
    # Of one known entry there is no pair.
    pairs = variogram_score(samples, target)
    np.testing.assert_array_equal(pairs, [0, nan, nan])
    whole, mask = jnp.ones((3, 2)), ~jnp.isnan(target)
    masked = energy_score(samples, whole, mask=mask)
    np.testing.assert_allclose(masked, [root, nan, 1], rtol=1e-6)
    pairs = variogram_score(samples, whole, mask=mask)
    np.testing.assert_array_equal(pairs, [0, nan, nan])
    gone = jnp.full((3, 2), nan)
    for score in (
        wql(samples, gone),
        coverage(samples, gone),
        nd(whole, gone),
        nrmse(whole, gone),
        mase(whole, gone, jnp.arange(12.0).reshape(3, 4), season=1),
    ):
        assert np.isnan(score)
    assert np.isnan(crps_ensemble(samples, gone)).all()


@pytest.mark.parametrize("unit", [2.0**-110, 2.0**-43, 2.0**116])
def test_scores_are_the_same_in_any_unit(unit):
    samples, target = floats(*data(6, 16, 10))
    (past,) = floats(history())

    @jax.jit
    def scores(unit):
        x, y, h = unit * samples, unit * target, unit * past
        relative = point_scores(x, y, y, h)
        return relative, (crps_ensemble(x, y) / unit, energy_score(x, y) / unit)

    each = scores(jnp.float32(unit)), scores(jnp.float32(1))
    # A power of two changes no rounding.
    jax.tree.map(np.testing.assert_array_equal, *each)
    pairs = variogram_score(unit * samples, unit * target) / unit
    np.testing.assert_allclose(pairs, variogram_score(samples, target), rtol=1e-5)


def test_plain_lists_are_scored():
    # Of the quantiles 2 and the target 1 the loss is 2 (1 - q), 1 on the mean.
    assert abs(wql([[[2.0], [2.0]]], [[1.0]]) - 1) < 1e-6
    assert nd([[2]], [[1]]) == 1
    assert nrmse([[2]], [[1]]) == 1
    assert coverage([[[0], [2]]], [[1]], level=0.9) == 1
    assert abs(mase([[2]], [[1]], [[0, 1, 3]], season=1) - 1 / 1.5) < 1e-6
    assert energy_score([[[2], [2]]], [[1]]) == 1
    assert crps_ensemble([[[2], [2]]], [[1]]) == 1
    assert variogram_score([[[2, 2]]], [[1, 1]]) == 0
    assert sample_quantiles([[1, 2, 3]], (0.5,)) == 2


def test_ensemble_scores_are_their_double_sums():
    samples, target = data(3, 5, 4)

    @jax.jit
    def scores(x, y):
        joint = energy_score(x.reshape(3, 5, 2, 2), y.reshape(3, 2, 2))
        one = energy_score(x[..., :1], y[:, :1])
        crps, fair, energy, _, _ = ensemble_scores(x, y)
        return crps, fair, energy, joint, one, variogram_score(x, y, p=1.5)

    crps, fair, energy, joint, one, variogram = scores(*floats(samples, target))
    gap = np.abs(samples[:, :, None] - samples[:, None]).sum((1, 2))
    first = np.abs(samples - target[:, None]).mean(1)
    np.testing.assert_allclose(crps, first - gap / 50, rtol=1e-5)
    np.testing.assert_allclose(fair, first - gap / 40, rtol=1e-5)
    # With one entry the energy score is the CRPS; series and steps are all entries.
    np.testing.assert_allclose(one, crps[:, 0], rtol=1e-5)
    np.testing.assert_allclose(joint, energy, rtol=1e-6)
    expected = double_variogram(samples, target, 1.5)
    np.testing.assert_allclose(variogram, expected, rtol=1e-4)


def double_variogram(samples, target, p):
    steps = np.abs(samples[..., None] - samples[..., None, :]) ** p
    own = np.abs(target[..., None] - target[:, None]) ** p
    return ((steps.mean(1) - own) ** 2).sum((1, 2))


def test_the_fair_score_does_not_depend_on_the_ensemble():
    # A standard normal forecast of its own law: E CRPS = 1/sqrt(pi), fair at any size.
    draws = np.random.default_rng(0).normal(size=(40_000, 4)).astype(np.float32)

    @jax.jit
    def both(samples, target):
        return [crps_ensemble(samples, target, fair=fair) for fair in (True, False)]

    fair, plain = map(np.asarray, both(draws[:, 1:], draws[:, 0]))
    error = fair.std() / 200
    np.testing.assert_allclose(fair.mean(), 1 / np.sqrt(np.pi), atol=4 * error)
    # The plain one is larger by E|X - X'| / (2 S) = 1 / (sqrt(pi) S).
    np.testing.assert_allclose(plain.mean(), 4 / 3 / np.sqrt(np.pi), atol=4 * error)


def test_many_levels_approach_the_crps():
    samples, target = data(6, 16, 10)
    fine = (np.arange(2000) + 0.5) / 2000
    steps = np.sort(samples, 1)[:, (fine * 16).astype(int)]
    loss = wql_of_quantiles(*floats(steps, target), levels=fine.tolist())
    crps = ensemble_scores(*floats(samples, target))[0]
    np.testing.assert_allclose(loss, crps.sum() / np.abs(target).sum(), rtol=1e-3)


def test_quantile_rules():
    ramp = jnp.arange(16.0)[None, ::-1]
    # round(7.5) is 8, round(1.5) is 2 and round(13.5) is 14: halves go to the even.
    np.testing.assert_array_equal(sample_quantiles(ramp, (0.1, 0.5, 0.9)), [[2, 8, 14]])
    linear = sample_quantiles(ramp, LEVELS, rule="linear")
    np.testing.assert_allclose(linear[0], 15 * np.array(LEVELS), rtol=1e-6)
    single = sample_quantiles(ramp[:, :1], LEVELS)
    np.testing.assert_array_equal(single, np.full((1, 9), 15))


def test_the_crps_of_one_sample_is_its_error():
    samples, target = data(6, 1, 10)
    crps = crps_ensemble(*floats(samples, target))
    np.testing.assert_allclose(crps, np.abs(samples[:, 0] - target), rtol=1e-5)


def test_coverage_counts():
    samples = np.broadcast_to(np.float32(np.arange(101))[None, :, None], (2, 101, 4))
    target = np.float32([[9, 10, 90, 91], [50, 50, np.nan, 50]])
    score = jax.jit(coverage, static_argnames="level")
    np.testing.assert_allclose(score(samples, target), 5 / 7, rtol=1e-6)
    np.testing.assert_allclose(score(samples, target, level=0.85), 1)
    mask = np.array([[0, 1, 1, 0], [1, 0, 0, 0]])
    np.testing.assert_allclose(score(samples, target, mask=mask), 1)


def test_missing_history_and_repetition_in_mase():
    history = np.tile(np.arange(4.0), (3, 5))
    history[1:] += np.repeat(np.arange(5.0), 4)
    history[2, 4:8] = np.nan
    forecast = jnp.ones((3, 4))
    target = jnp.asarray([[2.0] * 4, [3.0] * 4, [4, 4, np.nan, 4]])
    # Row 0 repeats itself; the naive error of the others is 1.
    score = jax.jit(mase, static_argnames="season")
    got = score(forecast, target, *floats(history), season=4)
    np.testing.assert_allclose(got, (2 + 3) / 2, rtol=1e-6)


@jax.jit
def all_scores(samples, target, mask):
    return {
        "wql": wql(samples, target, mask=mask),
        "linear": wql(samples, target, rule="linear", mask=mask),
        "coverage": coverage(samples, target, mask=mask),
        "crps": crps_ensemble(samples, target),
        "energy": energy_score(samples, target, mask=mask),
        "variogram": variogram_score(samples, target, mask=mask),
    }


def test_a_nan_forecast_does_not_hide():
    samples, target = data(2, 16, 3)
    broken = samples.copy()
    broken[1, 3, 2] = np.nan
    mask = np.ones((2, 3), bool)
    hurt = all_scores(*floats(broken, target), mask)
    for name, score in hurt.items():
        worst = np.isnan(score)
        assert worst.any(), name
        assert worst.ndim == 0 or not worst[0].any(), name
    # Where nothing is to be forecast it does not matter.
    mask[1, 2] = False
    got = all_scores(*floats(broken, target), mask)
    assert all(np.isfinite(got[name]) for name in ("wql", "linear", "coverage"))
    same = samples.copy()
    same[1, :, 2] = target[1, 2]
    whole = all_scores(*floats(same, target), np.ones((2, 3), bool))
    np.testing.assert_allclose(got["energy"], whole["energy"], rtol=1e-6)
    expected = double_variogram(samples[1:, :, :2], target[1:, :2], 0.5)[0]
    np.testing.assert_allclose(got["variogram"][1], expected, rtol=1e-5)


def test_scores_can_be_trained_on_and_take_low_precision():
    samples, target = data(2, 16, 3)
    # Two members agree, and two entries: the norm and the power have no slope there.
    samples[0, 1], samples[1, 0, 1] = samples[0, 0], samples[1, 0, 0]
    mask = np.ones((2, 3), bool)

    def total(x, y):
        scores = all_scores(x, y, mask)
        return sum(scores[name].sum() for name in ("crps", "energy", "variogram"))

    slope = jax.jit(jax.grad(total))(*floats(samples, target))
    assert np.isfinite(slope).all()
    low = [jnp.asarray(a, jnp.bfloat16) for a in (samples, target)]
    got = all_scores(*low, mask)
    assert all(score.dtype == jnp.float32 for score in got.values())
    full = all_scores(*floats(*low), mask)
    for name, score in got.items():
        np.testing.assert_array_equal(score, full[name])


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
    expected = (
        rules.crps_ensemble(target, last, estimator="nrg"),
        rules.crps_ensemble(target, last, estimator="fair"),
        rules.es_ensemble(target, samples, estimator="nrg"),
        rules.es_ensemble(target, samples, estimator="fair"),
        rules.vs_ensemble(target, samples),
    )
    for ours, theirs in zip(ensemble_scores(x, y), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    other = proper.crps_ensemble(target, last)
    np.testing.assert_allclose(ensemble_scores(x, y)[0], other, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_against_gluonts_itself():
    evaluation = pytest.importorskip("gluonts.evaluation")
    forecast = pytest.importorskip("gluonts.model.forecast")
    pd = pytest.importorskip("pandas")
    samples, target = data(6, 100, 10)
    target = with_gaps(target)
    hours = pd.period_range("2020-01-01", periods=50, freq="h")
    whole = np.concatenate([history(), target], 1)
    series = iter(pd.DataFrame(row, index=hours) for row in whole)
    forecasts = iter(forecast.SampleForecast(each, hours[40]) for each in samples)
    judge = evaluation.Evaluator(quantiles=LEVELS, seasonality=5, num_workers=None)
    expected = judge(series, forecasts)[0]["mean_wQuantileLoss"]
    np.testing.assert_allclose(wql(*floats(samples, target)), expected, rtol=1e-6)
