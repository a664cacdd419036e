"""sample/edit.py: what it writes, pictures of one's own, and mistakes."""

import dataclasses
import importlib.util
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

PATH = pathlib.Path(__file__).parents[2] / "sample" / "edit.py"
SPEC = importlib.util.spec_from_file_location("sample_edit", PATH)
recipe = importlib.util.module_from_spec(SPEC)
sys.modules["sample_edit"] = recipe
SPEC.loader.exec_module(recipe)


def config(tmp_path, **options):
    given = {"steps": 2, "target": ("blue heart", "dog"), "out": tmp_path / "e.png"}
    return recipe.Config(**{"source": "red heart"} | given | options)


@pytest.mark.slow
def test_a_picture_of_ones_own_is_changed(tmp_path, capsys):
    """A transparent picture of another size: white where it is transparent."""
    Image.new("RGBA", (50, 40), (255, 0, 0, 0)).save(tmp_path / "own.png")
    given = config(tmp_path, picture=tmp_path / "own.png", scale=1)
    picture, edited = recipe.edit(given)
    np.testing.assert_array_equal(picture, np.ones((32, 32, 3)))
    assert edited.shape == (2, 32, 32, 3)
    assert np.isfinite(edited).all()
    assert np.abs(edited[0] - edited[1]).max() > 1e-3
    again, _ = recipe.edit(dataclasses.replace(given, picture=None, method="sdedit"))
    assert again.min() < 0


def test_mistakes_are_named(tmp_path):
    def refused(match, **options):
        with pytest.raises(ValueError, match=match):
            recipe.edit(config(tmp_path, **options))

    refused("no emoji has the caption 'a heart'", source="a heart")
    refused("'digits' take no text", weights="digits")
    refused("steps is 0", steps=0)
    refused("'zebrafish' is not in the vocabulary", target=("zebrafish",))
    (tmp_path / "no.png").write_text("no")
    refused("is no picture", picture=tmp_path / "no.png")
    refused("is no picture", picture=tmp_path / "missing.png")
    refused("strength is 2", method="sdedit", strength=2.0)
    refused("method is 'p2p'; expected one of guide-and-", method="p2p")
    refused("masactrl has no option maps, eta", method="masactrl", maps=1.0, eta=1.0)
    refused("word 'dog' is not", method="masactrl", target=("red heart",), thing="dog")
    p2p = {"method": "prompt-to-prompt", "target": ("blue heart",)}
    refused("the word 'dog' is not in a text", **p2p, blend="dog")
    refused("gain is 'blue'; expected WORD=FACTOR", **p2p, gain="blue")
    refused("gain is 'blue=x'; expected WORD=FACTOR", **p2p, gain="blue=x")


def test_words_become_columns_of_maps(tmp_path):
    options = {"refine": True, "blend": "red=blue", "gain": "heart=3"}
    given = config(
        tmp_path, method="prompt-to-prompt", target=("blue heart",), **options
    )
    subject = recipe.subject_of(given)
    found = recipe.words_of(recipe.options_of(given), subject)
    assert found["words"].shape == (1, 12, 12)
    assert found["words"][0, :2, :2].tolist() == [[0, 0], [0, 1]]
    np.testing.assert_array_equal(found["blend"].words[:, :3], [[1, 0, 0]] * 2)
    np.testing.assert_array_equal(found["gain"][0, :3], [1, 3, 1])


@pytest.mark.slow
def test_masks_of_a_thing_keep_the_law_of_the_same_words(tmp_path):
    target = ("red heart", "blue heart")
    picture, edited = recipe.edit(
        config(tmp_path, method="masactrl", target=target, thing="heart", steps=4)
    )
    np.testing.assert_array_equal(edited[0], picture)
    assert np.abs(edited[1] - picture).max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("method", recipe.METHODS)
def test_every_method_draws(method, tmp_path):
    """Two targets, the first of which is what the picture shows."""
    out = tmp_path / "e.png"
    given = config(tmp_path, method=method, target=("red heart", "dog"), steps=4)
    recipe.main(given)
    picture, edited = recipe.edit(given)
    with Image.open(out) as sheet:
        assert sheet.width >= 3 * 32 * 6
    assert np.isfinite(edited).all()
    assert np.abs(edited[1] - picture).max() > 1e-2
    exact = ("prompt-to-prompt", "masactrl", "plug-and-play")
    if method in exact:
        np.testing.assert_array_equal(edited[0], picture)
