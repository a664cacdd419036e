"""Examples of train/sums_start.py, and the benchmarks of sums at small sizes."""

import dataclasses
import importlib
import re

import jax
import numpy as np
import pytest

from jaxlib_guidance.worlds import chains

pytestmark = pytest.mark.usefixtures("benchmarks")
examples = importlib.import_module("sums_examples")


def test_examples_answer_what_is_asked():
    keys = jax.random.split(jax.random.key(0), 200)
    rows = jax.tree.map(np.asarray, jax.jit(jax.vmap(examples.short))(keys))
    names, kinds = ("prompt", "prompt_mask", "tokens", "mask"), set()
    parts = [rows[name] for name in names]
    for prompt, seen, answer, known in zip(*parts, strict=True):
        asked, told = chains.decode(prompt, seen), chains.decode(answer, known)
        a, b, rest = re.fullmatch(r"(\d+)\+(\d+)(.*)", asked).groups()
        truth = f"{int(a) + int(b):0{len(a) + 1}d}"
        assert len(a) == len(b)
        if judged := re.fullmatch(r"=#(\d+)\?", rest):
            kinds.add(told)
            assert told == ("R." if judged[1] == truth else "W.")
        elif wrong := re.fullmatch(r"=#(\d+)x(\d)#", rest):
            kinds.add("again")
            place = len(truth) - 1 - int(wrong[2])
            assert wrong[1][:place] == truth[:place]
            assert wrong[1][place] != truth[place]
            assert told == f"{truth}."
        elif hinted := re.fullmatch(r"h(\d+)=#", rest):
            kinds.add("hint")
            assert truth.startswith(hinted[1])
            assert told == f"{truth}."
        elif rest == "=#":
            kinds.add("direct")
            assert told == f"{truth}."
        else:
            kinds.add("chosen")
            assert (rest, told) == ("=", f"#{truth}.")
    assert kinds == {"R.", "W.", "again", "hint", "direct", "chosen"}


@pytest.mark.slow
def test_feedback_and_rejection():
    import sums_friction

    config = sums_friction.Config(problems=32, candidates=4, seeds=1, rounds=4)
    right = sums_friction.main(config)
    assert right.shape == (4, 1, 5, 2)
    assert (np.diff(right, axis=2) >= 0).all()


@pytest.mark.slow
def test_a_start_is_learned_and_goes_on(tmp_path, capsys):
    recipe = importlib.import_module("sums_start")
    log = recipe.Log(every=1, save_every=2)
    sizes = {"directory": tmp_path, "batch": 8, "width": 16, "depth": 1, "log": log}
    found = recipe.train(recipe.Config(**sizes, steps=4))
    assert set(found) == {"direct1", "direct2", "direct3", "steps2"}
    assert "new run" in capsys.readouterr().out
    recipe.train(recipe.Config(**sizes, steps=4))
    assert "resumed after step 4" in capsys.readouterr().out
    assert (tmp_path / "ema.safetensors").exists()


SMALL = {"updates": 4, "prompts": 2, "group": 4, "seeds": 2, "tests": 16}


@pytest.mark.slow
def test_labels_by_vote_and_truth():
    import sums_labels

    found = sums_labels.main(sums_labels.Config(**SMALL))
    assert all(x.shape == (5, 2, 5) for x in found)
    right, _, sure = found
    # All begin alike, and go apart.
    assert np.ptp(right[..., 0]) == 0
    assert np.ptp(sure[:, 0, -1]) > 0


@pytest.mark.slow
def test_hints_for_what_failed():
    import sums_hints

    right = sums_hints.main(sums_hints.Config(**SMALL))
    assert right.shape == (4, 2, 5, 3)
    assert np.ptp(right[..., 0, :], axis=(0, 1)).max() < 0.3


@pytest.mark.slow
def test_verdicts_beside_answers():
    import sums_verify

    found = sums_verify.main(sums_verify.Config(**SMALL))
    assert found.one.shape == (2, 2, 2)
    assert (found.best >= found.vote).all()
    assert (found.best >= found.own_vote).all()


@pytest.mark.slow
def test_rewards_of_a_judge(tmp_path):
    import sums_hacking

    config = sums_hacking.Config(**SMALL, every=2, picture=tmp_path / "a.png")
    right, proxy, _ = sums_hacking.main(config)
    assert right.shape == proxy.shape == (6, 2, 3)
    assert config.picture.exists()


@pytest.mark.slow
def test_rewards_of_length(tmp_path):
    import sums_length

    config = sums_length.Config(**SMALL, every=2, picture=tmp_path / "a.png")
    found = sums_length.main(config)
    assert found.right.shape == (7, 2, 3)
    assert (found.tokens[..., 0] > 10).all()
    assert config.picture.exists()


