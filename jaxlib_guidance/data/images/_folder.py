"""Labelled images from one of three places, in memory or read one at a time.

Images are float32 ``[N, H, W, C]`` in [-1, 1], labels int32 ``[N]``. `load_images` is
for what fits in memory, `open_images` for what does not; `data.loader` makes batches of
either.
"""

import dataclasses
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlib_guidance.data._order import batch_indices
from jaxlib_guidance.data.images._digits import Split, load_digits

__all__ = ["ImageSource", "Images", "batch_indices", "load_images", "open_images"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")


class Images(NamedTuple):
    """A labelled set.

    Attributes:
      images: ``[N, H, W, C]`` float32 in [-1, 1].
      labels: ``[N]`` int32.
      classes: Names of the classes.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    @property
    def identity(self) -> str:
        """Changes with any pixel or label."""
        code = 0
        for array in (self.images, self.labels):
            code = zlib.crc32(np.ascontiguousarray(array).data, code)
        return f"{len(self.labels)} images, crc32 {code:08x}"


class _Stored(NamedTuple):
    """A set as it is stored: ``read(i)`` gives bytes ``[H, W]`` or ``[H, W, C]``."""

    title: str
    count: int
    read: Callable[[int], tuple[np.ndarray, int]]
    named: Callable[[int], str]
    classes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ImageSource:
    """Labelled images on disk: ``source[i]`` reads one, from any thread.

    A row is ``{"image": float32 [H, W, C] in [-1, 1], "label": int32}``.

    Attributes:
      stored: Where they are.
      shape: Shape ``(H, W, C)`` of all.
      size, channels: What was asked for; what is None every image must have.
    """

    stored: _Stored
    shape: tuple[int, int, int]
    size: int | None = None
    channels: int | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.stored.classes

    @cached_property
    def identity(self) -> str:
        """Changes when an image is added, removed or renamed."""
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
        """Loads ``n`` images, or all if they are fewer, spread evenly over the set."""
        wanted = np.linspace(0, len(self), min(n, len(self)), endpoint=False)
        rows = _in_threads(self.__getitem__, wanted.astype(int))
        images, labels = (
            np.stack([row[k] for row in rows]) for k in ("image", "label")
        )
        return Images(images, labels, self.classes)


def load_images(
    source: str,
    split: Split = "train",
    size: int | None = None,
    channels: int | None = None,
) -> Images:
    """Loads a whole set of labelled images.

    Args:
      source: "digits", bundled; a folder with one sub-folder of images for each class,
        split in "train" and "test" one level above if these exist, whose classes are
        those of "train"; or else the name of
        a set of `tensorflow_datasets`, such as "mnist" or "cifar10", which must have
        been prepared or can be downloaded.
      split: "train" or "test".
      size: Side to which images are cropped about their centre and resized. None keeps
        them, and they must then agree.
      channels: 1 or 3 to convert to grey or colour; None keeps them, and one colour
        image makes the set a coloured one.

    Raises:
      ValueError: Unknown split; images of different sizes; an empty folder; a file that
        is no image.
      ModuleNotFoundError: `tensorflow_datasets` is needed and not installed.
    """
    stored = _find(source, split, channels)
    if source == "digits" and size is None and channels in (None, 1):
        return Images(*load_digits(split), stored.classes)
    rows = _in_threads(stored.read, range(stored.count))
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
    source: str,
    split: Split = "train",
    size: int | None = None,
    channels: int | None = None,
) -> ImageSource:
    """Finds a set of labelled images and leaves them where they are.

    Row *i* is what `load_images` has there ("digits" rounded to a byte), as long as no
    image has more channels than the first; reading one that has is an error.

    Args:
      source: See `load_images`.
      split: "train" or "test".
      size: Side to which images are cropped about their centre and resized. None is
        the first image's, and the others must agree when they are read.
      channels: 1 or 3 to convert to grey or colour; None is the first image's, and
        others may be grey.

    Raises:
      ValueError: Unknown split; an empty folder; a first file that is no image.
      ModuleNotFoundError: `tensorflow_datasets` is needed and not installed.
    """
    stored = _find(source, split, channels)
    first, _ = stored.read(0)
    depth = channels or _channels(first)
    shape = (*first.shape[:2], depth) if size is None else (size, size, depth)
    return ImageSource(stored, shape, size, channels)


def _in_threads(read, rows):
    with ThreadPoolExecutor() as pool:
        return list(pool.map(read, rows))


def _find(source, split, channels):
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; expected 'train' or 'test'")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels is {channels}; expected 1, 3 or None")
    if source == "digits":
        return _digits(split)
    folder = Path(source).expanduser()
    if folder.is_dir():
        return _folder(folder, split)
    if "/" in source or "\\" in source:
        raise ValueError(f"source {source!r} is not a folder")
    return _tfds(source, split)


def _digits(split):
    images, labels = load_digits(split)
    raw = np.round((images + 1) * 127.5).astype(np.uint8)

    def read(i):
        return raw[i], labels[i]

    return _Stored(
        "digits", len(raw), read, lambda i: f"digit {i}", tuple("0123456789")
    )


def _folder(root, split):
    train = root / "train" if (root / "train").is_dir() else root
    # Numbers of classes are those of training, whatever a test has images of.
    classes = tuple(_classes(train))
    if split != "train" and not (root / split).is_dir():
        raise ValueError(f"{root} has no folder {split!r}")
    root = train if split == "train" else root / split
    found = _classes(root)
    strange = sorted(found.keys() - set(classes))
    if strange:
        raise ValueError(
            f"{root} has images of {strange}, which {train} has not; expected classes "
            "to train on"
        )
    files = [
        (f"{name}/{file}", classes.index(name))
        for name, inside in found.items()
        for file in inside
    ]
    if not files:
        raise ValueError(
            f"{root} has no images; expected a sub-folder for each class with files "
            f"{', '.join(SUFFIXES)}"
        )

    def read(i):
        name, label = files[i]
        return _read_file(root / name), label

    return _Stored(str(root), len(files), read, lambda i: files[i][0], classes)


def _classes(root):
    """``{sub-folder: its images}``, both sorted; what begins with a dot is no data."""
    found = {
        folder.name: sorted(
            path.name
            for path in folder.iterdir()
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
        )
        for folder in sorted(root.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
    }
    return {name: files for name, files in found.items() if files}


def _read_file(path):
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):
                # Pillow would clip 16 bits to 8 instead of scaling them.
                return (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
            grey = image.mode in ("1", "L", "F")
            return np.asarray(image.convert("L" if grey else "RGB"))
    # Decoders fail in as many ways as there are formats.
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as an image ({type(error).__name__}: {error})"
        ) from error


def _tfds(name, split):
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ModuleNotFoundError(
            f"source {name!r} is not 'digits', and there is no folder "
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

    return _Stored(title, len(rows), read, lambda i: f"{title} row {i}", classes)


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
