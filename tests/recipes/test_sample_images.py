"""sample/images.py: the guides it understands, its errors, and what it writes."""

import dataclasses
import importlib
import importlib.util
import inspect
import pathlib
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import jaxlib_guidance as jg
from jaxlib_guidance.models import from_config
from jaxlib_guidance.testing import randomise

PATH = pathlib.Path(__file__).parents[2] / "sample" / "images.py"
conditions = importlib.import_module("conditions")
SPEC = importlib.util.spec_from_file_location("sample_images", PATH)
recipe = importlib.util.module_from_spec(SPEC)
sys.modules["sample_images"] = recipe
SPEC.loader.exec_module(recipe)

QUICK = {"steps": 4, "columns": 1, "labels": (3, 7, -1)}


def config(**options):
    return recipe.Config(**QUICK | options)


def test_every_guide_builds_its_term():
    model, params = recipe.load_pretrained("digits")
    nets = recipe.Nets(model, [params])
    written = {
        "cfg=3": jg.cfg(3, null=10),
        "pag=1.5@block2": jg.pag(1.5, ["block2"]),
        "seg=2@block1+block2,sigma=1.5": jg.seg(2, ["block1", "block2"], sigma=1.5),
        "apg=3,eta=0,momentum=-0.75": jg.apg(3, null=10, eta=0, momentum=-0.75),
        "rescale=0.7,space=v": jg.rescale_std(0.7, space="v"),
        "threshold=99": jg.dynamic_threshold(99),
        "clip=1": jg.clip_x0(-1, 1),
        "cfg=2,during=0.2:0.8": jg.during(jg.cfg(2, null=10), 0.2, 0.8),
        "cfg=2,during=0.5:3:sigma": jg.during(jg.cfg(2, null=10), 0.5, 3.0, "sigma"),
    }
    for text, term in written.items():
        assert jg.chain(recipe.term_of(text, nets)) == jg.chain(term)
    assert recipe.term_of("auto=1", nets) == jg.autoguidance(1, net=1)
    assert len(nets.params) == len(nets.others) + 1 == 2
    assert recipe.term_of("classifier=2", nets).weight == 2


def test_a_calibrated_solver_from_its_file(tmp_path):
    model, params = recipe.load_pretrained("digits")
    path = tmp_path / "three.safetensors"
    solver = jg.adams(2), model.grid(3)
    jg.sampling.tabulate(*solver, model.process).save(path, params=params)
    images, _ = recipe.draw(config(steps=20, calibrated=path))
    want, _ = recipe.draw(config(steps=3, sampler="adams,order=2", grid="karras"))
    np.testing.assert_allclose(images, want, atol=1e-4)
    with pytest.raises(ValueError, match="steps is the file's when calibrated is giv"):
        recipe.draw(config(calibrated=path))
    with pytest.raises(ValueError, match="calibrated for a network with other param"):
        recipe.draw(config(steps=20, calibrated=path, weights="digits_weak"))
    jg.sampling.tabulate(jg.ddim(), jg.karras_grid(jg.VE(), 3), jg.VE()).save(path)
    with pytest.raises(ValueError, match="was calibrated for VE, whose alpha"):
        recipe.draw(config(steps=20, calibrated=path))


def test_a_network_may_be_smoothed_in_its_level():
    model, params = recipe.load_pretrained("digits")
    images, labels = recipe.draw(config(time_window=0.1))
    want, _ = jg.sample(
        jg.sample_keys(jax.random.key(0), np.arange(3)),
        model.smoothed(0.1).denoiser(params),
        *jg.recommended(model.process, 4),
        model.shape,
        labels,
    )
    np.testing.assert_allclose(images, want, atol=1e-4)
    rough, _ = recipe.draw(config())
    assert 1e-3 < np.abs(images - rough).max() < 0.5


def test_guides_are_the_methods_that_a_number_determines(capsys):
    """Each builds its term; those of the catalogue that are missing need more."""
    model, params = recipe.load_pretrained("digits")
    nets = recipe.Nets(model, [params])
    for name, row in recipe.GUIDES.items():
        sites = "sites" in inspect.signature(row.make).parameters
        jg.chain(recipe.term_of(f"{name}=0.5{'@block2' if sites else ''}", nets))
    assert {"cfg", "apg", "pag", "cfg_pp", "auto", "autoguidance"} <= set(recipe.GUIDES)
    assert not {"energy", "redirect", "during", "scheduled"} & set(recipe.GUIDES)
    recipe.main(config(guide=("list",)))
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert len(listed) == len({row.name for row in recipe.GUIDES.values()})
    assert set(listed) <= set(recipe.GUIDES)


def test_image_depends_on_its_number_alone():
    images, labels = recipe.draw(config(guide=("cfg=1.5", "pag=1@block2")))
    assert images.shape == (3, 8, 8, 1)
    assert labels.tolist() == [3, 7, 10]
    again, label = recipe.draw(
        config(guide=("cfg=1.5", "pag=1@block2"), images=(1,), batch=1)
    )
    assert label.tolist() == [7]
    np.testing.assert_allclose(again[0], images[1], atol=1e-4)
    in_twos, _ = recipe.draw(config(guide=("cfg=1.5", "pag=1@block2"), batch=2))
    np.testing.assert_allclose(in_twos, images, atol=1e-4)


