"""Windows: scale, lags, masks and positions, and that the future cannot leak."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.rng import sample_keys
from jaxlib_guidance.timeseries import (
    DAILY_LAGS,
    HOURLY_LAGS,
    blackout_begin,
    blackout_end,
    cut_segments,
    forecast_mask,
    make_windows,
    mean_absolute_scale,
    random_missing,
)

# Two of the lags are shorter than the horizon.
SIZES = {"context": 12, "horizon": 6, "lags": (2, 4, 9)}
LENGTH, PAST = 18, 9
RANDOM = jax.jit(random_missing, static_argnums=(1, 2, 3))


def series(rows=3, steps=60, seed=0):
    values = np.random.default_rng(seed).gamma(2.0, 3.0, (rows, steps))
    return values.astype(np.float32)


@jax.jit
def windows(values, rows, starts, observed=None):
    segments = cut_segments(values, rows, starts, **SIZES)
    return make_windows(segments, **SIZES, observed=observed)


def everyone(mask):
    """A mask of one window for the batch of four that these tests cut."""
    return np.broadcast_to(mask, (4, LENGTH))


def brute_force(values, row, start, observed):
    """One window by the definition, entry by entry, in float64."""

    def entry(column):
        inside = column - start
        if not 0 <= column < values.shape[1] or np.isnan(values[row, column]):
            return None
        if 0 <= inside < LENGTH and not observed[inside]:
            return None
        return float(values[row, column])

    context = [entry(start + i) for i in range(SIZES["context"])]
    known = [abs(value) for value in context if value is not None]
    scale = np.mean(known)
    x = np.zeros((LENGTH, 1 + len(SIZES["lags"])))
    mask = np.zeros_like(x)
    for i in range(LENGTH):
        for j, lag in enumerate((0, *SIZES["lags"])):
            value = entry(start + i - lag)
            if value is not None:
                x[i, j], mask[i, j] = value / scale, 1
    return x, mask, scale


@pytest.mark.parametrize("hidden", ["nothing", "future", "some context"])
def test_windows_are_those_of_the_definition(hidden):
    values = series()
    values[0, 20:27] = np.nan
    observed = {
        "nothing": np.ones((4, LENGTH), bool),
        "future": everyone(forecast_mask(12, 6)),
        "some context": RANDOM(sample_keys(jax.random.key(3), 4), 12, 6, 5),
    }[hidden]
    rows, starts = np.array([0, 2, 1, 0]), np.array([12, 42, 9, 46])
    got = windows(values, rows, starts, None if hidden == "nothing" else observed)
    for b, (row, start) in enumerate(zip(rows, starts, strict=True)):
        x, mask, scale = brute_force(values, row, start, np.asarray(observed)[b])
        np.testing.assert_array_equal(got.mask[b], mask)
        np.testing.assert_allclose(got.x[b], x, rtol=1e-6)
        np.testing.assert_allclose(got.scale[b], scale, rtol=1e-6)


@jax.jit
def slopes(segments, observed):
    """How every feature together depends on every value."""

    def total(a):
        out = make_windows(a, **SIZES, observed=observed)
        return jnp.sum(out.x**2) + jnp.sum(out.scale**2)

    return jax.grad(total)(segments)


@pytest.mark.parametrize("scenario", ["forecast", "RM", "BM-B", "BM-E"])
def test_nothing_after_the_forecast_start_reaches_a_feature(scenario):
    rows, starts = np.array([0, 1, 2, 2]), np.array([9, 20, 42, 48])
    shown = {
        "forecast": lambda: forecast_mask(12, 6),
        "RM": lambda: RANDOM(sample_keys(jax.random.key(0), 4), 12, 6, 6),
        "BM-B": lambda: blackout_begin(12, 6, 6),
        "BM-E": lambda: blackout_end(12, 6, 6),
    }[scenario]()
    shown = everyone(shown)
    values = series(4)
    before = windows(values, rows, starts, shown)
    # Every hidden value is replaced by one that would be seen anywhere. Each window
    # has a copy of its series, for they overlap.
    own = values[rows].copy()
    hidden = starts[:, None] + np.arange(LENGTH)
    inside = ~shown & (hidden < 60)
    for value in (1e6, -1e6, np.nan):
        own[np.nonzero(inside)[0], hidden[inside]] = value
        after = windows(own, np.arange(4), starts, shown)
        jax.tree.map(np.testing.assert_array_equal, before, after)
    assert (np.asarray(before.x)[np.asarray(before.mask) == 0] == 0).all()
    # The same by derivatives.
    segments = np.random.default_rng(1).gamma(2.0, size=(4, PAST + LENGTH))
    slope = np.asarray(slopes(segments.astype(np.float32), shown))[:, PAST:]
    np.testing.assert_array_equal(slope[~shown], 0)
    assert (slope[shown] != 0).all()


ROWS, STARTS = np.array([1, 0, 2, 0]), np.array([48, 20, 30, 3])


def test_lags_that_point_into_the_horizon_are_unknown():
    observed = everyone(forecast_mask(12, 6))
    mask = np.asarray(windows(series(), ROWS, STARTS, observed).mask)[1]
    for j, lag in enumerate((0, *SIZES["lags"])):
        np.testing.assert_array_equal(mask[:, j], np.arange(LENGTH) - lag < 12)
    free = np.asarray(windows(series(), ROWS, STARTS).mask)[1]
    assert (free == 1).all(), "training sees its whole window"


def test_windows_may_end_after_the_series_and_lags_begin_before_it():
    values = series()
    got = windows(values, ROWS, STARTS, everyone(forecast_mask(12, 6)))
    np.testing.assert_array_equal(got.mask[0, :12], 1)
    last = np.asarray(got.x[0, :12, 0] * got.scale[0])
    np.testing.assert_allclose(last, values[1, -12:], rtol=1e-6)
    known = np.arange(LENGTH)
    np.testing.assert_array_equal(
        got.mask[3, :, 3], (known + 3 - 9 >= 0) & (known - 9 < 12)
    )


def test_joint_series_are_groups_of_channels():
    values = np.stack([series(seed=1), series(seed=2)], -1)
    observed = everyone(forecast_mask(12, 6))
    got = windows(values, ROWS, STARTS, observed)
    assert got.scale.shape == (4, 2)
    for d in range(2):
        one = windows(values[..., d], ROWS, STARTS, observed)
        np.testing.assert_allclose(got.x[..., d::2], one.x, rtol=1e-6)
        np.testing.assert_array_equal(got.mask[..., d::2], one.mask)
        np.testing.assert_allclose(got.scale[:, d], one.scale, rtol=1e-6)
    # Only the first of two series is to be forecast.
    part = np.stack([observed, np.ones_like(observed)], -1)
    mask = np.asarray(windows(values, ROWS, STARTS, part).mask)
    free = np.asarray(windows(values[..., 1], ROWS, STARTS).mask)
    np.testing.assert_array_equal(mask[..., 1::2], free)
    np.testing.assert_array_equal(mask[..., 0::2], got.mask[..., 0::2])


def test_scale_of_rows_that_say_nothing():
    y = jnp.asarray([[3.0, -5.0, 7.0], [0.0, 0.0, 0.0], [2.0, 2.0, 2.0]])
    m = jnp.asarray([[1, 1, 0], [1, 1, 1], [0, 0, 0]], bool)
    # Over the batch: (3 + 5 + 0) / (2 + 3).
    np.testing.assert_allclose(mean_absolute_scale(y, m), [4, 1.6, 1.6])
    np.testing.assert_allclose(mean_absolute_scale(y, m, 0.5), [4, 0.5, 0.5])
    each = jnp.asarray([9.0, 0.5, 3.0])
    np.testing.assert_allclose(mean_absolute_scale(y, m, each), [4, 0.5, 3])
    with pytest.raises(ValueError, match=r"default has shape \(2,\); expected \(3,\)"):
        mean_absolute_scale(y, m, each[:2])
    zero = mean_absolute_scale(y[1:2], m[1:2])
    np.testing.assert_allclose(zero, 1e-10)
    flat = series()
    flat[:2] = np.float32([[7.0], [np.nan]])
    got = windows(flat, np.array([0, 1, 2, 2]), np.array([20, 20, 20, 30]))
    np.testing.assert_allclose(got.x[0], 1, rtol=1e-6)
    np.testing.assert_array_equal(got.x[1], 0)
    np.testing.assert_array_equal(got.mask[1], 0)


def test_half_precision_sums_do_not_overflow():
    # 400 values of 336 add up to more than float16 holds.
    y = jnp.full((1, 400), 336, jnp.float16)
    scale = mean_absolute_scale(y, jnp.ones_like(y, bool))
    assert scale.dtype == jnp.float32
    np.testing.assert_array_equal(scale, 336)


def test_a_scale_may_be_given():
    segments = jnp.asarray(series(2, LENGTH + PAST))
    got = make_windows(segments, **SIZES, scale=jnp.array([2.0, 4.0]))
    np.testing.assert_allclose(got.x[:, :, 0], segments[:, PAST:] / got.scale[:, None])
    with pytest.raises(ValueError, match="default_scale would have no effect"):
        make_windows(segments, **SIZES, scale=got.scale, default_scale=1.0)
    with pytest.raises(ValueError, match=r"scale has shape \(1,\); expected \(2,\)"):
        make_windows(segments, **SIZES, scale=got.scale[:1])


@pytest.mark.parametrize(("context", "count"), [(336, 168), (312, 156), (360, 180)])
def test_the_published_missing_value_scenarios(context, count):
    # Counts of spec: half the context of 336, 312 and 360 steps.
    horizon = 24
    keys = sample_keys(jax.random.key(0), 3)
    masks = {
        "RM": np.asarray(RANDOM(keys, context, horizon, count)),
        "BM-B": np.asarray(blackout_begin(context, horizon, count))[None],
        "BM-E": np.asarray(blackout_end(context, horizon, count))[None],
    }
    for mask in masks.values():
        assert mask.shape[1] == context + horizon
        np.testing.assert_array_equal((~mask[:, :context]).sum(1), count)
        assert not mask[:, context:].any()
    assert not masks["BM-B"][0, :count].any()
    assert not masks["BM-E"][0, context - count : context].any()
    assert (masks["RM"][0] != masks["RM"][1]).any()
    turned = RANDOM(keys[::-1], context, horizon, count)
    np.testing.assert_array_equal(turned[::-1], masks["RM"])


def test_missing_steps_are_uniform():
    keys = sample_keys(jax.random.key(1), 4000)
    rate = np.asarray(RANDOM(keys, 8, 0, 2)).mean(0)
    # 4 standard errors of a share of 3/4.
    np.testing.assert_allclose(rate, 0.75, atol=4 * np.sqrt(0.75 * 0.25 / 4000))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": 0}, "context 0, horizon 6"),
        ({"horizon": -1}, "context 12, horizon -1"),
        ({"lags": (0,)}, r"lags are \(0,\)"),
        ({"lags": (3, 3)}, "expected different steps back"),
        ({"observed": jnp.ones(12, bool)}, r"observed has shape \(12,\)"),
        ({"lags": (2,)}, r"shape \(1, 27\); expected \[B, 20\]"),
    ],
)
def test_windows_that_do_not_work(change, message):
    with pytest.raises(ValueError, match=message):
        make_windows(jnp.ones((1, 27)), **{**SIZES, **change})


def test_segments_and_masks_that_do_not_work():
    with pytest.raises(ValueError, match="rows and starts"):
        cut_segments(series(), np.array([0]), np.array([1, 2]), **SIZES)
    with pytest.raises(ValueError, match="rows name series"):
        cut_segments(series(), np.array([3]), np.array([1]), **SIZES)
    with pytest.raises(TypeError, match="such as the values of load_series"):
        cut_segments((series(), "h"), np.array([0]), np.array([1]), **SIZES)
    with pytest.raises(ValueError, match="context 12.0, horizon 6"):
        cut_segments(series(), np.array([0]), np.array([1]), context=12.0, horizon=6)
    with pytest.raises(TypeError, match="lags is 24"):
        cut_segments(
            series(), np.array([0]), np.array([1]), context=12, horizon=6, lags=24
        )
    with pytest.raises(ValueError, match="series has shape"):
        cut_segments(series()[0], np.array([0]), np.array([1]), **SIZES)
    with pytest.raises(ValueError, match="count is 13"):
        blackout_end(12, 6, 13)
    with pytest.raises(TypeError, match="expected typed keys"):
        random_missing(jnp.zeros((2, 2), jnp.uint32), 12, 6, 3)


def test_published_lags():
    assert len(HOURLY_LAGS) == 10
    assert max(HOURLY_LAGS) == 672
    assert len(DAILY_LAGS) == 12
    assert max(DAILY_LAGS) == 360


def test_a_window_does_not_depend_on_its_batch():
    values = series()

    def make(rows, starts):
        segments = cut_segments(values, rows, starts, **SIZES)
        observed = forecast_mask(12, 6)
        return make_windows(segments, **SIZES, observed=observed, default_scale=1.0)

    whole = jax.jit(make)(ROWS, STARTS)
    each = jax.jit(jax.vmap(make))(ROWS[:, None], STARTS[:, None])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[:, 0], b, rtol=1e-6), each, whole
    )
    low = windows(values.astype(jnp.bfloat16), ROWS, STARTS)
    assert low.x.dtype == low.mask.dtype == low.scale.dtype == jnp.float32
