"""Parameters and their configuration in one small file, checked when read.

The file is safetensors: one tensor for each leaf, named by its keys with "/" between,
and in the header's metadata one JSON text, under ``"jaxlib_guidance"``, with the
configuration and a checksum of everything. Other tools read it as it is::

    with safetensors.safe_open("ema.safetensors", "np") as file:
        config = json.loads(file.metadata()["jaxlib_guidance"])["config"]
        kernel = file.get_tensor("block0/kernel")

Checkpoints of long runs and many hosts are those of `jaxlib_guidance.training`; this is
for what is finished and to be passed on.
"""

import json
import os
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from jaxlib_guidance.files._bytes import CorruptFileError
from jaxlib_guidance.files._safetensors import DTYPES, load_safetensors
from jaxlib_guidance.types import PyTree

FORMAT = "jaxlib_guidance.weights.2"
SUFFIX = ".safetensors"
# Where the JSON text stands in the header's metadata.
ABOUT = "jaxlib_guidance"
# The format bounds its header, which has every name a second time, by 100 MB.
MAX_ABOUT = 2**24


def _flatten(tree, path=()):
    if isinstance(tree, dict):
        for name, branch in tree.items():
            if not isinstance(name, str) or not name or "/" in name:
                raise ValueError(f"params has the key {name!r}; expected a word")
            yield from _flatten(branch, (*path, name))
    elif isinstance(tree, (jax.Array, np.ndarray)):
        if not path or path == ("__metadata__",):
            raise ValueError(
                f"params has an array under {path}; expected nested dicts of arrays, "
                "and no array called '__metadata__', which is the format's own"
            )
        yield "/".join(path), tree
    else:
        where = "/".join(path) or "params"
        raise ValueError(
            f"{where} is {type(tree).__name__}; expected nested dicts of arrays"
        )


def _empty(tree, path=()):
    """Names of the branches without leaves."""
    for name, branch in tree.items():
        if isinstance(branch, dict):
            here = (*path, name)
            yield from _empty(branch, here) if branch else ("/".join(here),)


def _as_stored(name, leaf, dtype):
    floating = jnp.issubdtype(leaf.dtype, jnp.floating)
    stored = leaf.dtype if dtype is None or not floating else np.dtype(dtype)
    if not isinstance(stored, np.dtype) or stored.newbyteorder("<") not in _STORABLE:
        raise ValueError(
            f"{name} would be stored as {stored.name}, which the file cannot hold; "
            f"expected one of {', '.join(dtype.name for dtype in _STORABLE)}"
        )
    # The writer takes the bytes as they lie, whatever the order of axes.
    return np.asarray(leaf, stored.newbyteorder("="), order="C")


_STORABLE = tuple(DTYPES.values())


def _checksum(about: Mapping[str, Any], leaves: Mapping[str, np.ndarray]) -> int:
    """CRC-32 of the JSON text without its checksum, and of the leaves in its order."""
    text = json.dumps({k: v for k, v in about.items() if k != "crc32"})
    value = zlib.crc32(text.encode())
    for name in about["leaves"]:
        value = zlib.crc32(leaves[name].reshape(-1).view(np.uint8).data, value)
    return value


def export_weights(
    path: str | os.PathLike,
    params: PyTree,
    config: dict[str, Any],
    *,
    dtype: Any = None,
) -> None:
    """Writes parameters and their configuration; replaces ``path`` in one move.

    Args:
      path: File to write, with the suffix ``.safetensors``.
      params: Nested dicts of arrays, as Flax Linen has them, such as a state's ``ema``.
      config: What is needed to rebuild the model; anything JSON can hold.
      dtype: Type in which floating leaves are stored, such as ``jnp.bfloat16``, to save
        space; `load_weights` gives the original type back, rounded. None stores each
        leaf in its own type.

    Raises:
      ValueError: Another suffix, a dtype that is not floating, parameters that are not
        nested dicts of arrays, a leaf of a type that the file cannot hold, such as
        complex128, or a configuration of more than 16 MB.
      TypeError: A configuration that JSON cannot hold.
      OSError: The file cannot be written; an older one stays as it was.
    """
    path = Path(path).expanduser()
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype is {jnp.dtype(dtype)}; expected a floating type")
    if path.suffix != SUFFIX:
        raise ValueError(f"path is '{path}'; expected a name that ends in {SUFFIX}")
    about, leaves = {}, {}
    for name, leaf in _flatten(params):
        leaves[name] = _as_stored(name, leaf, dtype)
        about[name] = {
            "shape": list(leaf.shape),
            "dtype": leaf.dtype.name,
            "stored": leaves[name].dtype.name,
        }
    about = {"format": FORMAT, "config": config, "leaves": about}
    # As a reader will have it: of keys that JSON makes equal one stays.
    about = json.loads(json.dumps(about | {"empty": list(_empty(params))}))
    text = json.dumps(about | {"crc32": _checksum(about, leaves)})
    if len(text) > MAX_ABOUT:
        raise ValueError(f"config and names take {len(text)} bytes of {MAX_ABOUT}")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        os.close(handle)
        save_file(leaves, temporary, {ABOUT: text})
        # Opened again, since the package may have put another file there.
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except SafetensorError as error:
        Path(temporary).unlink(missing_ok=True)
        raise OSError(f"{path} could not be written ({error})") from error
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_weights(path: str | os.PathLike) -> tuple[PyTree, dict[str, Any]]:
    """Reads what `export_weights` wrote.

    Args:
      path: File to read; its suffix does not matter.

    Returns:
      ``(params, config)``; params are nested dicts of numpy arrays in their original
      types.

    Raises:
      FileNotFoundError: No such file.
      CorruptFileError: Another kind of file, or one that was damaged; arrays, names and
        configuration are under a checksum.
    """
    tensors, metadata = load_safetensors(path)
    try:
        about = json.loads(metadata[ABOUT])
        if about["format"] != FORMAT:
            raise CorruptFileError(
                f"{path} has format {about['format']!r:.80}; this version reads "
                f"{FORMAT!r}"
            )
        if set(tensors) != set(about["leaves"]):
            raise CorruptFileError(f"{path} does not hold the arrays its header lists")
        # Copies: what is verified must be what is returned.
        tensors = {name: np.array(held) for name, held in tensors.items()}
        if about["crc32"] != _checksum(about, tensors):
            raise CorruptFileError(f"{path} is damaged: its checksum is another")
        params: dict[str, Any] = {}
        for name, leaf in about["leaves"].items():
            _put(params, name, _leaf(tensors[name], leaf, f"{path}: {name}"))
        for name in about["empty"]:
            _put(params, name, {})
        return params, about["config"]
    except (CorruptFileError, MemoryError):
        raise
    # JSON of another writer can be anything.
    except Exception as error:
        raise CorruptFileError(
            f"{path} is not a weights file of jaxlib_guidance, or is damaged "
            f"({type(error).__name__}: {error!s:.200})"
        ) from error


def _put(tree, name, value):
    *parents, last = name.split("/")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    if last in tree:
        raise ValueError(f"{name} is there twice")
    tree[last] = value


def _leaf(held, about, where):
    """The array in its original type."""
    dtype = np.dtype(jnp.dtype(about["dtype"]))
    same = about["stored"] == held.dtype.name and about["shape"] == list(held.shape)
    floats = all(jnp.issubdtype(kind, jnp.floating) for kind in (dtype, held.dtype))
    if not same or not (floats or dtype == held.dtype):
        raise CorruptFileError(f"{where} does not match the header")
    return held.astype(dtype, copy=False)
