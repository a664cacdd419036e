"""Tiny published folders, from a record that is small enough to keep.

A record has the JSON and text files of a folder, and the names and shapes of its
tensors; the numbers in these follow from their names. So a folder that PyTorch wrote
can be written again without it, and only the outputs need be stored.
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

GOLDENS = Path(__file__).parent / "goldens"


def random_tensor(name, shape):
    """Numbers that follow from the name, so that a swapped tensor is noticed.

    Kernels keep the size of what they are applied to; norms are about 1 and biases
    about 0, but neither is just that, as PyTorch's own start is.
    """
    # One for all layers: of several diffusers 0.42 with peft 0.21 ignores some.
    if name.endswith(".alpha"):
        return np.full(shape, 3, np.float32)
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) >= 2:
        values /= np.sqrt(np.prod(shape[1:]))
    else:
        values = 0.1 * values + name.endswith("weight")
    return values.astype(np.float32)


def randomise(folder):
    """Gives all floating tensors of a folder's safetensors files new numbers."""
    for path in Path(folder).rglob("*.safetensors"):
        held = load_file(path)
        new = {
            name: random_tensor(name, a.shape) if a.dtype.kind == "f" else a
            for name, a in held.items()
        }
        save_file(new, path, metadata={"format": "pt"})


def record_of(folder):
    """What `write_folder` needs to write the folder again."""
    files, tensors = {}, {}
    for path in sorted(Path(folder).rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".safetensors":
            held = load_file(path)
            assert all(a.dtype == np.float32 for a in held.values()), name
            tensors[name] = {n: list(a.shape) for n, a in held.items()}
        elif path.is_file():
            files[name] = path.read_text(encoding="utf-8")
    return {"files": files, "tensors": tensors}


def write_folder(record, folder):
    """Writes a folder of a record."""
    folder = Path(folder)
    for name, text in record["files"].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    for name, shapes in record["tensors"].items():
        tensors = {n: random_tensor(n, shape) for n, shape in shapes.items()}
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / name, metadata={"format": "pt"})


def write_golden(name, folder, arrays):
    """Stores the record of a folder and what its networks gave."""
    text = json.dumps(record_of(folder)).encode()
    held = {key: np.asarray(a) for key, a in arrays.items()}
    GOLDENS.mkdir(exist_ok=True)
    path = GOLDENS / f"{name}.npz"
    np.savez_compressed(path, record=np.frombuffer(text, np.uint8), **held)
    return path


def read_golden(name):
    """``(record, arrays)`` of a stored golden."""
    with np.load(GOLDENS / f"{name}.npz") as held:
        arrays = dict(held)
    return json.loads(arrays.pop("record").tobytes()), arrays


if __name__ == "__main__":
    # python tests/parity/published_files.py sd15 tiny-sd: a folder to try commands on.
    write_folder(read_golden(sys.argv[1])[0], sys.argv[2])
