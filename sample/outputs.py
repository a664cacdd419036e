"""Where samples go: a sheet, single pictures or arrays, by the name of the place."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxlib_guidance.data import save_grid

ARRAYS = (".npy", ".npz")


def require_writable(out: Path, *, folders: bool = False) -> None:
    """Makes the folder of a file that is to be written.

    Args:
      out: Path of the file.
      folders: Whether a path without a suffix is a folder of files.

    Raises:
      OSError: There can be no such folder, or no such file in it.
    """
    path = out.expanduser()
    if folders and not path.suffix:
        path /= "0.png"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        path.open("ab").close()
        if new:
            path.unlink()
    except OSError as error:
        raise OSError(
            f"out is {str(out)!r}, where no file can be ({error.strerror})"
        ) from None


def write_images(
    out: Path,
    images: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    *,
    numbers: Sequence[int],
    columns: int,
    scale: int,
    note: Mapping[str, str],
) -> str:
    """Writes images, and says in a few words what was written.

    Args:
      out: A folder, without a suffix: a PNG for each image, "0007_cat.png"; a file
        ``.npy``, the images alone, or ``.npz``, with "labels" and "classes"; else a
        picture of all of them.
      images: Images ``[N, H, W, C]`` in [-1, 1].
      labels: Their labels ``[N]``.
      names: Names of the classes; a label beyond them has none.
      numbers: Numbers of the images, for the names of files.
      columns: Images in a row of the picture.
      scale: Pixels for each pixel; 1 in single pictures unless it is given.
      note: Text to store in pictures by keyword.

    Raises:
      ValueError: Images that are not finite, or of a shape that is no picture's.
    """
    out = out.expanduser()
    if out.suffix in ARRAYS:
        if not np.isfinite(images).all():
            raise ValueError("some images are not finite")
        classes = np.asarray(names, dtype=str)
        if out.suffix == ".npy":
            np.save(out, images)
        else:
            np.savez_compressed(out, images=images, labels=labels, classes=classes)
        return f"{len(images)} images {images.shape[1:]} in [-1, 1] in {out}"
    if not out.suffix:
        for number, image, label in zip(numbers, images, labels, strict=True):
            name = f"_{names[label]}" if label < len(names) else ""
            place = out / f"{number:04d}{name.replace('/', '_')}.png"
            save_grid(place, image[None], 1, scale or 1, note)
        return f"{len(images)} pictures in {out}"
    scale = scale or max(1, 32 // images.shape[1])
    save_grid(out, images, min(columns, len(images)), scale, note)
    rows = [names[i] for i in labels[::columns] if i < len(names)]
    return f"{len(images)} images in {out}" + (f", rows {', '.join(rows)}" * bool(rows))
