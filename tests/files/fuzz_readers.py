"""Mutates weight files under a memory limit and reads them; prints counts as JSON.

    python tests/files/fuzz_readers.py FOLDER --mutations 1500

FOLDER holds folders of whole files: weights, safetensors, gguf, torch. Whatever is done
to them, a reader may give arrays or raise CorruptFileError; everything else is a
failure, as is a read that takes long or much memory. `test_fuzz_readers.py` makes the
folder and runs this.
"""

import argparse
import io
import json
import re
import resource
import tempfile
import time
import traceback
import zipfile
from pathlib import Path

import numpy as np

from jaxlib_guidance.files import (
    CorruptFileError,
    load_gguf,
    load_safetensors,
    load_torch,
    load_weights,
)
from jaxlib_guidance.files._weights import ABOUT, _checksum

HEADROOM = 256 * 2**20
HUGE = (0, 1, 7, 2**16, 2**31 - 1, 2**32 - 1, 2**33, 2**62, 2**63, 2**64 - 1)


def touch(tree):
    if isinstance(tree, np.ndarray):
        tree.tobytes()
    else:
        for name in tree:
            touch(tree[name])


READERS = {
    "weights": lambda path: touch(load_weights(path)[0]),
    "safetensors": lambda path: touch(load_safetensors(path)[0]),
    "gguf": lambda path: touch(load_gguf(path)[0]),
    "torch": lambda path: touch(load_torch(path)[0]),
}


def flip(rng, data):
    for _ in range(rng.integers(1, 9)):
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)


def overwrite(rng, data):
    at, size = rng.integers(len(data)), rng.integers(1, 17)
    data[at : at + size] = rng.bytes(size)


def truncate(rng, data):
    del data[rng.integers(len(data)) :]


def insert(rng, data):
    at = rng.integers(len(data) + 1)
    data[at:at] = rng.bytes(rng.integers(1, 65))


def delete(rng, data):
    at = rng.integers(len(data))
    del data[at : at + rng.integers(1, 65)]


def repeat(rng, data):
    at, size = rng.integers(len(data)), rng.integers(1, 257)
    data[at:at] = data[at : at + size]


def claim(rng, data):
    """A count or an offset becomes a boundary value, in binary or in digits."""
    value = HUGE[rng.integers(len(HUGE))]
    numbers = list(re.finditer(rb"\d+", data))
    if numbers and rng.random() < 0.5:
        place = numbers[rng.integers(len(numbers))].span()
        data[slice(*place)] = str(value * (-1) ** int(rng.integers(2))).encode()
    else:
        size = (4, 8)[rng.integers(2)]
        at = rng.integers(len(data))
        data[at : at + size] = value.to_bytes(8, "little")[:size]


def swap(rng, data):
    size, last = 8, len(data) - 8
    if last > size:
        a, b = sorted(int(n) for n in rng.integers(last, size=2))
        data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


def nest(rng, data):
    at = rng.integers(len(data))
    data[at:at] = (b"[", b'{"a":', b"(", b"-")[rng.integers(4)] * 20_000


CHANGES = (flip, overwrite, truncate, insert, delete, repeat, claim, swap, nest)


def mutate(rng, whole):
    data = bytearray(whole)
    for _ in range(1 + rng.integers(4) // 2):
        if data:
            CHANGES[rng.integers(len(CHANGES))](rng, data)
    return bytes(data)


def mutate_inside(rng, whole):
    """Past the checksum: the JSON text is changed, and signed where it still is one."""
    start = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:start])
    text = mutate(rng, header["__metadata__"][ABOUT].encode()).decode(errors="replace")
    try:
        about = json.loads(text)
        leaves = {
            name: np.frombuffer(whole, np.uint8)[start:][slice(*each["data_offsets"])]
            for name, each in header.items()
            if name != "__metadata__"
        }
        text = json.dumps(about | {"crc32": _checksum(about, leaves)})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    header["__metadata__"][ABOUT] = text
    held = json.dumps(header).encode()
    return len(held).to_bytes(8, "little") + held + whole[start:]


def mutate_pickle(rng, whole):
    """Within a zip that is whole: its program is changed, in place or in length."""
    held = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(held, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, mutate(rng, data) if name.endswith(".pkl") else data)
    return held.getvalue()


INSIDE = {"weights": mutate_inside, "torch": mutate_pickle}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mutations", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    files = sorted(options.folder.glob("*/*"))
    seeds = [(path.parent.name, path.read_bytes()) for path in files]
    counts = {kind: {"read": 0, "refused": 0} for kind, _ in seeds}
    failures, slowest = [], 0.0
    status = Path("/proc/self/status").read_text()
    in_use = int(re.search(r"VmSize:\s+(\d+) kB", status)[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (in_use + HEADROOM, -1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        for i in range(options.mutations):
            kind, whole = seeds[i % len(seeds)]
            inside = kind in INSIDE and rng.random() < 0.5
            data = (INSIDE[kind] if inside else mutate)(rng, whole)
            path = Path(folder) / "mutated"
            path.write_bytes(data)
            start = time.perf_counter()
            try:
                READERS[kind](path)
                counts[kind]["read"] += 1
            except CorruptFileError:
                counts[kind]["refused"] += 1
            except BaseException:
                failures.append(f"mutation {i}, {kind}: {traceback.format_exc()}")
            slowest = max(slowest, time.perf_counter() - start)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(
        json.dumps(
            {
                "mutations": options.mutations,
                "counts": counts,
                "failures": len(failures),
                "first_failures": failures[:3],
                "slowest_s": round(slowest, 4),
                "memory_grown_mb": round(grown / 1024, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
