"""Eight virtual CPU devices and strict dtype promotion, set before jax is used.

The suite compiles much and computes little, so XLA optimises little here and in the
processes that tests start; ``JAX_DISABLE_MOST_OPTIMIZATIONS=0 pytest`` compiles as
users do, in twice the time.

Also writers of foreign weight files, by the formats' definitions, not by our readers.
"""

import atexit
import functools
import gc
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

# Before jax reads it: programs compiled once serve both workers and the processes that
# tests start, for this run alone.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jax_cache_")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    atexit.register(
        shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True
    )

import jax
import numpy as np
import pytest
from jax._src.interpreters import mlir

if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    jax.config.update("jax_disable_most_optimizations", True)
    # A version that does not know a flag refuses it. Programs are small: to divide one
    # among threads that compile it is a third more work.
    flags = {
        "--xla_cpu_use_fusion_emitters=false": (0, 11),
        "--xla_cpu_parallel_codegen_split_count=1": (0, 13),
    }
    known = [flag for flag, end in flags.items() if jax.__version_info__ < end]
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *known])
# A compilation makes a context of MLIR, where one would do: a twentieth of the work.
if hasattr(mlir, "make_ir_context"):
    mlir.make_ir_context = functools.cache(mlir.make_ir_context)
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Files that take longest, which begin first: one left to the end idles a worker.
LONGEST = (
    "recipes/test_notebooks.py",
    "test_docs.py",
    "recipes/test_timeseries.py",
    "recipes/test_train_reason.py",
    "test_doors.py",
    "laws/test_sampling_laws.py",
    "laws/test_guidance_laws.py",
    "sampling/test_recurrence.py",
    "sampling/test_cutting.py",
    "recipes/test_train_images.py",
    "recipes/test_train_selfplay.py",
    "multiprocess/test_topologies.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of the cases of a test marked ``share(n)`` every n-th runs, the others are slow.

    And the longest files first, then those of most tests, as xdist itself would do.
    """
    cases = Counter()
    for item in items:
        if share := item.get_closest_marker("share"):
            test = item.nodeid.partition("[")[0]
            if cases[test] % share.args[0]:
                item.add_marker(pytest.mark.slow)
            cases[test] += 1
    here = Path(__file__).parent
    place = {here / name: number for number, name in enumerate(LONGEST)}
    tests = Counter(item.path for item in items)
    items.sort(key=lambda i: (place.get(i.path, len(place)), -tests[i.path]))


def pytest_collection_finish():
    """What is imported by now stays: the garbage collector need not go through it.

    Nor through what a test has just traced, each 700 objects.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


SCALARS = {
    np.uint8: 0, np.int8: 1, np.uint16: 2, np.int16: 3, np.uint32: 4, np.int32: 5,
    np.float32: 6, np.bool_: 7, np.uint64: 10, np.int64: 11, np.float64: 12,
}  # fmt: skip


def safetensors_bytes(tensors, metadata=None):
    """``tensors`` is ``{name: (type, shape, bytes)}``."""
    header, at = {} if metadata is None else {"__metadata__": metadata}, 0
    for name, (kind, shape, held) in tensors.items():
        offsets = [at, at + len(held)]
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": offsets}
        at += len(held)
    text = json.dumps(header).encode()
    data = b"".join(held for _, _, held in tensors.values())
    return struct.pack("<Q", len(text)) + text + data


def _text(value):
    held = value.encode()
    return struct.pack("<Q", len(held)) + held


def _value(value):
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value, list):
        head = struct.pack("<IIQ", 9, 8, len(value))
        return head + b"".join(map(_text, value))
    code = SCALARS[value.dtype.type]
    if value.ndim:
        return struct.pack("<IIQ", 9, code, len(value)) + value.tobytes()
    return struct.pack("<I", code) + value.tobytes()


def gguf_bytes(tensors, metadata, *, version=3, alignment=32):
    """``tensors`` is ``{name: (type code, shape, bytes)}``, shape as numpy has it."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for name, value in metadata.items():
        head += _text(name) + _value(value)
    data = b""
    for name, (kind, shape, held) in tensors.items():
        sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        head += _text(name) + sizes + struct.pack("<IQ", kind, len(data))
        data += held + bytes(-len(held) % alignment)
    return head + bytes(-len(head) % alignment) + data


# How a pickle of protocol 2 says the things that are in a file of PyTorch.
PICKLED = {
    type(None): lambda _: b"N",
    bool: lambda value: b"\x88" if value else b"\x89",
    int: lambda value: b"J" + struct.pack("<i", value),
    str: lambda value: b"X" + struct.pack("<I", len(value.encode())) + value.encode(),
    bytes: lambda value: value,
    tuple: lambda value: b"(" + b"".join(map(pickled, value)) + b"t",
    list: lambda value: b"](" + b"".join(map(pickled, value)) + b"e",
    dict: lambda value: b"}(" + b"".join(pickled(x) for p in value.items() for x in p)
    + b"u",
}  # fmt: skip


def pickled(value):
    """Instructions that push a value; bytes are instructions already."""
    return PICKLED[type(value)](value)


def torch_file(path, tree, storages, *, program=None, order=b"little"):
    """A zip as torch.save makes it.

    ``tree`` is of dicts, lists, texts and numbers, with instructions from
    `torch_tensor` for tensors, and ``storages`` is ``{key: bytes}``.
    """
    with zipfile.ZipFile(path, "w") as file:
        whole = b"\x80\x02" + pickled(tree) + b"."
        file.writestr("archive/data.pkl", whole if program is None else program)
        file.writestr("archive/byteorder", order)
        for key, held in storages.items():
            file.writestr(f"archive/data/{key}", held)
        file.writestr("archive/version", b"3\n")


def torch_tensor(kind, key, count, offset, shape, strides):
    """Instructions that make a tensor of a storage."""
    storage = ("storage", f"ctorch\n{kind}Storage\n".encode(), key, "cpu", count)
    hooks = b"ccollections\nOrderedDict\n)R"
    arguments = (pickled(storage) + b"Q", offset, shape, strides, False, hooks)
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + pickled(arguments) + b"R"


@pytest.fixture(scope="session")
def write_torch():
    """``(write(path, tree, storages), tensor(...))``."""
    return torch_file, torch_tensor


@pytest.fixture(scope="session")
def write_safetensors():
    return safetensors_bytes


@pytest.fixture(scope="session")
def write_gguf():
    return gguf_bytes


@pytest.fixture(scope="module")
def interpreter(request):
    """Another interpreter, in the checkout: ``(code, name, fork) -> (passed, output)``.

    A module's ``PRELOADED`` names what is imported in it before any code is run.
    """
    script = Path(__file__).with_name("_interpreter.py")
    server = subprocess.Popen(
        (sys.executable, script, *getattr(request.module, "PRELOADED", ())),
        cwd=script.parents[1],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def run(code, name="<test>", fork=False):
        server.stdin.write(json.dumps([code, name, fork]) + "\n")
        server.stdin.flush()
        line = server.stdout.readline()
        assert line, f"the interpreter of {name} ended"
        return json.loads(line)

    with server:
        yield run
        server.stdin.close()
