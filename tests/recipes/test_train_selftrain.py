"""train/selftrain.py: what it keeps, who writes, and that it goes on; its curves."""

import importlib
import json
from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.files import load_weights
from jaxlib_guidance.models import LM, load_pretrained
from jaxlib_guidance.training import Log
from jaxlib_guidance.worlds import chains, sums

recipe = importlib.import_module("selftrain")
tasks = importlib.import_module("selftrain_task")


def tiny(place, **changes):
    sizes = {"rounds": 2, "steps": 2, "prompts": 8, "group": 2, "tests": 8}
    log = Log(every=1, save_every=1, eval_every=2)
    return recipe.Config(directory=place, direct=True, log=log, **(sizes | changes))


def test_answers_are_kept_by_the_filter_and_only_once():
    """Against plain Python, on groups of few kinds so that many are equal."""
    random = np.random.default_rng(0)
    tokens = random.integers(0, 2, (30, 6, 2))
    mask = np.ones(tokens.shape, bool)
    mask[..., 1] = random.random((30, 6)) < 0.5
    right, ended = random.random((2, 30, 6)) < 0.6
    said, length = random.integers(0, 3, (2, 30, 6))
    found = tasks.Found(*map(jnp.asarray, (right & ended, ended, said, length)))
    kept = {name: np.asarray(recipe.choose(name, found)) for name in ("right", "all")}
    np.testing.assert_array_equal(kept["right"], right & ended)
    np.testing.assert_array_equal(kept["all"], ended)
    vote, short = (np.asarray(recipe.choose(x, found)) for x in ("vote", "shortest"))
    for row in range(30):
        votes = [list(said[row][ended[row]]).count(x) for x in range(3)]
        most = max(votes)
        allowed = [x for x in range(3) if votes[x] == most]
        given = set(said[row][vote[row]])
        assert len(given) == (most > 0)
        assert given <= set(allowed)
        assert vote[row].sum() == most
        mine = right[row] & ended[row]
        least = min(length[row][mine], default=-1)
        assert list(short[row]) == list(mine & (length[row] == least))
    first = np.asarray(recipe.first_of_kind(*map(jnp.asarray, (tokens, mask, ended))))
    for row in range(30):
        seen = []
        for i in range(6):
            text = tuple(tokens[row, i][mask[row, i]])
            new = bool(ended[row, i]) and text not in seen
            assert first[row, i] == new
            seen += [text] if ended[row, i] else []


@pytest.mark.share(2)
@pytest.mark.parametrize("direct", [True, False])
def test_sums_are_checked(direct):
    task = tasks.sums_task(2, direct, 5)
    assert np.asarray(sums.held_out(task.test)).all()
    asked = sums.Problem(*(jnp.full(3, x, jnp.int32) for x in (47, 58, 2)))
    written = ["105.", "115.", "105"]
    if not direct:
        written = [f"(78051(45110#{x}" for x in written]
    rows = [chains.encode(text) for text in written]
    tokens = jnp.array([np.pad(x, (0, task.places - len(x))) for x in rows])
    mask = jnp.arange(task.places) < jnp.array([[len(x)] for x in rows])
    found = task.check(asked, tokens, mask)
    assert found.right.tolist() == [True, False, False]
    assert found.ended.tolist() == [True, True, False]
    assert found.said.tolist()[:2] == [105, 115]
    assert found.length.tolist() == [len(x) for x in rows]


@pytest.mark.slow
def test_it_goes_on_where_it_was_stopped_and_the_author_stays_for_a_round(tmp_path):
    whole = tiny(tmp_path / "whole")
    held = []
    begin = recipe.make_begin

    def watch(*given):
        made = begin(*given)

        def run(state):
            state = made(state)
            author = jax.tree.leaves(state.author)[0]
            held.append((np.asarray(author), int(state.step)))
            return state

        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "make_begin", watch)
        figures = recipe.train(whole)
    authors, steps = zip(*held, strict=True)
    assert steps == (0, 1, 2, 3)
    same = [np.array_equal(x, y) for x, y in pairwise(authors)]
    assert same == [True, False, True]
    stopped = tiny(tmp_path / "stopped")

    def stop(*given):
        made = begin(*given)

        def run(state):
            if state.step == 3:
                raise KeyboardInterrupt
            return made(state)

        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "make_begin", stop)
        with pytest.raises(KeyboardInterrupt):
            recipe.train(stopped)
    assert recipe.train(stopped) == figures
    one, two = (
        load_weights(x.directory / "ema.safetensors")[0] for x in (whole, stopped)
    )
    jax.tree.map(np.testing.assert_array_equal, one, two)
    # What was learned is a start for the next run.
    lm, params = load_pretrained(whole.directory / "ema.safetensors")
    assert isinstance(lm, LM)
    jax.tree.map(np.testing.assert_array_equal, one, params)


