"""train/ddpo.py: it resumes, it learns, and its rewards are what they say."""

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
from scipy.fft import dctn

from jaxlib_guidance.data import load_digits
from jaxlib_guidance.files import export_weights, load_weights
from jaxlib_guidance.models import from_config, load_pretrained
from jaxlib_guidance.training import Log, Scale, data_mesh

RECIPE = Path(__file__).parents[2] / "train" / "ddpo.py"
parts = importlib.import_module("ddpo_task")


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
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    export_weights(path, jax.tree.map(lambda leaf: leaf + 0.02, params), about)
    return str(path)


def on_devices(recipe, monkeypatch, count):
    """Runs of the recipe take this many devices."""
    right = recipe.open_run
    few = data_mesh(jax.devices()[:count])
    monkeypatch.setattr(
        recipe, "open_run", lambda *c, **k: replace(right(*c, **k), mesh=few)
    )


def tiny(recipe, directory, weights, **changes):
    options = {
        "method": "nft",
        "rounds": 2,
        "batch": 16,
        "solver_steps": 3,
        "count": 16,
        "log": Log(every=1, save_every=1),
        **changes,
    }
    return recipe.Config(directory=directory, weights=weights, **options)


def lines(folder):
    found = (folder / "metrics.jsonl").read_text().splitlines()
    wanted = ("step", "loss", "sampled", "grad_norm")
    return [{k: json.loads(line)[k] for k in wanted} for line in found]


@pytest.mark.slow
def test_resumed_it_ends_as_in_one_go(recipe, weights, tmp_path, monkeypatch):
    """The old network of DiffusionNFT, which drew the samples, comes back too."""
    # One device, and no evaluation: half of what there is to compile.
    on_devices(recipe, monkeypatch, 1)
    figures = {"reward": 0.0, "held_out": 0.5}, np.zeros((1, 8, 8, 1))
    monkeypatch.setattr(
        recipe, "make_evaluation", lambda *_, **__: lambda params: figures
    )
    config = tiny(recipe, tmp_path, weights)
    recipe.train(config)
    want, lines_whole = load_weights(tmp_path / "ema.safetensors")[0], lines(tmp_path)
    # As if it had been killed in its last round, after the log and before the state.
    shutil.rmtree(tmp_path / "checkpoints" / "2")
    (tmp_path / "ema.safetensors").unlink()
    recipe.train(config)
    got = load_weights(tmp_path / "ema.safetensors")[0]
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert lines(tmp_path) == lines_whole
    assert len(lines_whole) == 2
    base, _ = load_weights(weights)
    assert any(map(np.any, jax.tree.leaves(jax.tree.map(np.subtract, got, base))))
    model, _ = load_pretrained(tmp_path / "ema.safetensors")
    assert model.shape == (8, 8, 1)
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    # What is saved is judged, so that the best can be kept.
    assert names == ["00001.png", "after.png", "before.png"]


@pytest.mark.slow
def test_a_guided_policy_held_to_its_base_on_two_devices(
    recipe, weights, tmp_path, monkeypatch
):
    on_devices(recipe, monkeypatch, 2)
    config = tiny(
        recipe,
        tmp_path,
        weights,
        method="flow_grpo",
        reward="compressibility",
        rounds=1,
        guidance=0.5,
        kl=0.01,
    )
    rows = recipe.train(config)
    tuned = rows["flow_grpo"]
    assert all(np.isfinite(list(tuned.values())))
    assert abs(rows["base"]["divergence"]) < 1e-6
    assert tuned["divergence"] > 0
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    # On policy all ratios are 1.
    assert first["ratio"] < 1e-4
    assert first["gradients"] == 16 * 3 * 2
    assert first["evaluations"] == 2 * first["gradients"]


