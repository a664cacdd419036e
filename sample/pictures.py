"""Pictures from files."""

from pathlib import Path

import numpy as np


def read_picture(path: Path, size: tuple[int, int], channels: int) -> np.ndarray:
    """A picture ``[H, W, channels]`` in [0, 1], scaled to the size and cropped.

    What is transparent becomes white.

    Args:
      path: File of a picture.
      size: Height and width in pixels.
      channels: 3 for colours, 1 for grey.

    Raises:
      ValueError: No picture.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image).convert("RGBA")
    except OSError as error:
        raise ValueError(f"{path} is no picture ({error})") from error
    white = Image.new("RGBA", image.size, "white")
    image = Image.alpha_composite(white, image).convert("RGB" if channels == 3 else "L")
    image = ImageOps.fit(image, size[::-1])
    return np.asarray(image, np.float32).reshape(*size, channels) / 255
