"""Reader of safetensors files: a length, a JSON header, and the arrays as they lie.

The header is checked as a whole before an array is made: names once each, known types,
and byte ranges that tile the data without gap or overlap up to the end of the file.
Format: https://github.com/huggingface/safetensors (section "Format" of its README).
"""

import json
import math
import os
from typing import Any

import ml_dtypes
import numpy as np

from jaxlib_guidance.files._bytes import CorruptFileError, map_bytes

# The format's own bound on the header.
MAX_HEADER = 100_000_000
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
      path: The file. It must not change while the arrays are in use.

    Returns:
      ``(tensors, metadata)``: read-only arrays by name, in the file's order, each read
      from disk when it is used; and the header's ``__metadata__``.

    Raises:
      FileNotFoundError: No such file.
      CorruptFileError: Another kind of file, or a damaged one; or one with F4 or F6
        tensors, which pack numbers below a byte and have no numpy type.
    """
    data = map_bytes(path)
    header, start = _header(data, path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(
        isinstance(text, str) for text in metadata.values()
    ):
        raise CorruptFileError(f"{path}: __metadata__ is not a table of texts")
    tensors = {
        name: _tensor(data, start, name, about, path) for name, about in header.items()
    }
    _require_tiling(header, len(data) - start, path)
    return tensors, metadata


def _header(data, path):
    if len(data) < 8:
        raise CorruptFileError(f"{path} has {len(data)} bytes; safetensors needs 8")
    size = int(data[:8].view("<u8")[0])
    if size > min(MAX_HEADER, len(data) - 8):
        raise CorruptFileError(
            f"{path} is not safetensors, or is truncated: it claims a header of {size} "
            f"bytes and has {len(data) - 8}"
        )
    text = data[8 : 8 + size].tobytes()
    if not text.startswith(b"{"):
        raise CorruptFileError(f"{path}: the header does not start with {{")
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_distinct)
    # Damaged JSON nests too deep for the parser, too.
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{path}: the header is damaged ({error})") from error
    return header, 8 + size


def _distinct(pairs):
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice")
    return table


def _tensor(data, start, name, about, path):
    match about:
        case {"dtype": str(kind), "shape": list(shape), "data_offsets": [begin, end]}:
            sizes = [*shape, begin, end]
        case _:
            raise CorruptFileError(
                f"{path}: {name!r:.80} lacks dtype, shape or offsets"
            )
    if len(shape) > 64 or not all(type(n) is int and 0 <= n < 2**63 for n in sizes):
        raise CorruptFileError(f"{path}: {name!r:.80} has sizes that are not counts")
    if kind not in DTYPES:
        raise CorruptFileError(
            f"{path}: {name!r:.80} has type {kind!r:.80}; this reader knows "
            f"{', '.join(DTYPES)}"
        )
    dtype = DTYPES[kind]
    if not begin <= end <= len(data) - start:
        raise CorruptFileError(
            f"{path}: {name!r:.80} lies at {begin}:{end} of {len(data) - start} bytes; "
            "the file is truncated or damaged"
        )
    try:
        if math.prod(shape) * dtype.itemsize != end - begin:
            raise ValueError(f"{end - begin} bytes do not hold it")
        return data[start + begin : start + end].view(dtype).reshape(shape)
    # Empty arrays may have any sizes, and numpy bounds their number.
    except ValueError as error:
        raise CorruptFileError(
            f"{path}: {name!r:.80} is {kind}{shape}: {error}"
        ) from error


def _require_tiling(header: dict[str, Any], length: int, path) -> None:
    at = 0
    for begin, end in sorted(tuple(v["data_offsets"]) for v in header.values()):
        if begin != at:
            raise CorruptFileError(
                f"{path}: tensors overlap or leave a gap at byte {min(begin, at)}"
            )
        at = end
    if at != length:
        raise CorruptFileError(f"{path} has {length} bytes of data; tensors fill {at}")
