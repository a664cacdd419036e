"""Reader of PyTorch's `.pt` and `.bin` files, without PyTorch and without unpickling.

Such a file is a zip of one pickle and of the numbers, which lie there uncompressed. A
pickle is a program for a stack machine, and Python's own machine may import and call
whatever it names. Here are only the dozen or so instructions that dicts of tensors
consist of; the few functions that they name are understood, not called.
"""

import math
import os
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import ml_dtypes
import numpy as np

from jaxlib_guidance.files._bytes import CorruptFileError, map_bytes

STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "DoubleStorage": np.dtype("<f8"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
CONSTANTS = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
# Instructions whose argument is the value that they push.
VALUES = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE")
MAX_DEPTH = 32

T = TypeVar("T")


class _Global(NamedTuple):
    """A function or class that the file names, such as "torch FloatStorage"."""

    name: str


class _Storage(NamedTuple):
    """A run of numbers in the file."""

    key: str
    dtype: np.dtype
    count: int


class _RefusedError(Exception):
    """What is wrong with the file, without its name."""


def load_torch(
    path: str | os.PathLike,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Opens a file of `torch.save`, in the zip format that PyTorch writes since 1.6.

    The file holds tensors, numbers and texts in dicts and lists. Nothing in it is run:
    a file that names any class or function but those of a tensor is refused.

    Args:
      path: File to read, which must not change while the arrays are in use.

    Returns:
      ``(tensors, rest)``: read-only arrays by name, in the file's order, each read from
      disk when it is used; and what is not a tensor, by name. Names of nested dicts are
      joined with "."; items of lists go by their number.

    Raises:
      FileNotFoundError: No such file.
      CorruptFileError: Another kind of file, one older than PyTorch 1.6, a damaged one,
        or one with objects other than tensors, numbers and texts.
    """
    path = Path(path).expanduser()
    data = map_bytes(path)
    try:
        return _load(data, path)
    except _RefusedError as error:
        raise CorruptFileError(f"{path}: {error}") from None


def _load(data, path):
    if data[:2].tobytes() != b"PK":
        raise _RefusedError(
            "not a zip, so no file that PyTorch has written since 1.6; open an older "
            "one with torch.load, if you trust it, and save it as safetensors"
        )
    records = _records(data, path)
    pickles = [name for name in records if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise _RefusedError(f"a zip with {len(pickles)} files data.pkl; expected one")
    folder = pickles[0].removesuffix("data.pkl")
    order = records.get(f"{folder}byteorder")
    if order is not None and order.tobytes() != b"little":
        raise _RefusedError(
            f"byte order is {order[:16].tobytes()!r}; expected b'little'"
        )
    tensors, rest = {}, {}
    # As many values as the program has bytes: else a dict is in itself, or in many.
    budget = iter(range(len(records[pickles[0]])))
    for name, value in _walk(_Machine(records, folder).run(), (), budget):
        held = tensors if isinstance(value, np.ndarray) else rest
        if name in tensors or name in rest:
            raise _RefusedError(f"{name!r:.80} is there twice")
        held[name] = value
    return tensors, rest


def _records(data, path):
    """The files of the zip by name, as views of its bytes."""
    try:
        with zipfile.ZipFile(path) as opened:
            listed = opened.infolist()
    # Of a damaged list the package may raise anything.
    except Exception as error:
        raise _RefusedError(
            f"not a whole zip ({type(error).__name__}: {error!s:.80})"
        ) from (None)
    records = {}
    for each in listed:
        header = data[max(each.header_offset, 0) :][:30].tobytes()
        if each.compress_type != zipfile.ZIP_STORED or each.flag_bits & 1:
            raise _RefusedError(
                f"{each.filename!r:.80} is compressed; PyTorch's never are"
            )
        if each.filename in records:
            raise _RefusedError(f"{each.filename!r:.80} is there twice")
        # Name and extra field of the header before the bytes have their own lengths.
        name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
        start = each.header_offset + 30 + name + extra
        held = data[start : start + each.file_size]
        whole = len(held) == each.file_size == each.compress_size
        if header[:4] != b"PK\x03\x04" or each.header_offset < 0 or not whole:
            raise _RefusedError(f"{each.filename!r:.80} is truncated or damaged")
        records[each.filename] = held
    return records


class _Machine:
    """Runs the instructions of a pickle that dicts of tensors consist of."""

    def __init__(self, records, folder):
        self.records, self.folder = records, folder
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self):
        program = self.records[f"{self.folder}data.pkl"].tobytes()
        try:
            for opcode, argument, _ in pickletools.genops(program):
                if opcode.name == "STOP":
                    (value,) = self.stack
                    return value
                self.step(opcode.name, argument)
        # Too few values on the stack, an argument cut short, another type.
        except (LookupError, ValueError, TypeError, OverflowError) as error:
            raise _RefusedError(
                f"the pickle is damaged ({type(error).__name__}: {error!s:.80})"
            ) from None

    def step(self, name, argument):
        stack = self.stack
        if name in VALUES:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name]())
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(tuple(self.since_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(self.pop(int(name[-1]))))
        elif name in ("APPEND", "APPENDS"):
            items = self.pop(1) if name == "APPEND" else self.since_mark()
            _expect(stack[-1], list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self.pop(2) if name == "SETITEM" else self.since_mark()
            pairs = zip(items[::2], items[1::2], strict=True)
            _expect(stack[-1], dict).update(pairs)
        elif name == "GLOBAL":
            stack.append(_Global(argument))
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name == "REDUCE":
            function, arguments = self.pop(2)
            stack.append(self.call(function, arguments))
        elif name == "BUILD":
            # Modules leave the versions of their layers on their dict; no tensors.
            self.pop(1)
            _expect(stack[-1], dict)
        elif name != "PROTO":
            raise _RefusedError(f"a pickle with {name}, which no dict of tensors needs")

    def pop(self, count):
        if len(self.stack) < count + (self.marks[-1] if self.marks else 0):
            raise IndexError("too few values on the stack")
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken

    def since_mark(self):
        start = self.marks.pop()
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def call(self, function, arguments):
        name = _expect(function, _Global).name
        if name == "collections OrderedDict" and arguments == ():
            return {}
        if name == "torch._utils _rebuild_tensor_v2":
            return self.tensor(*arguments[:4])
        if name == "torch._utils _rebuild_parameter":
            return _expect(arguments[0], np.ndarray)
        raise _RefusedError(
            f"it calls {name!r:.80}; this reader knows dicts of tensors, numbers and "
            "texts. If you trust the file, open it with torch.load and save its "
            "tensors as safetensors"
        )

    def tensor(self, storage, offset, shape, strides):
        key, dtype, count = _expect(storage, _Storage)
        where = f"data/{key!s:.40}"
        held = self.records.get(f"{self.folder}data/{key}")
        if held is None or len(held) != count * dtype.itemsize:
            size = "no such file" if held is None else f"{len(held)} bytes"
            raise _RefusedError(
                f"{where} should be {count} of {dtype}; there is {size}"
            )
        numbers = (offset, *shape, *strides)
        if any(type(n) is not int or n < 0 for n in numbers):
            raise _RefusedError(
                f"a tensor of {where} has sizes and strides {numbers!r:.80}"
            )
        steps = zip(shape, strides, strict=True)
        last = offset + sum((n - 1) * step for n, step in steps)
        size = math.prod(shape)
        # Fewer than the storage holds: none is seen twice without end.
        if len(shape) > 32 or size > count or (size and last >= count):
            raise _RefusedError(
                f"a tensor of {where} has offset {offset!s:.40}, sizes {shape!r:.80} "
                f"and strides {strides!r:.80}, beyond its {count} numbers"
            )
        if not size:
            return np.zeros(shape, dtype)
        # The step of an axis of one is anything.
        steps = zip(shape, strides, strict=True)
        return np.lib.stride_tricks.as_strided(
            held.view(dtype)[offset:],
            shape,
            [step * dtype.itemsize if n > 1 else 0 for n, step in steps],
            writeable=False,
        )


def _storage(value):
    kind, found, key, _, count = _expect(value, tuple)
    module, _, name = _expect(found, _Global).name.partition(" ")
    if kind != "storage" or module != "torch" or name not in STORAGES:
        raise _RefusedError(
            f"numbers of type {module!r:.40}.{name!r:.40}; this reader knows "
            f"{', '.join(STORAGES)}"
        )
    if type(count) is not int or count < 0:
        raise _RefusedError(f"{key!r:.40} has {count!r:.40} numbers")
    return _Storage(_expect(key, str), STORAGES[name], count)


def _expect(value: Any, kind: type[T]) -> T:
    if type(value) is not kind:
        raise TypeError(f"{type(value).__name__} where a {kind.__name__} was expected")
    return value


def _walk(value, path, budget) -> Iterator[tuple[str, Any]]:
    """What dicts and lists hold, by name."""
    if len(path) > MAX_DEPTH or next(budget, None) is None:
        raise _RefusedError(f"{'.'.join(path)!r:.80} is a circle, or too deep")
    if isinstance(value, (_Global, _Storage)):
        raise _RefusedError(f"{'.'.join(path)!r:.80} is a {type(value).__name__[1:]}")
    if not isinstance(value, (dict, list, tuple)):
        if not path:
            raise _RefusedError(f"it holds one {type(value).__name__}; expected a dict")
        yield ".".join(path), value
        return
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for name, each in items:
        if type(name) not in (str, int):
            raise _RefusedError(f"a key is {name!r:.80}; expected a text or a number")
        yield from _walk(each, (*path, str(name)), budget)
