"""Images back into files: one picture of many."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np


def grid_of(
    images: np.ndarray, columns: int, scale: int = 1, margin: int = 1
) -> np.ndarray:
    """Lays images out in rows.

    Args:
      images: ``[N, H, W, C]`` in [-1, 1], C 1 or 3; values outside are clipped.
      columns: Images in a row.
      scale: Pixels for each pixel.
      margin: Pixels between images, before scaling.

    Returns:
      uint8 ``[rows, columns, 3]`` of pixels.

    Raises:
      ValueError: Another shape.
    """
    images = np.asarray(images, np.float32)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
        raise ValueError(
            f"images have shape {images.shape}; expected [N, H, W, 1 or 3]"
        )
    count, height, width, _ = images.shape
    rows = -(-count // columns)
    sheet = np.full(
        (rows * (height + margin) - margin, columns * (width + margin) - margin, 3),
        255,
        np.uint8,
    )
    levels = np.round((np.clip(images, -1, 1) + 1) * 127.5).astype(np.uint8)
    for i, image in enumerate(levels):
        top, left = i // columns * (height + margin), i % columns * (width + margin)
        sheet[top : top + height, left : left + width] = image
    return sheet.repeat(scale, 0).repeat(scale, 1)


def save_grid(
    path: str | os.PathLike,
    images: np.ndarray,
    columns: int,
    scale: int = 1,
    note: Mapping[str, str] | None = None,
) -> None:
    """Writes `grid_of` the images as a PNG, with ``note`` in its text."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    for name, value in (note or {}).items():
        text.add_text(name, value)
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grid_of(images, columns, scale)).save(path, pnginfo=text)