FAST = {"rates": (1e-3,), "seeds": 2, "tests": 16}
ROUNDS = {"rounds": 1, "prompts": 16, "group": 4, "steps": 3, "batch": 4}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sums_repair", "sums_balance", "sums_brake"])
def test_rounds_of_self_training(name, tmp_path):
    module = importlib.import_module(name)
    config = module.Config(**FAST, **ROUNDS)
    if name == "sums_balance":
        config = dataclasses.replace(config, picture=tmp_path / "a.png", prompts=6)
    if name == "sums_brake":
        config = dataclasses.replace(config, taught=3)
    found = module.main(config)
    assert found.right.shape == (len(module.ROWS), 2, 2)
    # All begin alike.
    assert np.ptp(found.right[..., 0], axis=0).max() == 0


@pytest.mark.slow
def test_what_trains_of_an_answer_that_goes_wrong():
    """Cells 47+58: a wrong first column, ``x`` and the right one, and the rest."""
    import sums_repair

    row = np.array(chains.encode("(78041(45110#104."))
    good = np.array(chains.encode("(78051(45110#105."))
    full = np.pad(row, (0, 15), constant_values=14), np.pad(good, (0, 15))
    keep = np.arange(32) < 17
    spliced = sums_repair.repair(full[0], 0, (full[1], keep), 32)
    text = chains.decode(spliced.tokens, spliced.valid > 0)
    assert text == "(78041x78051(45110#105."
    assert chains.decode(spliced.tokens, spliced.mask > 0) == "x78051(45110#105."
    spliced = sums_repair.repair(full[1], 1, (full[1], keep), 32)
    text = chains.decode(spliced.tokens, spliced.valid > 0)
    assert text == "(78051(45110x45110#105."


@pytest.mark.slow
def test_a_direction_that_shortens(tmp_path):
    import sums_steering

    sizes = {"prompts": 8, "group": 4, "seeds": 2, "tests": 8, "strengths": (0.0, 1.0)}
    config = sums_steering.Config(**sizes, picture=tmp_path / "a.png")
    found = sums_steering.main(config)
    assert config.picture.exists()
    # Strength 0 is the same model, whatever the direction and the block.
    plain = [x[:, 0] for name, x in found.items() if name != "temperature"]
    assert all(np.array_equal(plain[0], x) for x in plain)


PLAYED = {"updates": 3, "prompts": 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sums_preference", PLAYED | {"group": 4}),
        ("sums_judge", PLAYED | {"runs": 2, "tests": 4, "votes": 4}),
        ("sums_critic", PLAYED | {"group": 2, "verdicts": 2}),
        ("sums_second", PLAYED | {"group": 4}),
    ],
)
def test_updates_by_judges_and_players(name, options):
    module = importlib.import_module(name)
    found = module.main(module.Config(**(FAST | options)))
    shapes = {x.shape[:2] for x in jax.tree.leaves(found)}
    assert shapes == {(len(module.ROWS), 2)}
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


@pytest.mark.slow
def test_a_monitor_of_deception():
    import sums_monitor

    sizes = {
        "updates": 4,
        "every": 2,
        "prompts": 2,
        "group": 4,
        "seeds": 2,
        "tests": 16,
    }
    found = sums_monitor.main(sums_monitor.Config(**sizes, taught=3))
    assert found.deceives.shape == (len(sums_monitor.ROWS), 2, 3)
    assert (found.low <= found.deceives).all()


@pytest.mark.slow
def test_a_teacher_in_the_roll_outs():
    import sums_teacher

    rates = {"rates": (1e-3, 2e-3), "seeds": 2, "tests": 16}
    config = sums_teacher.Config(**rates, **PLAYED, group=4, taught=3)
    found = sums_teacher.main(config)
    assert found.right.shape == (len(sums_teacher.ROWS), 2, 2)
    # All begin alike.
    assert np.ptp(found.right[..., 0], axis=0).max() == 0


@pytest.mark.slow
def test_where_a_teacher_goes_on():
    """Cells 47+58: cut after the wrong column, before a wrong sum, and at its end."""
    import sums_teacher
    from sums_runs import Drawn, load

    from jaxlib_guidance.worlds import sums

    lm, params = load("sums_checker")
    texts = ["(78061(45110#106.", "(78051(45110#104.", "#104."]
    rows = np.full((3, 30), sums.END)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = chains.encode(text)
    mask = np.arange(30) < np.array([[len(text)] for text in texts])
    asked = sums.Problem(*(np.full(3, x, np.int32) for x in (47, 58, 2)))
    prompt = jax.vmap(sums.prompt)(asked)
    drawn = Drawn(*prompt, rows.astype(np.int32), mask, np.zeros(rows.shape))
    found = jax.vmap(sums.check)(asked, *drawn[2:4])
    fixed = sums_teacher.correct(lm, params, jax.random.key(0), asked, drawn, found)
    for index, (own, mark) in enumerate(
        [("(78061", "x"), ("(78051(45110", ""), ("", "")]
    ):
        tokens, seen, teacher, _ = (np.asarray(x[index]) for x in fixed)
        assert chains.decode(tokens, seen & ~teacher) == own
        assert chains.decode(tokens, seen).startswith(own + mark)


