"""Reader of GGUF files: metadata, a table of tensors, and tensors decoded on demand.

Every count and offset is checked against the length of the file before anything of that
size is made; the table is checked as a whole before a tensor is read. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; block layouts: ggml-common.h
and ggml-quants.c there.
"""

import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxlib_guidance.models.files import CorruptFileError, map_bytes

STRING, ARRAY = 8, 9
SCALARS = {
    0: np.dtype("u1"),
    1: np.dtype("i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    7: np.dtype("?"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}


def _view(dtype):
    return lambda blocks: blocks.view(dtype)


def _scale(blocks, at=0):
    """The half-precision number at byte ``at`` of each block, float32 ``[n, 1]``."""
    return blocks[:, at : at + 2].view("<f2").astype(np.float32)


def _nibbles(blocks, at):
    """32 four-bit numbers ``[n, 32]``: 16 low halves of bytes, then 16 high ones."""
    packed = blocks[:, at : at + 16]
    return np.concatenate([packed & 15, packed >> 4], 1)


def _fifth_bits(blocks, at):
    """32 numbers of one bit, worth 16 each, ``[n, 32]``."""
    bits = np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little")
    return bits << 4


def _q8_0(blocks):
    return _scale(blocks) * blocks[:, 2:].view(np.int8)


def _q4_0(blocks):
    return _scale(blocks) * (_nibbles(blocks, 2).astype(np.int8) - np.int8(8))


def _q4_1(blocks):
    return _scale(blocks) * _nibbles(blocks, 4) + _scale(blocks, 2)


def _q5_0(blocks):
    numbers = _nibbles(blocks, 6) | _fifth_bits(blocks, 2)
    return _scale(blocks) * (numbers.astype(np.int8) - np.int8(16))


def _q5_1(blocks):
    numbers = _nibbles(blocks, 8) | _fifth_bits(blocks, 4)
    return _scale(blocks) * numbers + _scale(blocks, 2)


def _six_bit_scales(packed):
    """Eight scales and eight minima of six bits, ``[n, 8]`` each, from 12 bytes."""
    first, second, rest = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = [first & 63, (rest & 15) | (first >> 6 << 4)]
    minima = [second & 63, (rest >> 4) | (second >> 6 << 4)]
    return np.concatenate(scales, 1), np.concatenate(minima, 1)


def _q4_or_q5_k(blocks, packed, fifth):
    scales, minima = _six_bit_scales(blocks[:, 4:16])
    # 64 numbers share 32 bytes: the low halves are the first 32.
    pairs = packed.reshape(-1, 4, 1, 32)
    numbers = np.concatenate([pairs & 15, pairs >> 4], 2).reshape(-1, 8, 32) | fifth
    d, d_min = _scale(blocks) * scales, _scale(blocks, 2) * minima
    return d[..., None] * numbers - d_min[..., None]


def _q4_k(blocks):
    return _q4_or_q5_k(blocks, blocks[:, 16:], np.uint8(0))


def _q5_k(blocks):
    # Bit i of byte j is the fifth bit of number j in group i.
    shifts = np.arange(8, dtype=np.uint8)[:, None]
    fifth = (blocks[:, 16:48].reshape(-1, 1, 32) >> shifts & 1) << 4
    return _q4_or_q5_k(blocks, blocks[:, 48:], fifth)


def _q6_k(blocks):
    # Each half of 128 numbers: 64 bytes of low four bits, 32 bytes of high two bits.
    low = blocks[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate([low & 15, low >> 4], 2).reshape(-1, 2, 4, 32)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts & 3
    numbers = (low | high << 4).astype(np.int8) - np.int8(32)
    scales = _scale(blocks, 208) * blocks[:, 192:208].view(np.int8)
    return scales[..., None] * numbers.reshape(-1, 16, 16)


class _Kind(NamedTuple):
    """A type: how many numbers lie in how many bytes, and what reads such blocks."""

    name: str
    count: int
    size: int
    decode: Callable[[np.ndarray], np.ndarray] | None = None


KINDS = {
    0: _Kind("F32", 1, 4, _view("<f4")),
    1: _Kind("F16", 1, 2, _view("<f2")),
    2: _Kind("Q4_0", 32, 18, _q4_0),
    3: _Kind("Q4_1", 32, 20, _q4_1),
    6: _Kind("Q5_0", 32, 22, _q5_0),
    7: _Kind("Q5_1", 32, 24, _q5_1),
    8: _Kind("Q8_0", 32, 34, _q8_0),
    9: _Kind("Q8_1", 32, 40),
    10: _Kind("Q2_K", 256, 84),
    11: _Kind("Q3_K", 256, 110),
    12: _Kind("Q4_K", 256, 144, _q4_k),
    13: _Kind("Q5_K", 256, 176, _q5_k),
    14: _Kind("Q6_K", 256, 210, _q6_k),
    15: _Kind("Q8_K", 256, 292),
    16: _Kind("IQ2_XXS", 256, 66),
    17: _Kind("IQ2_XS", 256, 74),
    18: _Kind("IQ3_XXS", 256, 98),
    19: _Kind("IQ1_S", 256, 50),
    20: _Kind("IQ4_NL", 32, 18),
    21: _Kind("IQ3_S", 256, 110),
    22: _Kind("IQ2_S", 256, 82),
    23: _Kind("IQ4_XS", 256, 136),
    24: _Kind("I8", 1, 1, _view("i1")),
    25: _Kind("I16", 1, 2, _view("<i2")),
    26: _Kind("I32", 1, 4, _view("<i4")),
    27: _Kind("I64", 1, 8, _view("<i8")),
    28: _Kind("F64", 1, 8, _view("<f8")),
    29: _Kind("IQ1_M", 256, 56),
    30: _Kind("BF16", 1, 2, _view(ml_dtypes.bfloat16)),
    34: _Kind("TQ1_0", 256, 54),
    35: _Kind("TQ2_0", 256, 66),
    39: _Kind("MXFP4", 32, 17),
}


class _Stored(NamedTuple):
    """Where a tensor lies, and what it is."""

    shape: tuple[int, ...]
    kind: _Kind
    start: int
    size: int


class GGUFTensors(Mapping[str, np.ndarray]):
    """The tensors of a GGUF file by name; each is decoded when it is asked for.

    Numbers stored as such keep their type, and are views of the file; quantised ones
    are float32. The last axis varies fastest, so a matrix is ``[out, in]``: the
    reverse of the order that the file lists sizes in.
    """

    def __init__(self, path: str | os.PathLike, data: np.ndarray, table: dict):
        self._path, self._data, self._table = path, data, table

    def __getitem__(self, name: str) -> np.ndarray:
        shape, kind, start, size = self._table[name]
        if kind.decode is None:
            known = ", ".join(kind.name for kind in KINDS.values() if kind.decode)
            raise CorruptFileError(
                f"{self._path}: {name!r} has type {kind.name}; this reader decodes "
                f"{known}"
            )
        stored = self._data[start : start + size].reshape(-1, kind.size)
        # Scales of a damaged file may be infinite or NaN; that is for the caller.
        with np.errstate(all="ignore"):
            return kind.decode(stored).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, which is not read."""
        return self._table[name].shape

    def kind(self, name: str) -> str:
        """How a tensor is stored, such as "Q4_1"."""
        return self._table[name].kind.name


def load_gguf(path: str | os.PathLike) -> tuple[GGUFTensors, dict[str, Any]]:
    """Opens a GGUF file, version 2 or 3, little-endian.

    Args:
      path: The file. It must not change while the tensors are in use.

    Returns:
      ``(tensors, metadata)``: tensors by name, decoded when asked for; metadata as
      Python numbers and texts, lists of texts, and numpy arrays of numbers.

    Raises:
      FileNotFoundError: No such file.
      CorruptFileError: Another kind of file, or a damaged one. A type that this reader
        does not decode raises only when such a tensor is asked for.
    """
    data = map_bytes(path)
    cursor = _Cursor(data, path)
    if (magic := bytes(cursor.take(4, "the magic"))) != b"GGUF":
        raise CorruptFileError(f"{path} is not a GGUF file: it starts with {magic!r}")
    version = cursor.number("<I", "the version")
    if version not in (2, 3):
        raise CorruptFileError(
            f"{path} has version {version}; this reader knows 2 and 3, little-endian"
        )
    tensors = cursor.number("<Q", "the number of tensors")
    pairs = cursor.number("<Q", "the number of metadata")
    metadata: dict[str, Any] = {}
    for _ in range(pairs):
        name = cursor.text("a name of metadata")
        if name in metadata:
            raise CorruptFileError(f"{path}: metadata has {name!r:.80} twice")
        metadata[name] = _value(cursor, cursor.number("<I", "a type of metadata"))
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise CorruptFileError(
            f"{path}: general.alignment is {alignment!r:.80}; expected a power of two"
        )
    table: dict[str, _Stored] = {}
    for _ in range(tensors):
        name = cursor.text("a name of a tensor")
        if name in table:
            raise CorruptFileError(f"{path}: the tensor {name!r:.80} occurs twice")
        table[name] = _entry(cursor, name, alignment)
    return GGUFTensors(path, data, _placed(cursor, table, alignment)), metadata


class _Cursor:
    """Reads forward, and never past the end."""

    def __init__(self, data, path):
        self.data, self.path, self.at = memoryview(data), path, 0

    def take(self, size, what):
        start, self.at = self.at, self.at + size
        if self.at > len(self.data):
            raise CorruptFileError(
                f"{self.path} is truncated or damaged: {what} takes {size} bytes at "
                f"{start}, and the file has {len(self.data)}"
            )
        return self.data[start : self.at]

    def number(self, form, what):
        return struct.unpack(form, self.take(struct.calcsize(form), what))[0]

    def text(self, what):
        start = self.at
        held = self.take(self.number("<Q", what), what)
        try:
            return str(held, "utf-8")
        except UnicodeDecodeError as error:
            raise CorruptFileError(
                f"{self.path}: {what} at byte {start} is not UTF-8 ({error.reason})"
            ) from error


def _value(cursor, kind):
    if kind == STRING:
        return cursor.text("a text of metadata")
    if kind in SCALARS:
        return _numbers(cursor, kind, 1)[0].item()
    if kind != ARRAY:
        raise CorruptFileError(f"{cursor.path}: metadata of unknown type {kind}")
    kind = cursor.number("<I", "a type of metadata")
    count = cursor.number("<Q", "the length of an array")
    if kind in SCALARS:
        return _numbers(cursor, kind, count).copy()
    if kind != STRING:
        raise CorruptFileError(f"{cursor.path}: metadata has arrays of type {kind}")
    # A list grows only as texts are found, whatever count is claimed.
    return [cursor.text("a text of metadata") for _ in range(count)]


def _numbers(cursor, kind, count):
    dtype = SCALARS[kind]
    held = np.frombuffer(cursor.take(count * dtype.itemsize, "metadata"), np.uint8)
    if dtype == np.bool_ and np.any(held > 1):
        raise CorruptFileError(f"{cursor.path}: metadata has a truth value above 1")
    return held.view(dtype)


def _entry(cursor, name, alignment):
    axes = cursor.number("<I", "the rank of a tensor")
    if axes > 4:
        raise CorruptFileError(
            f"{cursor.path}: {name!r:.80} has {axes} axes; GGUF has at most 4"
        )
    sizes = struct.unpack(f"<{axes}Q", cursor.take(8 * axes, "the sizes of a tensor"))
    code = cursor.number("<I", "the type of a tensor")
    offset = cursor.number("<Q", "the offset of a tensor")
    if code not in KINDS:
        raise CorruptFileError(f"{cursor.path}: {name!r:.80} has unknown type {code}")
    kind = KINDS[code]
    if min(sizes, default=1) == 0 or (sizes[0] if sizes else 1) % kind.count:
        raise CorruptFileError(
            f"{cursor.path}: {name!r:.80} has sizes {sizes}; {kind.name} needs rows of "
            f"a multiple of {kind.count} numbers"
        )
    if offset % alignment:
        raise CorruptFileError(
            f"{cursor.path}: {name!r:.80} is at {offset}, which is not a multiple of "
            f"general.alignment={alignment}"
        )
    size = math.prod(sizes) // kind.count * kind.size
    return _Stored(sizes[::-1], kind, offset, size)


def _placed(cursor, table, alignment):
    """The table with offsets from the start of the file, once all are in order."""
    base = -(-cursor.at // alignment) * alignment
    end, before = base, "the header"
    placed = {}
    for name, entry in sorted(table.items(), key=lambda item: item[1].start):
        start = base + entry.start
        if start < end:
            raise CorruptFileError(
                f"{cursor.path}: {name!r:.80} overlaps {before!r:.80}"
            )
        end, before = start + entry.size, name
        if end > len(cursor.data):
            raise CorruptFileError(
                f"{cursor.path} is truncated or damaged: {name!r:.80} ends at byte "
                f"{end}, and the file has {len(cursor.data)}"
            )
        placed[name] = entry._replace(start=start)
    return {name: placed[name] for name in table}
