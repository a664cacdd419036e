"""Labelled images from one of three places, and batches that resume from a number.

Images are float32 ``[N, H, W, C]`` in [-1, 1], labels int32 ``[N]``. Data of this size
stay in memory, so a batch is an index function of ``(seed, step)``: no iterator, and
nothing to save but the step.
"""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxlib_guidance.data.digits import Split, load_digits

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


def load_images(
    source: str,
    split: Split = "train",
    size: int | None = None,
    channels: int | None = None,
) -> Images:
    """Loads a whole set of labelled images.

    Args:
      source: "digits", bundled; a folder with one sub-folder of images for each class,
        split in "train" and "test" one level above if these exist; or else the name of
        a set of `tensorflow_datasets`, such as "mnist" or "cifar10", which must have
        been prepared or can be downloaded.
      split: "train" or "test".
      size: Side to which images are cropped about their centre and resized. None keeps
        them, and they must then agree.
      channels: 1 or 3 to convert to grey or colour; None keeps them.

    Raises:
      ValueError: Unknown split; images of different sizes; an empty folder.
      ModuleNotFoundError: `tensorflow_datasets` is needed and not installed.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; expected 'train' or 'test'")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels is {channels}; expected 1, 3 or None")
    if source == "digits":
        images, labels = load_digits(split)
        raw = [np.round((image + 1) * 127.5).astype(np.uint8) for image in images]
        if size is None and channels in (None, 1):
            return Images(images, labels, tuple("0123456789"))
        return _finish(raw, labels, tuple("0123456789"), size, channels, source)
    if Path(source).is_dir():
        return _from_folder(Path(source), split, size, channels)
    if "/" in source or "\\" in source:
        raise ValueError(f"source {source!r} is not a folder")
    return _from_tfds(source, split, size, channels)


def _from_folder(root, split, size, channels):
    from PIL import Image

    if (root / split).is_dir():
        root = root / split
    elif split != "train":
        raise ValueError(f"{root} has no folder {split!r}")
    names = sorted(path.name for path in root.iterdir() if path.is_dir())
    raw, labels = [], []
    for label, name in enumerate(names):
        for path in sorted((root / name).iterdir()):
            if path.suffix.lower() in SUFFIXES:
                with Image.open(path) as image:
                    grey = image.mode in ("1", "L", "I", "I;16", "F")
                    raw.append(np.asarray(image.convert("L" if grey else "RGB")))
                labels.append(label)
    if not raw:
        raise ValueError(
            f"{root} has no images; expected a sub-folder for each class with files "
            f"{', '.join(SUFFIXES)}"
        )
    return _finish(raw, labels, tuple(names), size, channels, str(root))


def _from_tfds(name, split, size, channels):
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ModuleNotFoundError(
            f"source {name!r} is not 'digits' nor a folder, so it needs "
            "tensorflow-datasets: pip install 'jaxlib-guidance[data]' (TensorFlow "
            "itself is not needed)"
        ) from error
    builder = tfds.builder(name, file_format="array_record")
    if not builder.info.splits:
        builder.download_and_prepare()
    rows = list(builder.as_data_source(split=split))
    feature = builder.info.features["label"]
    names = tuple(map(feature.int2str, range(feature.num_classes)))
    raw = [np.asarray(row["image"]) for row in rows]
    return _finish(raw, [row["label"] for row in rows], names, size, channels, name)


def _finish(raw, labels, names, size, channels, source):
    """Bytes ``[H, W]`` or ``[H, W, C]`` as one float array."""
    each = [image[..., None] if image.ndim == 2 else image for image in raw]
    if channels is None:
        # One colour image makes the set a coloured one.
        channels = max(image.shape[-1] for image in each)
    if size is not None or any(image.shape[-1] != channels for image in each):
        each = [_resize(image, size, channels) for image in each]
    shapes = {image.shape for image in each}
    if len(shapes) > 1:
        raise ValueError(
            f"{source} has images of {len(shapes)} shapes, such as "
            f"{sorted(shapes)[:3]}; pass size to crop and resize them"
        )
    scaled = np.stack(each).astype(np.float32) / 127.5 - 1
    return Images(scaled, np.asarray(labels, np.int32), names)


def _resize(image, size, channels):
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


@lru_cache(maxsize=2)
def _permutation(seed, epoch, total):
    return np.random.default_rng((seed, epoch)).permutation(total)


def batch_indices(seed: int, step: int, batch: int, total: int) -> np.ndarray:
    """Which rows form the batch of a step: an endless reading of shuffled epochs.

    Epochs follow one another without a gap, so every row is used once an epoch even if
    ``batch`` does not divide ``total``; a batch may straddle two, or hold several.

    Args:
      seed: Of the shuffling, not negative.
      step: Number of the step.
      batch: Rows in a batch.
      total: Rows in the data.

    Returns:
      int64 ``[batch]``, a function of the arguments alone.

    Raises:
      ValueError: A batch or total below 1, or a negative seed or step.
    """
    if batch < 1 or total < 1 or seed < 0 or step < 0:
        raise ValueError(
            f"seed {seed}, step {step}, batch {batch}, total {total}; expected batch "
            "and total of at least 1, seed and step of at least 0"
        )
    place = np.arange(step * batch, (step + 1) * batch)
    epoch, row = place // total, place % total
    out = np.empty(batch, np.int64)
    for e in np.unique(epoch):
        mine = epoch == e
        out[mine] = _permutation(seed, int(e), total)[row[mine]]
    return out
