"""benchmarks/accelerator.py: what fails is told by name; all rows run at toy size."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
STUB = """
import time
from accelerator_measure import Figure

def good(toy):
    yield Figure("good", 0.002, 1e9, 3.0, "of" if toy else "")

def bad(toy):
    yield from good(toy)
    raise ValueError("no such card\\nand more")

def late(toy):
    yield from good(toy)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def accelerator():
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module("accelerator")
    sys.path.remove(str(FOLDER))


def test_what_fails_is_told_by_name_and_the_others_go_on(
    accelerator, tmp_path, monkeypatch, capsys
):
    (tmp_path / "stub.py").write_text(STUB)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(accelerator, "LEAST", 0.0)
    rows = {name: ("stub", name, 20) for name in ("bad", "good")}
    rows["late"] = ("stub", "late", 1)
    failed = accelerator.run(rows, list(rows), ["--toy"], 1e12, 60.0)
    assert failed == {"bad": "ValueError: no such card", "late": "not done in 1 s"}
    # What was measured before is kept.
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["| good | 2 ms | 0.5 | 50.0% | 3 s | of |"] * 3
    assert accelerator.run(rows, ["good"], [], None, -1.0) == {
        "good": "no time was left"
    }


def test_the_longer_name_of_a_device_decides(accelerator):
    peak_of = importlib.import_module("accelerator_measure").peak_of
    assert peak_of("NVIDIA H100 80GB HBM3") == 989
    assert peak_of("NVIDIA H100 PCIe") == 756
    assert peak_of("NVIDIA L40S") == 362
    assert peak_of("TPU v5 lite") == 197
    assert peak_of("cpu") is None


def test_the_operations_of_a_network_are_those_of_its_products(accelerator):
    measure = importlib.import_module("accelerator_measure")
    a, b = np.ones((8, 16), np.float32), np.ones((16, 4), np.float32)
    assert measure.operations(lambda a, b: a @ b, a, b) == 2 * 8 * 16 * 4


def test_edited_attention_is_measured_beside_plain(accelerator):
    figures = list(importlib.import_module("accelerator_dit").attention(toy=True))
    assert len(figures) == 4
    assert all(figure.seconds > 0 for figure in figures)


@pytest.mark.slow
def test_all_rows_run_at_toy_size(accelerator):
    command = [sys.executable, FOLDER / "accelerator.py", "--toy", "--minutes", "60"]
    told = subprocess.run(command, capture_output=True, text=True).stdout
    failed = [line for line in told.splitlines() if line.startswith("NOT MEASURED")]
    # The peers are no part of what is installed for tests.
    assert all("No module named 'diffusers'" in line for line in failed), told
    rows = [line for line in told.splitlines() if line.startswith("| ")]
    assert len(rows) >= 21, told
    assert "the same bits" in told
