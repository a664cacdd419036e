"""Runs the notebooks from their text forms and stores what they show.

    python colab/execute.py              # all of them, whole; prints the time of each
    python colab/execute.py 03 08        # these
    python colab/execute.py --fast       # with few steps, as the tests do; stores nothing

The text form is the source: edit ``NAME.py``, run this, and commit both.
"""

import argparse
import os
import time
from pathlib import Path

import jupytext
import nbclient
import nbformat

FOLDER = Path(__file__).parent
# Where the badges lead and Colab installs from: the one place to say it is in each
# notebook's text, and the tests hold them to this.
REPOSITORY = "jaxlib-guidance/jaxlib_guidance"


def text_forms():
    return sorted(FOLDER.glob("[0-9]*.py"))


def execute(path, fast=False):
    """The executed notebook of a text form, and the seconds that its cells took."""
    notebook = jupytext.read(path)
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.metadata.pop("jupytext", None)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    options = {"timeout": 600, "kernel_name": "python3"}
    client = nbclient.NotebookClient(notebook, record_timing=False, **options)
    os.environ["FAST"] = "1" if fast else ""
    started = time.perf_counter()
    client.execute(cwd=str(FOLDER))
    for cell in notebook.cells:
        # Bars of progress and what a machine warns of are nobody's picture.
        shown = cell.get("outputs", ())
        kept = [out for out in shown if out.get("name") != "stderr"]
        if cell.cell_type == "code":
            cell["outputs"] = kept
    return notebook, time.perf_counter() - started


def pictures(notebook):
    """How many pictures the cells of an executed notebook show."""
    shown = [out for cell in notebook.cells for out in cell.get("outputs", ())]
    return sum("image/png" in out.get("data", {}) for out in shown)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="beginnings of names; all without")
    parser.add_argument("--fast", action="store_true", help="few steps, nothing stored")
    options = parser.parse_args()
    names = tuple(options.names) or ("",)
    paths = [path for path in text_forms() if path.stem.startswith(names)]
    if not paths:
        raise SystemExit(f"no notebook begins with any of {', '.join(names)}")
    for path in paths:
        notebook, seconds = execute(path, options.fast)
        if not options.fast:
            nbformat.write(notebook, path.with_suffix(".ipynb"))
        print(f"{path.stem}: {seconds:.0f} s, {pictures(notebook)} pictures")


if __name__ == "__main__":
    main()
