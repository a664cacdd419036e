"""Reader of GGUF files: metadata, a table of tensors, and tensors decoded on demand.

Every count and offset is checked against the length of the file before anything of that
size is made; the table is checked as a whole before a tensor is read. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.

The package gguf (0.19) takes 2.2 s to open a file with a vocabulary of 49,152 tokens,
where this reader takes 0.06 s, and answers damaged files with errors of many kinds. So
it serves only for types of blocks that `_ggml` does not decode, and as the reference of
the tests.
"""

import math
import os
import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxlib_guidance.files._bytes import CorruptFileError, map_bytes
from jaxlib_guidance.files._ggml import KINDS, Kind, decode_by_package

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


class _Stored(NamedTuple):
    """Where a tensor lies, and what it is."""

    shape: tuple[int, ...]
    code: int
    kind: Kind
    start: int
    size: int | None


class GGUFTensors(Mapping[str, np.ndarray]):
    """The tensors of a GGUF file by name; each is decoded when it is asked for.

    Numbers stored as such keep their type, and are views of the file; quantised ones
    are float32, and some of their types need the package gguf (the extra ``lm``). The
    last axis varies fastest, so a matrix is ``[out, in]``: the
    reverse of the order that the file lists sizes in.
    """

    def __init__(self, path: str | os.PathLike, data: np.ndarray, table: dict):
        self._path, self._data, self._table = path, data, table

    def __getitem__(self, name: str) -> np.ndarray:
        shape, code, kind, start, size = self._table[name]
        stored = self._data[start : start + size]
        # Scales of a damaged file may be infinite or NaN; that is for the caller.
        with np.errstate(all="ignore"):
            if kind.decode is not None:
                return kind.decode(stored.reshape(-1, kind.size)).reshape(shape)
            try:
                return decode_by_package(code, stored, math.prod(shape)).reshape(shape)
            except ModuleNotFoundError as error:
                error.msg = f"{self._path}: {name!r} has type {kind.name}; {error.msg}"
                raise
            except ValueError as error:
                raise CorruptFileError(
                    f"{self._path}: {name!r} has type {kind.name}, which cannot be "
                    f"decoded ({error})"
                ) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, which is not read."""
        return self._table[name].shape

    def kind(self, name: str) -> str:
        """How a tensor is stored, such as "Q4_1"; a newer type's number in digits."""
        return self._table[name].kind.name


def load_gguf(path: str | os.PathLike) -> tuple[GGUFTensors, dict[str, Any]]:
    """Opens a GGUF file, version 2 or 3, little-endian.

    Args:
      path: File to read, which must not change while the tensors are in use.

    Returns:
      ``(tensors, metadata)``: tensors by name, decoded when asked for; metadata as
      Python numbers and texts, lists of texts, and numpy arrays of numbers.

    Raises:
      FileNotFoundError: No such file.
      CorruptFileError: Another kind of file, or a damaged one. A type that is not
        decoded raises only when such a tensor is asked for.
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
    # Of a type newer than the table the next tensor's offset tells the size.
    kind = KINDS.get(code) or Kind(str(code), 1, None)
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
    size = kind.size and math.prod(sizes) // kind.count * kind.size
    return _Stored(sizes[::-1], code, kind, offset, size)


def _placed(cursor, table, alignment):
    """The table with offsets from the start of the file, once all are in order."""
    base = -(-cursor.at // alignment) * alignment
    end, before = base, "the header"
    placed = {}
    entries = sorted(table.items(), key=lambda item: item[1].start)
    nexts = [base + entry.start for _, entry in entries[1:]] + [len(cursor.data)]
    for (name, entry), after in zip(entries, nexts, strict=True):
        start = base + entry.start
        if start < end:
            raise CorruptFileError(
                f"{cursor.path}: {name!r:.80} overlaps {before!r:.80}"
            )
        size = after - start if entry.size is None else entry.size
        # No tensor is empty.
        end, before = start + max(size, 1), name
        if end > len(cursor.data):
            raise CorruptFileError(
                f"{cursor.path} is truncated or damaged: {name!r:.80} ends at byte "
                f"{end}, and the file has {len(cursor.data)}"
            )
        placed[name] = entry._replace(start=start, size=size)
    return {name: placed[name] for name in table}
