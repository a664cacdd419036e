"""Sphinx configuration: `pip install -e '.[docs]' && sphinx-build -W docs out/docs`."""

import jaxlib_guidance

project = "jaxlib_guidance"
author = "the jaxlib_guidance authors"
release = jaxlib_guidance.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
html_theme = "sphinx_book_theme"
html_title = project
napoleon_use_ivar = True  # An attribute is described once, with its class.
autodoc_typehints = "none"
default_role = "code"  # Docstrings write `name` as markdown does.
nb_execution_mode = "off"  # The tests execute the notebooks.
