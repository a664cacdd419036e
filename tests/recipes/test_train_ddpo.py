"""train/ddpo.py: it resumes, it learns, and its rewards are what they say."""

import importlib.util
import json
import os
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.fft import dctn

from jaxlib_guidance.data.digits import load_digits
from jaxlib_guidance.models.pretrained import from_config, load_pretrained
from jaxlib_guidance.models.weights import export_weights, load_weights
from jaxlib_guidance.training.fit import Log
from jaxlib_guidance.training.parallel import data_mesh
from jaxlib_guidance.training.run import MetricLog

RECIPE = Path(__file__).parents[2] / "train" / "ddpo.py"


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("train_ddpo", RECIPE)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A tiny model of the digits, untrained but for its output layer."""
    network = {"kind": "dit", "width": 16, "depth": 1, "heads": 2, "patch": 4}
    about = {
        "network": {**network, "classes": 10},
        "process": {"kind": "cosine"},
        "parametrize": {"predicts": "x0", "precondition": True, "sigma_data": 0.75},
        "shape": [8, 8, 1],
        "classes": 10,
    }
    params = from_config(about).init(jax.random.key(0))
    path = tmp_path_factory.mktemp("weights") / "tiny.npz"
    export_weights(path, jax.tree.map(lambda leaf: leaf + 0.02, params), about)
    return str(path)


def tiny(recipe, directory, weights, **changes):
    options = {
        "method": "nft",
        "rounds": 3,
        "batch": 16,
        "solver_steps": 3,
        "count": 16,
        "log": Log(every=1, save_every=2),
        **changes,
    }
    return recipe.Config(directory=directory, weights=weights, **options)


def lines(folder):
    found = (folder / "metrics.jsonl").read_text().splitlines()
    wanted = ("step", "loss", "sampled", "grad_norm")
    return [{k: json.loads(line)[k] for k in wanted} for line in found]


@pytest.fixture
def cheap(recipe, monkeypatch):
    """One device, and no evaluation: half of what there is to compile."""
    monkeypatch.setattr(recipe, "data_mesh", lambda: data_mesh(jax.devices()[:1]))
    images = np.zeros((1, 8, 8, 1))
    monkeypatch.setattr(
        recipe, "make_evaluation", lambda *_: lambda params: ({"reward": 0.0}, images)
    )


def test_stopped_and_resumed_it_ends_as_in_one_go(
    recipe, weights, tmp_path, cheap, monkeypatch
):
    """The old network of DiffusionNFT, which drew the samples, comes back too."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert recipe.train(tiny(recipe, whole, weights))
    written = MetricLog.write

    def asked_to_stop(self, step, metrics):
        written(self, step, metrics)
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(MetricLog, "write", asked_to_stop)
    assert recipe.train(tiny(recipe, parts, weights)) == {}
    monkeypatch.setattr(MetricLog, "write", written)
    assert recipe.train(tiny(recipe, parts, weights))
    assert lines(parts) == lines(whole)
    assert len(lines(whole)) == 3
    got, want = (load_weights(folder / "ema.npz")[0] for folder in (parts, whole))
    jax.tree.map(np.testing.assert_array_equal, got, want)
    base, _ = load_weights(weights)
    assert any(map(np.any, jax.tree.leaves(jax.tree.map(np.subtract, got, base))))
    model, _ = load_pretrained(whole / "ema.npz")
    assert model.shape == (8, 8, 1)
    names = sorted(path.name for path in (whole / "samples").iterdir())
    assert names == ["after.png", "before.png"]


def first_round(folder):
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])


def test_a_guided_policy_held_to_its_base_on_several_devices(recipe, weights, tmp_path):
    config = tiny(
        recipe,
        tmp_path,
        weights,
        method="ddpo",
        reward="compressibility",
        rounds=1,
        guidance=0.5,
        kl=0.01,
    )
    rows = recipe.train(config)
    assert all(np.isfinite(list(rows["ddpo"].values())))
    assert abs(rows["base"]["divergence"]) < 1e-6
    assert rows["ddpo"]["divergence"] > 0
    first = first_round(tmp_path)
    # On policy all ratios are 1.
    assert first["ratio"] < 1e-4
    assert first["gradients"] == 16 * 3 * 2
    assert first["evaluations"] == 2 * first["gradients"]


def test_a_second_update_on_the_same_samples_moves_their_ratios(
    recipe, weights, tmp_path, cheap
):
    options = {"method": "flow_grpo", "updates": 2, "rounds": 1}
    recipe.train(tiny(recipe, tmp_path, weights, **options))
    first = first_round(tmp_path)
    assert first["ratio"] > 1e-4
    assert first["gradients"] == 2 * 16 * 3
    assert first["evaluations"] == 16 * 3


def test_code_length_is_that_of_the_quantised_cosines(recipe):
    images, _ = load_digits("test")
    images = images[:20]
    quanta = np.array(recipe.QUANTA.split(), float).reshape(8, 8)
    cosines = dctn(127.5 * images[..., 0].astype(float), axes=(1, 2), norm="ortho")
    want = []
    for levels in np.round(np.abs(cosines) / quanta).astype(int):
        want.append(sum(int(v).bit_length() + 4 for v in levels.ravel() if v))
    got = recipe.code_length(jnp.asarray(images))
    np.testing.assert_allclose(got, want, atol=12)  # a coefficient may round apart
    assert np.mean(np.asarray(got) == want) > 0.8
    noise = jax.random.uniform(jax.random.key(0), (20, 8, 8, 1), minval=-1)
    blank = jnp.full((1, 8, 8, 1), -1.0)
    assert recipe.code_length(noise).mean() > got.mean() > 20
    # One level of -1020 / 16, about 64: seven binary digits and the code.
    assert recipe.code_length(blank) == 7 + 4


def test_class_reward_knows_digits(recipe):
    config = recipe.Config(targets=(3, 8))
    model, _, _ = recipe.load_base(config)
    task = recipe.make_task(config, model)
    images, labels = load_digits("test")
    prompts = task.prompt(jnp.arange(len(labels)))
    reward = np.asarray(task.reward(jnp.asarray(images), prompts))
    wanted = np.isin(labels, (3, 8))
    assert np.mean((reward > np.log(0.5)) == wanted) > 0.95
    assert set(np.asarray(prompts)) == {10}


def test_what_has_no_effect_is_refused(recipe, tmp_path):
    config = recipe.Config(directory=tmp_path, guidance=1.0)
    with pytest.raises(ValueError, match="guidance is 1.0"):
        recipe.train(config)
    with pytest.raises(FileNotFoundError, match="neither a file nor one of"):
        recipe.load_base(recipe.Config(weights="mnist"))
    with pytest.raises(ValueError, match="expected a diffusion model of the 8x8"):
        recipe.load_base(recipe.Config(weights="digits_judge"))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "updates"), [("ddpo", 1), ("nft", 4)])
def test_reward_climbs_by_a_large_margin(recipe, tmp_path, method, updates):
    config = recipe.Config(
        directory=tmp_path, method=method, updates=updates, rounds=25, count=100
    )
    rows = recipe.train(config)
    assert rows["base"]["reward"] < -2
    assert rows["base"]["held_out"] < 0.35
    assert rows[method]["reward"] > -0.7
    assert rows[method]["held_out"] > 0.7
