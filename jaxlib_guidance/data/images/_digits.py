"""The bundled digits: 1,797 real images of 8x8, small enough to learn in minutes.

Source and licence are in ``digits.md`` beside the file.
"""

from importlib import resources
from typing import Literal

import numpy as np

Split = Literal["train", "test"]


def load_digits(split: Split = "train") -> tuple[np.ndarray, np.ndarray]:
    """The 8x8 digits of Alpaydin and Kaynak (UCI, CC BY 4.0).

    Args:
      split: "train" for 1,437 images, or "test" for 360, 36 of each class.

    Returns:
      Images float32 ``[N, 8, 8, 1]`` in [-1, 1], and their labels int32 ``[N]``.

    Raises:
      ValueError: Unknown split.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; expected 'train' or 'test'")
    file = resources.files("jaxlib_guidance.data.images") / "digits.npz"
    with file.open("rb") as handle, np.load(handle) as data:
        images, labels, cut = data["images"], data["labels"], int(data["train"])
    rows = slice(None, cut) if split == "train" else slice(cut, None)
    scaled = images[rows, ..., None].astype(np.float32) / 8 - 1
    return scaled, labels[rows].astype(np.int32)
