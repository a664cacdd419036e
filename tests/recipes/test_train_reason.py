"""train/reason.py: what it asks, checks and learns; it goes on where it was stopped."""

import importlib
import importlib.util
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance import policy, rng
from jaxlib_guidance.files import load_weights
from jaxlib_guidance.reduce import finalize, masked_mean
from jaxlib_guidance.training import Log, OtherRunError

RECIPE = Path(__file__).parents[2] / "train" / "reason.py"
methods = importlib.import_module("reason_methods")
options = importlib.import_module("reason_options")


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("train_reason", RECIPE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def tiny(recipe, **changes):
    return recipe.Config(
        **{
            "sums": 12,
            "updates": 4,
            "prompts": 8,
            "group": 4,
            "model": options.Model(width=16, depth=1, heads=2, hidden=16),
            "start": options.Start(steps=6, batch=16),
            "log": Log(every=1, save_every=2, eval_every=2),
            **changes,
        }
    )


@pytest.fixture(scope="module")
def setting(recipe):
    lm, _, task = recipe.load(tiny(recipe))
    key = jax.random.key(0)
    params = jax.jit(lm.init)(key, task.prompts[:1], task.prompt_mask[:1])["params"]
    return lm, task, params


def test_sums_are_all_there_and_the_test_is_held_out(setting):
    _, task, _ = setting
    letters = np.array(list("0123456789+=?."))
    train, test = np.asarray(task.train), np.asarray(task.test)
    assert sorted([*train, *test]) == list(range(144))
    assert len(test) == 14
    for prompt, seen, answer, known in zip(*map(np.asarray, task[:4]), strict=True):
        asked = "".join(letters[prompt[seen]])
        told = "".join(letters[answer[known]])
        a, b = asked.rstrip("=").split("+")
        assert told == str(int(a) + int(b))[::-1] + "."


def test_an_attempt_is_right_if_it_is_the_answer_to_its_end(recipe, setting):
    lm, task, params = setting
    at = jnp.arange(20)
    keys = rng.sample_keys(jax.random.key(1), 20)
    run = jax.jit(
        lambda task: recipe.attempt_twice(
            lm, task._replace(eos=13), params, keys, at, 1.0
        )
    )
    first, second = run(task)
    # Taken for the answers, what was drawn is right; one token off, it is wrong.
    answers = task.answers.at[:20].set(first["tokens"])
    mask = task.answer_mask.at[:20].set(first["mask"])
    answers = answers.at[3, 0].add(1)
    again = run(task._replace(answers=answers, answer_mask=mask))[0]
    np.testing.assert_array_equal(again["right"], np.arange(20) != 3)
    width = task.prompts.shape[1]
    np.testing.assert_array_equal(second["prompt"][:, :width], first["prompt"])
    shown = second["prompt_mask"][:, width:-1]
    np.testing.assert_array_equal(shown, first["mask"])
    np.testing.assert_array_equal(second["prompt"][:, -1], 12)


def test_a_vote_is_of_answers_that_end(recipe):
    tokens = jnp.array([[5, 13], [5, 13], [7, 13], [5, 6], [6, 13], [7, 13]])
    mask = jnp.ones(tokens.shape, bool)
    rows = {"tokens": tokens, "mask": mask}
    # Of the first three two say 5; of the last three one has no end, and of two that
    # are alone the first wins.
    np.testing.assert_array_equal(recipe.agrees(rows, 3, 13), [1, 1, 0, 0, 1, 0])
    rows["mask"] = mask.at[0, 1].set(False)
    np.testing.assert_array_equal(recipe.agrees(rows, 3, 13), [0, 1, 0, 0, 1, 0])


@pytest.mark.parametrize(
    "method",
    [
        "score",
        pytest.param("grpo", marks=pytest.mark.slow),
        pytest.param("rloo", marks=pytest.mark.slow),
        pytest.param("nft", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("stage", [1, 2])
def test_a_round_follows_what_was_right(recipe, setting, method, stage):
    """With rewards that are all equal nothing moves; else what was right gains."""
    lm, task, params = setting
    config = tiny(recipe, method=method, prompts=40, kl=0.0)
    made = recipe.make_method(method, config.clip, config.kl)
    # Single digits as answers, so that a random network is sometimes right.
    task = task._replace(
        answers=jnp.full_like(task.answers, 13).at[:, 0].set(5),
        answer_mask=jnp.zeros_like(task.answer_mask).at[:, 0].set(True),
    )
    held = []

    def update(train, rows):
        loss = recipe.make_loss(partial(recipe.score_groups, lm), made)
        total = lambda p: finalize(loss(p, rows, None))[0]  # noqa: E731
        held.append((rows, jax.jit(jax.grad(total))(train.params)))
        return train, {}

    take = recipe.make_round(config, lm, task, made, update, params)
    state = recipe.State(jnp.int32(0), SimpleNamespace(params=params))
    ids = jnp.arange(160, dtype=jnp.uint32)
    _, report = take(state, {"id": ids, "stage": jnp.full(160, stage)})
    rows, gradient = held[0]
    assert len(rows) == made.turns
    assert 0 < report[f"right{len(rows)}"] < 1
    moved = jax.tree.map(lambda p, g: p - 0.05 * g, params, gradient)

    @jax.jit
    def gain(row):
        after = jnp.sum(recipe.score_groups(lm, moved, row), axis=-1)
        return after - jnp.sum(row["old"], axis=-1)

    change, right = gain(rows[-1]), rows[-1]["right"]
    mixed = (right.min(1) < right.max(1))[:, None]
    better = jnp.mean(change[mixed & (right == 1)])
    assert better > jnp.mean(change[mixed & (right == 0)])
    if method == "score" and stage == 1:
        # The first stage pays for the second attempt alone, and holds the first.
        first = jax.jit(
            jax.grad(lambda logp: finalize(made.loss([logp, rows[1]["old"]], rows))[0])
        )(rows[0]["ref"])
        np.testing.assert_allclose(first, 0, atol=1e-6)


def attempts(turns):
    """Rows of so many attempts at 6 sums, 4 answers each, and new log-probabilities."""
    keys = iter(jax.random.split(jax.random.key(5), 99))
    shape, rows, logp = (6, 4, 5), [], []
    stage = jnp.broadcast_to(jnp.repeat(jnp.array([1, 2]), 3)[:, None], (6, 4))
    for _ in range(turns):
        ends = jax.random.randint(next(keys), shape[:2], 1, 6)
        old = -jax.random.exponential(next(keys), shape)
        rows.append(
            {
                "mask": jnp.arange(5) < ends[..., None],
                "old": old,
                "ref": old + 0.3 * jax.random.normal(next(keys), shape),
                "right": jax.random.bernoulli(next(keys), shape=shape[:2]).astype(
                    float
                ),
                "stage": stage,
            }
        )
        logp.append(old + 0.3 * jax.random.normal(next(keys), shape))
    return rows, logp


def one_by_one(name, logp, rows, clip, kl):
    """A method's loss of each answer ``[24]``, put together from its parts."""
    flat = [jax.tree.map(lambda x: x.reshape(24, *x.shape[2:]), row) for row in rows]
    logp = [x.reshape(24, 5) for x in logp]
    right = [row["right"] for row in rows]
    total = 0.0
    for turn, (now, row) in enumerate(zip(logp, flat, strict=True)):
        mask = row["mask"]
        if name in ("grpo", "rloo"):
            credit = policy.group_normalize if name == "grpo" else policy.leave_one_out
            level = "token" if name == "grpo" else "seq_sum"
            gain = credit(right[0]).reshape(-1)
            sides = {"clip_low": clip, "clip_high": clip, "level": level}
            each = policy.ppo_clip(now, row["old"], gain, mask, **sides)
        elif name == "nft":
            rate = jnp.repeat(jnp.mean(right[0], 1), 4)
            each = policy.nft(now, row["old"], row["right"], rate, mask)
            each *= policy.informative(right[0]).reshape(-1, 1)
        else:
            first, second = (
                policy.score_rewards(*right, stage=stage) for stage in (1, 2)
            )
            late = row["stage"] == 2
            paid = jnp.where(rows[0]["stage"][..., None] == 2, second, first)
            gain = policy.group_center(paid[..., turn]).reshape(-1)
            pull = jnp.where(late[:, None], 0.01, 0.1 if turn == 0 else 0.0)
            each = policy.reinforce(now, gain, mask)
            each += pull * policy.kl_loss(now, row["ref"], mask, kind="k2")
        if kl:
            each += kl * policy.kl_loss(now, row["ref"], mask)
        total += masked_mean(each, mask, 1)
    return total


@pytest.mark.parametrize("name", ["grpo", "rloo", "nft", "score"])
@pytest.mark.parametrize("kl", [0.0, 0.1])
def test_a_method_is_the_mean_of_its_answers_losses(name, kl):
    """Loss and gradient of whole algorithms are those of their parts by hand."""
    method = methods.make_method(name, 0.2, kl)
    rows, logp = attempts(method.turns)

    @jax.jit
    def both(logp, rows):
        given = lambda x: finalize(method.loss(x, rows))[0]  # noqa: E731
        by_hand = lambda x: jnp.mean(one_by_one(name, x, rows, 0.2, kl))  # noqa: E731
        return jax.value_and_grad(given)(logp), jax.value_and_grad(by_hand)(logp)

    got, want = both(logp, rows)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), got, want)
    assert abs(float(want[0])) > 1e-4


@pytest.mark.slow
def test_resumes(recipe, tmp_path, monkeypatch):
    config = tiny(recipe, directory=tmp_path / "whole")
    result = recipe.train(config)
    assert set(result) == {"before", "after"}

    class CrashError(Exception):
        pass

    right = recipe.fit

    def crash(step, state, batch_at, *, steps, **options):
        def fails(i):
            if steps == config.updates and i == 3:
                raise CrashError
            return batch_at(i)

        return right(step, state, fails, steps=steps, **options)

    again = replace(config, directory=tmp_path / "again")
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "fit", crash)
        with pytest.raises(CrashError):
            recipe.train(again)
    assert recipe.train(again) == result

    def losses(name):
        text = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in text]

    assert losses("whole") == losses("again")
    weights = [
        load_weights(tmp_path / n / "ema.safetensors")[0] for n in ("whole", "again")
    ]
    jax.tree.map(np.testing.assert_array_equal, *weights)


