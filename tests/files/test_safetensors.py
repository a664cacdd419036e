"""Safetensors: every type as it was written, and refusal of everything else."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxlib_guidance.files import CorruptFileError, load_safetensors

# Types by their names in the format's definition.
KINDS = {
    "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16,
    "U32": np.uint32, "I32": np.int32, "U64": np.uint64, "I64": np.int64,
    "F16": np.float16, "F32": np.float32, "F64": np.float64, "C64": np.complex64,
    "BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2, "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz, "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
}  # fmt: skip
A = ("F32", (2, 3), np.arange(6, dtype=np.float32).tobytes())
B = ("U8", (4,), bytes(4))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def raw(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_every_type_comes_back_bit_for_bit(path, write_safetensors):
    values = {k: np.arange(6).reshape(2, 3).astype(dtype) for k, dtype in KINDS.items()}
    values |= {"scalar": np.float32(2.5), "empty": np.zeros((0, 7), np.float32)}
    tensors = {
        name: (name if name in KINDS else "F32", value.shape, value.tobytes())
        for name, value in values.items()
    }
    path.write_bytes(write_safetensors(tensors, {"format": "np"}))
    got, metadata = load_safetensors(path)
    assert metadata == {"format": "np"}
    assert list(got) == list(values)
    for name, value in values.items():
        assert got[name].dtype == value.dtype
        assert got[name].shape == value.shape
        assert got[name].tobytes() == value.tobytes()
        assert not got[name].flags.writeable


def test_what_the_reference_writes_is_read(path):
    rng = np.random.default_rng(0)
    values = {
        "a": rng.standard_normal((3, 4)).astype(np.float32),
        "b.c": rng.integers(-5, 5, (2,)),
        "half": rng.standard_normal((5, 1)).astype(np.float16),
        "bits": np.array([[True, False]]),
        "none": np.zeros((0,), np.float64),
    }
    save_file(values, path, {"note": "é"})
    got, metadata = load_safetensors(path)
    assert metadata == {"note": "é"}
    assert set(got) == set(values)
    for name, value in values.items():
        assert got[name].dtype == value.dtype
        np.testing.assert_array_equal(got[name], value)


def entry(**changes):
    about = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}
    return {"a": about | changes}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04", "header too small"),
        (struct.pack("<Q", 2**63) + b"{}", "header too large"),
        (raw(b"[]"), "invalid JSON"),
        (raw(b"{"), "invalid JSON"),
        (raw(b'{"\xff": 1}'), "invalid UTF-8"),
        (raw(b'{"a":' + b"[" * 100_000), "invalid JSON"),
        (raw({"__metadata__": {"a": 1}}), "expected a string"),
        (raw({"a": 1}), "invalid JSON"),
        (raw({"a": {"dtype": "U8", "shape": [4]}}, bytes(4)), "missing field"),
        (raw(entry(dtype="O"), bytes(4)), "unknown variant `O`"),
        (raw(entry(dtype="F4", data_offsets=[0, 2]), bytes(2)), "F4, which numpy"),
        (raw(entry(dtype="F4"), bytes(4)), "is damaged"),
        (raw(entry(shape=[True, 4]), bytes(4)), "boolean"),
        (raw(entry(shape=[-2, -2]), bytes(4)), "invalid value"),
        (raw(entry(shape=[4.0]), bytes(4)), "floating point"),
        (raw(entry(shape=[1] * 65, data_offsets=[0, 1]), bytes(1)), r"U8\[1, 1"),
        (raw(entry(shape=[2**40]), bytes(4)), "invalid shape"),
        (raw(entry(shape=[2**62, 2**62, 0], data_offsets=[0, 0])), "overflow"),
        (raw(entry(shape=[2**62, 1, 0], dtype="F64", data_offsets=[0, 0])), "a.* F64"),
        (raw(entry(), bytes(3)), "not fully covered"),
        (raw(entry(data_offsets=[4, 0]), bytes(4)), "invalid offset"),
        (raw(entry(), bytes(5)), "not fully covered"),
        (raw(entry(data_offsets=[1, 5]), bytes(5)), "invalid offset"),
        (raw(entry() | {"b": entry()["a"]}, bytes(4)), "invalid offset"),
    ],
)
def test_what_is_not_as_it_says_is_refused_by_name(path, content, message):
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match=message) as error:
        load_safetensors(path)
    assert "model.safetensors" in str(error.value)


def test_truncated_files_are_refused_at_every_length(path, write_safetensors):
    whole = write_safetensors({"a": A, "b": B})
    path.write_bytes(whole)
    assert set(load_safetensors(path)[0]) == {"a", "b"}
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptFileError):
            load_safetensors(path)


def test_no_file(path):
    with pytest.raises(FileNotFoundError, match="no weights at"):
        load_safetensors(path)
