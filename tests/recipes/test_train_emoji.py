"""train/emoji.py: stopped and resumed as in one go, and what it leaves behind."""

import importlib
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxlib_guidance import rng
from jaxlib_guidance.data import embed_words, emoji_vocabulary, load_emoji
from jaxlib_guidance.files import load_weights
from jaxlib_guidance.models import load_pretrained
from jaxlib_guidance.training import Log, MetricLog

RECIPE = Path(__file__).parents[2] / "train" / "emoji.py"
options = importlib.import_module("emoji_options")


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("train_emoji", RECIPE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def tiny(directory, **changes):
    return options.Config(
        directory=directory,
        model=options.Model(width=16, depth=1, heads=2, patch=8),
        optimiser=options.Optimiser(steps=4, batch=8, warmup=1),
        solver_steps=2,
        weak=2,
        log=Log(every=1, save_every=2, eval_every=2),
        **changes,
    )


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


class CrashError(Exception):
    pass


@pytest.mark.slow
def test_after_a_crash_it_takes_the_same_step_and_it_leaves_weights(
    recipe, tmp_path, monkeypatch
):
    written = MetricLog.write

    def crash(self, step, metrics):
        written(self, step, metrics)
        if step == 3:
            raise CrashError

    monkeypatch.setattr(MetricLog, "write", crash)
    with pytest.raises(CrashError):
        recipe.train(tiny(tmp_path))
    before = losses(tmp_path)
    # What was learned by then can be used already.
    model, early = load_pretrained(tmp_path / "ema.safetensors")
    assert model.module.sites == ("block0/attn", "block0/cross")
    monkeypatch.setattr(MetricLog, "write", written)
    assert recipe.train(tiny(tmp_path))
    # Step 3 is on the log but not in a checkpoint: it is taken and written again.
    assert losses(tmp_path)[:3] == before
    assert len(losses(tmp_path)) == 4
    weak, late = (
        load_weights(tmp_path / f"{name}.safetensors")[0] for name in ("weak", "ema")
    )
    jax.tree.map(np.testing.assert_array_equal, weak, early)
    assert not np.array_equal(weak["head"]["kernel"], late["head"]["kernel"])
    with Image.open(tmp_path / "samples" / "0000004.png") as picture:
        assert picture.size == (2 * (5 * 33 - 1), 2 * (4 * 33 - 1))
        assert picture.text["prompts"] == "; ".join(recipe.PROMPTS)


def test_its_prompts_are_in_the_vocabulary(recipe):
    assert embed_words(recipe.PROMPTS)[1].any(1).all()


def test_parts_of_the_condition_are_left_out_as_often_as_asked(recipe):
    n = 4000
    found = load_emoji()
    batch = {
        "label": jnp.asarray(found.labels[:1].repeat(n)),
        "words": jnp.asarray(found.words[:1].repeat(n, 0)),
        "keywords": jnp.asarray(found.keywords[:1].repeat(n, 0)),
    }
    asked = options.Objective(drop_both=0.1, drop_text=0.2, drop_label=0.3)
    keys = rng.sample_keys(jax.random.key(0), n)
    cond = jax.jit(lambda keys: recipe.condition(keys, batch, asked))(keys)
    mask, given = np.asarray(cond["text_mask"]), np.asarray(cond["label"]) < 9
    own = (found.words[0] >= 0).sum()
    texts = mask[:, :own].any(1)
    assert (mask[:, :own].all(1) == texts).all()
    any_text = mask.any(1)
    error = 4 / n**0.5 / 2
    assert abs(np.mean(~given & ~any_text) - 0.1) < error + 0.05
    assert abs(np.mean(~given) - 0.4) < error
    # Of the 70 % with a text, 8 in 10 have the caption.
    assert abs(np.mean(texts) - 0.7 * 0.8) < error
    # Padding is never a word.
    padding = np.concatenate([found.words[0], found.keywords[0]]) < 0
    assert not mask[:, padding].any()
    vectors = emoji_vocabulary().vectors
    np.testing.assert_allclose(cond["text"][0, 0], vectors[found.words[0, 0]])


def test_options_without_effect_are_refused(recipe, tmp_path):
    config = tiny(tmp_path)
    config = replace(config, model=replace(config.model, multipliers=(1, 2)))
    with pytest.raises(ValueError, match="no effect on a DiT"):
        recipe.train(config)


@pytest.mark.slow
def test_it_learns(recipe, tmp_path):
    config = tiny(tmp_path)
    optimiser = replace(config.optimiser, steps=60, batch=32, warmup=5)
    assert recipe.train(replace(config, optimiser=optimiser, weak=0))
    found = losses(tmp_path)
    assert np.mean(found[-10:]) < 0.9 * np.mean(found[:5])