def test_options_of_a_solver_have_their_types():
    _, options = recipe.options_of("adams,order=2,scale=0.5,correct=False,name=x")
    assert options == {"order": 2, "scale": 0.5, "correct": False, "name": "x"}


@pytest.fixture
def texts(monkeypatch):
    """A tiny model of texts in place of the bundled one."""
    about = {
        "network": {"kind": "dit", "width": 8, "depth": 1, "heads": 1, "patch": 4}
        | {"classes": 9, "text": 64},
        "process": {"kind": "cosine"},
        "parametrize": {"predicts": "v"},
        "shape": [4, 4, 3],
        "classes": 9,
    }
    model = from_config(about)
    params = randomise(jax.random.key(1), model.init(jax.random.key(0)))
    monkeypatch.setattr(recipe, "load_drawable", lambda *_: (model, params))


def test_prompts_are_rows(texts):
    options = {"weights": "emoji", "labels": (), "guide": ("cfg=1",)}
    prompts = ("a red apple", "cat face", "")
    images, labels = recipe.draw(config(prompt=prompts, **options))
    assert images.shape == (3, 4, 4, 3)
    assert labels.tolist() == [9, 9, 9]
    alone, _ = recipe.draw(config(prompt=("apple RED",) * 3, **options))
    np.testing.assert_allclose(alone[0], images[0], atol=1e-5)
    assert np.abs(alone[1] - images[1]).max() > 1e-3
    with pytest.raises(ValueError, match="'aple' is not in the vocabulary"):
        recipe.draw(config(prompt=("an aple",), **options))
    with pytest.raises(ValueError, match="2 labels and 3 prompts"):
        recipe.draw(config(prompt=prompts, **options | {"labels": (1, 2)}))


def test_labels_and_prompts_fill_rows():
    model = from_config(
        {
            "network": {"kind": "dit", "classes": 9, "text": 64},
            "process": {"kind": "cosine"},
            "parametrize": {},
            "shape": [32, 32, 3],
            "classes": 9,
        }
    )

    def rows(*given):
        labels, texts = conditions.rows_of(model, *given)
        return labels.tolist(), texts

    assert rows((), (), 1) == (list(range(9)), [""] * 9)
    assert rows((), ("sun",), 2) == ([9, 9], ["sun", "sun"])
    assert rows((2,), ("cat", "dog"), 1) == ([2, 2], ["cat", "dog"])
    assert rows((2, -1), ("cat",), 2) == ([2, 2, 9, 9], ["cat"] * 4)
    assert rows((2, 3), ("cat", "cake"), 1) == ([2, 3], ["cat", "cake"])


def test_a_stochastic_solver_takes_the_grid_for_such():
    model, _ = recipe.load_pretrained("digits")
    noise = "stochastic=True"
    for solver in ("dpmpp_sde", "dpm_2", "dpm_2,eta=0.5", f"recommended,{noise}"):
        sampler, grid = recipe.solver_of(config(sampler=solver, steps=5), model)
        noisy = solver != "dpm_2"
        assert sampler.stochastic == noisy
        want = jg.recommended(model.process, 5, stochastic=noisy).grid
        np.testing.assert_array_equal(grid, want)


def test_the_scale_is_what_is_asked_for_or_the_models_where_it_says_one():
    model = recipe.load_pretrained("emoji")[0]
    other = recipe.PublishedImages(None, model.process, (4, 4, 1), None, None, None)
    for drawn, solver, scale in (
        (model, "recommended", model.data_scale),
        (model, "recommended,scale=2", 2.0),
        (other, "recommended", 1.0),
        (other, "ddim", 1.0),
        (model, "adams", model.data_scale),
        (model, "adams,scale=2", 2.0),
    ):
        sampler, grid = recipe.solver_of(config(sampler=solver, steps=5), drawn)
        want = jg.recommended(model.process, 5, scale=scale).grid
        np.testing.assert_array_equal(grid, want)
        if solver.startswith("adams"):
            tables = (
                jg.sampling.tabulate(one, grid, model.process)
                for one in (sampler, jg.adams(scale=scale))
            )
            jax.tree.map(np.testing.assert_array_equal, *tables)


