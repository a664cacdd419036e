"""Parameters and their configuration in one small file, checked when read.

The file is a ``.npz``: one array for each leaf and a JSON header with the configuration
and, for each leaf, its shape, type and stored type. Nothing in it is executed or
unpickled, and it cannot claim more memory than a small multiple of its own length. For
long runs and many hosts see `training.checkpoint`; this is for what is finished and to
be passed on.
"""

import io
import json
import math
import os
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from jaxlib_guidance.files._bytes import CorruptFileError
from jaxlib_guidance.types import PyTree

FORMAT = "jaxlib_guidance.weights.1"
HEADER = "header"
# A file may expand by this factor, and small ones by as many bytes as follow. Weights
# do so by 1.1; what would by more, such as zeros, is stored as it is.
EXPANSION, SLACK = 20, 2**20
MAX_HEADER = 2**24
# Kinds of numpy types that its files can hold.
PLAIN = "biufc"


def _flatten(tree, path=()):
    if isinstance(tree, dict):
        for name, branch in tree.items():
            if not isinstance(name, str) or not name or "/" in name:
                raise ValueError(f"params has the key {name!r}; expected a word")
            yield from _flatten(branch, (*path, name))
    elif isinstance(tree, (jax.Array, np.ndarray)):
        if not path:
            raise ValueError("params is an array; expected nested dicts of arrays")
        yield "/".join(path), np.asarray(tree, order="C")
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


def _stored(leaf, dtype):
    floating = jnp.issubdtype(leaf.dtype, jnp.floating)
    leaf = leaf.astype(dtype) if dtype is not None and floating else leaf
    # numpy's format has no bfloat16: its bits travel as integers.
    bits = leaf.view(np.uint16) if leaf.dtype == ml_dtypes.bfloat16 else leaf
    if bits.dtype.kind not in PLAIN:
        raise ValueError(
            f"a leaf would be stored as {leaf.dtype.name}, which the file cannot hold; "
            "expected a type of numpy's own, or bfloat16"
        )
    return leaf.dtype.name, bits


