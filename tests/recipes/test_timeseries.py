"""train/timeseries.py and sample/forecast.py from end to end, on one's own series."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxlib_guidance.timeseries.forecaster import load_forecaster

ROOT = Path(__file__).parents[2]


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


train = load("train_timeseries", "train/timeseries.py")
sample = load("sample_forecast", "sample/forecast.py")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series")
    hours = np.arange(1200)
    rows = [
        {
            "start": "2024-01-01 00:00:00",
            "item_id": name,
            "target": (level * (1.5 + np.sin(2 * np.pi * hours / 24))).tolist(),
        }
        for name, level in (("small", 3.0), ("large", 400.0))
    ]
    source = folder / "data.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "metadata.json").write_text(json.dumps({"freq": "h"}))
    config = train.Config(
        directory=folder / "run",
        data=train.Data(
            source=str(folder), context=48, horizon=12, lags=(24, 672), rolls=1
        ),
        model=train.Model(width=4, blocks=1, state=2, view=24),
        optimiser=train.Optimiser(steps=2, batch=8, warmup=1),
        search=train.Search(scales=(1.0,), steps=2, samples=3, batch=2),
        log=train.Log(every=1, save_every=2),
    )
    found = train.train(config)
    assert set(found) == {"unguided", "square", "quantile"}
    return folder / "run" / "ema.npz"


def test_weights_know_their_layout_and_guidance(weights):
    forecaster, _ = load_forecaster(weights)
    assert forecaster.layout.length == 36
    assert forecaster.layout.values == "root"
    assert forecaster.guidance["quantile"].scale == 1.0
    assert forecaster.guidance["square"].steps == 2


@pytest.mark.parametrize("task", ["forecast", "impute", "refine", "synthesize"])
def test_every_task_writes_a_picture_and_its_numbers(task, weights, tmp_path):
    out = tmp_path / f"{task}.png"
    config = sample.Config(
        weights=str(weights), task=task, series=(1,), samples=3, ahead=False, out=out
    )
    sample.main(config)
    with Image.open(out) as picture:
        assert picture.size[0] > 100
    with np.load(out.with_suffix(".npz")) as numbers:
        paths = numbers["paths"]
    assert paths.shape == ((3, 36) if task == "synthesize" else (1, 3, 36))
    assert np.isfinite(paths).all()


def test_what_is_refused(weights):
    with pytest.raises(ValueError, match=r"series \[5\]; expected 0, ..., 1"):
        sample.run(sample.Config(weights=str(weights), series=(5,)))
    forecaster, _ = load_forecaster(weights)
    with pytest.raises(ValueError, match="no guidance 'told' is stored"):
        sample.guidance_of(forecaster, "told", None)
