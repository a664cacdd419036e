"""Recipes import the files beside them, as they do when they are run."""

import sys
from pathlib import Path

sys.path += [str(Path(__file__).parents[2] / name) for name in ("train", "sample")]
