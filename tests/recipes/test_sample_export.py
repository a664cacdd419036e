"""sample/export.py: its file draws what the library draws, and its errors."""

import importlib.util
import pathlib
import sys

import jax
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.files import load_exported

PATH = pathlib.Path(__file__).parents[2] / "sample" / "export.py"
SPEC = importlib.util.spec_from_file_location("sample_export", PATH)
recipe = importlib.util.module_from_spec(SPEC)
sys.modules["sample_export"] = recipe
SPEC.loader.exec_module(recipe)


def test_the_digits_come_out_of_the_file(tmp_path, capsys):
    out = tmp_path / "deep" / "sampler.safetensors"
    recipe.main(recipe.Config(steps=3, perturb="block2", out=out))
    said = capsys.readouterr().out
    assert "seed: int32[]" in said
    assert "float32[b,8,8,1]" in said
    labels = np.array([3, 7, 10], np.int32)
    draw, about = load_exported(out)
    got = draw(seed=5, ids=[0, 1, 2], labels=labels, cfg=2.0, pag=0.5)
    assert about["config"] == {"weights": "digits", "steps": 3}
    model, params = jg.models.load_pretrained("digits")

    @jax.jit
    def direct(params, guidance):
        return jg.sample(
            jg.sample_keys(jax.random.key(5), 3),
            model.denoiser(params),
            *jg.recommended(model.process, 3),
            model.shape,
            labels,
            guidance=guidance,
        )[0]

    want = direct(params, jg.chain(jg.cfg(2.0, null=10), jg.pag(0.5, "block2")))
    np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.slow
def test_a_calibrated_solver_travels_in_the_file(tmp_path):
    model, params = jg.models.load_pretrained("digits")
    made = jg.sampling.tabulate(jg.adams(2), model.grid(2), model.process)
    made.save(tmp_path / "two.safetensors")
    out = tmp_path / "sampler.safetensors"
    calibrated = tmp_path / "two.safetensors"
    recipe.write(
        recipe.Config(
            calibrated=calibrated, platforms=("cpu",), out=out, time_window=0.1
        )
    )
    model = model.smoothed(0.1)
    draw, about = load_exported(out)
    config = {"weights": "digits", "steps": 2, "calibrated": "two.safetensors"}
    config |= {"time_window": 0.1}
    assert about["config"] == config
    labels = np.array([3, 7], np.int32)
    got = draw(seed=5, ids=[0, 1], labels=labels, cfg=1.0)
    want, _ = jg.sample(
        jg.sample_keys(jax.random.key(5), 2),
        model.denoiser(params),
        jg.adams(2),
        model.grid(2),
        model.shape,
        labels,
        guidance=jg.cfg(1.0, null=10),
    )
    np.testing.assert_allclose(got, want, atol=1e-4)
    with pytest.raises(ValueError, match="steps are the file's when calibrated is g"):
        recipe.write(recipe.Config(calibrated=calibrated, steps=3, out=out))


def test_a_solver_of_another_network_is_refused(tmp_path):
    model, params = jg.models.load_pretrained("digits")
    path = tmp_path / "two.safetensors"
    made = jg.sampling.tabulate(jg.adams(2), model.grid(2), model.process)
    made.save(path, params=params)
    with pytest.raises(ValueError, match="calibrated for a network with other param"):
        recipe.write(recipe.Config(weights="digits_weak", calibrated=path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "cats"}, "neither a file nor one of"),
        ({"weights": "digits_judge"}, "are a classifier's"),
        ({"perturb": "blok2"}, "'blok2' matches nothing; there are: block0"),
    ],
)
def test_mistakes_are_named(options, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        recipe.main(recipe.Config(out=tmp_path / "none.safetensors", **options))


def test_an_unwritable_place_is_told_before_compiling(tmp_path, monkeypatch):
    monkeypatch.delattr(recipe, "write")
    with pytest.raises(SystemExit, match="out is .*where no file can be"):
        recipe.main(recipe.Config(out=tmp_path))
