"""train/selfplay.py: its gradient is the game's; it goes on where it was stopped."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance import rng
from jaxlib_guidance.files import load_weights
from jaxlib_guidance.training import Checkpoints
from jaxlib_guidance.worlds import kuhn

RECIPE = Path(__file__).parents[2] / "train" / "selfplay.py"
LOGITS = jnp.asarray(np.random.default_rng(1).normal(size=12), jnp.float32)


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("train_selfplay", RECIPE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.share(2)
@pytest.mark.parametrize("baseline", ["role", "none"])
def test_expected_gradient_is_that_of_each_seats_winnings(recipe, baseline):
    table = SimpleNamespace(apply=lambda params: params)
    found = []

    def update(train, rows):
        loss = recipe.make_loss(table, bonus=0.3)
        total = lambda p: jnp.mean(loss(p, rows, None)[0])  # noqa: E731
        found.append(jax.grad(total)(train.params))
        return train, {}

    config = recipe.Config(baseline=baseline)
    take = recipe.make_update(config, table, update)
    train = SimpleNamespace(params=LOGITS)
    state = recipe.State(jnp.int32(0), train, jnp.zeros(2))
    take(state, {"id": jnp.arange(30_000, dtype=jnp.uint32)})

    def entropies(z, games):
        p = jax.nn.sigmoid(z)
        each = -p * jnp.log(p) - (1 - p) * jnp.log(1 - p)
        return jnp.mean(jnp.sum(each[games.sets] * games.mask, axis=1))

    games = kuhn.play(
        rng.sample_keys(jax.random.key(9), 30_000), jax.nn.sigmoid(LOGITS)
    )
    winnings = jax.grad(lambda z: kuhn.value(jax.nn.sigmoid(z)))(LOGITS)
    seat = jnp.array([1.0] * 3 + [-1.0] * 6 + [1.0] * 3)
    expected = -seat * winnings - 0.3 * jax.grad(entropies)(LOGITS, games)
    np.testing.assert_allclose(found[0], expected, atol=0.02)
    assert np.abs(seat * winnings).max() > 0.05


@pytest.mark.slow
def test_learns_and_resumes(recipe, tmp_path, monkeypatch):
    config = recipe.Config(
        directory=tmp_path / "whole",
        updates=120,
        games=64,
        width=16,
        learning_rate=0.01,
        log=recipe.Log(every=20, save_every=40, eval_every=40),
    )
    result = recipe.train(config)
    with Checkpoints(
        tmp_path / "whole" / "checkpoints", metric="exploitability"
    ) as saved:
        assert saved.best() is not None
    # 0.458 is uniform play, where it begins.
    assert result["exploitability"] < 0.42

    class CrashError(Exception):
        pass

    right = recipe.fit

    def crash(step, state, batch_at, **options):
        def fails(i):
            if i == 90:
                raise CrashError
            return batch_at(i)

        return right(step, state, fails, **options)

    again = replace(config, directory=tmp_path / "again")
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "fit", crash)
        with pytest.raises(CrashError):
            recipe.train(again)
    assert recipe.train(again) == result

    def lines(name):
        text = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [
            {k: v for k, v in json.loads(x).items() if k != "steps_per_second"}
            for x in text
        ]

    assert lines("whole") == lines("again")
    weights = [
        load_weights(tmp_path / name / "ema.safetensors")[0]
        for name in ("whole", "again")
    ]
    jax.tree.map(np.testing.assert_array_equal, *weights)


def test_a_comparison_that_is_stopped_goes_no_further(recipe, tmp_path, monkeypatch):
    given = iter([{"exploitability": 0.1}, {}])
    monkeypatch.setattr(recipe, "train", lambda config: next(given))
    found = recipe.compare(recipe.Config(directory=tmp_path, compare=3))
    assert found == {"role": [0.1]}


def test_options_without_effect_are_refused(recipe, tmp_path):
    config = recipe.Config(directory=tmp_path / "run", baseline="none", decay=0.5)
    with pytest.raises(ValueError, match=r"decay is 0\.5, which has no effect on base"):
        recipe.train(config)
    assert not (tmp_path / "run").exists()


def test_compare_runs_every_baseline(recipe, tmp_path, monkeypatch, capsys):
    given = iter([0.01, 0.03, 0.06, 0.02, 0.2, 0.3])
    monkeypatch.setattr(recipe, "train", lambda config: {"exploitability": next(given)})
    recipe.compare(recipe.Config(directory=tmp_path, compare=2))
    out = capsys.readouterr().out
    assert "| role | 0.020 | 0.030 | 2 of 2 |" in out
    assert "| shared | 0.040 | 0.060 | 1 of 2 |" in out
    assert "| none | 0.250 | 0.300 | 0 of 2 |" in out
