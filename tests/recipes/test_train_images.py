"""train/images.py: interrupted and resumed it gives what it gives in one go."""

import dataclasses
import importlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxlib_guidance as jg
from jaxlib_guidance.data import load_digits, load_images
from jaxlib_guidance.files import load_weights
from jaxlib_guidance.models import load_pretrained
from jaxlib_guidance.training import MetricLog, OtherRunError

RECIPE = Path(__file__).parents[2] / "train" / "images.py"
options = importlib.import_module("images_options")
parts = importlib.import_module("images_data")


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("train_images", RECIPE)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def tiny(recipe, directory, **changes):
    return recipe.Config(
        directory=directory,
        model=options.Model(width=16, depth=1, heads=2),
        optimiser=options.Optimiser(steps=6, batch=16, warmup=2),
        evaluation=options.Evaluation(solver_steps=3, judge=None),
        log=options.Log(every=1, save_every=2, eval_every=100),
        **changes,
    )


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return {json.loads(line)["step"]: json.loads(line)["loss"] for line in lines}


@pytest.fixture(scope="module")
def uninterrupted(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    recipe.train(tiny(recipe, folder))
    return folder


class CrashError(Exception):
    pass


def test_stopped_and_crashed_it_ends_as_in_one_go(
    recipe, uninterrupted, tmp_path, monkeypatch, capsys
):
    written = MetricLog.write

    def asked_to_stop(self, step, metrics):
        written(self, step, metrics)
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    def crash(self, step, metrics):
        written(self, step, metrics)
        if step == 5:
            raise CrashError

    config = tiny(recipe, tmp_path)
    monkeypatch.setattr(MetricLog, "write", asked_to_stop)
    assert recipe.train(config) == {}
    assert "stopped after step 3" in capsys.readouterr().out
    monkeypatch.setattr(MetricLog, "write", crash)
    with pytest.raises(CrashError):
        recipe.train(config)
    # Step 5 is on the log but not in a checkpoint: it is taken and written again.
    assert max(losses(tmp_path)) == 5
    monkeypatch.setattr(MetricLog, "write", written)
    recipe.train(config)
    assert "resumed after step 4" in capsys.readouterr().out
    assert losses(tmp_path) == losses(uninterrupted)
    got, want = (
        load_weights(f / "ema.safetensors")[0] for f in (tmp_path, uninterrupted)
    )
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_other_images_may_start_from_the_weights(recipe, uninterrupted):
    path = uninterrupted / "config.json"
    held = path.read_text()
    other = json.loads(held)
    other["data"]["identity"] = "one picture fewer"
    path.write_text(json.dumps(other))
    with pytest.raises(OtherRunError, match=r"data\.identity was .* --init .*safeten"):
        recipe.train(tiny(recipe, uninterrupted))
    path.write_text(held)


def test_what_a_run_leaves_behind(uninterrupted):
    assert sorted(losses(uninterrupted)) == [1, 2, 3, 4, 5, 6]
    picture = (uninterrupted / "samples" / "final.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    model, params = load_pretrained(uninterrupted / "ema.safetensors")
    assert model.shape == (8, 8, 1)
    assert model.classes == 10
    assert model.options["precondition"]
    measured = jg.data_scale(load_digits()[0])
    assert model.data_scale == pytest.approx(measured, rel=1e-2)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    estimate = jax.jit(lambda params, x: model.denoiser(params)(x, 0.5).x0)
    assert estimate(params, x).shape == x.shape
    _, config = load_weights(uninterrupted / "ema.safetensors")
    assert config["training"]["optimiser"]["steps"] == 6


def test_pictures_without_a_scale_are_trained_on(recipe):
    pictures = load_digits()[0]
    want = {"data_scale": pytest.approx(jg.data_scale(pictures), rel=1e-2)}
    assert recipe.measured(pictures) == want
    assert recipe.measured(np.repeat(pictures[:1], 9, axis=0)) == {}
    assert recipe.measured(pictures[:2]) == {}


def test_another_configuration_is_refused(recipe, uninterrupted):
    config = tiny(recipe, uninterrupted, seed=1)
    with pytest.raises(OtherRunError, match="seed was 0 and is now 1"):
        recipe.train(config)
    assert len(losses(uninterrupted)) == 6


def test_an_evaluation_that_fails_costs_no_weights_and_may_be_changed(
    recipe, uninterrupted, tmp_path, monkeypatch
):
    run = shutil.copytree(uninterrupted, tmp_path / "run")
    (run / "ema.safetensors").unlink()
    config = tiny(recipe, run, store="bfloat16")
    judged = dataclasses.replace(config.evaluation, judge="digits_judge", weight=2.0)

    def fails(*_):
        raise CrashError

    monkeypatch.setattr(recipe, "evaluate", fails)
    with pytest.raises(CrashError):
        recipe.train(dataclasses.replace(config, evaluation=judged))
    assert (run / "ema.safetensors").exists()
    assert recipe.train(config) == {}


def test_a_missing_test_split_is_missed_before_training(recipe, tmp_path):
    (tmp_path / "data" / "a").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "data" / "a" / "0.png")
    config = tiny(recipe, tmp_path / "run", data=options.Data(str(tmp_path / "data")))
    judged = dataclasses.replace(config.evaluation, judge="digits_judge")
    with pytest.raises(ValueError, match="has no folder 'test'"):
        recipe.train(dataclasses.replace(config, evaluation=judged))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("model", {"kind": "unet", "patch": 4}, "patch is 4.*a U-Net"),
        ("model", {"kind": "unet", "scan": True}, "scan is True.*a U-Net"),
        ("objective", {"sigmoid_bias": -1.0}, 'sigmoid_bias is -1.0.*"edm"'),
        ("objective", {"min_snr_gamma": 1.0}, 'min_snr_gamma is 1.0.*"edm"'),
        ("objective", {"levels": "uniform", "level_std": 1.0}, 'level_std.*"uniform"'),
    ],
)
def test_options_without_effect_are_refused(recipe, tmp_path, part, changes, message):
    config = recipe.Config(directory=tmp_path / "run")
    changed = dataclasses.replace(getattr(config, part), **changes)
    with pytest.raises(ValueError, match=message):
        recipe.train(dataclasses.replace(config, **{part: changed}))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_judge_tells_the_bundled_model_from_noise(recipe):
    model, params = load_pretrained("digits")
    config = recipe.Config(evaluation=options.Evaluation(count=100, solver_steps=8))
    data, test = (load_images("digits", split) for split in ("train", "test"))
    rows = recipe.evaluate(model, params, config, data, test, "digits_judge")
    assert rows["training data"]["accuracy"] > 0.98
    assert rows["samples, cfg 0"]["accuracy"] > 0.85
    assert rows["samples, cfg 1"]["accuracy"] > 0.97
    assert rows["samples, cfg 1"]["frechet"] < 8


