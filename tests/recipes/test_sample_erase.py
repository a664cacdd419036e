"""sample/erase.py: what it removes, pictures of one's own, and mistakes."""

import importlib.util
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "sample"))
SPEC = importlib.util.spec_from_file_location("sample_erase", ROOT / "sample/erase.py")
recipe = importlib.util.module_from_spec(SPEC)
sys.modules["sample_erase"] = recipe
SPEC.loader.exec_module(recipe)
sys.path.remove(str(ROOT / "sample"))


def config(tmp_path, **options):
    return recipe.Config(**{"steps": 3, "out": tmp_path / "e.png"} | options)


def test_a_picture_of_ones_own_with_a_mask_of_another_size(tmp_path):
    """A grey, transparent picture of odd sides: white where it is transparent."""
    Image.new("LA", (51, 40), (0, 0)).save(tmp_path / "own.png")
    mask = np.zeros((21, 64), np.uint8)
    mask[8:14, 20:40] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    paths = {"picture": tmp_path / "own.png", "mask": tmp_path / "mask.png"}
    given = config(tmp_path, scale=1, columns=2, **paths)
    recipe.main(given)
    with Image.open(given.out) as image:
        assert image.size == (4 * 33 - 1, 32)
        picture = np.asarray(image)[:, :32]
        drawn = [np.asarray(image)[:, 33 * i : 33 * i + 32] for i in (2, 3)]
        hidden = np.asarray(image)[:, 33:65, 0] > 127
        assert image.text["mask"] == str(paths["mask"])
    np.testing.assert_array_equal(picture, np.full((32, 32, 3), 255))
    assert 0 < hidden.sum() < hidden.size
    for each in drawn:
        np.testing.assert_array_equal(each[~hidden], 255)
    assert (drawn[0] != drawn[1]).any()


def test_a_mask_lies_on_the_picture_whatever_its_kind_and_size(tmp_path):
    """Bits, 16 bits, and transparent where it does not count; half the size, square."""
    Image.new("L", (160, 96), 200).save(tmp_path / "own.png")
    mask = np.zeros((96, 160), np.uint8)
    mask[30:60, 64:96] = 255
    clear = np.repeat(mask[..., None], 4, -1)
    kinds = {
        "bits": Image.fromarray(mask > 0),
        "wide": Image.fromarray(mask.astype(np.uint16) * 257),
        "clear": Image.fromarray(clear),
        "small": Image.fromarray(mask).resize((80, 48)),
        "square": Image.fromarray(mask).resize((96, 96)),
    }
    for name, image in kinds.items():
        image.save(tmp_path / f"{name}.png")
        paths = {"picture": tmp_path / "own.png", "mask": tmp_path / f"{name}.png"}
        _, found = recipe.read(config(tmp_path, **paths), (32, 32, 3))
        rows, columns = np.nonzero(found)
        box = (rows.min(), rows.max(), columns.min(), columns.max())
        np.testing.assert_allclose(box, (10, 19, 11, 20), atol=1, err_msg=name)
    grey = recipe.read_picture(tmp_path / "wide.png", (32, 32), 1)
    assert (grey.min(), grey.max()) == (0, 1)


def test_the_truth_of_the_example_is_known():
    picture, mask = recipe.example()
    emoji = recipe.load_emoji("test")
    flag = emoji.images[emoji.captions.index("flag armenia")]
    np.testing.assert_array_equal(picture[~mask], flag[~mask])
    assert 40 < mask.sum() < 100
    assert np.abs(picture - flag)[mask].max(-1).min() > 0.1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"picture": pathlib.Path("a.png")}, "picture and mask go together"),
        ({"model": "pedestrians"}, "makes no pictures"),
        ({"model": "digits"}, r"model takes pictures \(8, 8, 1\)"),
        ({"model": "nothing"}, "neither a file nor one of"),
        ({"steps": 0}, "steps 0"),
        ({"sites": ("block9",)}, "'block9' matches nothing"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, options, told):
    with pytest.raises(SystemExit, match=told):
        recipe.main(config(tmp_path, **options))
