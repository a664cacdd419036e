"""train/planner.py, sample/plan.py and their benchmark: what they do, and mistakes."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxlib_guidance import planning
from jaxlib_guidance.training import Log, OtherRunError
from jaxlib_guidance.worlds import door

ROOT = Path(__file__).parents[2]


def load(kind, name):
    folder = ROOT / kind
    sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location(
        f"{kind}_{name}", folder / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    sys.path.remove(str(folder))
    return module


recipe = load("train", "planner")
sampler = load("sample", "plan")


def tiny(folder, **changes):
    return recipe.Config(
        folder,
        count=16,
        length=20,
        model=recipe.Model(width=8, blocks=1, horizon=12),
        optimiser=recipe.Optimiser(steps=4, batch=8),
        log=Log(every=2, eval_every=2),
        **changes,
    )


@pytest.mark.slow
def test_a_planner_is_trained_goes_on_and_opens(tmp_path):
    config = tiny(tmp_path / "run")
    assert recipe.train(config)
    assert recipe.train(config)
    planner, params = planning.load_planner(tmp_path / "run/ema.safetensors")
    assert planner.model.shape == (12, door.ACTIONS + door.STATES)
    assert planner.model.module.time_scale == 10
    assert set(params) == {"planner", "dynamics", "inverse"}

    # What was trained plans, alone or the best of several, and draws.
    file, few = tmp_path / "run/ema.safetensors", {"plans": 2, "steps": 2, "seeds": 2}
    for guide in ("none", "phases"):
        out = tmp_path / f"{guide}.gif"
        config = sampler.Config(
            guide=guide, candidates=4, planner=file, side=24, out=out, **few
        )
        made = sampler.run(config)
        assert made.trajectory.states.shape == (2, 8, door.STATES)
        again = sampler.run(replace(config, seeds=1))
        np.testing.assert_allclose(
            again.trajectory.actions[0], made.trajectory.actions[0], atol=1e-5
        )
        sampler.main(config)
        with Image.open(out) as picture:
            assert picture.size == (48, 24)
        assert out.with_suffix(".png").exists()
    table = load("benchmarks", "planning")
    text = table.main(table.Config(file, hands=1, seeds=2, steps=2))
    assert len(text.splitlines()) == 2 + len(table.ROWS)


@pytest.mark.slow
def test_late_chunks_are_compared():
    bench = load("benchmarks", "flow_policy")
    with jax.numpy_dtype_promotion("standard"):  # As whoever runs it has it.
        text = bench.main(bench.Config(flights=4, seeds=1, updates=20, data=50))
    assert len(text.splitlines()) == 2 + len(bench.ROWS) + 2
    assert "| naive | – |" in text
    assert "arrives in 1.000" in text
    with pytest.raises(ValueError, match="flights is 0; expected at least 1"):
        bench.main(bench.Config(flights=0))


@pytest.mark.slow
def test_a_planner_learns_from_its_own_plans():
    bench = load("benchmarks", "self_improvement")
    tiny = {"demonstrations": 3, "updates": 4, "finetuning": 2, "films": 27, "prior": 4}
    config = bench.Config(seeds=1, hands=4, iterations=1, steps=2, **tiny)
    with jax.numpy_dtype_promotion("standard"):  # As whoever runs it has it.
        lines = bench.main(config).splitlines()
    assert len(lines) == 2 + 1 + len(bench.ROWS)
    assert lines[0] == "| | w, g | at first | after 1 |"
    with pytest.raises(ValueError, match="hands is 0; expected at least 1"):
        bench.main(bench.Config(hands=0))


@pytest.mark.slow
def test_policies_are_steered_by_advantage(tmp_path):
    bench = load("benchmarks", "advantage")
    tiny = {"flights": 4, "seeds": 1, "tuning": 1, "updates": 2, "data": 20}
    tiny |= {"steps": 2, "particles": 2, "width": 8}
    config = bench.Config(**tiny, picture=tmp_path / "a.png")
    with jax.numpy_dtype_promotion("standard"):  # As whoever runs it has it.
        lines = bench.main(config).splitlines()
    assert len(lines) == 2 + len(bench.ROWS)
    assert lines[0] == "| | setting | evaluations | delay 0 | delay 2 |"
    counts = {line.split(" | ")[0]: line.split(" | ")[2] for line in lines[2:]}
    assert counts["| guided by that"] == "4"
    assert counts["| best of 8"] == "4"
    assert config.picture.exists()
    with pytest.raises(ValueError, match="particles is 0; expected at least 1"):
        bench.main(bench.Config(particles=0))


@pytest.mark.slow
def test_own_episodes(tmp_path):
    rng = np.random.default_rng(0)
    parts = {
        "actions": rng.normal(size=(8, 20, 2)),
        "states": rng.normal(size=(8, 20, 4)),
    }
    np.savez(tmp_path / "mine.npz", **parts)
    own = tiny(tmp_path / "run", episodes=tmp_path / "mine.npz")
    with pytest.raises(ValueError, match="count is 16, which has no effect"):
        recipe.train(own)
    own = replace(own, count=2000, length=80)
    assert recipe.train(own)
    planner, _ = planning.load_planner(tmp_path / "run/ema.safetensors")
    assert (planner.layout.actions, planner.layout.states) == (2, 4)
    np.savez(tmp_path / "mine.npz", **{**parts, "actions": parts["actions"] + 1})
    with pytest.raises(OtherRunError, match="episodes_file"):
        recipe.train(own)


def test_the_scripted_hand_opens_to_its_goals():
    data = recipe.scripted(recipe.Config(count=32, noise=0.0, goals=(0.4, 1.4)))
    np.testing.assert_allclose(data.states[::2, -1, 4], 0.4, atol=0.05)
    np.testing.assert_allclose(data.states[1::2, -1, 4], 1.4, atol=0.05)
    assert not door.ghosts(data.states).any()


def test_mistakes_of_training(tmp_path):
    np.savez(tmp_path / "a.npz", actions=np.ones((2, 5, 1)), states=np.ones((3, 5, 1)))
    np.savez(tmp_path / "b.npz", actions=np.ones((2, 5, 1)))
    (tmp_path / "c.npz").write_text("no array")
    config, theirs = tiny(tmp_path / "run"), {"count": 2000, "length": 80}
    for changes, message in (
        ({"goals": (2.0,)}, "goals is"),
        ({"persistence": 1.0}, "persistence is 1.0"),
        (
            {"episodes": tmp_path / "a.npz", **theirs},
            r"actions .2, 5, 1. and states",
        ),
        ({"episodes": tmp_path / "b.npz", **theirs}, "expected actions and states"),
        ({"episodes": tmp_path / "c.npz", **theirs}, "c.npz is no file of numpy"),
        ({"model": recipe.Model(horizon=30)}, "horizon is 30; expected 2 to 20"),
    ):
        with pytest.raises(ValueError, match=message):
            recipe.train(replace(config, **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"goal": 2.0}, "goal is 2.0; expected 0 to 1.6 rad"),
        ({"start": float("nan")}, "start is nan"),
        ({"seeds": 0}, "seeds is 0; expected at least 1"),
        ({"guide": "goal", "weights": ()}, "weights are ..; expected"),
        ({"guide": "goal", "weights": (float("inf"),)}, "weights are .inf"),
        ({"weights": (5.0,)}, "weights are .5.0,., which do nothing without guide"),
        ({"guide": "goal", "candidates": 2}, "candidates is 2; expected at least 4"),
        ({"planner": Path("none.safetensors")}, "train/planner.py writes it"),
    ],
)
def test_mistakes_of_planning(changes, message):
    with pytest.raises(ValueError, match=message):
        sampler.run(sampler.Config(**changes))


@pytest.mark.slow
def test_a_robot_crosses_among_people(tmp_path):
    bench = load("benchmarks", "social_navigation")
    tiny = {"seeds": 2, "scenes": 3, "steps": 2, "count": 40, "updates": 2, "width": 8}
    config = bench.Config(**tiny, picture=tmp_path / "a.png")
    with jax.numpy_dtype_promotion("standard"):  # As whoever runs it has it.
        text = bench.main(config)
    rows = 1 + 2 * (1 + 2 * len(bench.BUDGETS))
    assert len([line for line in text.splitlines() if line[0:1] == "|"]) == 2 + rows
    assert text.count("(95 %)") == 4 * len(bench.BUDGETS)
    assert config.picture.exists()
    with pytest.raises(ValueError, match="scenes is 0; expected at least 1"):
        bench.main(bench.Config(scenes=0))
    with pytest.raises(ValueError, match="models is .'none',.; expected some of"):
        bench.main(bench.Config(models=("none",)))


@pytest.mark.slow
def test_people_are_forecast_with_their_actions():
    bench = load("benchmarks", "action_forecast")
    tiny = {"seeds": 2, "scenes": 100, "tests": 40, "updates": 2}
    config = bench.Config(**tiny)
    with jax.numpy_dtype_promotion("standard"):  # As whoever runs it has it.
        text = bench.main(config)
    rows = [line for line in text.splitlines() if line[0:1] == "|"]
    assert len(rows) == 2 + len(bench.ROWS) + 2 + 2 + 6
    # What nobody can do worse than, and what only the world knows.
    of = {line.split(" | ")[0][2:]: line.split(" | ") for line in rows}
    assert float(of["the world's mean"][2][:5]) < float(of["constant velocity"][2][:5])
    assert of["chance"][2][:5] == "0.200"
    with pytest.raises(ValueError, match="tests is 0; expected at least 1"):
        bench.main(bench.Config(tests=0))
