"""Positions of windows, batches that are functions of the step, and the calendar."""

import jax
import numpy as np
import pytest

from jaxlib_guidance.timeseries import (
    Positions,
    calendar,
    rolling_positions,
    series_ends,
    training_batch,
    training_positions,
)

SIZES = {"context": 12, "horizon": 6, "lags": (2, 4, 9)}


def series(rows, steps):
    return np.random.default_rng(0).normal(size=(rows, steps)).astype(np.float32)


def test_training_positions_are_all_that_fit():
    values = series(3, 40)
    values[1, :10] = np.nan
    values[2, 5] = np.nan
    positions = training_positions(values, **SIZES)
    np.testing.assert_array_equal(positions.first, [9, 19, 9])
    np.testing.assert_array_equal(positions.count, [14, 4, 14])
    held = training_positions(values, **SIZES, end=38)
    np.testing.assert_array_equal(held.count, [12, 2, 12])
    total = int(positions.count.sum())
    rows, starts = training_batch(0, 0, total, positions)
    pairs = set(zip(rows.tolist(), starts.tolist(), strict=True))
    assert pairs == {
        (s, start)
        for s in range(3)
        for start in range(40)
        if start - 9 >= (10 if s == 1 else 0) and start + 18 <= 40
    }


def test_training_batches_are_functions_of_seed_and_step():
    positions = Positions(np.array([9, 9]), np.array([30, 10]))
    first = training_batch(1, 77, 8, positions)
    training_batch(2, 5, 8, positions)
    jax.tree.map(
        np.testing.assert_array_equal, first, training_batch(1, 77, 8, positions)
    )
    assert (first[1] != training_batch(2, 77, 8, positions)[1]).any()
    rows = np.concatenate([training_batch(0, s, 8, positions)[0] for s in range(5)])
    np.testing.assert_array_equal(np.bincount(rows), [30, 10])


def test_rolls_tile_the_end():
    values = series(2, 60)
    rows, starts = rolling_positions(values, **SIZES, rolls=3)
    np.testing.assert_array_equal(rows, [0, 1] * 3)
    np.testing.assert_array_equal(starts + 12, np.repeat([42, 48, 54], 2))
    _, before = rolling_positions(values, **SIZES, rolls=1, end=42)
    np.testing.assert_array_equal(before + 18, 42)
    with pytest.raises(ValueError, match="end is 67; the last forecast of 6 steps"):
        rolling_positions(values, **SIZES, rolls=1, end=67)
    # An end for all that lies beyond the one of a series would test it on nothing.
    gone = values.copy()
    gone[1, 40:] = np.nan
    with pytest.raises(ValueError, match=r"steps of series \[1\] would begin after"):
        rolling_positions(gone, **SIZES, rolls=3, end=60)
    with pytest.raises(ValueError, match="end is 61; the series have 60 columns"):
        training_positions(values, **SIZES, end=61)
    with pytest.raises(TypeError, match="series is a tuple"):
        training_positions((values,), **SIZES)
    with pytest.raises(ValueError, match="rolls 0"):
        rolling_positions(values, **SIZES, rolls=0)
    _, after = rolling_positions(values, **SIZES, rolls=1, end=66)
    np.testing.assert_array_equal(after + 12, 60)


def test_each_series_is_cut_at_its_own_end():
    # Of 60 columns the second series has the first 45, with a gap before its last.
    values = series(2, 60)
    values[1, 45:] = np.nan
    values[1, 40:44] = np.nan
    np.testing.assert_array_equal(series_ends(values), [60, 45])
    joint = np.stack([values, np.full_like(values, np.nan)], -1)
    np.testing.assert_array_equal(series_ends(joint), [60, 45])
    rows, starts = rolling_positions(values, **SIZES, rolls=2)
    np.testing.assert_array_equal(rows, [0, 1, 0, 1])
    np.testing.assert_array_equal(starts + 12, [48, 33, 54, 39])
    for row, start in zip(rows, starts, strict=True):
        assert np.isfinite(values[row, start + 12 : start + 18]).any()
    ends = series_ends(values)
    _, before = rolling_positions(values, **SIZES, rolls=1, end=ends - 12)
    np.testing.assert_array_equal(before + 18, [48, 33])
    _, ahead = rolling_positions(values, **SIZES, rolls=1, end=ends + 6)
    np.testing.assert_array_equal(ahead + 12, [60, 45])
    # 27 values are a window: of the second series 45 - 27 + 1 starts.
    np.testing.assert_array_equal(training_positions(values, **SIZES).count, [34, 19])
    cut = training_positions(values, **SIZES, end=ends - 12)
    np.testing.assert_array_equal(cut.count, [22, 7])


def test_short_series_are_named():
    values = series(2, 40)
    values[1, :19] = np.nan
    names = ("long", "short")
    with pytest.raises(
        ValueError, match=r"\['short'\] are too short.*need 27 values.*has 21 "
    ):
        training_positions(values, **SIZES, names=names)
    with pytest.raises(
        ValueError, match=r"series \[1\] are too short.*need 21 .* 15 .* 34"
    ):
        rolling_positions(values, **SIZES, rolls=1)
    # 27 for a window, and the 12 that are kept apart.
    with pytest.raises(ValueError, match="has 9 .* and 12 that .*: it takes 39 in all"):
        training_positions(values, **SIZES, end=28)
    rows, _ = rolling_positions(values, **SIZES, rolls=1, end=46)
    assert len(rows) == 2, "its 21 values are the context and the longest lag"


def test_the_calendar_turns():
    start = np.array(["2024-02-29T23:00", "2023-12-31T12:00"], "M8[s]")
    got = calendar(start, "h", 26)
    assert got.shape == (2, 26, 6)
    assert got.dtype == np.float32
    hour, week, year = (
        np.arctan2(got[..., i], got[..., i + 3]) / (2 * np.pi) % 1 for i in range(3)
    )
    np.testing.assert_allclose(hour[0, :3] * 24 % 24, [23, 0, 1], atol=1e-5)
    # 2024-02-29 was a Thursday, day 60 of 366; the turn of the year is a Sunday's end.
    np.testing.assert_allclose(week[0, :2] * 7, [3, 4], atol=1e-5)
    np.testing.assert_allclose(year[0, 0] * 366, 59 + 23 / 24, rtol=1e-4)
    np.testing.assert_allclose(week[1, [0, 12]] * 7 % 7, [6, 0], atol=1e-5)
    np.testing.assert_allclose(year[1, 0] * 365, 364.5, rtol=1e-4)
    np.testing.assert_allclose(np.abs(year[1, 12] - 0.5), 0.5, atol=1e-5)
    with pytest.raises(ValueError, match="start is NaT"):
        calendar(np.array(["NaT"], "M8[s]"), "h", 2)
