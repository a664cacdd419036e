"""train/timeseries.py and sample/forecast.py from end to end, on one's own series."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxlib_guidance.diffusion import linear_betas, vp_discrete
from jaxlib_guidance.timeseries import load_forecaster
from jaxlib_guidance.training import OtherRunError

ROOT = Path(__file__).parents[2]


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[name] = module
    # A script finds the files that lie beside it.
    sys.path.append(str(ROOT / Path(path).parent))
    spec.loader.exec_module(module)
    return module


train = load("train_timeseries", "train/timeseries.py")
sample = load("sample_forecast", "sample/forecast.py")
options, bases = sys.modules["timeseries_options"], sys.modules["bases"]


HOURS = np.arange(1200)
DAILY = 1.5 + np.sin(2 * np.pi * HOURS / 24)


def tiny(directory, source, preset="cpu", conditional=False, scales=(1.0,), **data):
    """A configuration that trains and searches in seconds."""
    cut = {"context": 48, "horizon": 12, "lags": (24, 672), "rolls": 1}
    return train.Config(
        directory=directory,
        data=options.Data(source=str(source), **(cut | data)),
        model=options.Model(
            preset,
            view=24 if preset == "cpu" else None,
            conditional=conditional,
            width=4,
            blocks=1,
            state=2,
        ),
        optimiser=options.Optimiser(steps=2, batch=8),
        search=options.Search(scales=scales, steps=2, samples=3, batch=2),
        log=options.Log(every=1, save_every=2),
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series")
    rows = [
        {
            "start": "2024-01-01 00:00:00",
            "item_id": name,
            "target": (level * DAILY).tolist(),
        }
        for name, level in (("small", 3.0), ("large", 400.0))
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "data.jsonl").write_text(lines)
    (folder / "metadata.json").write_text(json.dumps({"freq": "h"}))
    return folder


@pytest.fixture(scope="module")
def weights(source, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    found = train.train(tiny(run, source))
    assert set(found) == {"unguided", "square", "quantile"}
    return run / "ema.safetensors"


@pytest.fixture(scope="module")
def conditional(source, tmp_path_factory):
    run = tmp_path_factory.mktemp("conditional")
    config = tiny(run, source, conditional=True)
    assert set(train.train(config)) == {"conditional"}
    return run / "ema.safetensors"


def test_weights_know_their_layout_and_guidance(weights):
    forecaster, _ = load_forecaster(weights)
    assert forecaster.layout.length == 36
    assert forecaster.layout.values == "root"
    assert forecaster.guidance["quantile"].scale == 1.0
    assert forecaster.guidance["square"].steps == 2


@pytest.mark.share(2)
@pytest.mark.parametrize("task", ["forecast", "impute", "refine", "synthesize"])
def test_every_task_writes_a_picture_and_its_numbers(task, weights, tmp_path):
    out = tmp_path / f"{task}.png"
    chosen = {} if task == "synthesize" else {"series": (1,)}
    config = sample.Config(
        weights=str(weights), task=task, samples=3, out=out, **chosen
    )
    sample.main(config)
    with Image.open(out) as picture:
        assert picture.size[0] > 100
    with np.load(out.with_suffix(".npz")) as numbers:
        paths = numbers["paths"]
    assert paths.shape == ((3, 36) if task == "synthesize" else (1, 3, 36))
    assert np.isfinite(paths).all()
    table = out.with_suffix(".csv")
    assert table.exists() == (task != "synthesize")
    if table.exists():
        assert table.read_text().startswith("unique_id,ds,TSDiff,TSDiff-median,")


def test_what_is_refused(weights, conditional, tmp_path):
    def refused(match, of=weights, **given):
        with pytest.raises(ValueError, match=match):
            sample.run(sample.Config(weights=str(of), **given))

    refused(r"series \[5\]; expected 0, ..., 1", series=(5,))
    refused(r"series \['x'\]; expected numbers, or names such as", series=("x",))
    refused("scale is nan; expected a finite number from 0", scale=float("nan"))
    refused("scale is -1.0; expected a finite number from 0", scale=-1.0)
    none = "has no effect on the "
    refused(f"base is week, which {none}task 'forecast'", base="week")
    refused("noise is 0.0", task="impute", noise=0.0)
    refused(f"scale is 2.0, which {none}task 'refine'", task="refine", scale=2.0)
    for option in ({"series": (1,)}, {"rolls": 2}, {"hide": "end"}, {"ahead": True}):
        refused(f"{none}task 'synthesize'", task="synthesize", **option)
    refused(f"freq is h, which {none}series of training", freq="h")
    for option in ({"energy": "square"}, {"scale": 1.0}):
        refused("no effect on a conditional network", conditional, **option)
    forecaster, _ = load_forecaster(weights)
    with pytest.raises(ValueError, match="no guidance 'conditional' is stored"):
        sample.guidance_of(forecaster, "conditional", None)
    np.save(tmp_path / "daily.npy", np.stack([DAILY]))
    daily = {"source": str(tmp_path / "daily.npy"), "start": "2024-01-01"}
    np.save(tmp_path / "short.npy", DAILY[None, :735])
    short = {"source": str(tmp_path / "short.npy"), "start": "2024-01-01", "freq": "h"}
    refused("windows from before.* it takes 756 in all", task="refine", **short)
    refused("frequency 'D', but the model is of series of 'h'", freq="D", **daily)
    with pytest.raises(ValueError, match="'unknown'.* pass --freq"):
        sample.set_up(weights, daily["source"])


def test_bases_know_their_frequency_and_not_what_is_hidden(weights):
    quarters = np.arange(4 * 24 * 28.0)[None]
    naive = bases.same_hour("naive", quarters, 4, "15min")
    np.testing.assert_array_equal(naive, quarters[:, -96:-92])
    week = bases.same_hour("week", quarters, 4, "15min")
    np.testing.assert_array_equal(week, quarters[:, -672:-668])
    weeks = bases.same_hour("weeks", quarters, 4, "15min")
    np.testing.assert_array_equal(weeks[0, 1:, 0], quarters[0, -672 * np.arange(1, 5)])
    for freq in ("MS", "7h", ""):
        with pytest.raises(ValueError, match="take 'ridge'"):
            bases.same_hour("naive", quarters, 4, freq)

    setup = sample.set_up(weights)
    rows, starts = np.array([1]), np.array([1140])
    values = np.asarray(setup.reader.values).copy()
    values[1, 1164:1188] = 1e6
    other = dataclasses.replace(
        setup, reader=dataclasses.replace(setup.reader, values=jax.numpy.array(values))
    )
    # Fitted to the values as they were: some lie before validation.
    vars(other)["ridge"] = setup.ridge
    observed = sample.hide(setup, "end", 1, None)
    for name in ("naive", "weeks", "ridge"):
        each = [
            sample.base_forecast(of, name, rows, starts, 3, observed)
            for of in (setup, other)
        ]
        assert np.isfinite(each[0]).all()
        np.testing.assert_allclose(*each, rtol=1e-5)


def test_refined_with_a_hidden_past_leaves_it_unknown(weights, tmp_path):
    config = sample.Config(
        weights=str(weights),
        task="refine",
        hide="end",
        samples=2,
        out=tmp_path / "refined.png",
    )
    paths = sample.run(config)["paths"]
    assert np.isnan(paths[:, :, :24]).all()
    assert np.isfinite(paths[:, :, 24:]).all()


def test_one_compilation_serves_all_scales(weights):
    setup = sample.set_up(weights)
    rows, starts = np.array([0, 1]), np.array([1140, 1140])
    inputs = setup.reader.inputs(rows, starts)
    found = setup.forecaster.guidance["square"]
    drawn = [
        sample.draw_paths(
            setup, jax.random.key(0), inputs, 2, dataclasses.replace(found, scale=scale)
        )
        for scale in (0.0, 0.5, 0.5)
    ]
    assert setup.draw._cache_size() == 1
    assert (drawn[0] != drawn[1]).any()
    np.testing.assert_array_equal(*drawn[1:])


def test_times_are_those_of_training(weights):
    forecaster, _ = load_forecaster(weights)
    cosine = sample.training_times(forecaster)
    process = forecaster.model.process
    noise = np.log(process.sigma(cosine) / process.alpha(cosine))
    assert abs(np.median(noise) + 0.4) < 0.05
    table = vp_discrete(linear_betas(100, 1e-4, 0.1))
    model = dataclasses.replace(forecaster.model, process=table)
    times = sample.training_times(dataclasses.replace(forecaster, model=model))
    np.testing.assert_allclose(table.index(times), np.arange(100), atol=1e-4)


def test_presets_fill_what_is_not_given(tmp_path):
    config = train.Config(model=options.Model("paper"))
    paper = options.complete(config, "h")
    assert paper.data.lags == tuple(24 * n for n in (1, 2, 3, 4, 5, 6, 7, 14, 21, 28))
    assert paper.optimiser == options.Optimiser(128_000, 64, 1e-3, 0, 0.0, 0.5, 0.0)
    assert (paper.search.form, paper.search.steps) == ("after", 100)
    assert options.complete(config, "B").data.lags[:2] == (30, 60)
    conditional = train.Config(model=options.Model("paper", conditional=True))
    assert options.complete(conditional, "h").optimiser.steps == 12_800
    own = train.Config(optimiser=options.Optimiser(steps=5))
    cpu = options.complete(own, "h")
    assert cpu.optimiser == options.Optimiser(5, 64, 2e-3, 100, 0.01, 1.0, 0.999)
    with pytest.raises(ValueError, match="freq is '15min'.* --data.context, --data.ho"):
        options.complete(config, "15min")
    with pytest.raises(ValueError, match="take --search.form estimate"):
        options.complete(train.Config(search=options.Search(sampler="ddim")), "h")
    with pytest.raises(ValueError, match="view would have no effect"):
        options.complete(train.Config(model=options.Model("paper", view=9)), "h")


@pytest.mark.parametrize(
    ("freq", "context", "horizon", "view", "lags"),
    [
        ("h", 336, 24, 72, (168, 336, 504, 672)),
        ("15min", 1344, 96, 288, (672, 1344, 2016, 2688)),
        # Days and weekdays in weeks, and not 168 to 672 of them.
        ("D", 28, 7, 7, (7, 14, 21, 28)),
        ("B", 20, 5, 5, (5, 10, 15, 20)),
        ("W-SUN", 52, 8, 8, (52,)),
        ("2D", 183, 30, 30, (183,)),
        ("MS", 36, 12, 12, (12, 24, 36)),
        ("QE-DEC", 12, 4, 4, (4, 8, 12)),
        ("YS", 8, 2, 8, ()),
    ],
)
def test_default_windows_are_of_time_and_not_of_steps(
    freq, context, horizon, view, lags
):
    config = options.complete(train.Config(), freq)
    data = config.data
    assert (data.context, data.horizon, data.lags) == (context, horizon, lags)
    assert config.model.view == view


def test_windows_are_given_in_time():
    data = options.Data(context="4W", horizon="7D", lags=("1W", 14, "3W"))
    hourly = options.complete(train.Config(data=data), "h").data
    assert (hourly.context, hourly.horizon, hourly.lags) == (672, 168, (168, 14, 504))
    weekdays = options.complete(train.Config(data=data), "B").data
    assert (weekdays.context, weekdays.horizon, weekdays.lags) == (20, 5, (5, 14, 15))
    years = options.Data(horizon="1YS", lags=("1YS",))
    assert options.complete(train.Config(data=years), "MS").data.horizon == 12
    for size, freq in (("1MS", "D"), ("36h", "D"), ("7D", "MS"), ("7D", "")):
        with pytest.raises(ValueError, match=rf"horizon has '{size}', which is no who"):
            options.in_steps(options.Data(horizon=size), freq)


@pytest.mark.parametrize("freq", ["", "7h", "5MS", "2B"])
def test_series_of_other_frequencies_need_their_windows(freq):
    with pytest.raises(ValueError, match=r"pass --data.context, --data.horizon, --dat"):
        options.complete(train.Config(), freq)
    sizes = {"context": 24, "horizon": 6}
    with pytest.raises(ValueError, match=r"pass --data.lags, or --data.freq"):
        options.complete(train.Config(data=options.Data(**sizes)), freq)
    given = options.Data(**sizes, lags=(12, 24))
    # No lag brings what guidance is to bring.
    assert options.complete(train.Config(data=given), freq).model.view == 12
    given = options.Data(**sizes, lags=())
    assert options.complete(train.Config(data=given), freq).model.view == 24


@pytest.mark.parametrize(
    ("freq", "season"),
    [
        *(("15min", 96), ("h", 24), ("D", 7), ("B", 5), ("W", 52), ("MS", 12)),
        *(("QE", 4), ("YS", 1), ("7h", 24), ("", 1)),
    ],
)
def test_a_season_is_a_day_a_week_or_a_year(freq, season):
    assert bases.season_steps(freq) == season


def test_each_series_is_forecast_at_its_own_end(weights, tmp_path, capsys):
    values = np.stack([3 * DAILY, 400 * DAILY])
    values[0, 1100:] = np.nan
    values[1, 1176:1190] = np.nan
    np.save(tmp_path / "two.npy", values)
    where = {"freq": "h", "start": "2024-01-01", "source": str(tmp_path / "two.npy")}
    config = sample.Config(
        weights=str(weights), samples=2, out=tmp_path / "two.png", rolls=2, **where
    )
    found = sample.run(config)
    np.testing.assert_array_equal(found["starts"], [1028, 1128, 1040, 1140])
    known = np.isfinite(found["observed"][:, -12:]).sum(1)
    np.testing.assert_array_equal(known, [12, 0, 12, 10])
    said = capsys.readouterr().out
    assert "weighted quantile loss of 3 windows 0." in said
    # Days are alike: the last one is right.
    assert "of the seasonal naive forecast (24 steps before) 0.0000" in said
    assert "1 windows have no observation to be scored by" in said
    ahead = sample.run(dataclasses.replace(config, rolls=1, ahead=True))
    np.testing.assert_array_equal(ahead["starts"] + 48, [1100, 1200])


def test_a_place_that_cannot_be_written_is_refused_before_sampling(
    weights, tmp_path, monkeypatch
):
    def never(*args):
        raise AssertionError("it sampled")

    monkeypatch.setattr(sample, "run", never)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "taken.npz").mkdir()
    for name in ("file/a.png", "folder.png", "taken.png", "a.npz", "a"):
        config = sample.Config(weights=str(weights), out=tmp_path / name)
        with pytest.raises(SystemExit, match="sample/forecast.py: "):
            sample.main(config)


@pytest.mark.slow
@pytest.mark.parametrize("conditional", [False, True])
def test_the_published_preset_trains(conditional, source, tmp_path):
    config = tiny(
        tmp_path,
        source,
        "paper",
        conditional,
        () if conditional else (1.0,),
        lags=(24,),
    )
    config = dataclasses.replace(
        config, model=dataclasses.replace(config.model, init_skip=True)
    )
    found = train.train(config)
    assert set(found) == (set() if conditional else {"unguided", "square", "quantile"})
    forecaster, _ = load_forecaster(tmp_path / "ema.safetensors")
    layout = forecaster.layout
    assert (layout.length, layout.channels) == (60, 1 if conditional else 2)
    assert forecaster.model.module.skip
    if not conditional:
        assert forecaster.guidance["quantile"].form == "after"


@pytest.mark.slow
def test_series_without_spread_train_and_short_ones_are_named(tmp_path):
    np.save(tmp_path / "flat.npy", np.ones((1, 1200)))
    train.train(tiny(tmp_path / "flat", tmp_path / "flat.npy", scales=()))
    assert (
        load_forecaster(tmp_path / "flat" / "ema.safetensors")[0].layout.spread == 1.0
    )
    np.save(tmp_path / "flat.npy", np.full((1, 1200), 2.0))
    with pytest.raises(OtherRunError, match="data.identity was '1 series, crc32"):
        train.train(tiny(tmp_path / "flat", tmp_path / "flat.npy", scales=()))
    np.save(tmp_path / "short.npy", np.ones((1, 20)))
    with pytest.raises(ValueError, match=r"series \['0'\] are too short"):
        train.train(tiny(tmp_path / "short", tmp_path / "short.npy"))
    np.save(tmp_path / "zero.npy", np.zeros((1, 1200)))
    with pytest.raises(ValueError, match="all series are 0"):
        train.train(tiny(tmp_path / "zero", tmp_path / "zero.npy"))


@pytest.mark.slow
def test_a_stopped_run_goes_on_as_if_it_had_not_been(source, tmp_path, monkeypatch):
    def run(name):
        config = tiny(tmp_path / name, source, scales=())
        more = dataclasses.replace(config.optimiser, steps=4)
        return train.train(dataclasses.replace(config, optimiser=more))

    run("whole")
    fit = train.fit
    monkeypatch.setattr(
        train, "fit", lambda *args, **given: (fit(*args, **given | {"steps": 2})[0], 0)
    )
    assert run("parts") == {}
    assert not (tmp_path / "parts" / "ema.safetensors").exists()
    monkeypatch.setattr(train, "fit", fit)
    run("parts")
    each = [
        load_forecaster(tmp_path / n / "ema.safetensors")[1] for n in ("whole", "parts")
    ]
    jax.tree.map(np.testing.assert_array_equal, *each)