@pytest.mark.slow
def test_a_start_is_shared_by_runs_that_learn_the_same_there(recipe, tmp_path):
    def learn(**changes):
        config = tiny(recipe, directory=tmp_path / "run", **changes)
        lm, _, task = recipe.load(config)
        run = recipe.open_run(config)
        return recipe.learn_examples(config, lm, task, run, lambda _: {})

    begin = options.Start(steps=2, batch=8, directory=tmp_path / "start")
    want = learn(start=begin)
    shared = learn(start=begin, method="nft", learning_rate=0.1)
    jax.tree.map(np.testing.assert_array_equal, shared, want)
    for changes, message in (
        ({"seed": 5}, "seed was 0 and is now 5"),
        ({"sums": 14}, "sums was 12 and is now 14"),
        ({"start": replace(begin, steps=1)}, r"start\.steps was 2 and is now 1"),
    ):
        with pytest.raises(OtherRunError, match=message):
            learn(**{"start": begin, **changes})


def test_a_comparison_that_is_stopped_goes_no_further(
    recipe, tmp_path, monkeypatch, capsys
):
    figures = {key: {"accuracy": 0.5, "second": 0.5} for key in ("before", "after")}
    given = iter([figures, {}])
    monkeypatch.setattr(recipe, "train", lambda config: next(given))
    recipe.compare(recipe.Config(directory=tmp_path, compare=2))
    assert "grpo" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "nft", "clip": 0.1}, 'clip is 0.1.* method "nft"'),
        ({"smollm2": Path("m.gguf"), "start.steps": 3}, "start is .*SmolLM2"),
        ({"smollm2": Path("m.gguf"), "model.width": 3}, "model is .*SmolLM2"),
    ],
)
def test_options_without_effect_are_refused(recipe, tmp_path, changes, message):
    config = recipe.Config(directory=tmp_path / "run")
    for name, value in changes.items():
        part, _, field = name.rpartition(".")
        value = replace(getattr(config, part), **{field: value}) if part else value
        config = replace(config, **{part or field: value})
    with pytest.raises(ValueError, match=message):
        recipe.train(config)
    assert not (tmp_path / "run").exists()
