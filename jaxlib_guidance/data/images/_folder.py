"""Labelled images from one of three places, in memory or read one at a time.

Images are float32 ``[N, H, W, C]`` in [-1, 1], labels int32 ``[N]``. `load_images` is
for what fits in memory, `open_images` for what does not; `Loader` makes batches of
either.
"""

import dataclasses
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlib_guidance.data.images._digits import Split, load_digits
from jaxlib_guidance.data.images._emoji import EMOJI_CATEGORIES, load_emoji
from jaxlib_guidance.data.images._files import OnBad, Stored, find_folder


class Images(NamedTuple):
    """A set of labelled images in memory.

    Attributes:
      images: Images ``[N, H, W, C]`` float32 in [-1, 1].
      labels: Numbers of the classes ``[N]`` int32.
      classes: Names of the classes, by number; empty for a set without classes, whose
        labels are 0.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    def __repr__(self) -> str:
        count, *shape = self.images.shape
        return f"Images({count} of {tuple(shape)}, {len(self.classes)} classes)"

    @property
    def identity(self) -> str:
        """A short text that changes with any pixel or label."""
        code = 0
        for array in (self.images, self.labels):
            code = zlib.crc32(np.ascontiguousarray(array).data, code)
        return f"{len(self.labels)} images, crc32 {code:08x}"


@dataclasses.dataclass(frozen=True)
class ImageSource:
    """Labelled images on disk: ``source[i]`` reads one, from any thread.

    A row is ``{"image": float32 [H, W, C] in [-1, 1], "label": int32}``.

    Attributes:
      stored: The set as it is stored.
      shape: Shape ``(H, W, C)`` of every image.
      size: Side to which images are cropped and resized; None for images that have
        ``shape`` already.
      channels: 1 or 3 to convert to grey or colour; None for images that have as many
        channels as ``shape``, or one.
    """

    stored: Stored
    shape: tuple[int, int, int]
    size: int | None = None
    channels: int | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by number."""
        return self.stored.classes

    @cached_property
    def identity(self) -> str:
        """A short text that changes when an image is added, removed or renamed."""
        names = "\n".join(map(self.stored.named, range(len(self))))
        return f"{len(self)} images, crc32 {zlib.crc32(names.encode()):08x}"

    def __len__(self) -> int:
        return self.stored.count

    def __getitem__(self, i: int) -> dict[str, Any]:
        image, label = self.stored.read(i)
        own, channels = _channels(image), self.shape[-1]
        # Grey among coloured loses nothing, coloured among grey would.
        if self.channels is None and own > channels:
            raise ValueError(
                f"{self.stored.named(i)} has {own} channels and others have "
                f"{channels}; pass channels to convert them"
            )
        image = _shaped(image, self.size, channels)
        if image.shape != self.shape:
            raise ValueError(
                f"{self.stored.named(i)} has shape {image.shape} and others have "
                f"{self.shape}; pass size to crop and resize them"
            )
        return {"image": _scaled(image), "label": np.int32(label)}

    def take(self, n: int) -> Images:
        """Loads some images, spread evenly over the set.

        Args:
          n: Number of images, at least 1; all are loaded if they are fewer.

        Returns:
          `Images` in the order of the set.
        """
        if n < 1:
            raise ValueError(f"n is {n}; expected at least 1")
        wanted = np.linspace(0, len(self), min(n, len(self)), endpoint=False)
        rows = _in_threads(self.__getitem__, wanted.astype(int))
        images, labels = (
            np.stack([row[k] for row in rows]) for k in ("image", "label")
        )
        return Images(images, labels, self.classes)


def load_images(
    source: str | os.PathLike,
    split: Split = "train",
    size: int | None = None,
    channels: int | None = None,
    *,
    on_bad: OnBad = None,
) -> Images:
    """Loads a whole set of labelled images.

    Args:
      source: "digits" or "emoji", bundled; a folder with one sub-folder for each class,
        with its images and any folders of more, split in "train" and "test" one level
        above if these exist; a folder of images alone, which are of no class; or else
        the name of a set of `tensorflow_datasets`, such as "mnist" or "cifar10", which
        must have been prepared or can be downloaded.
      split: "train" or "test".
      size: Side to which images are cropped about their centre and resized. None keeps
        them, and they must then agree.
      channels: 1 or 3 to convert to grey or colour; None keeps them, and one colour
        image makes the set a coloured one.
      on_bad: Function that is told of each file of a folder that cannot be read as an
        image, which is then left out; None raises.

    Returns:
      `Images`. Classes of a folder are those of "train", sorted as text: "10" comes
      before "2". Images are as a viewer shows them: turned as their EXIF orientation
      says, on white where they are transparent, the first frame of an animation.

    Raises:
      ValueError: Unknown split; a size or number of channels that is none; images of
        different sizes; an empty folder; a file that is no image, or files that are not
        read.
      ModuleNotFoundError: `tensorflow_datasets` is needed and not installed.
    """
    stored = _find(source, split, size, channels, on_bad)
    if source == "digits" and size is None and channels in (None, 1):
        return Images(*load_digits(split), stored.classes)
    read = stored.read if on_bad is None else partial(_read_or_tell, stored, on_bad)
    rows = [row for row in _in_threads(read, range(stored.count)) if row is not None]
    _require_some(rows, stored)
    if channels is None:
        channels = max(_channels(image) for image, _ in rows)
    each = [_shaped(image, size, channels) for image, _ in rows]
    shapes = {image.shape for image in each}
    if len(shapes) > 1:
        raise ValueError(
            f"{stored.title} has images of {len(shapes)} shapes, such as "
            f"{sorted(shapes)[:3]}; pass size to crop and resize them"
        )
    labels = np.asarray([label for _, label in rows], np.int32)
    return Images(_scaled(np.stack(each)), labels, stored.classes)


