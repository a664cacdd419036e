"""benchmarks/faults.py: damage to checkpoints of a recipe's run, and more as `slow`."""

import gc
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.files import export_weights
from jaxlib_guidance.training import Checkpoints

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "faults.py"

# Orbax leaves coroutines behind when the files that it reads are damaged.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True, scope="module")
def collect():
    yield
    # So that they are found here and not in a later file.
    gc.collect()


@pytest.fixture(scope="module")
def faults():
    spec = importlib.util.spec_from_file_location("faults", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


STATE = {"w": jnp.sin(jnp.arange(4000.0)), "key": jax.random.key(0)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run, without the run."""
    folder = tmp_path_factory.mktemp("faults") / "whole"
    with Checkpoints(folder / "checkpoints") as saved:
        for step in (3, 6):
            saved.save(step, {**STATE, "w": STATE["w"] * step}, extra={"at": step})
    lines = [{"step": s, "loss": 1 / s, "steps_per_second": 9} for s in range(1, 7)]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    export_weights(folder / "ema.safetensors", {"w": np.ones(3, np.float32)}, {})
    return folder


def test_damage_is_never_restored(faults, run, tmp_path):
    checked = faults.Checked(run, STATE, tmp_path)
    found = set()
    for name in ["_METADATA", "manifest.ocdbt", "d", "ocdbt.process_0/d"]:
        victim = checked.renew() / "state" / name
        for path in victim.iterdir() if victim.is_dir() else [victim]:
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 0x08
            path.write_bytes(data)
        found.add(checked.restore())
    assert found <= {3, 6}
    assert 3 in found


def test_a_directory_deleted_during_restore(faults, run, tmp_path):
    checked = faults.Checked(run, STATE, tmp_path)
    tally = faults.delete_meanwhile(checked, 12, 0)
    assert tally.broken == []
    assert tally.resumed + tally.notes["refused: all steps were deleted"] == 12
    assert tally.lost in (0, 3)


def test_the_harness_notices_what_is_wrong(faults, run, tmp_path, monkeypatch):
    whole = faults.Undisturbed(run, 1.0)
    assert whole.differences(run, finished=True) == []
    other = shutil.copytree(run, tmp_path / "other")
    lines = (other / "metrics.jsonl").read_text().splitlines()
    last = '{"step": 5, "loss": 0.2000000001, "steps_per_second": 1}'
    (other / "metrics.jsonl").write_text("\n".join([*lines[:4], last, '{"step": 6']))
    assert whole.differences(other, finished=False) == ["step 5 has other metrics"]
    assert "1 steps are not logged" in whole.differences(other, finished=True)
    export_weights(other / "ema.safetensors", {"w": np.float32([1, 1, 1.0000001])}, {})
    assert "ema.safetensors differs" in whole.differences(other, finished=True)
    # And states: another number under the same step.
    checked = faults.Checked(run, STATE, tmp_path)
    checked.renew()
    got = checked.states[6]
    wrong = got._replace(state={**got.state, "w": got.state["w"] + 1e-6})
    monkeypatch.setitem(checked.states, 6, wrong)
    assert checked.restore() == -1


@pytest.mark.parametrize(
    ("codes", "log", "broken"),
    [
        ([0, 1], "x.FolderInUseError: it is in use by", 0),
        ([0, 0], "resumed after step 100", 0),
        ([0, 0], "new run", 1),
        ([0, 1], "x.ValueError: something else", 1),
    ],
)
def test_two_runs_are_right_only_if_one_was_refused_or_late(
    faults, run, tmp_path, monkeypatch, codes, log, broken
):
    ends = iter(codes)

    def begin(folder):
        shutil.copytree(run, folder, dirs_exist_ok=True)
        folder.with_suffix(".log").write_text(f"{log}\n")

    monkeypatch.setattr(faults, "start", begin)
    monkeypatch.setattr(faults, "end_of", lambda _: next(ends))
    tally = faults.twice(tmp_path, faults.Undisturbed(run, 0.0), 1, 0)
    assert (tally.count, len(tally.broken)) == (1, broken)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill", "term", "full", "twice", "damage"])
def test_a_few_of_each(fault):
    command = [sys.executable, str(SCRIPT), fault, "--count", "3", "--seed", "7"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for row in re.findall(r"^\| (?!fault|---)(.*) \|$", out, re.MULTILINE):
        _, count, resumed, _, broken, _ = row.split(" | ")
        assert (count, resumed, broken) == ("3", "3", "0")
