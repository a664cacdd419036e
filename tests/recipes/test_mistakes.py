"""train/*.py: a mistake is answered with one line, a bug with its traceback."""

import runpy
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

from jaxlib_guidance.training import (
    FolderInUseError,
    OtherRunError,
    Scale,
    usage_errors,
)

TRAIN = Path(__file__).parents[2] / "train"


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("images", "--data.source no/where", "source 'no/where' is not a folder"),
        (
            "images",
            "--learning-rate -1",
            "optimiser.learning_rate is -1.0; expec",
        ),
        ("images", "--optimiser.ema 1.5", r"optimiser.ema is 1.5; expected 0 to below"),
        ("images", "--objective.label-dropout nan", "objective.label_dropout is nan"),
        ("images", "--model.depth 0", "model.depth is 0; expected at least 1"),
        ("images", "--evaluation.weight nan", "evaluation.weight is nan; expected a f"),
        (
            "emoji",
            "--objective.drop-text 1.5",
            "objective.drop_text is 1.5; expected",
        ),
        ("timeseries", "--optimiser.warmup -5", "optimiser.warmup is -5; expected"),
        ("classifier", "--widths 8 0", "widths is 0; expected at least 1"),
        ("planner", "--steps -3", "optimiser.steps is -3; expected at least 1"),
        ("motion", "--optimiser.clip -1", "optimiser.clip is -1.0; expected a number"),
        ("ddpo", "--kl -0.1", "kl is -0.1; expected a finite number from 0"),
        ("reason", "--start.learning-rate 0", "start.learning_rate is 0.0; expected a"),
        ("selfplay", "--entropy -1", "entropy is -1.0; expected a finite number"),
        ("sums_start", "--depth 0", "depth is 0; expected at least 1"),
        ("images", "--model.kind unet --model.scan", "model.scan is True, which has"),
        ("classifier", "--source no/where", "source 'no/where' is not a folder"),
        ("classifier", "--directory FILE", "directory is .* no folder can be"),
        ("ddpo", "--targets 11", r"targets is \(11,\); expected digits"),
        ("ddpo", "--weights cats", "'cats' is neither a file nor one of"),
        ("reason", "--method nft --clip 0.1", "clip is 0.1, which has no effect"),
        ("reason", "--smollm2 no.gguf", "no weights at no.gguf"),
        ("reason", "--prompts 9", "batch has 9 rows, which 8 devices cannot"),
        ("selfplay", "--baseline none --decay 0.5", "decay is 0.5, which has no"),
        ("selfplay", "--games 9", "batch has 9 rows, which 8 devices cannot"),
    ],
)
def test_one_line(name, flags, message, tmp_path, monkeypatch):
    (tmp_path / "FILE").write_text("")
    monkeypatch.chdir(tmp_path)
    path = str(TRAIN / f"{name}.py")
    flags = [path, "--directory", "run", "--processes", "1", *flags.split()]
    monkeypatch.setattr(sys, "argv", flags)
    with pytest.raises(SystemExit, match=rf"^{name}\.py: {message}[^\n]*$"):
        runpy.run_path(path, run_name="__main__")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("weight is -1"),
        OtherRunError("another"),
        FolderInUseError("in use"),
        FloatingPointError("loss is nan"),
        FileNotFoundError(2, "none", "x"),
    ],
)
def test_what_is_raised_on_purpose_is_a_line(error, monkeypatch):
    # As if this file were the program.
    monkeypatch.setattr(sys, "argv", [__file__])
    with pytest.raises(SystemExit) as told, usage_errors():
        raise error
    assert str(told.value) == f"{Path(__file__).name}: {error}"


@pytest.mark.parametrize(
    "bug",
    [
        lambda: int("x"),
        lambda: jnp.zeros(2).reshape(3),
        lambda: list(zip([1], [], strict=True)),
        lambda: {}["x"],
        lambda: Scale().nothing,
    ],
)
def test_a_bug_keeps_its_traceback(bug):
    with (
        pytest.raises((ValueError, TypeError, KeyError, AttributeError)),
        usage_errors(),
    ):
        bug()