def test_a_judge_of_other_images_is_refused(recipe, tmp_path):
    config = tiny(recipe, tmp_path, data=options.Data(size=16))
    judged = dataclasses.replace(config.evaluation, judge="digits_judge")
    with pytest.raises(ValueError, match="digits_judge"):
        recipe.train(dataclasses.replace(config, evaluation=judged))


@pytest.mark.parametrize(
    "objective",
    [
        {"predicts": "v", "weighting": "sigmoid", "levels": "uniform"},
        {
            "process": "flow",
            "predicts": "velocity",
            "weighting": "velocity",
            "levels": "logit_normal",
        },
        {"process": "edm", "weighting": "min_snr"},
    ],
)
def test_other_objectives_give_finite_losses(recipe, objective):
    config = dataclasses.replace(
        tiny(recipe, Path()), objective=options.Objective(**objective)
    )
    model = recipe.from_config(recipe.describe(config, (8, 8, 1), 10, 0.75))
    loss = recipe.make_loss(model, config, 0.75)
    batch = {
        "image": np.zeros((4, 8, 8, 1), np.float32),
        "label": np.arange(4, dtype=np.int32),
        "u": np.array([0.0, 0.3, 0.6, 0.999], np.float32),
    }
    keys = recipe.rng.sample_keys(jax.random.key(0), 4)
    each, _ = jax.jit(loss)(model.init(jax.random.key(0)), batch, keys)
    assert each.shape == (4,)
    assert np.isfinite(each).all()


