"""train/images.py from a folder: streamed it is the run that it is from memory."""

import dataclasses
import importlib
import importlib.util
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxlib_guidance.data import load_digits
from jaxlib_guidance.training import Fitted, OtherRunError

RECIPE = Path(__file__).parents[2] / "train" / "images.py"
options = importlib.import_module("images_options")


@pytest.fixture
def recipe():
    spec = importlib.util.spec_from_file_location("train_images_streamed", RECIPE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def save(folder, i, image, label):
    place = folder / "train" / str(label)
    place.mkdir(parents=True, exist_ok=True)
    pixels = np.round((image[..., 0] + 1) * 127.5).astype(np.uint8)
    Image.fromarray(pixels).save(place / f"{i}.png")


@pytest.mark.slow
def test_streamed_and_in_memory_are_one_run(recipe, tmp_path, monkeypatch):
    images, labels = load_digits()
    for i in range(40):
        save(tmp_path, i, images[i], labels[i])
    config = recipe.Config(
        data=options.Data(str(tmp_path)),
        model=options.Model(width=16, depth=1, heads=2),
        optimiser=options.Optimiser(steps=3, batch=16, warmup=1),
        evaluation=options.Evaluation(solver_steps=3, judge=None),
    )
    streamed = dataclasses.replace(
        config,
        directory=tmp_path / "streamed",
        data=dataclasses.replace(config.data, stream=True),
    )
    config = dataclasses.replace(config, directory=tmp_path / "memory")
    seen = []

    def only_look(step, state, batch_at, *, steps, **_):
        seen.append([jax.device_get(batch_at(i)) for i in range(steps)])
        return Fitted(state, finished=False)

    monkeypatch.setattr(recipe, "fit", only_look)
    for each in (config, streamed):
        assert recipe.train(each) == {}
    assert seen[0][0]["image"].shape == (16, 8, 8, 1)
    jax.tree.map(np.testing.assert_array_equal, *seen)
    assert not [t for t in threading.enumerate() if t.name.startswith("read-")]
    save(tmp_path, 40, images[40], labels[40])
    for each in (config, streamed):
        (each.directory / "checkpoints" / "1").mkdir(parents=True)
        with pytest.raises(OtherRunError, match="identity was '40 images.*41 images"):
            recipe.train(each)
