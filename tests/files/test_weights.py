"""Weight files: exact round trips, and refusal of everything else."""

import json
import pickle

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file, save_file

from jaxlib_guidance.files import CorruptFileError, export_weights, load_weights
from jaxlib_guidance.files._weights import ABOUT, FORMAT, _checksum

CONFIG = {"width": 8, "kind": "dit", "betas": [0.9, 0.99], "none": None, "é": "ü"}


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
    return tmp_path / "deep" / "model.safetensors"


def assert_same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)


def test_round_trip_is_exact(path):
    export_weights(path, params(), CONFIG)
    got, config = load_weights(path)
    assert config == CONFIG
    assert_same(got, params())
    assert list(got) == ["block0", "half", "count"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_the_package_safetensors_reads_it_as_it_is(path):
    export_weights(path, params(), CONFIG)
    got, want = load_file(path), params()
    assert set(got) == {"block0/kernel", "block0/scalar", "half", "count"}
    np.testing.assert_array_equal(got["block0/kernel"], want["block0"]["kernel"])
    assert got["half"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(got["half"], want["half"])
    with safetensors.safe_open(path, "np") as file:
        assert json.loads(file.metadata()["jaxlib_guidance"])["config"] == CONFIG


@pytest.mark.parametrize(
    "tree",
    [
        {"a.b": np.arange(3), "a": {"b": 10 * np.arange(3)}},
        {"h.0.w": np.ones(2), "h": {"0": {"w": np.zeros(2)}, "0.w": np.full(2, 3.0)}},
        {"a.": np.ones(1), "a": {".": np.zeros(1)}},
        {"None": np.zeros((0,), bool), "b": np.zeros((4, 0)), "c": np.zeros((0, 4))},
        {"scalar": np.array(2.5), "flag": np.array(True), "gap": np.zeros((2, 0, 3))},
        {"low": np.arange(4).astype(ml_dtypes.float8_e4m3fn), "c": np.ones(2, "c8")},
        {"a": {"__metadata__": np.ones(2)}, "none": {}, "b": {"c": {"d": {}}}},
    ],
)
def test_names_with_dots_and_arrays_of_no_elements_come_back(path, tree):
    export_weights(path, tree, CONFIG)
    assert_same(load_weights(path)[0], tree)


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
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    # The header, where a byte may be space, and the data.
    for place in [*rng.integers(0, header, 60), *rng.integers(header, len(whole), 30)]:
        broken = bytearray(whole)
        broken[place] ^= 0x10
        path.write_bytes(broken)
        with pytest.raises(CorruptFileError, match=r"model\.safetensors"):
            load_weights(path)


@pytest.mark.parametrize("cut", [0, 10, 0.5, 0.98])
def test_truncated_files_are_refused(path, cut):
    export_weights(path, params(), CONFIG)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(cut * len(whole)) if cut < 1 else cut])
    with pytest.raises(CorruptFileError, match=r"model\.safetensors"):
        load_weights(path)


def test_foreign_files_are_refused_and_not_executed(path, tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights at"):
        load_weights(path)
    other = tmp_path / "other.safetensors"
    save_file({"a": np.ones(3)}, other)
    with pytest.raises(CorruptFileError, match="not a weights file"):
        load_weights(other)
    other.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CorruptFileError, match="not a safetensors file"):
        load_weights(other)
    np.savez(tmp_path / "old.npz", a=np.ones(3))
    with pytest.raises(CorruptFileError, match="not a safetensors file"):
        load_weights(tmp_path / "old.npz")
    save_file({"a": np.ones(3)}, other, {ABOUT: json.dumps({"format": "another"})})
    with pytest.raises(CorruptFileError, match="format 'another'"):
        load_weights(other)


def signed(path, held, **changes):
    """A file whose checksum is right and whose header need not be."""
    about = {"format": FORMAT, "config": {}, "leaves": {}, "empty": []}
    about["leaves"] = {
        name: {"shape": [*leaf.shape], "dtype": leaf.dtype.name, "stored": "float32"}
        for name, leaf in held.items()
    }
    about |= changes
    about["crc32"] = _checksum(about, held)
    save_file(held, path, {ABOUT: json.dumps(about)})


