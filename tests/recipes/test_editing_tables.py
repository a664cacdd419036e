"""Benchmarks of docs/editing.md and docs/motion.md: their judges, and a small table."""

import numpy as np
import pytest

from jaxlib_guidance.data import MOTION_ACTIONS, make_motions

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("benchmarks")]


def test_the_judge_tells_colours_of_things_that_it_has_not_seen(tmp_path):
    import editing
    import editing_judge

    given = editing.known(), editing.COLOURS
    judge = editing_judge.train_judge(*given, 300, tmp_path / "judge.npz")
    found = editing_judge.held_out(judge, *given)
    assert len(found["right"]) >= 0.75 * len(found["right"] + found["wrong"])
    grey = np.stack([editing.known()[f"{c} circle"] for c in ("black", "white")])
    assert (judge(grey) == len(editing.COLOURS)).all()
    again = editing_judge.train_judge(*given, 300, tmp_path / "judge.npz")
    some = np.stack(list(editing.known().values())[:50])
    np.testing.assert_array_equal(judge(some), again(some))


def test_a_row_of_the_editing_table(tmp_path, monkeypatch, capsys):
    import editing

    every = editing.methods
    monkeypatch.setattr(
        editing, "methods", lambda *given: {"SDEdit": every(*given)["SDEdit"]}
    )
    config = editing.Config(
        pairs=3,
        tuned=2,
        evaluations=8,
        seeds=2,
        judge_steps=5,
        cache=tmp_path,
        out=tmp_path / "e.png",
        curve=tmp_path / "c.png",
    )
    editing.main(config)
    told = capsys.readouterr().out
    assert "judge: " in told
    assert "| the picture unchanged | – | " in told
    assert "| SDEdit | " in told
    assert config.out.exists()
    assert config.curve.exists()


def test_motions_are_judged_by_peaks_and_by_a_classifier():
    import motion_judging

    motions = make_motions(31, 400)
    assert (motion_judging.repetitions(motions.poses) == motions.counts).all()
    judge = motion_judging.train_judge(make_motions(777, 4000), 120)
    assert (judge(motions.poses) == motions.labels).mean() > 0.95
    assert len(MOTION_ACTIONS) == 8
