"""benchmarks/problems.py and what `benchmarks/samplers.py` makes of figures."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxlib_guidance.testing import posterior_mean, posterior_mean64


def test_no_distribution_is_in_both_halves(benchmarks):
    import problems

    halves = {
        half: {row[2] for row in problems.MIXTURES if row[1] == half}
        for half in ("tuning", "held_out")
    }
    assert not halves["tuning"] & halves["held_out"]
    for half, found in halves.items():
        rows = [row for row in problems.MIXTURES if row[1] == half]
        assert {row[3] for row in rows} == set(problems.PROCESSES)
        assert {row[4] for row in rows} == {0.3, 1.0, 3.0}
        assert found <= set(problems.DISTRIBUTIONS)
    names = [row[0] for row in problems.MIXTURES + problems.NETWORKS]
    assert len(names) == len(set(names))


def test_distributions_have_mean_zero_and_the_scale_asked_for(benchmarks):
    import problems

    for name, make in problems.DISTRIBUTIONS.items():
        mixture = make(3.0)
        weights = np.exp(np.asarray(mixture.log_weights, np.float64))
        means = np.asarray(mixture.means, np.float64)
        inner = weights @ np.asarray(mixture.variances, np.float64).sum(1)
        total = (inner + weights @ np.sum(means**2, 1)) / means.shape[1]
        assert np.abs(weights @ means).max() < 1e-5, name
        assert total == pytest.approx(9.0, rel=1e-5), name


@pytest.mark.parametrize("name", ["thin8", "ring"])
def test_padding_changes_nothing(benchmarks, name):
    import problems

    row = next(row for row in problems.MIXTURES if row[0] == name)
    problem = problems.mixture_problem(*row, Path("unused"))
    mixture, x = problems.padded(problem)
    dim = problem.starts.shape[1]
    assert mixture.means.shape[1] > dim or len(mixture.means) > len(
        problem.mixture.means
    )
    found = posterior_mean(mixture, 0.3 * x, 0.7, 0.3)
    wanted = posterior_mean64(problem.mixture, 0.3 * problem.starts, 0.7, 0.3)
    np.testing.assert_allclose(found[:, :dim], wanted, atol=2e-5)
    assert not found[:, dim:].any()


def test_a_cell_above_the_limit_is_counted_and_one_below_the_floor_is_not(benchmarks):
    import samplers_tables

    class Named:
        name, process_name = "named", "flow"

    def cell(ours, peer, floor=0.0):
        pair = (peer, "row")
        return {
            "ours": ours,
            "peer": pair,
            "floor": floor,
            "rows": {"row": peer},
            "peer, our grid": pair,
            "ours, their grid": pair,
        }

    cells = {Named(): {5: cell(1.2, 1.0), 10: cell(1.05, 1.0), 20: cell(0.2, 0.1, 0.2)}}
    text, worse = samplers_tables.summary(cells, (5, 10, 20))
    assert worse == 1
    assert "named at 5" in text
    assert "named at 20" not in text


def test_k_diffusion_that_is_not_there_is_an_error_with_a_reason(
    benchmarks, monkeypatch
):
    import samplers_kdiffusion

    monkeypatch.delitem(sys.modules, "k_diffusion", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="k-diffusion is not installed"):
        samplers_kdiffusion.sampling()


def test_a_problem_says_what_a_half_is(benchmarks):
    import problems

    with pytest.raises(ValueError, match="'tuning' or 'held_out'"):
        problems.load("held-out")


@pytest.mark.slow
def test_roughness_and_calibration_of_a_model_of_digits(benchmarks, tmp_path, capsys):
    import calibration
    import roughness

    few = {"counts": (4,), "starts": 8, "batch": 8, "fine": 20}
    out = tmp_path / "rows.json"
    roughness.main(roughness.Config(**few, out=out))
    row = json.loads(out.read_text())["digits"]
    smooth = tmp_path / "smooth.json"
    roughness.main(roughness.Config(**few, out=smooth, time_window=0.1))
    assert json.loads(smooth.read_text())["digits"]["settled"] < row["settled"] / 20
    assert list(row) == ["settled", "4", "frechet"]
    assert 0 < row["settled"] < 0.1 < row["4"] < 1
    out = tmp_path / "new" / "cells.json"
    options = {**few, "test": 10, "few": 2, "weights": ("none",), "steps": 1}
    calibration.main(calibration.Config(**options, out=out))
    cell = json.loads(out.read_text())["none:4"]
    assert cell["seen"][1] < cell["seen"][0]
    capsys.readouterr()
    calibration.main(calibration.Config(**options, out=out))  # Goes on from there.
    assert capsys.readouterr().out.count("| none | 4 |") == 1
