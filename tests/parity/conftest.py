"""Folders of tiny published models, written once for all tests of a process."""

import importlib.util
from pathlib import Path
from typing import NamedTuple

import jax
import pytest

PATH = Path(__file__).parent / "published_files.py"
SPEC = importlib.util.spec_from_file_location("published_files", PATH)
files = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(files)


class Golden(NamedTuple):
    """A folder as published, and what the reference gave: arrays by name."""

    folder: Path
    arrays: dict


@pytest.fixture(scope="session")
def golden(tmp_path_factory):
    """``golden(name)``: the folder and the arrays that make.py stored."""
    made = {}

    def get(name):
        if name not in made:
            record, arrays = files.read_golden(name)
            folder = tmp_path_factory.mktemp(name)
            files.write_folder(record, folder)
            made[name] = Golden(folder, arrays)
        return made[name]

    return get


@pytest.fixture(autouse=True)
def _all_digits():
    """The acceptance is that of float32 products: accelerators round more."""
    with jax.default_matmul_precision("highest"):
        yield