def test_code_length_is_that_of_the_quantised_cosines(recipe):
    images, _ = load_digits("test")
    images = images[:20]
    quanta = np.array(parts.QUANTA.split(), float).reshape(8, 8)
    cosines = dctn(127.5 * images[..., 0].astype(float), axes=(1, 2), norm="ortho")
    want = []
    for levels in np.round(np.abs(cosines) / quanta).astype(int):
        want.append(sum(int(v).bit_length() + 4 for v in levels.ravel() if v))
    got = parts.code_length(jnp.asarray(images))
    np.testing.assert_allclose(got, want, atol=12)  # a coefficient may round apart
    assert np.mean(np.asarray(got) == want) > 0.8
    noise = jax.random.uniform(jax.random.key(0), (20, 8, 8, 1), minval=-1)
    blank = jnp.full((1, 8, 8, 1), -1.0)
    assert parts.code_length(noise).mean() > got.mean() > 20
    # One level of -1020 / 16, about 64: seven binary digits and the code.
    assert parts.code_length(blank) == 7 + 4


def test_class_reward_knows_digits(recipe):
    model, _, _ = recipe.load_base("digits", Scale())
    task = recipe.make_task("class", (3, 8), model)
    images, labels = (each[:100] for each in load_digits("test"))
    prompts = task.prompt(jnp.arange(len(labels)))
    reward = np.asarray(jax.jit(task.reward)(images, prompts))
    wanted = np.isin(labels, (3, 8))
    assert np.mean((reward > np.log(0.5)) == wanted) > 0.95
    assert set(np.asarray(prompts)) == {10}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"guidance": 1.0}, "guidance is 1.0, which has no effect on reward 'class'"),
        ({"method": "nft", "clip": 0.1}, "clip is 0.1, which has no effect"),
        ({"reward": "compressibility", "targets": (1,)}, "which has no effect"),
        ({"held_out": "x.py:f"}, "held_out is x.py:f, which has no effect on a bund"),
        ({"reward": "clas"}, "reward is 'clas'; expected 'class', 'compress"),
        ({"targets": (3, 11)}, "expected digits from 0 to 9"),
        ({"updates": 0}, "expected at least 1"),
    ],
)
def test_what_has_no_effect_or_meaning_is_refused(recipe, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        recipe.train(recipe.Config(directory=tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_other_models_are_refused(recipe):
    with pytest.raises(FileNotFoundError, match="neither a file nor one of"):
        recipe.load_base("mnist", Scale())
    with pytest.raises(ValueError, match="expected a diffusion model of images"):
        recipe.load_base("digits_judge", Scale())
    with pytest.raises(ValueError, match="expected one of labels, or of none"):
        recipe.load_base("emoji", Scale())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ddpo", "nft"])
def test_a_reward_of_ones_own_on_a_model_without_labels(
    recipe, tmp_path, monkeypatch, method
):
    """On the host, of other images than digits, with another reward held out."""
    network = {"kind": "dit", "width": 16, "depth": 1, "heads": 2, "patch": 4}
    about = {
        "network": network,
        "process": {"kind": "cosine"},
        "parametrize": {"predicts": "x0", "precondition": True, "sigma_data": 0.5},
        "shape": [12, 12, 3],
    }
    params = from_config(about).init(jax.random.key(0))
    export_weights(tmp_path / "base.safetensors", params, about)
    (tmp_path / "score.py").write_text(
        "import numpy as np\n"
        "def red(images): return np.asarray(images)[..., 0].mean((1, 2))\n"
        "def blue(images): return -images[..., 2].mean((1, 2))\n"
    )
    on_devices(recipe, monkeypatch, 2)
    config = tiny(
        recipe,
        tmp_path / "run",
        str(tmp_path / "base.safetensors"),
        method=method,
        rounds=15,
        learning_rate=3e-3,
        reward=f"{tmp_path}/score.py:red",
        held_out=f"{tmp_path}/score.py:blue",
    )
    rows = recipe.train(config)
    assert set(rows["base"]) == {"reward", "held_out", "divergence"}
    assert rows[method]["reward"] > rows["base"]["reward"] + 0.01
    with pytest.raises(ValueError, match="reward is 'class', of the 8x8 digits"):
        recipe.make_task("class", (3,), recipe.load_base(config.weights, Scale())[0])


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
