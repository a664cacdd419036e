"""The folders in which models are published: an index, and parts with their files.

A folder holds ``model_index.json``, which names its parts, and a folder for each part
with ``config.json`` and weights: ``diffusion_pytorch_model.safetensors`` for networks
and ``model.safetensors`` for text encoders, perhaps in shards that an index lists, and
perhaps in variants ("fp16", "non_ema") that stand before the suffix. Folders of before
2023 hold ``diffusion_pytorch_model.bin`` and ``pytorch_model.bin`` alone, which are
PyTorch's zips.

`open_part` gives a `Part`: the configuration, and the tensors as views of mapped files
under their current names. A family adds the prefixes and the old names of its own files
by `renamed`.
"""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxlib_guidance.files import CorruptFileError, load_safetensors, load_torch

# Weights of a part of diffusers, and of one of transformers, by suffix.
STEMS = {
    "safetensors": ("diffusion_pytorch_model", "model"),
    "bin": ("diffusion_pytorch_model", "pytorch_model"),
}
# Buffers that old files carry beside the parameters.
BUFFERS = ("position_ids", "num_batches_tracked")


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a published model.

    Attributes:
      path: Folder of the part.
      config: Its ``config.json``.
      tensors: Views of the files by name, in PyTorch's order of axes.
    """

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray] = dataclasses.field(repr=False)

    def renamed(self, rule: Callable[[str], str]) -> "Part":
        """The part with other names of its tensors.

        Args:
          rule: Function from the name in the file to the name in the network.

        Raises:
          CorruptFileError: Two tensors that would have one name.
        """
        tensors = {}
        for name, tensor in self.tensors.items():
            new = rule(name)
            if new in tensors:
                raise CorruptFileError(f"{self.path}: two tensors are {new!r}")
            tensors[new] = tensor
        return dataclasses.replace(self, tensors=tensors)

    def without_prefix(self, prefix: str) -> "Part":
        """The part with names that have lost a leading part, where all have it."""
        if all(name.startswith(prefix) for name in self.tensors):
            return self.renamed(lambda name: name.removeprefix(prefix))
        return self


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """A JSON file that holds one object.

    Args:
      path: File to read.

    Raises:
      FileNotFoundError: No such file.
      CorruptFileError: Not JSON, or no object.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{path} is not JSON ({error!s:.200})") from error
    if not isinstance(found, dict):
        raise CorruptFileError(f"{path} is a JSON {type(found).__name__}, no object")
    return found


def read_index(folder: str | os.PathLike) -> dict[str, str]:
    """The parts of a published folder and their classes.

    Args:
      folder: Folder with a ``model_index.json``.

    Returns:
      Class by part, such as ``{"unet": "UNet2DConditionModel"}``, without the parts
      that the folder leaves empty; the pipeline's own class is "_class_name". Entries
      that are no parts, such as ``force_zeros_for_empty_prompt``, are left out.

    Raises:
      ValueError: No path.
      FileNotFoundError: No such folder, or no index in it.
      CorruptFileError: An index that is damaged.
    """
    if not isinstance(folder, str | os.PathLike):
        raise ValueError(f"folder is {folder!r}; expected the path of a folder")
    folder = Path(folder).expanduser()
    path = folder / "model_index.json"
    if not path.is_file():
        have = sorted(each.name for each in folder.glob("*"))[:10]
        raise FileNotFoundError(
            f"{folder} has no model_index.json, which every published folder has; "
            f"{f'it holds {have}' if folder.is_dir() else 'there is no such folder'}"
        )
    found = {}
    for part, entry in read_json(path).items():
        if part == "_class_name":
            found[part] = str(entry)
        elif isinstance(entry, list) and len(entry) == 2 and entry[1] is not None:
            found[part] = str(entry[1])
    return found


def open_part(folder: str | os.PathLike, *, variant: str | None = None) -> Part:
    """Opens the configuration and the weights of a part; nothing is read yet.

    Args:
      folder: Folder of the part, such as "stable-diffusion-v1-5/unet".
      variant: Variant of the weights, such as "fp16"; None takes the file without one,
        or the only variant that there is.

    Returns:
      The part, without the buffers that old files carry.

    Raises:
      FileNotFoundError: No such folder, configuration or weights.
      CorruptFileError: A file that is damaged, or a shard that lacks what the index
        promises.
    """
    folder = Path(folder).expanduser()
    config = read_json(folder / "config.json")
    tensors = {}
    for path, names in _files(folder, variant).items():
        held, _ = (load_torch if path.suffix == ".bin" else load_safetensors)(path)
        lacks = [name for name in names or () if name not in held]
        if lacks:
            raise CorruptFileError(f"{path} lacks {lacks[0]!r}, which the index lists")
        tensors |= held
    kept = {n: a for n, a in tensors.items() if n.rpartition(".")[2] not in BUFFERS}
    return Part(folder, config, kept)


def _files(folder, variant):
    """Weight files, and for those of an index the names that each must hold."""
    for suffix, stems in STEMS.items():
        for each in [variant] if variant else [None, *_variants(folder, suffix)]:
            mark = f".{each}" if each else ""
            for stem in stems:
                one = folder / f"{stem}{mark}.{suffix}"
                if one.is_file():
                    return {one: None}
                for index in (
                    folder / f"{stem}.{suffix}.index{mark}.json",
                    folder / f"{stem}{mark}.{suffix}.index.json",
                ):
                    if index.is_file():
                        return _shards(index)
    stems = STEMS["safetensors"]
    raise FileNotFoundError(
        f"{folder} has no weights {stems[0]}.safetensors or {stems[1]}.safetensors"
        f"{f' of variant {variant!r}' if variant else ''}; it holds "
        f"{sorted(path.name for path in folder.glob('*'))}"
    )


def _variants(folder, suffix):
    """The variant of a folder that has but one."""
    stems = "|".join(STEMS[suffix])
    pattern = re.compile(rf"(?:{stems})\.([A-Za-z_]\w*)\.{suffix}$")
    found = {m[1] for path in folder.glob("*") if (m := pattern.match(path.name))}
    return found if len(found) == 1 else ()


def _shards(index):
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CorruptFileError(f"{index} has no 'weight_map' of names and files")
    shards: dict[Path, list[str]] = {}
    for name, file in table.items():
        # A name with folders in it could lead anywhere.
        if not isinstance(file, str) or Path(file).name != file:
            raise CorruptFileError(f"{index}: {name!r:.80} is in {file!r:.80}")
        shards.setdefault(index.parent / file, []).append(name)
    return shards
