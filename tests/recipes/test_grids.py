"""Benchmarks of docs/grids.md: at small sizes the tables say the same."""

import sys
from pathlib import Path

import jax
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def benchmarks():
    folder = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    with jax.numpy_dtype_promotion("standard"):  # As whoever runs them has it.
        yield
    sys.path.remove(folder)


def test_right_labels_teach_and_false_ones_do_not(tmp_path):
    import subgoals

    config = subgoals.Config(seeds=2, tuning=1, episodes=100, out=tmp_path / "a.png")
    kept = subgoals.main(config)
    assert kept["task"].max() < 0.01
    assert kept["potential V*"].min() > 0.25
    assert kept["bonus, once; right"][:, -1].min() > 0.15
    assert kept["bonus, once; 10 % wrong"].max() < 0.01
    assert config.out.is_file()
