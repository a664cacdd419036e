"""Weight files: exact round trips, and refusal of everything else."""

import json
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.models.weights import (
    CorruptFileError,
    export_weights,
    load_weights,
)

CONFIG = {"width": 8, "kind": "dit", "betas": [0.9, 0.99], "none": None}


def params():
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "block0": {
            "kernel": jax.random.normal(keys[0], (40, 30)),
            "scalar": jnp.ones(()),
        },
        "half": jax.random.normal(keys[1], (7,), jnp.bfloat16),
        "count": jnp.arange(5),
    }


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "model.npz"


def test_round_trip_is_exact(path):
    export_weights(path, params(), CONFIG)
    got, config = load_weights(path)
    assert config == CONFIG
    assert jax.tree.structure(got) == jax.tree.structure(params())
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(params()), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("dtype", "tol"), [(jnp.bfloat16, 2**-8), (jnp.float16, 2**-11)]
)
def test_half_the_size_rounds_and_gives_the_type_back(path, dtype, tol):
    export_weights(path, params(), CONFIG)
    full = path.stat().st_size
    export_weights(path, params(), CONFIG, dtype=dtype)
    assert path.stat().st_size < 0.65 * full
    got, _ = load_weights(path)
    want = params()["block0"]["kernel"]
    assert got["block0"]["kernel"].dtype == np.float32
    np.testing.assert_allclose(got["block0"]["kernel"], want, rtol=tol, atol=1e-6)
    np.testing.assert_array_equal(
        got["block0"]["kernel"], want.astype(dtype).astype(jnp.float32)
    )
    np.testing.assert_array_equal(got["count"], np.arange(5))


def test_every_flipped_byte_is_noticed(path):
    export_weights(path, params(), CONFIG)
    whole, want = path.read_bytes(), load_weights(path)
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(whole), 60):
        broken = bytearray(whole)
        broken[place] ^= 0x10
        path.write_bytes(broken)
        try:
            got = load_weights(path)
        except CorruptFileError:
            continue
        # A byte that nobody reads, such as a date, may change; no value may.
        assert got[1] == want[1]
        jax.tree.map(np.testing.assert_array_equal, got[0], want[0])


@pytest.mark.parametrize("cut", [0, 10, 0.5, 0.98])
def test_truncated_files_are_refused(path, cut):
    export_weights(path, params(), CONFIG)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(cut * len(whole)) if cut < 1 else cut])
    with pytest.raises(CorruptFileError, match=r"model\.npz"):
        load_weights(path)


def test_foreign_files_are_refused_and_not_executed(path, tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights at"):
        load_weights(path)
    other = tmp_path / "other.npz"
    np.savez(other, a=np.ones(3))
    with pytest.raises(CorruptFileError, match="not a weights file"):
        load_weights(other)
    other.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CorruptFileError, match="not a weights file"):
        load_weights(other)
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("header", json.dumps({"format": "something.else"}))
    with pytest.raises(CorruptFileError, match=r"format 'something\.else'"):
        load_weights(other)


def test_arrays_of_objects_are_not_unpickled(path):
    export_weights(path, {"a": jnp.ones(2)}, {})
    with zipfile.ZipFile(path) as archive:
        header = archive.read("header")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header", header)
        with archive.open("a.npy", "w") as file:
            np.lib.format.write_array(file, np.array([{}, 1], object))
    with pytest.raises(CorruptFileError):
        load_weights(path)


def test_a_failed_write_leaves_the_old_file(path):
    export_weights(path, params(), CONFIG)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        export_weights(path, params(), {"bad": object()})
    with pytest.raises(ValueError, match=r"list; expected nested dicts"):
        export_weights(path, {"a": [1.0]}, CONFIG)
    with pytest.raises(ValueError, match="expected a word"):
        export_weights(path, {"a/b": jnp.ones(1)}, CONFIG)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["model.npz"]