@pytest.mark.slow
def test_kill_9_and_restart(recipe, tmp_path):
    command = [sys.executable, str(RECIPE), "--directory", str(tmp_path / "run")]
    flags = {
        "model.width": 16,
        "model.depth": 1,
        "model.heads": 2,
        "optimiser.steps": 60,
        "optimiser.batch": 16,
        "log.every": 1,
        "log.save-every": 5,
        "evaluation.solver-steps": 3,
        "evaluation.judge": None,
    }
    command += [part for k, v in flags.items() for part in (f"--{k}", str(v))]
    metrics = tmp_path / "run" / "metrics.jsonl"
    first = subprocess.Popen(command)
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 12:
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "resumed after step" in again.stdout
    command[3] = str(tmp_path / "whole")
    subprocess.run(command, check=True)
    got, want = losses(tmp_path / "run"), losses(tmp_path / "whole")
    assert sorted(got) == list(range(1, 61))
    np.testing.assert_allclose(list(got.values()), list(want.values()), rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "patch"),
    [((8, 8, 1), 2), ((32, 32, 3), 2), ((44, 36, 3), 4), ((256, 256, 3), 16)],
)
def test_patches_are_few_enough_whatever_the_size(shape, patch):
    assert options.patch_of(shape) == patch


def test_sizes_that_no_patch_divides_are_told():
    assert options.patch_of((13, 11, 3)) == 1
    with pytest.raises(ValueError, match=r"images are 97x89, .*expected --data.size"):
        options.patch_of((97, 89, 3))


def test_folder_and_judge_are_the_source_s():
    config = options.Config(data=options.Data("some/where/cats/"))
    assert options.folder_of(config) == Path("runs/cats")
    assert options.folder_of(options.Config()) == Path("runs/digits")
    assert options.completed(config, (8, 8, 1)).evaluation.judge is None
    digits = options.Config()
    assert options.completed(digits, (8, 8, 1)).evaluation.judge == "digits_judge"
    assert options.completed(digits, (16, 16, 1)).evaluation.judge is None


def test_the_level_turns_its_sines_a_few_times_over_its_range():
    """Faster ones would make of neighbouring levels two networks."""
    config = options.Config()
    assert options.completed(config, (8, 8, 1)).model.time_scale == 10
    timed = dataclasses.replace(config, objective=options.Objective(predicts="v"))
    assert options.completed(timed, (8, 8, 1)).model.time_scale == 1000
    given = dataclasses.replace(timed, model=options.Model(time_scale=3.0))
    assert options.completed(given, (8, 8, 1)).model.time_scale == 3
    own = dataclasses.replace(config, init="digits")
    assert options.completed(own, (8, 8, 1)).model.time_scale is None


