"""Windows: scale, lags, masks and positions, and that the future cannot leak."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.rng import sample_keys
from jaxlib_guidance.timeseries.windows import (
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


def series(rows=3, steps=60, seed=0):
    values = np.random.default_rng(seed).gamma(2.0, 3.0, (rows, steps))
    return values.astype(np.float32)


def windows(values, rows, starts, observed=None, **keywords):
    segments = cut_segments(values, np.array(rows), np.array(starts), **SIZES)
    return make_windows(segments, **SIZES, observed=observed, **keywords)


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
        "nothing": jnp.ones(LENGTH, bool),
        "future": forecast_mask(12, 6),
        "some context": random_missing(jax.random.key(3)[None], 12, 6, 5)[0],
    }[hidden]
    rows, starts = [0, 2, 1, 0], [12, 42, 9, 46]
    got = windows(values, rows, starts, None if hidden == "nothing" else observed)
    for b, (row, start) in enumerate(zip(rows, starts, strict=True)):
        x, mask, scale = brute_force(values, row, start, np.asarray(observed))
        np.testing.assert_array_equal(got.mask[b], mask)
        np.testing.assert_allclose(got.x[b], x, rtol=1e-6)
        np.testing.assert_allclose(got.scale[b], scale, rtol=1e-6)


@pytest.mark.parametrize("scenario", ["forecast", "RM", "BM-B", "BM-E"])
def test_nothing_after_the_forecast_start_reaches_a_feature(scenario):
    # Every hidden value is replaced by one that would be seen anywhere.
    rows, starts = np.array([0, 1, 2, 2]), np.array([9, 20, 42, 60 - 12])
    observed = {
        "forecast": forecast_mask(12, 6),
        "RM": random_missing(sample_keys(jax.random.key(0), 4), 12, 6, 6),
        "BM-B": blackout_begin(12, 6, 6),
        "BM-E": blackout_end(12, 6, 6),
    }[scenario]
    segments = np.asarray(cut_segments(series(), rows, starts, **SIZES))
    shown = np.broadcast_to(observed, (4, LENGTH))
    before = make_windows(jnp.asarray(segments), **SIZES, observed=observed)
    for value in (1e6, -1e6, np.nan):
        other = segments.copy()
        other[:, PAST:][~shown] = value
        after = make_windows(jnp.asarray(other), **SIZES, observed=observed)
        jax.tree.map(np.testing.assert_array_equal, before, after)
    assert (np.asarray(before.x)[np.asarray(before.mask) == 0] == 0).all()
    # The same by derivatives: no feature depends on what is hidden.
    known = jnp.asarray(np.nan_to_num(segments))

    def total(a):
        out = make_windows(a, **SIZES, observed=observed)
        return jnp.sum(out.x**2) + jnp.sum(out.scale**2)

    slopes = np.asarray(jax.grad(total)(known))[:, PAST:]
    np.testing.assert_array_equal(slopes[~shown], 0)
    assert (slopes[shown] != 0).mean() > 0.9


def test_lags_that_point_into_the_horizon_are_unknown():
    mask = np.asarray(windows(series(), [0], [20], forecast_mask(12, 6)).mask)[0]
    for j, lag in enumerate((0, *SIZES["lags"])):
        np.testing.assert_array_equal(mask[:, j], np.arange(LENGTH) - lag < 12)
    free = np.asarray(windows(series(), [0], [20]).mask)
    assert (free == 1).all(), "training sees its whole window"


def test_windows_may_end_after_the_series_but_not_before_it():
    values = series()
    future = windows(values, [1], [60 - 12], forecast_mask(12, 6))
    np.testing.assert_array_equal(future.mask[0, :12], 1)
    np.testing.assert_allclose(
        future.x[0, :12, 0] * future.scale, values[1, -12:], rtol=1e-6
    )
    early = windows(values, [1], [3])
    np.testing.assert_array_equal(early.mask[0, :, 3], np.arange(18) + 3 - 9 >= 0)


def test_joint_series_are_groups_of_channels():
    values = np.stack([series(seed=1), series(seed=2)], -1)
    rows, starts = [0, 2], [12, 30]
    observed = forecast_mask(12, 6)
    got = windows(values, rows, starts, observed)
    assert got.scale.shape == (2, 2)
    for d in range(2):
        one = windows(values[..., d], rows, starts, observed)
        np.testing.assert_array_equal(got.x[..., d::2], one.x)
        np.testing.assert_array_equal(got.mask[..., d::2], one.mask)
        np.testing.assert_array_equal(got.scale[:, d], one.scale)
    # Only the first of two series is to be forecast.
    part = jnp.stack([forecast_mask(12, 6), jnp.ones(18, bool)], -1)
    part = jnp.broadcast_to(part, (2, 18, 2))
    mask = np.asarray(windows(values, rows, starts, part).mask)
    assert (mask[..., 1::2] == 1).all()
    np.testing.assert_array_equal(mask[..., 0::2], got.mask[..., 0::2])


def test_scale_of_rows_that_say_nothing():
    y = jnp.asarray([[3.0, -5.0, 7.0], [0.0, 0.0, 0.0], [2.0, 2.0, 2.0]])
    m = jnp.asarray([[1, 1, 0], [1, 1, 1], [0, 0, 0]], bool)
    # Over the batch: (3 + 5 + 0) / (2 + 3).
    np.testing.assert_allclose(mean_absolute_scale(y, m), [4, 1.6, 1.6])
    np.testing.assert_allclose(mean_absolute_scale(y, m, 0.5), [4, 0.5, 0.5])
    zero = mean_absolute_scale(y[1:2], m[1:2])
    np.testing.assert_allclose(zero, 1e-10)
    constant = windows(np.full((1, 60), 7.0, np.float32), [0], [20])
    np.testing.assert_allclose(constant.x, 1)
    empty = np.full((1, 60), np.nan, np.float32)
    unknown = windows(empty, [0], [20], default_scale=1.0)
    np.testing.assert_array_equal(unknown.x, 0)
    np.testing.assert_array_equal(unknown.mask, 0)


@pytest.mark.parametrize(("context", "count"), [(336, 168), (312, 156), (360, 180)])
def test_the_published_missing_value_scenarios(context, count):
    # Counts of spec: half the context of 336, 312 and 360 steps.
    horizon = 24
    keys = sample_keys(jax.random.key(0), 3)
    masks = {
        "RM": np.asarray(random_missing(keys, context, horizon, count)),
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
    one = random_missing(keys[1:2], context, horizon, count)
    np.testing.assert_array_equal(one[0], masks["RM"][1])


def test_missing_steps_are_uniform():
    keys = sample_keys(jax.random.key(1), 4000)
    rate = np.asarray(random_missing(keys, 8, 0, 2)).mean(0)
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


def test_windows_under_transforms():
    values = jnp.asarray(series())
    rows, starts = jnp.asarray([0, 1, 2]), jnp.asarray([9, 20, 30])

    def make(rows, starts):
        segments = cut_segments(values, rows, starts, **SIZES)
        observed = forecast_mask(12, 6)
        return make_windows(segments, **SIZES, observed=observed, default_scale=1.0)

    plain = make(rows, starts)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6)  # noqa: E731
    jax.tree.map(close, jax.jit(make)(rows, starts), plain)
    # A row does not depend on its batch.
    each = jax.vmap(make)(rows[:, None], starts[:, None])
    jax.tree.map(lambda a, b: close(a[:, 0], b), each, plain)
    half = make_windows(
        cut_segments(values.astype(jnp.bfloat16), rows, starts, **SIZES), **SIZES
    )
    assert half.x.dtype == jnp.float32
