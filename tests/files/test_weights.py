"""Weight files: exact round trips, and refusal of everything else."""

import json
import pickle
import tracemalloc
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.files import CorruptFileError, export_weights, load_weights

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


def repacked(path, *, replace=None, rename=None, method=zipfile.ZIP_DEFLATED):
    """The file with some of its members changed, and right checksums."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, held in (members | (replace or {})).items():
            archive.writestr((rename or {}).get(name, name), held)


def header(path, **changes):
    with zipfile.ZipFile(path) as archive:
        held = json.loads(archive.read("header"))
    held["leaves"]["a"] |= changes
    return {"header": json.dumps(held)}


def npy(text):
    text = text.encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(8)


PLAIN = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }"


@pytest.mark.parametrize(
    "change",
    [
        lambda path: header(path, shape=[3]),
        lambda path: header(path, shape=[-1, -2]),
        lambda path: header(path, shape=[10**12]),
        lambda path: header(path, shape=None),
        lambda path: header(path, dtype="U100000000"),
        lambda path: header(path, stored="int32"),
        lambda path: header(path, dtype="int32", stored="int32"),
        lambda path: header(path, stored="object", dtype="object"),
        lambda path: {"a.npy": npy(PLAIN.replace("False", "True"))},
        lambda path: {"a.npy": npy(PLAIN.replace("(2,)", "(10**12,)"))},
        lambda path: {"a.npy": npy("(" * 5000)},
        lambda path: {"a.npy": npy(PLAIN)[:-1]},
        lambda path: {"a.npy": b""},
        lambda path: {"header": b'{"format":' * 50_000},
        lambda path: {"other": b"1"},
    ],
)
def test_members_that_do_not_fit_the_header_are_refused(path, change):
    export_weights(path, {"a": jnp.zeros(2)}, {})
    repacked(path, replace={"a.npy": npy(PLAIN)})
    np.testing.assert_array_equal(load_weights(path)[0]["a"], np.zeros(2, np.float32))
    repacked(path, replace=change(path))
    with pytest.raises(CorruptFileError, match=r"model\.npz"):
        load_weights(path)


def test_a_file_cannot_claim_more_memory_than_a_multiple_of_its_length(path):
    zeros = {"a": np.zeros(10**6, np.float32)}
    export_weights(path, zeros, {})
    np.testing.assert_array_equal(load_weights(path)[0]["a"], zeros["a"])
    repacked(path)
    assert path.stat().st_size < 20_000
    with pytest.raises(CorruptFileError, match=r"claims 4000\d+ bytes"):
        load_weights(path)
    export_weights(path, {"a": np.zeros(2)}, {})
    repacked(path, replace={"header": b" " * 2**25}, method=zipfile.ZIP_STORED)
    with pytest.raises(CorruptFileError, match="33554432 of them a header"):
        load_weights(path)
    with pytest.raises(ValueError, match="of 16777216"):
        export_weights(path, zeros, {"text": "a" * 2**25})


SIZE = 2**27 + 123_457


def test_a_member_that_expands_past_its_claim_is_not_expanded(path):
    export_weights(path, {"a": np.zeros(2, np.float32)}, {})
    repacked(path, replace={"a.npy": bytes(SIZE)})
    whole = bytearray(path.read_bytes())
    claim = SIZE.to_bytes(4, "little")
    for _ in range(2):  # In the member's own header, and in the directory.
        at = whole.index(claim)
        whole[at : at + 4] = (136).to_bytes(4, "little")
    path.write_bytes(whole)
    tracemalloc.start()
    with pytest.raises(CorruptFileError):
        load_weights(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22


def test_two_members_of_one_name_and_other_packings_are_refused(path):
    export_weights(path, {"a": jnp.zeros(2), "b": jnp.zeros(2)}, {})
    with pytest.warns(UserWarning, match="Duplicate"):
        repacked(path, rename={"b.npy": "a.npy"})
    with pytest.raises(CorruptFileError, match="two arrays of one name"):
        load_weights(path)
    export_weights(path, {"a": jnp.zeros(2)}, {})
    repacked(path, method=zipfile.ZIP_BZIP2)
    with pytest.raises(CorruptFileError, match="another method than deflate"):
        load_weights(path)


def test_arrays_in_another_order_are_written_in_ours(path):
    value = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    export_weights(path, {"a": value}, {})
    np.testing.assert_array_equal(load_weights(path)[0]["a"], value)


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


def test_types_that_the_file_cannot_hold_are_refused_when_written(path):
    with pytest.raises(ValueError, match="stored as float8_e4m3fn"):
        export_weights(path, params(), CONFIG, dtype=jnp.float8_e4m3fn)
    assert not path.exists()


def test_branches_without_leaves_come_back(path):
    tree = {"a": {"w": np.ones(2, np.float32), "none": {}}, "b": {"c": {"d": {}}}}
    export_weights(path, tree, CONFIG)
    got, _ = load_weights(path)
    assert jax.tree.structure(got) == jax.tree.structure(tree)
    assert (got["a"]["none"], got["b"]) == ({}, {"c": {"d": {}}})
