"""Grids of images."""

import numpy as np
import pytest
from PIL import Image

from jaxlib_guidance.data import grid_of, save_grid


def test_a_grid_holds_each_image_in_its_place():
    images = np.stack([np.full((2, 3, 1), v) for v in (-1.0, 0.0, 2.0)])
    sheet = grid_of(images, 2)
    assert sheet.shape == (5, 7, 3)
    assert (sheet[:2, :3] == 0).all()
    assert (sheet[:2, 4:] == 128).all()
    assert (sheet[3:, :3] == 255).all()
    assert grid_of(images, 2, scale=4).shape == (20, 28, 3)
    with pytest.raises(ValueError, match=r"expected \[N, H, W, 1 or 3\]"):
        grid_of(images[..., 0], 2)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_images_that_are_not_finite_are_not_black(value, tmp_path):
    images = np.zeros((3, 2, 2, 1))
    images[1, 0, 0] = value
    with pytest.raises(ValueError, match="1 of 3 images are not finite, the first is"):
        grid_of(images, 2)
    with pytest.raises(ValueError, match="not finite"):
        save_grid(tmp_path / "a.png", images, 2)
    assert not (tmp_path / "a.png").exists()


def test_bytes_and_sizes_that_do_not_work():
    with pytest.raises(ValueError, match=r"images are uint8 up to 255; expected val"):
        grid_of(np.full((1, 2, 2, 1), 255, np.uint8), 1)
    for wrong in ({"columns": 0}, {"columns": 1, "scale": 0}):
        with pytest.raises(ValueError, match="columns .*; expected at least 1"):
            grid_of(np.zeros((1, 2, 2, 1)), **wrong)


def test_a_saved_grid_says_how_it_was_made(tmp_path):
    path = tmp_path / "new" / "grid.png"
    save_grid(path, np.zeros((4, 2, 2, 3)), 2, 2, note={"seed": "7"})
    with Image.open(path) as image:
        assert image.size == (10, 10)
        assert image.text == {"seed": "7"}
