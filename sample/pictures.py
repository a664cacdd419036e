"""Pictures from files."""

from pathlib import Path
from typing import Any

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
    return _fitted(_opened(path, "white"), size, channels)


def read_mask(path: Path, picture: Path, size: tuple[int, int]) -> np.ndarray:
    """A mask ``[H, W]`` in [0, 1] that lies on a picture as `read_picture` gives it.

    It is stretched to the picture and then scaled and cropped as the picture is. What
    is transparent is not masked.

    Args:
      path: File of the mask, white where it counts.
      picture: File of the picture.
      size: Height and width in pixels.

    Raises:
      ValueError: No pictures.
    """
    mask, whole = _opened(path, "black"), _opened(picture, "white")
    return _fitted(mask.resize(whole.size), size, 1)[..., 0]


def _opened(path: Path, ground: str) -> Any:
    """A picture without transparency, upright."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            if image.mode == "F":
                raise ValueError(
                    f"{path} holds floating-point numbers, of which none is known to "
                    "be white; expected 8 or 16 bits"
                )
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16 bits of grey, which convert would clip.
                image = Image.fromarray((np.asarray(image) / 257).astype(np.uint8))
            image = image.convert("RGBA")
    except OSError as error:
        raise ValueError(f"{path} is no picture ({error})") from error
    return Image.alpha_composite(Image.new("RGBA", image.size, ground), image)


def _fitted(image: Any, size: tuple[int, int], channels: int) -> np.ndarray:
    from PIL import ImageOps

    image = ImageOps.fit(image.convert("RGB" if channels == 3 else "L"), size[::-1])
    return np.asarray(image, np.float32).reshape(*size, channels) / 255
