"""Safetensors files: checked by the package of that name, arrays as views of the file.

The package reads every tensor into memory of its own and has no float8 for numpy
(`get_tensor` of F8_E4M3 is an AttributeError in 0.8.0), so only its check of the header
is used: names, types, and byte ranges that tile the data without gap or overlap.
"""

import math
import os
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxlib_guidance.files._bytes import CorruptFileError, map_bytes

DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "C64": np.dtype("<c8"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
}


def load_safetensors(
    path: str | os.PathLike,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Opens a safetensors file.

    Args:
      path: File to read, which must not change while the arrays are in use.

    Returns:
      ``(tensors, metadata)``: read-only arrays by name, in the file's order, each read
      from disk when it is used; and the header's ``__metadata__``.

    Raises:
      FileNotFoundError: No such file.
      CorruptFileError: Another kind of file, or a damaged one; or one with F4 or F6
        tensors, which pack numbers below a byte and have no numpy type.
    """
    path = Path(path).expanduser()
    data = map_bytes(path)
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            # In the order of the bytes, which have no gaps: that gives the offsets.
            found = [(name, file.get_slice(name)) for name in file.offset_keys()]
            table = [(name, each.get_dtype(), each.get_shape()) for name, each in found]
    except SafetensorError as error:
        raise CorruptFileError(
            f"{path} is not a safetensors file, or is damaged ({error!s:.200})"
        ) from error
    for name, kind, _ in table:
        if kind not in DTYPES:
            raise CorruptFileError(
                f"{path}: {name!r:.80} has type {kind}, which numpy has not; this "
                f"reader knows {', '.join(DTYPES)}"
            )
    sizes = [math.prod(shape) * DTYPES[kind].itemsize for _, kind, shape in table]
    start, tensors = len(data) - sum(sizes), {}
    for (name, kind, shape), size in zip(table, sizes, strict=True):
        held = data[start : start + size].view(DTYPES[kind])
        try:
            tensors[name] = held.reshape(shape)
        # numpy bounds the number of axes, and the sizes of empty arrays.
        except ValueError as error:
            raise CorruptFileError(
                f"{path}: {name!r:.80} is {kind}{shape}: {error}"
            ) from error
        start += size
    return tensors, metadata