def export_weights(
    path: str | os.PathLike,
    params: PyTree,
    config: dict[str, Any],
    *,
    dtype: Any = None,
) -> None:
    """Writes parameters and their configuration; replaces ``path`` in one move.

    Args:
      path: Where to, conventionally ``.npz``.
      params: Nested dicts of arrays, as Flax Linen has them, such as a state's ema.
      config: What is needed to rebuild the model; anything JSON can hold.
      dtype: Stored type of floating leaves, such as ``jnp.bfloat16``, to save space.
        `load_weights` gives the original type back, rounded.

    Raises:
      ValueError: Parameters that are not nested dicts of arrays, types that the file
        cannot hold, such as float8, or a configuration of more than 16 MB.
      TypeError: A configuration that JSON cannot hold.
    """
    leaves, arrays = {}, {}
    for name, leaf in _flatten(params):
        stored, arrays[name] = _stored(leaf, dtype)
        leaves[name] = {
            "shape": list(leaf.shape),
            "dtype": leaf.dtype.name,
            "stored": stored,
        }
    about = {"format": FORMAT, "config": config, "leaves": leaves}
    empty = list(_empty(params))
    header = json.dumps(about | ({"empty": empty} if empty else {})).encode()
    if len(header) > MAX_HEADER:
        raise ValueError(f"config and names take {len(header)} bytes of {MAX_HEADER}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                _write(archive, HEADER, header)
                for name, array in arrays.items():
                    buffer = io.BytesIO()
                    np.lib.format.write_array(buffer, array, allow_pickle=False)
                    _write(archive, f"{name}.npy", buffer.getvalue())
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _write(archive, name, data):
    ordinary = EXPANSION * len(zlib.compress(data, 1)) > len(data)
    archive.writestr(
        name, data, zipfile.ZIP_DEFLATED if ordinary else zipfile.ZIP_STORED
    )


def load_weights(path: str | os.PathLike) -> tuple[PyTree, dict[str, Any]]:
    """Reads what `export_weights` wrote.

    Returns:
      ``(params, config)``; params are nested dicts of numpy arrays in their original
      types.

    Raises:
      FileNotFoundError: No such file.
      CorruptFileError: Another kind of file, or one that was damaged; the arrays and
        the header are under checksums.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, path)
            header = json.loads(_read(archive, members.pop(HEADER)))
            if header["format"] != FORMAT:
                raise CorruptFileError(
                    f"{path} has format {header['format']!r:.80}; this version reads "
                    f"{FORMAT!r}"
                )
            leaves = header["leaves"]
            if set(members) != {f"{name}.npy" for name in leaves}:
                raise CorruptFileError(
                    f"{path} does not hold the arrays its header lists"
                )
            params: dict[str, Any] = {}
            for name, about in leaves.items():
                leaf = _leaf(_read(archive, members[f"{name}.npy"]), about)
                if leaf is None:
                    raise CorruptFileError(f"{path}: {name} does not match the header")
                _put(params, name, leaf)
            for name in header.get("empty", []):
                _put(params, name, {})
        return params, header["config"]
    except (CorruptFileError, MemoryError):
        raise
    # A damaged archive can fail anywhere inside zipfile, zlib, json or numpy.
    except Exception as error:
        raise CorruptFileError(
            f"{path} is not a weights file of jaxlib_guidance, or is damaged "
            f"({type(error).__name__}: {error!s:.200})"
        ) from error


def _put(tree, name, value):
    *parents, last = name.split("/")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[last] = value


def _members(archive, path):
    """The archive's entries by name, once their claimed sizes are plausible."""
    entries = archive.infolist()
    members = {entry.filename: entry for entry in entries}
    if len(members) != len(entries):
        raise CorruptFileError(f"{path} holds two arrays of one name")
    # zipfile bounds the output of deflate alone while it unpacks.
    known = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    if any(entry.compress_type not in known for entry in entries):
        raise CorruptFileError(f"{path} is packed by another method than deflate")
    claimed, held = sum(entry.file_size for entry in entries), path.stat().st_size
    header = members[HEADER].file_size
    if claimed > EXPANSION * held + SLACK or header > MAX_HEADER:
        raise CorruptFileError(
            f"{path} claims {claimed} bytes in a file of {held}, {header} of them a "
            f"header; expected at most {EXPANSION}-fold, and {MAX_HEADER}"
        )
    return members


def _read(archive, entry):
    # Exactly the claimed size, which bounds the memory; the checksum is verified at it.
    with archive.open(entry) as file:
        return file.read(entry.file_size)


def _leaf(member, about):
    """The array in a member, or None where it is not what the header says."""
    shape, dtype, stored = (about[key] for key in ("shape", "dtype", "stored"))
    dtype, stored = (np.dtype(jnp.dtype(name)) for name in (dtype, stored))
    plain = np.dtype(np.uint16) if stored == ml_dtypes.bfloat16 else stored
    floats = all(jnp.issubdtype(kind, jnp.floating) for kind in (dtype, stored))
    if plain.kind not in PLAIN or not (floats or dtype == stored):
        return None
    # Compared as text: numpy evaluates it, and makes an array of whatever it claims.
    about = {"descr": plain.str, "fortran_order": False, "shape": tuple(shape)}
    text = "".join(f"{key!r}: {value!r}, " for key, value in about.items())
    start = 10 + int.from_bytes(member[8:10], "little")
    if member[:8] != b"\x93NUMPY\x01\x00" or (
        member[10:start].rstrip() != f"{{{text}}}".encode()
    ):
        return None
    if len(member) - start != math.prod(shape) * plain.itemsize:
        return None
    array = np.frombuffer(member, plain, offset=start).reshape(shape)
    return array.view(stored).astype(dtype)