@pytest.mark.slow
def test_schemes_with_and_without_a_goal():
    import sums_scheming

    rates = {"rates": (1e-3, 2e-3), "seeds": 2, "tests": 16}
    config = sums_scheming.Config(**rates, **PLAYED, group=4, taught=3)
    found = sums_scheming.main(config)
    assert found.schemes.shape == (len(sums_scheming.ROWS), 2, 2, 2, 16)
    assert found.says_right.shape == (len(sums_scheming.ROWS), 2, 2, 2, 16, 3)
    # Who schemes is not right, and has the right columns.
    assert not (found.schemes * found.right).any()
    assert (found.columns >= found.schemes).all()


@pytest.mark.slow
def test_the_goal_stands_in_the_prompt():
    import sums_scheming

    from jaxlib_guidance.worlds import sums

    asked = sums.Problem(*(np.full(2, x, np.int32) for x in (47, 58, 2)))
    tokens, mask = sums_scheming.ask(asked, np.array([False, True]))
    assert [chains.decode(*x) for x in zip(tokens, mask, strict=True)] == [
        "47+58=",
        "47+58h=",
    ]


@pytest.mark.slow
def test_predictions_of_own_choices():
    import sums_introspection

    sizes = {"rates": (1e-3, 2e-3), "seeds": 2, "tests": 16, "prompts": 16}
    config = sums_introspection.Config(**sizes, taught=3, lessons=(2, 3), batch=4)
    found = sums_introspection.main(config)
    assert set(found) == {2, 3}
    assert all(x.hits.shape == (6, 2, 16) for x in found.values())
    # Of one model's choices the most common is the same, whoever predicts it.
    mode = found[2].mode
    np.testing.assert_array_equal(mode[[0, 1]], mode[[3, 2]])
    np.testing.assert_array_equal(mode[[0, 1]], mode[[4, 5]])


@pytest.mark.slow
def test_reports_of_what_was_not_asked():
    import sums_report

    sizes = {"rates": (1e-3, 2e-3), "seeds": 2, "tests": 16, "prompts": 16}
    config = sums_report.Config(**sizes, first=3, second=2, batch=4)
    found = sums_report.main(config)
    assert set(found) == {"nothing", *sums_report.ROWS}
    assert all(x.reports.shape == (2, 16) for x in found.values())
    # What is taught of the new mark is its choice alone.
    asked = sums_report.problems(jax.random.key(0), sums_report.sums.Sums(2, 2), 1)
    mark = np.array([sums_report.NEW])
    rows = sums_report.choose(config, asked, mark, np.array([True]))
    text = chains.decode(rows.prompt[0], rows.prompt_mask[0])
    assert text.startswith("h9")
    assert text.endswith("=")
    assert chains.decode(rows.tokens[0], rows.mask[0]) == "#"


@pytest.mark.slow
def test_a_tree_beside_many_answers():
    import sums_tree

    config = sums_tree.Config(rounds=(2,), seeds=2, tests=8)
    found = sums_tree.main(config)
    assert set(found) == {"2 rounds, 0.0", "2 rounds, 0.2"}
    assert all(x.shape == (2, 6) for x in found.values())


@pytest.mark.slow
def test_a_brake_cuts_what_comes_after_the_solution():
    import sums_brake

    from jaxlib_guidance.worlds import sums

    problem = sums.Problem(*map(np.int32, (47, 58, 2)))
    text = "(78051(45110#105(78051(45110#105."
    tokens = np.pad(
        np.array(chains.encode(text)), (0, 48 - len(text)), constant_values=14
    )
    mask = np.arange(48) < len(text)
    found = sums.check(problem, tokens, mask)
    config = sums_brake.Config()

    def told(method):
        return [
            np.asarray(x)
            for x in sums_brake.braked(config, found, (tokens, mask), method)
        ]

    assert chains.decode(told(0)[0], told(0)[1]) == text
    assert chains.decode(told(2)[0], told(2)[1]) == "(78051(45110#105."
    kept = told(4)
    assert chains.decode(kept[0], kept[1]).startswith("(78051(45110#105(78051")
    assert chains.decode(kept[0], kept[2]) == "(78051(45110#105."
    assert chains.decode(*told(3)[::2]) == chains.decode(kept[0], kept[1])
    text = text[:-1] + text
    tokens = np.pad(np.array(chains.encode(text)), (0, 64), constant_values=14)
    tokens, mask = tokens[:64], np.arange(64) < len(text)
    found = sums.check(problem, tokens, mask)
    assert found.solutions == 4
    kept = told(5)
    twice = "(78051(45110#105(78051(45110#105."
    assert chains.decode(kept[0], kept[1]) == twice
    assert chains.decode(kept[0], kept[2]) == "(78051(45110#105."


@pytest.mark.slow
def test_habits_before_rewards():
    import sums_habits

    config = sums_habits.Config(**FAST, primed=3, updates=2, prompts=2, group=4)
    found = sums_habits.main(config)
    assert found.right.shape == (4, 2, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sums_strategy", "sums_self"])
def test_which_way_and_which_answer(name):
    module = importlib.import_module(name)
    sizes = {"rounds": 1, "prompts": 16, "steps": 3, "batch": 4}
    if name == "sums_self":
        sizes |= {"taught": 3, "examples": 16}
    found = module.main(module.Config(**FAST, **sizes))
    assert all(x.shape[1:] == (2, 2) for x in found)
