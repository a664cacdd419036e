"""Recipes import the files beside them, as they do when they are run."""

import sys
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT / name) for name in ("train", "sample")]


@pytest.fixture(scope="module")
def benchmarks():
    """Imports find those of benchmarks/ first, and types are promoted as for users."""
    folder = str(ROOT / "benchmarks")
    sys.path.insert(0, folder)
    with jax.numpy_dtype_promotion("standard"):
        yield
    sys.path.remove(folder)
