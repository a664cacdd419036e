"""Sphinx configuration: `pip install -e '.[docs]' && sphinx-build -W docs out/docs`."""

from itertools import groupby

import jaxlib_guidance

project = "jaxlib_guidance"
author = "the jaxlib_guidance authors"
release = jaxlib_guidance.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
html_theme = "sphinx_book_theme"
html_title = project
autosummary_generate = False  # The names of the first page link to the rooms' pages.
napoleon_use_ivar = True  # An attribute is described once, with its class.
napoleon_custom_sections = [("Optional members", "params_style")]
autodoc_typehints = "none"
default_role = "code"  # Docstrings write `name` as markdown does.
myst_heading_anchors = 3  # Pages link to the headings of others.
nb_execution_mode = "off"  # The tests execute the notebooks.


def draw_tables(app, what, name, thing, options, lines):
    """Docstrings draw a table as markdown does."""
    drawn = []
    for table, rows in groupby(lines, lambda line: line.lstrip().startswith("|")):
        if table:
            rows = [row.strip().strip("|").split("|") for row in rows]
            drawn += ["", ".. list-table::", "   :header-rows: 1", ""]
            for first, *others in rows[:1] + rows[2:]:
                drawn += [f"   * - {first.strip()}"]
                drawn += [f"     - {cell.strip()}" for cell in others]
            drawn += [""]
        else:
            drawn += rows
    lines[:] = drawn


def setup(app):
    app.connect("autodoc-process-docstring", draw_tables)