def pictures(folder, count):
    """Pictures as people have them, of two classes; some are cut off or grey."""
    rng = np.random.default_rng(0)
    for i in range(count):
        place = folder / ("red", "blue")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        bytes_ = rng.integers(0, 90, (9 + i % 7, 16 - i % 5, 3)).astype(np.uint8)
        bytes_[..., 2 * (i % 2)] += 160
        mode = ("RGB", "RGBA", "P", "L")[i % 4 if i < 40 else 0]
        Image.fromarray(bytes_).convert(mode).save(place / f"{i}.png")
        if i % 30 == 0:
            data = (place / f"{i}.png").read_bytes()
            (place / f"{i}.png").write_bytes(data[: len(data) // 2])
    (folder / "red" / ".DS_Store").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")


@pytest.mark.parametrize("stream", [False, True])
def test_pictures_of_several_sizes_get_one(tmp_path, stream, capsys):
    pictures(tmp_path, 32)
    data = parts.settled(options.Data(str(tmp_path), stream=stream))
    assert data.size == 32
    assert "sizes: 32x32 of each (--data.size)" in capsys.readouterr().out
    bad = []
    found = parts.some(parts.find(data, "train", bad))
    assert found.images.shape == (30, 32, 32, 3)
    assert len(bad) == 2
    without = dataclasses.replace(data, classes=False)
    found = parts.some(parts.find(without, "train", bad))
    assert found.classes == ()
    strict = dataclasses.replace(data, bad="stop")
    with pytest.raises(ValueError, match="cannot be read as an image"):
        parts.some(parts.find(strict, "train", bad))
    assert parts.settled(options.Data(size=7)).size == 7


def test_weights_of_other_classes_start_all_but_the_labels():
    old = {"a": jnp.ones((2, 3)), "label": {"embedding": jnp.ones((11, 3))}}
    new = {"a": jnp.zeros((2, 3)), "label": {"embedding": jnp.zeros((4, 3))}}
    got = parts.carried_over(new, old)
    np.testing.assert_array_equal(got["a"], 1)
    np.testing.assert_array_equal(got["label"]["embedding"], 0)
    with pytest.raises(ValueError, match=r"init has no parameter \['b'\] of shape"):
        parts.carried_over({**new, "b": jnp.zeros(2)}, old)
    with pytest.raises(ValueError, match="init is 'emoji'; expected weights of"):
        parts.started("emoji", 3)
    with pytest.raises(ValueError, match="of images with 1 channels, and the"):
        parts.started("digits", 3)


@pytest.mark.slow
def test_own_pictures_without_options_then_longer_then_from_their_weights(
    recipe, tmp_path, monkeypatch, capsys
):
    """Sizes, modes and bad files as they come; a longer run; a start from weights."""
    pictures(tmp_path / "mine", 300)
    monkeypatch.chdir(tmp_path)

    def run(steps, **changes):
        return options.Config(
            data=options.Data("mine", size=8),
            optimiser=options.Optimiser(steps=steps, batch=16, warmup=2),
            evaluation=options.Evaluation(solver_steps=3),
            log=options.Log(every=10),
            **changes,
        )

    small = options.Model(width=16, depth=1, heads=2)
    assert recipe.train(run(60, model=small)) == {}
    out = capsys.readouterr().out
    assert "10 files left out, such as: mine/" in out
    assert len(Path("runs/mine/left_out.txt").read_text().splitlines()) == 10
    # The same files by another path are the same data.
    whole = options.Data(str(tmp_path / "mine"), size=8)
    recipe.train(dataclasses.replace(run(90, model=small), data=whole))
    assert "resumed after step 60" in capsys.readouterr().out
    assert len(losses(Path("runs/mine"))) == 9
    weights = "runs/mine/ema.safetensors"
    _, about = load_weights(weights)
    assert about["class_names"] == ["blue", "red"]
    # Without classes, from those weights: it begins where they ended.
    with pytest.raises(ValueError, match="model.width is 16, which has no effect on"):
        recipe.train(run(30, init=weights, model=small))
    unlabelled = run(30, init=weights, directory=Path("runs/other"))
    data = dataclasses.replace(unlabelled.data, classes=False)
    recipe.train(dataclasses.replace(unlabelled, data=data))
    model, _ = load_pretrained("runs/other/ema.safetensors")
    assert model.classes is None
    started, fresh = losses(Path("runs/other"))[10], losses(Path("runs/mine"))[10]
    assert started < 0.7 * fresh
