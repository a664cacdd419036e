"""sample/edit.py with a published model: each editor on a tiny Stable Diffusion."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "sample"))
SPEC = importlib.util.spec_from_file_location("edit", ROOT / "sample/edit.py")
recipe = importlib.util.module_from_spec(SPEC)
sys.modules["edit"] = recipe
SPEC.loader.exec_module(recipe)
sys.path.remove(str(ROOT / "sample"))


def config(golden, tmp_path, **options):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (20, 24), np.uint8)).save(tmp_path / "p.png")
    given = {"source": "a cat", "target": ("a cat", "a horse"), "steps": 3}
    given |= {"weights": str(golden("sd15").folder), "picture": tmp_path / "p.png"}
    given |= {"size": (16, 24), "dtype": "float32", "out": tmp_path / "e.png"}
    return recipe.Config(**given | options)


@pytest.mark.slow
@pytest.mark.parametrize("method", recipe.METHODS)
def test_every_method_edits_a_grey_picture(method, golden, tmp_path):
    """Under its own words and others; by attention, its own give its latent back."""
    given = config(golden, tmp_path, method=method)
    picture, edited = recipe.edit(given)
    assert picture.shape == (16, 24, 3)
    assert edited.shape == (2, 16, 24, 3)
    assert np.isfinite(edited).all()
    assert np.abs(edited[0] - edited[1]).max() > 1e-4
    if method in ("prompt-to-prompt", "masactrl", "plug-and-play"):
        subject = recipe.subject_of(given)
        own = subject.decode(subject.params, subject.x[None])
        np.testing.assert_allclose(edited[0], own[0], atol=1e-5)


@pytest.mark.slow
def test_words_of_prompt_to_prompt_are_tokens(golden, tmp_path):
    options = {"blend": "cat=horse", "gain": "horse=2", "target": ("a horse",)}
    given = config(golden, tmp_path, method="prompt-to-prompt", **options)
    recipe.main(given)
    with Image.open(given.out) as image:
        assert image.width >= 48
        assert image.height == 16
        assert image.text["method"] == "prompt-to-prompt"


def test_mistakes_are_named(golden, tmp_path):
    with pytest.raises(ValueError, match="a published model needs --picture FILE"):
        recipe.edit(config(golden, tmp_path, picture=None))
    with pytest.raises(ValueError, match="expected multiples of"):
        recipe.edit(config(golden, tmp_path, size=(15, 24)))