def test_png_says_how_it_was_made(tmp_path):
    out = tmp_path / "deep" / "grid.png"
    recipe.main(config(guide=("cfg=2",), sampler="ddim,eta=1", out=out))
    with Image.open(out) as picture:
        assert picture.text["sampler"] == "ddim,eta=1"
        assert "cfg=2" in picture.text["guide"]
        assert np.asarray(picture).std() > 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"guide": ("cgf=3",)},
            "guide 'cgf'; expected one of auto, autoguidance, cfg, .* apg",
        ),
        ({"guide": ("cfg",)}, "expected NAME=WEIGHT"),
        ({"guide": ("cfg=high",)}, "expected NAME=WEIGHT"),
        ({"guide": ("cfg=1@block2",)}, "'cfg' takes no @WHERE"),
        ({"guide": ("pag=1",)}, "need sites"),
        ({"guide": ("pag=1@blok2",)}, "'blok2' matches nothing; there are: block0"),
        ({"guide": ("apg=1,etaa=0",)}, "etaa"),
        ({"guide": ("cfg=1,during=0.5",)}, "expected START:STOP"),
        ({"guide": ("cfg=1,during=a:b",)}, "during=a:b; expected START:STOP"),
        ({"guide": ("cfg=1,during=0.8:0.2",)}, "expected start < stop"),
        ({"guide": ("auto=1@digits_judge",)}, "not a network of the same samples"),
        ({"sampler": "dpm++"}, "sampler 'dpm\\+\\+'; expected one of recom"),
        ({"sampler": "ddim,et=1"}, "et"),
        ({"labels": (11,)}, "expected -1, ..., 9"),
        ({"prompt": ("red apple",)}, "'red apple': this model takes labels alone"),
        ({"images": (99,)}, "images \\[99\\]; expected 0, ..., 2"),
        ({"weights": "cats"}, "neither a file nor one of"),
        ({"weights": "digits_judge"}, "are a classifier's"),
        ({"steps": 0}, "n is 0"),
        ({"steps": 1, "grid": "karras"}, "at least 2"),
        ({"sampler": "recommended,scale=0"}, "scale is 0"),
        ({"batch": 0}, "batch is 0; expected at least 1"),
        ({"columns": 0}, "columns is 0; expected at least 1"),
        ({"scale": -1}, "scale is -1; expected at least 0"),
        ({"time_window": -0.1}, "time_window is -0.1; expected a number from 0"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        recipe.draw(config(**options))


@pytest.mark.parametrize("name", ["auto", "classifier"])
def test_a_default_network_of_other_samples_is_named(name):
    model, params = recipe.load_pretrained("digits")
    nets = recipe.Nets(dataclasses.replace(model, shape=(16, 16, 1)), [params])
    tried = {"auto": "digits_weak", "classifier": "digits_classifier"}[name]
    with pytest.raises(ValueError, match=f"guide '{name}': '{tried}' .*16, 16, 1"):
        recipe.term_of(f"{name}=1", nets)


def test_an_unwritable_place_is_told_before_drawing(tmp_path, monkeypatch):
    def never(_):
        raise AssertionError

    monkeypatch.setattr(recipe, "draw", never)
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "grid.png", tmp_path / "file"):
        with pytest.raises(SystemExit, match=r"images\.py: out is .*no file can be"):
            recipe.main(config(out=out))
    # What a mistake leaves behind is no file.
    with pytest.raises(AssertionError):
        recipe.main(config(out=tmp_path / "new" / "grid.png"))
    assert list((tmp_path / "new").iterdir()) == []


def test_images_that_are_not_finite_are_an_error(tmp_path, monkeypatch):
    images = np.full((3, 8, 8, 1), np.nan, np.float32)
    labels = np.arange(3)
    monkeypatch.setattr(recipe, "draw", lambda _: (images, labels))
    with pytest.raises(SystemExit, match="3 of 3 images are not finite"):
        recipe.main(config(out=tmp_path / "grid.png"))
    assert not (tmp_path / "grid.png").exists()
    with pytest.raises(SystemExit, match="some images are not finite"):
        recipe.main(config(out=tmp_path / "grid.npy"))


def test_single_pictures_and_arrays(tmp_path, monkeypatch, capsys):
    images = np.linspace(-1, 1, 3 * 64, dtype=np.float32).reshape(3, 8, 8, 1)
    monkeypatch.setattr(recipe, "draw", lambda _: (images, np.array([3, 7, 10])))
    recipe.main(config(out=tmp_path / "singles", images=(5, 6, 12)))
    assert "3 pictures in" in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "singles").iterdir())
    assert names == ["0005_3.png", "0006_7.png", "0012.png"]
    with Image.open(tmp_path / "singles" / names[0]) as picture:
        assert picture.size == (8, 8)
        assert picture.text["steps"] == "4"
    recipe.main(config(out=tmp_path / "a.npy"))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), images)
    recipe.main(config(out=tmp_path / "a.npz"))
    with np.load(tmp_path / "a.npz") as held:
        np.testing.assert_array_equal(held["images"], images)
        assert held["labels"].tolist() == [3, 7, 10]
        assert held["classes"].tolist() == list("0123456789")


def test_labels_have_names():
    names = conditions.names_of("emoji")
    assert names == conditions.EMOJI_CATEGORIES
    assert conditions.names_of("digits_weak") == tuple("0123456789")
    found = conditions.label_numbers((names[2], "0", "-1", 4), names)
    assert found == [2, 0, -1, 4]
    # A class that is called by a number is meant by it.
    assert conditions.label_numbers(("10",), ("10", "9")) == [0]
    with pytest.raises(ValueError, match="'cat'; expected a number or one of red, b"):
        conditions.label_numbers(("cat",), ("red", "blue"))
