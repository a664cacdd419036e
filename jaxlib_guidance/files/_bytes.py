"""What the readers of weight files share: one error, and bytes read where they lie."""

import os
from pathlib import Path

import numpy as np


class CorruptFileError(ValueError):
    """A file that is not what it says, or not of this kind at all."""


def map_bytes(path: str | os.PathLike) -> np.ndarray:
    """The bytes of a file, read from disk when they are looked at.

    Args:
      path: File to read, which must not be cut short while the array is in use.

    Returns:
      Read-only ``uint8 [bytes]``.

    Raises:
      FileNotFoundError: No such file.
      CorruptFileError: An empty file.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    if path.stat().st_size == 0:
        raise CorruptFileError(f"{path} is empty")
    return np.asarray(np.memmap(path, np.uint8, mode="r"))
