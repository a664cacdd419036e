"""No mutation of a weight file does more to a reader than make it refuse the file."""

import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.files import export_weights
from jaxlib_guidance.files._ggml import KINDS

SCRIPT = Path(__file__).parent / "fuzz_readers.py"

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="limits memory by Linux means"
)


def seeds(folder, write_gguf, write_safetensors, write_torch):
    """Small whole files of each format, with every kind of content."""
    rng = np.random.default_rng(0)
    params = {
        "block": {"kernel": jnp.asarray(rng.standard_normal((5, 3)), jnp.float32)},
        "half": jnp.ones(7, jnp.bfloat16),
        "count": jnp.arange(4),
        "zeros": np.zeros(9000),
    }
    config = {"kind": "dit", "betas": [0.9], "none": None}
    for kind in ("weights", "safetensors", "gguf", "torch"):
        (folder / kind).mkdir()
    weights = folder / "weights"
    export_weights(weights / "plain.safetensors", params, config)
    export_weights(weights / "half.safetensors", params, config, dtype=jnp.bfloat16)
    kinds = {"F32": 4, "BF16": 2, "U8": 1, "F8_E4M3": 1, "I64": 8, "BOOL": 1}
    tensors = {
        f"layer.{name}": (name, (30, 4), rng.bytes(120 * size))
        for name, size in kinds.items()
    }
    tensors["empty"] = ("F16", (0, 4), b"")
    whole = write_safetensors(tensors, {"format": "pt"})
    (folder / "safetensors" / "model").write_bytes(whole)
    metadata = {
        "general.architecture": "llama",
        "general.alignment": np.array(32, np.uint32),
        "tokenizer.tokens": ["a", "Ġb", ""],
        "tokenizer.scores": np.arange(3, dtype=np.float32),
        "on": np.array(True),
    }
    held = {
        f"blk.{kind.name}": (code, (2, kind.count), rng.bytes(2 * kind.size))
        for code, kind in KINDS.items()
        # Types of sums within ggml, which no file has and no package decodes.
        if kind.name not in ("Q8_1", "Q8_K")
    }
    (folder / "gguf" / "model").write_bytes(write_gguf(held, metadata))
    write, tensor = write_torch
    kinds = {"Float": 4, "Half": 2, "Long": 8, "Bool": 1}
    held = {
        f"layer.{kind}": tensor(kind, str(size), 900, 4, (3, 4), (4, 1))
        for kind, size in kinds.items()
    }
    tree = {"model": held, "step": 7, "betas": [0, 1], "more": {"name": "adam"}}
    storages = {str(size): rng.bytes(900 * size) for size in kinds.values()}
    write(folder / "torch" / "model", tree, storages)


@pytest.mark.parametrize(
    "mutations", [500, pytest.param(40_000, marks=pytest.mark.slow)]
)
def test_mutated_files_are_read_or_refused(
    tmp_path, write_gguf, write_safetensors, write_torch, mutations
):
    seeds(tmp_path, write_gguf, write_safetensors, write_torch)
    command = [sys.executable, SCRIPT, tmp_path, "--mutations", str(mutations)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=20 + mutations / 20
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    print(found)
    assert found["failures"] == 0, found["first_failures"]
    # The mutations reach both outcomes of each reader, many times.
    for kind in ("weights", "safetensors", "gguf", "torch"):
        assert min(found["counts"][kind].values()) > mutations / 100
    assert found["slowest_s"] < 2
    assert found["memory_grown_mb"] < 64
