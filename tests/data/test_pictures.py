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


def test_a_saved_grid_says_how_it_was_made(tmp_path):
    path = tmp_path / "new" / "grid.png"
    save_grid(path, np.zeros((4, 2, 2, 3)), 2, 2, note={"seed": "7"})
    with Image.open(path) as image:
        assert image.size == (10, 10)
        assert image.text == {"seed": "7"}
