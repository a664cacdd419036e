"""The images of train/images.py, and the weights that a run may start from."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from images_options import Data

from jaxlib_guidance.data import (
    Images,
    ImageSource,
    Split,
    load_images,
    open_images,
)
from jaxlib_guidance.models import read_pretrained

# Side of images whose own sizes differ, and how many are looked at to know.
SIDE, LOOKED_AT = 32, 256


def is_folder(source: str) -> bool:
    """Whether a source is a folder of one's own, and no set of a name."""
    return source not in ("digits", "emoji") and Path(source).expanduser().is_dir()


def settled(data: Data) -> Data:
    """The options with a size where a folder's images have several.

    Args:
      data: Options as they were given.
    """
    if data.size is not None or not is_folder(data.source):
        return data
    try:
        stored = open_images(data.source, "train", 1, data.channels).stored
    except ValueError:
        if data.bad == "stop":
            raise
        left_out: list[str] = []  # They are told when all are read.
        look = open_images(
            data.source, "train", 1, data.channels, on_bad=left_out.append
        )
        stored = look.stored
    count = min(stored.count, LOOKED_AT)
    shapes, depths = set(), {1}
    for i in np.linspace(0, stored.count, count, endpoint=False).astype(int):
        try:
            image, _ = stored.read(int(i))
        except ValueError:
            continue  # Told, or left out, when all are read.
        shapes.add(image.shape[:2])
        depths.add(3 if image.ndim == 3 else 1)
    if len(shapes) < 2:
        return data
    print(f"images of {len(shapes)} sizes: {SIDE}x{SIDE} of each (--data.size)")
    channels = data.channels or (max(depths) if data.stream else None)
    return dataclasses.replace(data, size=SIDE, channels=channels)


def find(data: Data, split: Split, bad: list[str]) -> Images | ImageSource:
    """A split, in memory or where it is.

    Args:
      data: Options, from `settled`.
      split: "train" or "test".
      bad: List to which the files are added that are left out.
    """
    read = open_images if data.stream else load_images
    skip = data.bad == "skip" and is_folder(data.source)
    on_bad = bad.append if skip else None
    found = read(data.source, split, data.size, data.channels, on_bad=on_bad)
    if data.classes:
        return found
    if isinstance(found, Images):
        return found._replace(classes=(), labels=np.zeros_like(found.labels))
    return dataclasses.replace(found, stored=found.stored._replace(classes=()))


def tell_left_out(bad: list[str], folder: Path) -> None:
    """Lists the files that are left out beside a run, and says how many there are.

    Args:
      bad: What was said of each of them.
      folder: Folder of the run.
    """
    if not bad:
        return
    listed = folder / "left_out.txt"
    listed.write_text("\n".join(sorted(bad)) + "\n")
    print(f"{len(bad)} files left out, such as: {min(bad)}. All are in {listed}")


def some(found: Images | ImageSource) -> Images:
    """What statistics and the evaluation see of a split."""
    return found if isinstance(found, Images) else found.take(4096)


def started(init: str, channels: int) -> tuple[Any, dict[str, Any]]:
    """Parameters to start from and the configuration that they belong to.

    Args:
      init: Name or file of weights, as `load_pretrained` takes it.
      channels: Channels of the images to train on.

    Raises:
      ValueError: Weights of another kind, or of images with other channels.
    """
    params, about = read_pretrained(init)
    network = about.get("network", {})
    if network.get("kind") not in ("dit", "unet") or network.get("text") is not None:
        raise ValueError(
            f"init is {init!r}; expected weights of train/images.py, whose condition "
            "is a class or nothing"
        )
    if about["shape"][-1] != channels:
        raise ValueError(
            f"init is {init!r}, of images with {about['shape'][-1]} channels, and the "
            f"data have {channels}: pass --data.channels"
        )
    return params, about


def carried_over(new: Any, old: Any) -> Any:
    """New parameters with the values of old ones; labels of other classes stay new.

    Args:
      new: Parameters as they are initialised.
      old: Parameters to start from.

    Raises:
      ValueError: A part of the network that the old parameters do not have.
    """
    kept = dict(_named(old))
    leaves = []
    for name, leaf in _named(new):
        same = kept.get(name)
        fits = same is not None and np.shape(same) == leaf.shape
        if not fits and "label" not in name:
            raise ValueError(f"init has no parameter {name} of shape {leaf.shape}")
        leaves.append(jnp.asarray(same, leaf.dtype) if fits else leaf)
    return jax.tree.unflatten(jax.tree.structure(new), leaves)


def _named(tree: Mapping[str, Any]) -> Any:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path), leaf
