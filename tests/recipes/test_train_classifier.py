"""train/classifier.py: it learns, its judge can be loaded, and what it refuses."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxlib_guidance.models import load_pretrained
from jaxlib_guidance.training import OtherRunError

RECIPE = Path(__file__).parents[2] / "train" / "classifier.py"


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("train_classifier", RECIPE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.slow
def test_it_learns_and_is_loaded(recipe, tmp_path, monkeypatch):
    log = recipe.Log(every=1, save_every=100)
    config = recipe.Config(tmp_path, widths=(16, 32), steps=60, log=log)
    accuracy = recipe.train(config)
    assert accuracy > 0.2
    model, _ = load_pretrained(tmp_path / "ema.safetensors")
    assert (model.classes, model.shape) == (10, (8, 8, 1))
    # Weights may be stored otherwise; other images are another run.
    assert recipe.train(replace(config, store="bfloat16")) == accuracy
    load = recipe.load_images

    def other(source, split, size, **options):
        data = load(source, split, size, **options)
        return data._replace(labels=np.roll(data.labels, 1))

    monkeypatch.setattr(recipe, "load_images", other)
    with pytest.raises(OtherRunError, match="identity was '1437 images"):
        recipe.train(config)


@pytest.mark.slow
def test_files_that_are_no_images_are_left_out_and_listed(recipe, tmp_path, capsys):
    for split in ("train", "test"):
        for i, name in enumerate(("red", "blue")):
            folder = tmp_path / "mine" / split / name
            folder.mkdir(parents=True)
            for j in range(4):
                image = np.full((8, 8, 3), 40 * j, np.uint8)
                image[..., i] = 255
                Image.fromarray(image).save(folder / f"{j}.png")
            (folder / "cut.png").write_bytes(b"no picture")
    config = recipe.Config(
        tmp_path / "run", source=str(tmp_path / "mine"), widths=(8,), steps=2, batch=8
    )
    recipe.train(config)
    assert "4 files left out" in capsys.readouterr().out
    assert len((tmp_path / "run/left_out.txt").read_text().splitlines()) == 4
    with pytest.raises(ValueError, match=r"cut.png cannot be read"):
        recipe.train(replace(config, bad="stop"))


def test_a_mistyped_source_takes_no_folder(recipe, tmp_path):
    config = recipe.Config(tmp_path / "run", source="no/such/place")
    with pytest.raises(ValueError, match="is not a folder"):
        recipe.train(config)
    assert not (tmp_path / "run").exists()


def test_levels_of_clean_images_are_refused(recipe, tmp_path):
    with pytest.raises(ValueError, match="level_std is 1.0.* effect on clean images"):
        recipe.train(recipe.Config(tmp_path / "run", level_std=1.0))
