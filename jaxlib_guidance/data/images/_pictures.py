"""Images back into files: one picture of many."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np


def grid_of(
    images: np.ndarray, columns: int, scale: int = 1, margin: int = 1
) -> np.ndarray:
    """Lays images out in rows, as one picture.

    Args:
      images: Images ``[N, H, W, C]`` in [-1, 1] with 1 or 3 channels; values outside
        are clipped.
      columns: Number of images in a row.
      scale: Pixels of the picture for each pixel of an image.
      margin: White pixels between images, before scaling.

    Returns:
      uint8 ``[rows of pixels, columns of pixels, 3]``.

    Raises:
      ValueError: Images of another shape; images that are not finite, such as those of
        a sampler that diverged; bytes; sizes below 1, or a margin below 0.
    """
    given = np.asarray(images)
    images = given.astype(np.float32)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
        raise ValueError(
            f"images have shape {images.shape}; expected [N, H, W, 1 or 3]"
        )
    if columns < 1 or scale < 1 or margin < 0:
        raise ValueError(
            f"columns {columns}, scale {scale}, margin {margin}; expected at least 1, "
            "1 and 0"
        )
    bad = np.flatnonzero(~np.isfinite(images).all((1, 2, 3)))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(images)} images are not finite, the first is image "
            f"{bad[0]}"
        )
    if given.dtype.kind in "iu" and np.abs(images).max() > 1:
        raise ValueError(
            f"images are {given.dtype} up to {given.max()}; expected values in [-1, 1]"
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
    """Writes a picture of many images as a PNG file.

    Args:
      path: File to write; its folder is made if it is not there.
      images: Images ``[N, H, W, C]`` in [-1, 1], see `grid_of`.
      columns: Number of images in a row.
      scale: Pixels of the picture for each pixel of an image.
      note: Text to store in the file by keyword; None for none.

    Raises:
      ValueError: Images that `grid_of` refuses.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    sheet = grid_of(images, columns, scale)
    text = PngInfo()
    for name, value in (note or {}).items():
        text.add_text(name, value)
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(path, pnginfo=text)
