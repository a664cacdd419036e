"""train/ddpo_published.py: a published model tuned for a reward, and its mistakes."""

import importlib
import importlib.util
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxlib_guidance.models import load_published, read_lora
from jaxlib_guidance.training import Log, data_mesh

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def recipe():
    sys.path.insert(0, str(ROOT / "train"))
    spec = importlib.util.spec_from_file_location(
        "ddpo_published", ROOT / "train/ddpo_published.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]
    sys.path.remove(str(ROOT / "train"))


@pytest.fixture
def tiny(recipe, golden, tmp_path, monkeypatch):
    """``tiny(**options)``: a run of a tiny model on one device."""
    few = data_mesh(jax.devices()[:1])
    right = recipe.open_run
    monkeypatch.setattr(recipe, "data_mesh", lambda: few)
    alone = lambda *given, **options: replace(right(*given, **options), mesh=few)  # noqa: E731
    monkeypatch.setattr(recipe, "open_run", alone)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n\nhello\n")

    def made(name="sd15", **options):
        options = {
            "directory": tmp_path / "run",
            "reward": "brightness",
            "rounds": 3,
            "batch": 8,
            "solver_steps": 3,
            "size": (16,),
            "log": Log(every=1, save_every=1),
            **options,
        }
        return recipe.Config(golden(name).folder, prompts, **options)

    return made


@pytest.mark.slow
def test_it_raises_its_reward_and_resumes_to_the_same_file(recipe, tiny, golden):
    config = tiny(kl=0.01, learning_rate=5e-3, rounds=8, batch=16)
    found = recipe.train(config)
    assert found["after"] > found["before"] + 1e-3
    path = config.directory / "lora.safetensors"
    want = load_file(path)
    lines = (config.directory / "metrics.jsonl").read_text().splitlines()
    first, *_, last = map(json.loads, lines)
    # On policy all ratios are 1, and the base is where it began.
    assert first["ratio"] < 1e-4
    assert abs(first["divergence"]) < 1e-6
    assert last["divergence"] > 0
    # As if it had been killed in its last round, before the state was saved.
    shutil.rmtree(config.directory / "checkpoints" / "8")
    path.unlink()
    assert recipe.train(config) == found
    got = load_file(path)
    assert got.keys() == want.keys()
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array)
    # What is merged at load time is what was trained.
    lora = read_lora(path)
    model, params = load_published(golden("sd15").folder, parts=["unet"], lora=[lora])
    cond = {"text": jnp.ones((1, 5, 24))}
    given = jnp.ones((1, 6, 8, 4)), jnp.array([321.0]), cond
    changed, _ = model.unet.apply({"params": params["unet"]}, *given)
    _, plain = load_published(golden("sd15").folder, parts=["unet"])
    before, _ = model.unet.apply({"params": plain["unet"]}, *given)
    assert np.abs(changed - before).max() > 1e-3


@pytest.mark.slow
def test_a_flow_is_tuned_for_a_reward_of_ones_own(recipe, tiny, tmp_path):
    score = tmp_path / "score.py"
    score.write_text("def red(images, prompts): return images[..., 0].mean((1, 2))")
    config = tiny("sd3_pipeline", reward=f"{score}:red", rounds=1, updates=2)
    found = recipe.train(config)
    assert np.isfinite(list(found.values())).all()
    held = load_file(config.directory / "lora.safetensors")
    assert all(name.startswith("transformer.transformer_blocks.") for name in held)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"group": 1}, "group is 1; expected at least 2"),
        ({"batch": 6}, "batch is 6; expected a multiple of group, 4"),
        ({"batch": 4}, "batch is 4; expected a multiple of the 8 devices"),
        ({"lora_rank": 0}, "lora_rank is 0"),
        ({"solver_steps": 1}, "solver_steps is 1; expected at least 2"),
        ({"size": (8, 8, 8)}, "size is .8, 8, 8."),
        ({"size": (0,)}, "size is 0; expected at least 1"),
        ({"kl": -1.0}, "kl is -1.0; expected a finite number from 0"),
        ({"clip": 0.0}, "clip is 0.0; expected a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; expected"),
        ({"ema": 1.0}, "ema is 1.0; expected 0 to below 1"),
        ({"guidance": float("nan")}, "guidance is nan; expected a finite number"),
        ({"guidance": 0.0, "negative": "no"}, "negative has no effect without guid"),
        ({"name": "dit_pipeline"}, "takes no texts"),
        ({"size": (15,)}, "expected multiples of 2"),
        ({"reward": "beauty"}, "reward is 'beauty'; expected one of"),
        ({"reward": "nowhere.py:f"}, "there is no file"),
    ],
)
def test_mistakes_are_told(recipe, tiny, options, told):
    with pytest.raises(ValueError, match=told):
        recipe.train(tiny(**options))
    config = tiny()
    config.prompts.write_text(" \n")
    with pytest.raises(ValueError, match="has no line of text"):
        recipe.train(config)


def test_noise_takes_more_kilobytes_than_grey(recipe):
    policy = importlib.import_module("ddpo_published_policy")
    noise = np.random.default_rng(0).random((1, 32, 32, 3), np.float32)
    sizes = policy.jpeg_kilobytes(np.concatenate([noise, np.full_like(noise, 0.5)]))
    assert sizes[0] > 2 * sizes[1] > 0
    images, prompts = np.stack([noise[0], 0 * noise[0]]), np.zeros(2, int)
    assert np.diff(policy.scorer("compressibility", (32, 32, 3))(images, prompts)) > 0
    assert np.diff(policy.scorer("brightness", (32, 32, 3))(images, prompts)) < 0


def test_a_mark_at_the_beginning_of_the_prompts_is_no_letter(recipe, tiny):
    config = tiny()
    config.prompts.write_bytes(b"\xef\xbb\xbfa cat\r\nhello\r\n")
    assert recipe.texts_of(config) == ["a cat", "hello"]
