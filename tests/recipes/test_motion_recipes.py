"""sample/motion.py and train/motion.py: what they write, and mistakes."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxlib_guidance.models import load_pretrained
from jaxlib_guidance.training import Log

ROOT = Path(__file__).parents[2]


def load(kind):
    folder = ROOT / kind
    sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location(
        f"{kind}_motion", folder / "motion.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    sys.path.remove(str(folder))
    return module


recipe = load("sample")
EDITS = {
    "erase": {"word": "wave"},
    "emphasise": {"word": "right"},
    "ground": {"word": "wave"},
    "replace": {"target": "fast right punch"},
    "style": {"target": "slow bow"},
    "shift": {},
    "vary": {},
}


@pytest.mark.parametrize(
    "edit", ["erase", *(pytest.param(e, marks=pytest.mark.slow) for e in [*EDITS][1:])]
)
def test_a_motion_and_its_edit_are_drawn(edit, tmp_path, capsys):
    out = tmp_path / "new" / "m.gif"
    given = {"steps": 2, "side": 32, "out": out} | EDITS[edit]
    recipe.main(recipe.Config("fast right wave", edit, **given))
    with Image.open(out) as image:
        # Equal frames are one.
        assert image.size == (64, 46)
        assert 1 <= image.n_frames <= 48
    with Image.open(out.with_suffix(".png")) as image:
        assert image.size == (12 * 16, 2 * 16)
    printed = capsys.readouterr().out
    assert printed.startswith("fast right wave: ")


@pytest.mark.parametrize(
    ("edit", "options", "told"),
    [
        ("erase", {}, "word is None; erase needs one of"),
        ("erase", {"word": "kick"}, "word is 'kick'"),
        ("shift", {"word": "wave"}, "word has no effect on shift"),
        ("shift", {"target": "walk"}, "target is 'walk'"),
        ("replace", {}, "target is None"),
        ("replace", {"target": "walk"}, "target has 1 words; expected text's 3"),
        ("style", {"target": "zebrafish"}, "'zebrafish' is not in the vocabulary"),
        ("vary", {"weights": "digits"}, "'digits' draw no motions"),
        ("vary", {"steps": 1}, "steps is 1"),
        ("vary", {"out": Path("a.png")}, "expected a name with .gif"),
    ],
)
def test_mistakes_are_told_in_one_line(edit, options, told, tmp_path):
    given = {"steps": 2, "out": tmp_path / "m.gif"} | options
    with pytest.raises(SystemExit, match=told):
        recipe.main(recipe.Config("fast right wave", edit, **given))


@pytest.mark.slow
def test_training_stopped_and_resumed_is_training(tmp_path):
    train = load("train")

    def config(name, steps):
        return train.Config(
            directory=tmp_path / name,
            clips=40,
            model=train.Model(width=8, heads=2, frames=16),
            optimiser=train.Optimiser(steps=steps, batch=8, warmup=1, decay=0.0),
            log=Log(every=1, save_every=2, eval_every=2),
        )

    def losses(name):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    assert train.train(config("whole", 4))
    assert len(losses("whole")) == 4
    assert np.isfinite(losses("whole")).all()
    model, params = load_pretrained(tmp_path / "whole" / "ema.safetensors")
    assert model.shape == (16, 12)
    assert train.train(config("whole", 4))  # At its end: nothing is left to do.
    assert "condition" in params
