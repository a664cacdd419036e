"""What benchmarks/quality_emoji.py makes of pictures and figures."""

import sys
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module", autouse=True)
def benchmarks():
    folder = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)


def test_a_weight_is_found_between_those_tried_only():
    from quality_emoji import weight_of

    curve = {0.0: 1.0, 1.0: 1.5, 2.0: 3.0}
    assert weight_of(1.25, curve) == 0.5
    assert weight_of(2.0, curve) == pytest.approx(4 / 3)
    assert weight_of(4.0, curve) is None
    assert weight_of(1.2, {0.0: 1.0, 1.0: 1.4, 2.0: 1.0}) == pytest.approx(0.5)
    assert weight_of(1.0, {0.5: 1.2, 1.0: 1.2}) is None


def test_every_method_is_tuned_alike():
    from emoji_methods import ENTRIES

    from jaxlib_guidance.guidance import METHODS

    assert {len(entry.settings) for entry in ENTRIES.values()} == {4}
    for name, entry in ENTRIES.items():
        assert entry.method in METHODS, name
        assert entry.cost >= 1
        assert list(entry.settings) == sorted(entry.settings)


def test_coverage_counts_what_has_a_sample_within_its_fifth_neighbour():
    from emoji_judging import coverage

    real = np.arange(20.0)[:, None]
    assert coverage(real, real) == 1.0
    # The fifth neighbours of 0, 1, 2, 3 are 5, 4, 3, 3 away: 3 is not nearer than 3.
    assert coverage([[0.0]], real) == pytest.approx(3 / 20)
    assert coverage([[1000.0]], real) == 0.0


def test_captions_are_found_by_their_vectors():
    """Features that are the vectors find every caption; those of others, chance."""
    from emoji_judging import Captions

    draw = np.random.RandomState(0)
    vectors = draw.randn(400, 8)
    fit = Captions.fit(vectors, vectors)
    own = np.arange(400)
    assert fit.found(vectors, vectors, own, nearest=1) > 0.95
    assert fit.found(vectors, vectors, draw.permutation(400)) < 0.05


def test_a_table_has_means_over_seeds_and_the_pareto_set():
    from emoji_tables import compared

    def row(accuracy, coverage):
        known = {"frechet": 1.0, "kernel": 0.1, "caption": 0.2, "scale": 2.0}
        return known | {"accuracy": accuracy, "coverage": coverage}

    cells = {f"no guidance, seed {i}": row(0.3, 0.9) for i in range(2)}
    cells |= {f"tuned, CFG, 2, seed {i}": row(0.5 + 0.2 * i, 0.8) for i in range(2)}
    # A name that begins with that of another row.
    cells |= {
        f"tuned, CFG, steps 20-80 %, 4, seed {i}": row(0.5, 0.7) for i in range(2)
    }
    text = compared(cells, "tuned", 8)
    assert "| CFG | 2 | 1.000 ± 0.000 | 0.10 ± 0.00 | 0.600 ± 0.141 |" in text
    assert text.endswith("in both accuracy and coverage: no guidance; CFG.")
    assert compared({}, "tuned", 8).count("\n") == 3