def open_images(
    source: str | os.PathLike,
    split: Split = "train",
    size: int | None = None,
    channels: int | None = None,
    *,
    on_bad: OnBad = None,
) -> ImageSource:
    """Finds a set of labelled images and leaves them where they are.

    Row *i* is what `load_images` has there ("digits" rounded to a byte), as long as no
    image has more channels than the first; reading one that has is an error.

    Args:
      source: Name of a set, or folder with a sub-folder for each class; see
        `load_images`.
      split: "train" or "test".
      size: Side to which images are cropped about their centre and resized. None is
        the first image's, and the others must agree when they are read.
      channels: 1 or 3 to convert to grey or colour; None is the first image's, and
        others may be grey.
      on_bad: Function that is told of each file of a folder that cannot be read as an
        image, which is then left out, and for which all are read once; None raises when
        it is read.

    Returns:
      `ImageSource`, for `Loader`.

    Raises:
      ValueError: Unknown split; a size or number of channels that is none; an empty
        folder; a first file that is no image, or files that are not read.
      ModuleNotFoundError: `tensorflow_datasets` is needed and not installed.
    """
    stored = _find(source, split, size, channels, on_bad)
    if on_bad is not None:
        look = partial(_read_or_tell, stored, on_bad, keep=False)
        seen = _in_threads(look, range(stored.count))
        stored = _rows_of(stored, [i for i, row in enumerate(seen) if row is not None])
    first, _ = stored.read(0)
    depth = channels or _channels(first)
    height, width = first.shape[:2] if size is None else (size, size)
    shape = (height, width, depth)
    return ImageSource(stored, shape, size, channels)


def _in_threads(read, rows):
    with ThreadPoolExecutor() as pool:
        return list(pool.map(read, rows))


def _read_or_tell(stored, on_bad, i, keep=True):
    """A row; None, and a word to ``on_bad``, for a file that is no image."""
    try:
        row = stored.read(i)
    except ValueError as error:
        on_bad(str(error))
        return None
    return row if keep else ()


def _require_some(rows, stored):
    if not rows:
        raise ValueError(f"{stored.title} has {stored.count} files and no image")


def _rows_of(stored, kept):
    """Some rows of a set."""
    _require_some(kept, stored)
    return stored._replace(
        count=len(kept),
        read=lambda i: stored.read(kept[i]),
        named=lambda i: stored.named(kept[i]),
    )


def _find(source, split, size, channels, on_bad=None):
    source = os.fspath(source)
    whole = isinstance(size, (int, np.integer)) and not isinstance(size, bool)
    if size is not None and not (whole and size >= 1):
        raise ValueError(f"size is {size!r}; expected a whole number of pixels from 1")
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; expected 'train' or 'test'")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels is {channels!r}; expected 1, 3 or None")
    if source == "digits":
        names = tuple("0123456789")
        return _bundled("digits", "digit", *load_digits(split), names)
    if source == "emoji":
        found = load_emoji(split)
        return _bundled("emoji", "emoji", found.images, found.labels, EMOJI_CATEGORIES)
    folder = Path(source).expanduser()
    if folder.is_dir():
        return find_folder(folder, split, on_bad)
    if "/" in source or "\\" in source:
        raise ValueError(f"source {source!r} is not a folder")
    return _tfds(source, split)


def _bundled(title, one, images, labels, classes):
    raw = np.round((images + 1) * 127.5).astype(np.uint8)

    def read(i):
        return raw[i], labels[i]

    return Stored(title, len(raw), read, lambda i: f"{one} {i}", classes)


def _tfds(name, split):
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ModuleNotFoundError(
            f"source {name!r} is not bundled, and there is no folder "
            f"{Path(name).absolute()}. As a name of tensorflow-datasets it needs pip "
            "install 'jaxlib-guidance[data]' (TensorFlow itself is not needed)"
        ) from error
    builder = tfds.builder(name, file_format="array_record")
    if not builder.info.splits:
        builder.download_and_prepare()
    features = builder.info.features
    if not {"image", "label"} <= set(features):
        raise ValueError(f"{name} has {sorted(features)}; expected image and label")
    rows: Any = builder.as_data_source(split=split)
    feature = features["label"]
    classes = tuple(map(feature.int2str, range(feature.num_classes)))
    title = f"{builder.info.full_name} {split}"

    def read(i):
        row = rows[i]
        return np.asarray(row["image"]), row["label"]

    return Stored(title, len(rows), read, lambda i: f"{title} row {i}", classes)


def _channels(image):
    return 1 if image.ndim == 2 else image.shape[-1]


def _scaled(image):
    return image.astype(np.float32) / 127.5 - 1


def _shaped(image, size, channels):
    """Bytes ``[H, W]`` or ``[H, W, C]`` as bytes ``[size, size, channels]``."""
    image = image[..., None] if image.ndim == 2 else image
    if size is None and image.shape[-1] == channels:
        return image
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture = picture.convert("L" if channels == 1 else "RGB")
    if size is not None:
        width, height = picture.size
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        box = (left, top, left + side, top + side)
        filter_ = Image.Resampling.BOX if side > size else Image.Resampling.BICUBIC
        picture = picture.resize((size, size), filter_, box)
    array = np.asarray(picture)
    return array[..., None] if array.ndim == 2 else array
