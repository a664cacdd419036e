"""Every notebook is its text form, shows what it stored, and runs to its end."""

import importlib.util
import re
from pathlib import Path

import jupytext
import nbformat
import pytest

FOLDER = Path(__file__).parents[2] / "colab"
NAMES = sorted(path.stem for path in FOLDER.glob("[0-9]*.py"))
PRELOADED = ("jax", "flax.linen", "matplotlib.pyplot", "jaxlib_guidance.testing")


def script():
    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(name):
    return jupytext.read(FOLDER / f"{name}.py").cells


def test_every_text_form_has_its_notebook():
    assert len(NAMES) >= 10
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_notebook_is_its_text_form_and_shows_pictures(name):
    path = FOLDER / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    assert [(c.cell_type, c.source) for c in notebook.cells] == [
        (c.cell_type, c.source) for c in cells(name)
    ], "run colab/execute.py and commit what it stores"
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", ())]
    assert not [out for out in outputs if out["output_type"] == "error"]
    assert script().pictures(notebook) >= 2
    assert path.stat().st_size < 1_000_000


@pytest.mark.parametrize("name", NAMES)
def test_notebook_opens_on_colab(name):
    """A badge that leads to it, and the one install cell."""
    first, *others = cells(name)
    address = f"{script().REPOSITORY}/blob/main/colab/{name}.ipynb"
    assert f"(https://colab.research.google.com/github/{address})" in first.source
    assert re.search(r"^# .+", first.source, re.M)
    install = next(c for c in others if "google.colab" in c.source)
    common = next(c for c in cells(NAMES[0]) if "google.colab" in c.source)
    assert install.source == common.source
    assert f"https://github.com/{script().REPOSITORY}" in install.source


def test_first_notebook_runs(interpreter):
    """Its cells as one script, with few steps; in a kernel of its own below."""
    code = "import os\nos.environ.update(FAST='1', MPLBACKEND='agg')\n"
    text = (FOLDER / f"{NAMES[0]}.py").read_text()
    passed, printed = interpreter(code + text, NAMES[0])
    assert passed, printed


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs(name, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))
    notebook, _ = script().execute(FOLDER / f"{name}.py", fast=True)
    assert script().pictures(notebook) >= 2