@pytest.mark.slow
def test_where_nothing_is_kept_nothing_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "choose", lambda keep, found: found.right & False)
    figures = recipe.train(tiny(tmp_path, rounds=1))
    assert figures["before"] == figures["after"]
    kept, _ = load_weights(tmp_path / "ema.safetensors")
    _, begun, *_ = tasks.load(tiny(tmp_path))
    jax.tree.map(np.testing.assert_array_equal, kept, dict(begun))


@pytest.mark.slow
def test_of_several_temperatures_a_round_takes_one(tmp_path):
    config = tiny(tmp_path, temperatures=(0.001, 1.0), tries=4, wanted=2, steps=1)
    recipe.train(replace(config, direct=False, log=replace(config.log, every=1)))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    # Greedy answers of a group are one answer and never two different ones.
    assert [json.loads(x)["temperature"] for x in lines] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sums": 30}, "sums"),
        ({"tries": 3}, "tries"),
        ({"temperatures": ()}, "temperatures"),
        ({"temperatures": (1.0, -0.5)}, "temperatures"),
        ({"temperatures": (float("nan"),)}, "temperatures"),
        ({"learning_rate": -1e-3}, "learning_rate"),
        ({"digits": 4}, "digits is 4; expected 1 to 3"),
        ({"rounds": 0}, "rounds"),
        ({"start": "digits"}, "start is 'digits', .*language model"),
    ],
)
def test_options_that_cannot_be(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        recipe.train(tiny(tmp_path / "run", **changes))


@pytest.mark.slow
def test_filters_are_compared(tmp_path, capsys):
    recipe.compare(tiny(tmp_path, compare=2, rounds=1))
    table = capsys.readouterr().out
    assert all(f"| {keep} | tokens |" in table for keep in ("right", "vote", "all"))


def test_curves_of_runs(tmp_path, capsys):
    curves = importlib.import_module("curves")
    for seed in range(2):
        (tmp_path / f"run{seed}").mkdir()
        records = [{"step": i, "loss": float(i * i + seed)} for i in range(1, 7)]
        records[3]["accuracy"] = 0.5
        text = "\n".join(map(json.dumps, records)) + '\n{"step": 7, "lo'
        (tmp_path / f"run{seed}" / "metrics.jsonl").write_text(text)
    runs = (tmp_path / "run0", tmp_path / "run1")
    records = curves.read(runs[0])
    assert len(records) == 6
    steps, values = curves.curve(records, "loss", 3)
    np.testing.assert_array_equal(steps, [3, 4, 5, 6])
    np.testing.assert_allclose(values, [14 / 3, 29 / 3, 50 / 3, 77 / 3])
    config = curves.Config(runs, out=tmp_path / "a.png")
    curves.main(config)
    assert "accuracy of 2 runs" in capsys.readouterr().out
    assert config.out.exists()
    with pytest.raises(ValueError, match="metric has 'los'"):
        curves.main(replace(config, metric=("los",)))
    records = [{"step": i, "loss": x} for i, x in enumerate([1, 1e17, np.nan, 3, 4])]
    steps, values = curves.curve(records, "loss", 1)
    np.testing.assert_array_equal(values, [1, 1e17, np.nan, 3, 4])
    (runs[0] / "metrics.jsonl").write_text('3\n{"step": 1, "loss": 2}\n')
    with pytest.raises(ValueError, match=r"run0.metrics.jsonl has no record .*line 1"):
        curves.main(config)
    assert curves.method_of(runs[0]) == curves.method_of(runs[1])
    apart = "a/run1", "b/run1", "lr0.1", "lr0.01"
    assert len({curves.method_of(tmp_path / x) for x in apart}) == 4
    with pytest.raises(ValueError, match="no metrics.jsonl"):
        curves.main(replace(config, runs=(tmp_path,)))
