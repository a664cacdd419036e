"""Folders of images: which files form which class, and a file as a viewer shows it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

# What may lie beside images without being one.
NOTES = (
    *(".txt", ".md", ".json", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".html"),
    *(".db", ".ini"),
)
# Splits that may lie beside "train".
SPLITS = ("train", "test", "val", "valid", "validation")


# Told of each file that is left out; None raises instead.
OnBad = Callable[[str], object] | None


class Stored(NamedTuple):
    """A set as it is stored: ``read(i)`` gives bytes ``[H, W]`` or ``[H, W, C]``."""

    title: str
    count: int
    read: Callable[[int], tuple[np.ndarray, int]]
    named: Callable[[int], str]
    classes: tuple[str, ...]


def find_folder(root: Path, split: str, on_bad: OnBad = None) -> Stored:
    """The images of a split of a folder, see `load_images`.

    A folder that has images and no sub-folders with images has no classes.

    Raises:
      ValueError: No images; no such split; classes that training does not have; files
        that are not read.
    """
    train = root / "train" if _has_splits(root) else root
    # Numbers of classes are those of training, whatever a test has images of.
    classes = tuple(_classes(train, on_bad if split == "train" else _silent))
    if split != "train" and not (root / split).is_dir():
        raise ValueError(f"{root} has no folder {split!r}")
    place = train if split == "train" else root / split
    found = _classes(place, on_bad if split != "train" else _silent)
    strange = sorted(found.keys() - set(classes))
    if strange:
        raise ValueError(
            f"{place} has images of {strange}, which {train} has not; expected classes "
            "to train on"
        )
    files = [
        (f"{name}/{file}", classes.index(name))
        for name, inside in found.items()
        for file in inside
    ]
    if not classes:
        loose = _files(place)
        files = [(path.name, 0) for path in loose if _is_image(path)]
        if files:
            unread = [path.name for path in loose if _is_unread(path)]
            _tell_unread(place, unread, on_bad)
    if not files:
        raise ValueError(
            f"{place} has no images; expected images, or a sub-folder of images for "
            "each class"
        )

    def read(i):
        name, label = files[i]
        return read_file(place / name), label

    return Stored(str(place), len(files), read, lambda i: files[i][0], classes)


def _has_splits(root):
    """Whether ``root/train`` is a split, and not a class of that name."""
    train = root / "train"
    if not train.is_dir():
        return False
    below = [folder for folder in _folders(train) if _images_of(folder)]
    if not below and any(map(_is_image, _files(train))):
        return False
    beside = [folder.name for folder in _folders(root) if folder.name not in SPLITS]
    beside = [name for name in beside if _images_of(root / name)]
    if beside:
        raise ValueError(
            f"{root} has a folder 'train' of classes and beside it images of {beside}; "
            "take them apart, or rename 'train' if it is a class"
        )
    return True


def _silent(told):
    """For what has been told once already."""


def _classes(root, on_bad=None):
    """``{sub-folder: its images}``, both sorted by name as text."""
    loose = [path.name for path in _files(root) if _is_image(path)]
    found = {folder.name: _images_of(folder, on_bad) for folder in _folders(root)}
    found = {name: files for name, files in found.items() if files}
    if loose and found:
        raise ValueError(
            f"{root} has images beside its classes, such as {loose[:3]}; expected a "
            "sub-folder for each class, or none at all"
        )
    return found


def _folders(root):
    each = sorted(path for path in root.iterdir() if path.is_dir())
    return [path for path in each if not path.name.startswith(".")]


def _files(root):
    each = sorted(path for path in root.iterdir() if path.is_file())
    return [path for path in each if not path.name.startswith(".")]


def _images_of(folder, on_bad=_silent):
    """The images of a folder and those below it, as sorted relative names."""
    names, unread = [], []
    for place, below, files in os.walk(folder, followlinks=True):
        below[:] = [name for name in below if not name.startswith(".")]
        for file in files:
            path = Path(place) / file
            # What begins with a dot is no data.
            if file.startswith("."):
                continue
            if _is_image(path):
                names.append(path.relative_to(folder).as_posix())
            elif _is_unread(path):
                unread.append(path.relative_to(folder).as_posix())
    _tell_unread(folder, unread, on_bad)
    return sorted(names)


def _is_unread(path):
    """Whether a file that is no image may have been meant as one."""
    told = path.suffix.lower() in NOTES or path.stem.lower() in ("readme", "license")
    return not told and not _is_image(path)


def _tell_unread(folder, unread, on_bad):
    if unread and on_bad is not None:
        for name in sorted(unread):
            on_bad(f"{folder / name} is no image that Pillow reads")
    elif unread:
        raise ValueError(
            f"{folder} has {len(unread)} files that are not read, such as "
            f"{sorted(unread)[:3]}; convert them to an image format that Pillow reads, "
            "or take them out"
        )


def _is_image(path):
    from PIL import Image

    formats = Image.registered_extensions()
    return formats.get(path.suffix.lower()) in Image.OPEN


def read_file(path: Path) -> np.ndarray:
    """An image as a viewer shows it: bytes ``[H, W]`` or ``[H, W, 3]``.

    It is turned as its EXIF orientation says, and what is transparent is white. Of an
    animation it is the first frame.

    Raises:
      ValueError: A file that is no image.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode == "F":
                raise ValueError(
                    "floating-point numbers, of which none is known to be white; "
                    "expected 8 or 16 bits"
                )
            if image.mode.startswith("I"):
                # Pillow would clip 16 bits to 8 instead of scaling them.
                return (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
            grey = image.mode in ("1", "L", "LA", "La")
            if image.has_transparency_data:
                image = image.convert("RGBA")
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image)
            return np.asarray(image.convert("L" if grey else "RGB"))
    # Decoders fail in as many ways as there are formats.
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as an image ({type(error).__name__}: {error})"
        ) from error
