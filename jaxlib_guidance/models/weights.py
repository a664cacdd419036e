"""Parameters and their configuration in one small file, checked when read.

The file is a ``.npz``: one array for each leaf and a JSON header with the configuration
and, for each leaf, its shape, type and stored type. Nothing in it is executed or
unpickled. For long runs and many hosts see `training.checkpoint`; this is for what is
finished and to be passed on.
"""

import io
import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from jaxlib_guidance.types import PyTree

FORMAT = "jaxlib_guidance.weights.1"
HEADER = "header"


class CorruptFileError(ValueError):
    """A file that is not what it says, or not of this kind at all."""


def _flatten(tree, path=()):
    if isinstance(tree, dict):
        for name, branch in tree.items():
            if not isinstance(name, str) or not name or "/" in name:
                raise ValueError(f"params has the key {name!r}; expected a word")
            yield from _flatten(branch, (*path, name))
    elif isinstance(tree, (jax.Array, np.ndarray)):
        if not path:
            raise ValueError("params is an array; expected nested dicts of arrays")
        yield "/".join(path), np.asarray(tree)
    else:
        where = "/".join(path) or "params"
        raise ValueError(
            f"{where} is {type(tree).__name__}; expected nested dicts of arrays"
        )


def _stored(leaf, dtype):
    floating = jnp.issubdtype(leaf.dtype, jnp.floating)
    leaf = leaf.astype(dtype) if dtype is not None and floating else leaf
    # numpy's format has no bfloat16: its bits travel as integers.
    bits = leaf.view(np.uint16) if leaf.dtype == ml_dtypes.bfloat16 else leaf
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
      ValueError: Parameters that are not nested dicts of arrays.
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
    header = json.dumps({"format": FORMAT, "config": config, "leaves": leaves})
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(HEADER, header)
                for name, array in arrays.items():
                    buffer = io.BytesIO()
                    np.lib.format.write_array(buffer, array, allow_pickle=False)
                    archive.writestr(f"{name}.npy", buffer.getvalue())
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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
        # Members are read whole, so that zipfile verifies their checksums.
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        header = json.loads(members.pop(HEADER))
        if header["format"] != FORMAT:
            raise CorruptFileError(
                f"{path} has format {header['format']!r}; this version reads {FORMAT!r}"
            )
        leaves = header["leaves"]
        if set(members) != {f"{name}.npy" for name in leaves}:
            raise CorruptFileError(f"{path} does not hold the arrays its header lists")
        params: dict[str, Any] = {}
        for name, about in leaves.items():
            array = np.lib.format.read_array(
                io.BytesIO(members[f"{name}.npy"]), allow_pickle=False
            )
            stored = np.dtype(jnp.dtype(about["stored"]))
            array = array.view(stored) if stored == ml_dtypes.bfloat16 else array
            if array.dtype != stored or list(array.shape) != about["shape"]:
                raise CorruptFileError(f"{path}: {name} does not match the header")
            *parents, last = name.split("/")
            branch = params
            for parent in parents:
                branch = branch.setdefault(parent, {})
            branch[last] = array.astype(jnp.dtype(about["dtype"]))
        return params, header["config"]
    except CorruptFileError:
        raise
    # A damaged archive can fail anywhere inside zipfile, zlib, json or numpy.
    except Exception as error:
        raise CorruptFileError(
            f"{path} is not a weights file of jaxlib_guidance, or is damaged "
            f"({type(error).__name__}: {error})"
        ) from error
