"""Benchmarks of docs/grids.md: at small sizes the tables say the same."""

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("benchmarks")]


def test_right_labels_teach_and_false_ones_do_not(tmp_path):
    import subgoals

    config = subgoals.Config(seeds=2, tuning=1, episodes=100, out=tmp_path / "a.png")
    kept = subgoals.main(config)
    assert kept["task"].max() < 0.01
    assert kept["potential V*"].min() > 0.25
    assert kept["bonus, once; right"][:, -1].min() > 0.15
    assert kept["bonus, once; 10 % wrong"].max() < 0.01
    assert config.out.is_file()


def test_attribution_of_an_outcome(tmp_path):
    import progress

    config = progress.Config(seeds=2, tuning=1, skill=0.12, out=tmp_path / "a.png")
    kept = progress.main(config)
    assert kept["outcome at the end"][:, -1].min() > 0.99
    assert kept["potential V*"][:, -1].min() > 0.99
    assert kept["SPA, as estimated, stopped early"][:, -1].max() < 0.9


def test_composed_goals_are_mastered(tmp_path):
    import crafting_goals

    config = crafting_goals.Config(
        seeds=1, episodes=200, epsilons=(0.3,), out=tmp_path / "a.png"
    )
    kept = crafting_goals.main(config)
    composed = kept["hindsight, composed"][:, -1, 0].mean()
    assert composed > kept["hindsight"][:, -1, 0].mean() + 10
    assert kept["40 given"][..., 0].max() <= 45


def test_the_cliff_and_its_bound(tmp_path):
    import policy_cliff

    config = policy_cliff.Config(worlds=20, out=tmp_path / "a.png")
    found = policy_cliff.main(config)
    assert (found["worst"] <= np.tanh(found["bounds"])[:, None] + 1e-4).all()
    np.testing.assert_allclose(found["ties"][0], 1)
    assert found["ties"][-1].max() < 0.2


def test_hard_negatives_make_a_better_judge(tmp_path):
    import trajectory_judges

    config = trajectory_judges.Config(
        seeds=1, rates=(0.03,), number=120, out=tmp_path / "a.png"
    )
    f1 = {k: v[:, 2].mean() for k, v in trajectory_judges.main(config).items()}
    assert f1["all four, hard negatives"] > f1["rule, successes"] + 0.1


def test_memory_and_structure_explore(tmp_path):
    import meta_bandit

    config = meta_bandit.Config(
        seeds=2, rates=(0.03,), gammas=(0.9,), updates=150, out=tmp_path / "a.png"
    )
    end = {k: v[:, -1].mean(0) for k, v in meta_bandit.main(config).items()}
    assert end[True, True, 0.9][0] > 2
    assert max(v[0] for k, v in end.items() if not all(k)) < 0.2


def test_looking_two_pages_ahead_helps(tmp_path):
    import site_lookahead

    config = site_lookahead.Config(
        rounds=3, seeds=2, tuning=1, priors=(0.1,), out=tmp_path / "a.png"
    )
    end = {k: v[:, -1].mean(0) for k, v in site_lookahead.main(config).items()}
    alone = end["self-training, look-ahead 0"]
    assert (end["self-training, look-ahead 2"] > alone + 0.05).all()
    assert end["and imagined pages, look-ahead 0"][0] > alone[0]


def test_cloning_successes_beats_cloning_everything(tmp_path):
    import proposers

    config = proposers.Config(rounds=4, seeds=2, rates=(0.01,), out=tmp_path / "a.png")
    gain = {k: (v[:, -1] - v[:, 0]).mean() for k, v in proposers.main(config).items()}
    assert gain["possible, judge wrong 0"] > gain["context, everything cloned"]


def test_labels_at_once_teach_false_promises(tmp_path):
    import hindsight

    config = hindsight.Config(
        seeds=2, tuning=1, rates=(0.3,), answers=2048, picture=tmp_path / "a.png"
    )
    kept = {k: v.mean(0) for k, v in hindsight.main(config).items()}
    for method in ("DPO", "GRPO"):
        stated, true, feigned, *_ = kept[method, "at once"]
        assert stated > 0.3
        assert true < 0
        assert feigned > 0.2
        assert kept[method, "16, all as claimed"][1] < 0
        stated, true, feigned, *_ = kept[method, "16 outcomes"]
        assert true > 0.2
        assert feigned < 0.05


def test_what_a_session_tells_is_worth_clicks(tmp_path):
    import recommend

    config = recommend.Config(
        updates=40, judged=300, seeds=2, tuning=1, rates=(0.03,), weights=(0.1,),
        picture=tmp_path / "a.png",
    )  # fmt: skip
    clicks = {k: v[:, 0].mean() for k, v in recommend.main(config).items()}
    assert clicks["exact, told who seeks"] > clicks["exact, both"] + 0.1
    assert clicks["exact, both"] > clicks["exact, mean user"] + 0.15
    for name in ("flat, both", "hierarchy"):
        assert clicks[name] > clicks["fixed intent"] + 0.1


def test_what_an_utterance_brought_where_the_learner_goes_on_is_worth_the_talk(
    tmp_path,
):
    import negotiation

    config = negotiation.Config(
        seeds=2, tuning=1, updates=60, rates=(0.3,), bonuses=(0.0,), talks=1024,
        picture=tmp_path / "a.png",
    )  # fmt: skip
    kept = {k: v.mean(0) for k, v in negotiation.main(config).items()}
    goal = {k: v[0] for k, v in kept.items()}
    assert 0.46 < goal["talk, goal"] < 0.62
    assert goal["difference, goal, adapted"] > goal["difference, goal"]
    assert goal["utterance, 3 dimensions"] < goal["utterance, goal"]
    # Who is paid for the partner's share as well gives it more.
    assert kept["talk, 3 dimensions"][2] > kept["talk, goal"][2]


def test_a_crew_learns_to_talk_and_sooner_where_it_listens_and_speaks(monkeypatch):
    import hidden_role

    names = "random words, listening", "win", "win, listening, speaking"
    rows = {name: hidden_role.ROWS[name] for name in names}
    monkeypatch.setattr(hidden_role, "ROWS", rows)
    spies = {"plain words": hidden_role.SPIES["plain words"]}
    monkeypatch.setattr(hidden_role, "SPIES", spies)
    config = hidden_role.Config(
        seeds=2, tuning=1, updates=(20, 100), rates=(0.03,), weights=(0.003,)
    )
    kept = {k: v.mean(0) for k, v in hidden_role.main(config).items()}
    win = {k: v[0] for k, v in kept.items()}
    assert win["random words, listening"] < 0.32
    assert 0.45 < win["win"] < 0.74
    assert 0.45 < win["win, listening, speaking"] < 0.74
    for name in names[1:]:
        _, drawn, heard, before, after, second = kept[name]
        assert drawn < 0.74
        assert 0.4 < heard < 0.74  # By Bayes' rule, below what all dossiers tell.
        assert before < after - 0.05
        assert second < 0.8
    # Who speaks by rules of its own is known by them.
    assert win["plain words: win"] > 0.85