def leaf(**changes):
    return {"a": {"shape": [2], "dtype": "float32", "stored": "float32"} | changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"leaves": leaf(shape=[3])}, "does not match"),
        ({"leaves": leaf(shape=None)}, "does not match"),
        ({"leaves": leaf(dtype="U100000000")}, "does not match"),
        ({"leaves": leaf(dtype="int32")}, "does not match"),
        ({"leaves": leaf(dtype="int32", stored="int32")}, "does not match"),
        ({"leaves": leaf(dtype="object", stored="object")}, "does not match"),
        ({"leaves": leaf(stored="bfloat16")}, "does not match"),
        ({"empty": ["a"]}, "there twice"),
        ({"empty": ["a/b"]}, "is damaged"),
        ({"empty": 7}, "is damaged"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(tmp_path, changes, message):
    path = tmp_path / "model.safetensors"
    held = {"a": np.ones(2, np.float32)}
    signed(path, held)
    assert_same(load_weights(path)[0], held)
    signed(path, held, **changes)
    with pytest.raises(CorruptFileError, match=rf"(?s)model\.safetensors.*{message}"):
        load_weights(path)


def test_two_leaves_of_one_name_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    signed(path, {"a/b": np.ones(2, np.float32), "a": np.ones(2, np.float32)})
    with pytest.raises(CorruptFileError, match="a is there twice"):
        load_weights(path)


def test_arrays_the_header_does_not_list_are_refused(path):
    export_weights(path, {"a": np.ones(2)}, {})
    with safetensors.safe_open(path, "np") as file:
        about = file.metadata()
    save_file({"a": np.ones(2), "b": np.ones(2)}, path, about)
    with pytest.raises(CorruptFileError, match="does not hold the arrays"):
        load_weights(path)


def test_arrays_in_another_order_are_written_in_ours(path):
    value = np.arange(6.0).reshape(2, 3)
    held = {"axes": np.asfortranarray(value), "bytes": value.astype(">f8")}
    export_weights(path, held | {"part": value[:, ::2]}, {})
    got, _ = load_weights(path)
    np.testing.assert_array_equal(got["axes"], value)
    np.testing.assert_array_equal(got["bytes"], value)
    np.testing.assert_array_equal(got["part"], value[:, ::2])


def test_a_failed_write_leaves_the_old_file(path, monkeypatch):
    export_weights(path, params(), CONFIG)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        export_weights(path, params(), {"bad": object()})
    with pytest.raises(ValueError, match=r"list; expected nested dicts"):
        export_weights(path, {"a": [1.0]}, CONFIG)
    for name in ("a/b", "", 3):
        with pytest.raises(ValueError, match="expected a word"):
            export_weights(path, {name: jnp.ones(1)}, CONFIG)
    for tree in (jnp.ones(1), {"__metadata__": jnp.ones(1)}):
        with pytest.raises(ValueError, match="expected nested dicts of arrays"):
            export_weights(path, tree, CONFIG)
    with pytest.raises(ValueError, match="of 16777216"):
        export_weights(path, params(), {"text": "a" * 2**25})

    def full(leaves, to, metadata):
        with open(to, "wb") as file:
            file.write(b"half of it")
        raise safetensors.SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr("jaxlib_guidance.files._weights.save_file", full)
    with pytest.raises(OSError, match=r"model\.safetensors could not .*No space left"):
        export_weights(path, params(), CONFIG)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]


def test_what_the_file_cannot_hold_is_refused_by_name_when_written(path):
    for kind, value in (
        ("float8_e4m3b11fnuz", np.ones(2).astype(ml_dtypes.float8_e4m3b11fnuz)),
        ("int4", jnp.ones(2, jnp.int4)),
        ("complex128", np.ones(2, np.complex128)),
        ("object", np.array([{}, 1], object)),
        (r"key<fry>", jax.random.key(0)),
    ):
        with pytest.raises(ValueError, match=f"a/b would be stored as {kind}"):
            export_weights(path, {"a": {"b": value}}, CONFIG)
    with pytest.raises(ValueError, match="dtype is int32; expected a floating type"):
        export_weights(path, params(), CONFIG, dtype=jnp.int32)
    with pytest.raises(ValueError, match=r"model\.npz'; expected .*safetensors"):
        export_weights(path.with_suffix(".npz"), params(), CONFIG)
    assert not path.parent.exists()


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    export_weights("~/runs/model.safetensors", params(), CONFIG)
    assert [p.name for p in tmp_path.iterdir()] == ["home"]
    assert_same(load_weights("~/runs/model.safetensors")[0], params())
