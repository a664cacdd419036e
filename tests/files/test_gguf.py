"""GGUF: blocks decoded as the format defines them, and refusal of everything else."""

import struct
import sys

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf import quants

from jaxlib_guidance.files import CorruptFileError, load_gguf
from jaxlib_guidance.files._ggml import KINDS

CODES = {kind.name: code for code, kind in KINDS.items()}
F32 = CODES["F32"]


def half(block, at):
    return struct.unpack_from("<e", block, at)[0]


def nibble(block, at, j):
    """Number j of 32: low halves of 16 bytes, then the high halves."""
    byte = block[at + j % 16]
    return byte & 15 if j < 16 else byte >> 4


def six_bits(packed, i):
    """Scale and minimum of group i, from the 12 bytes of a K-quant."""
    if i < 4:
        return packed[i] & 63, packed[i + 4] & 63
    low = packed[i + 4]
    return (low & 15) | (packed[i - 4] >> 6) << 4, (low >> 4) | (packed[i] >> 6) << 4


def q4_k(block, fifth=None):
    d, d_min, at = half(block, 0), half(block, 2), 16 if fifth is None else 48
    for j in range(256):
        group, within = divmod(j, 32)
        scale, minimum = six_bits(block[4:16], group)
        byte = block[at + 32 * (group // 2) + within]
        number = byte >> 4 if group % 2 else byte & 15
        if fifth is not None:
            number += (block[16 + within] >> group & 1) << 4
        yield d * scale * number - d_min * minimum


def q6_k(block):
    d = half(block, 208)
    for j in range(256):
        upper, within = divmod(j, 128)
        quarter, column = divmod(within, 32)
        low = block[64 * upper + 32 * (quarter % 2) + column]
        low = low >> 4 if quarter >= 2 else low & 15
        high = block[128 + 32 * upper + column] >> 2 * quarter & 3
        scale = struct.unpack_from("b", block, 192 + j // 16)[0]
        yield d * scale * ((low | high << 4) - 32)


def fifth(block, at, j):
    return (struct.unpack_from("<I", block, at)[0] >> j & 1) << 4


# One block of each type, number by number, from the layouts in ggml-common.h.
BLOCKS = {
    "Q4_0": lambda b: (half(b, 0) * (nibble(b, 2, j) - 8) for j in range(32)),
    "Q4_1": lambda b: (half(b, 0) * nibble(b, 4, j) + half(b, 2) for j in range(32)),
    "Q5_0": lambda b: (
        half(b, 0) * ((nibble(b, 6, j) | fifth(b, 2, j)) - 16) for j in range(32)
    ),
    "Q5_1": lambda b: (
        half(b, 0) * (nibble(b, 8, j) | fifth(b, 4, j)) + half(b, 2) for j in range(32)
    ),
    "Q8_0": lambda b: (half(b, 0) * q for q in struct.unpack_from("32b", b, 2)),
    "Q4_K": q4_k,
    "Q5_K": lambda b: q4_k(b, fifth=True),
    "Q6_K": q6_k,
}
# Where a block keeps its half-precision scales.
SCALES = {
    "Q4_1": (0, 2),
    "Q5_1": (0, 2),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}


def blocks(name, n):
    """Random blocks whose scales are ordinary numbers."""
    rng = np.random.default_rng(CODES[name])
    held = rng.integers(0, 256, (n, KINDS[CODES[name]].size), dtype=np.uint8)
    for at in SCALES.get(name, (0,)):
        scale = rng.standard_normal(n).astype(np.float16)
        held[:, at : at + 2] = scale.view(np.uint8).reshape(n, 2)
    return held


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.gguf"


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_decoded_as_defined(path, write_gguf, name):
    held = blocks(name, 6)
    want = [list(BLOCKS[name](bytes(block))) for block in held]
    shape = (2, 3 * len(want[0]))
    path.write_bytes(write_gguf({"a": (CODES[name], shape, held.tobytes())}, {}))
    tensors, _ = load_gguf(path)
    assert (tensors.kind("a"), tensors.shape("a")) == (name, shape)
    got = tensors["a"]
    assert (got.shape, got.dtype) == (shape, np.float32)
    np.testing.assert_allclose(got, np.reshape(want, shape), rtol=1e-6, atol=1e-5)


def test_plain_numbers_keep_their_type(path, write_gguf):
    dtypes = {
        "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
        "F64": np.float64, "I8": np.int8, "I16": np.int16, "I32": np.int32,
        "I64": np.int64,
    }  # fmt: skip
    values = {
        k: np.arange(6).reshape(3, 2).astype(dtype) for k, dtype in dtypes.items()
    }
    held = {k: (CODES[k], v.shape, v.tobytes()) for k, v in values.items()}
    held["scalar"] = (F32, (), np.float32(1.5).tobytes())
    path.write_bytes(write_gguf(held, {}))
    tensors, _ = load_gguf(path)
    assert list(tensors) == list(held)
    assert len(tensors) == 9
    assert tensors["scalar"] == np.float32(1.5)
    for name, value in values.items():
        assert tensors[name].dtype == value.dtype
        np.testing.assert_array_equal(tensors[name], value)


@pytest.mark.parametrize(("version", "alignment"), [(2, 32), (3, 64)])
def test_metadata_come_back(path, write_gguf, version, alignment):
    metadata = {
        "name": "smøl",
        "tokens": ["a", "", "Ġb"],
        "on": np.array(True),
        "base": np.array(1e5, np.float32),
        "big": np.array(2**63, np.uint64),
        "scores": np.arange(3, dtype=np.float32),
        "general.alignment": np.array(alignment, np.uint32),
    }
    tensors = {name: (F32, (3,), bytes(12)) for name in "ab"}
    whole = write_gguf(tensors, metadata, version=version, alignment=alignment)
    path.write_bytes(whole)
    tensors, got = load_gguf(path)
    assert tensors["b"].shape == (3,)
    np.testing.assert_array_equal(got.pop("scores"), metadata.pop("scores"))
    assert got == {
        name: value if isinstance(value, str | list) else value.item()
        for name, value in metadata.items()
    }


def test_the_reference_agrees(path):
    rng = np.random.default_rng(0)
    value = rng.standard_normal((4, 64)).astype(np.float32)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("tokens", ["a", "b"])
    writer.add_float32("rope", 0.5)
    for name in ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"):
        kind = gguf.GGMLQuantizationType[name]
        writer.add_tensor(name, quants.quantize(value, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensors, metadata = load_gguf(path)
    assert metadata["tokens"] == ["a", "b"]
    assert metadata["rope"] == 0.5
    assert len(tensors) == 8
    for name, got in tensors.items():
        kind = gguf.GGMLQuantizationType[name]
        want = quants.dequantize(quants.quantize(value, kind), kind)
        np.testing.assert_array_equal(got.astype(np.float32), want, err_msg=name)
    for name in BLOCKS:
        kind, held = gguf.GGMLQuantizationType[name], blocks(name, 7)
        got = KINDS[CODES[name]].decode(held).reshape(7, -1)
        np.testing.assert_array_equal(got, quants.dequantize(held, kind), name)


def head(tensors=0, pairs=0, version=3):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, pairs)


def text(value):
    return struct.pack("<Q", len(value)) + value


def tensor(name=b"a", sizes=(1,), kind=F32, offset=0):
    sizes = struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
    return text(name) + sizes + struct.pack("<IQ", kind, offset)


def number(name, value):
    return text(name) + struct.pack("<II", 4, value)


ARRAY = text(b"k") + struct.pack("<I", 9)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"GG", "truncated"),
        (b"PK\x03\x04" + bytes(20), "not a GGUF file"),
        (head(version=1), "version 1; this reader knows 2 and 3"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version 50331648"),
        (head(tensors=2**64 - 1), "truncated"),
        (head(pairs=2**64 - 1), "truncated"),
        (head(pairs=1) + struct.pack("<Q", 2**63), "takes 9223372036854775808 bytes"),
        (head(pairs=1) + text(b"\xff\xfe"), "not UTF-8"),
        (head(pairs=1) + text(b"k") + struct.pack("<I", 13), "unknown type 13"),
        (head(pairs=1) + text(b"k") + struct.pack("<IB", 7, 2), "truth value"),
        (head(pairs=1) + ARRAY + struct.pack("<IQ", 6, 2**62), "truncated"),
        (head(pairs=1) + ARRAY + struct.pack("<IQ", 8, 2**62), "truncated"),
        (head(pairs=1) + ARRAY + struct.pack("<IQ", 9, 1), "arrays of type 9"),
        (head(pairs=2) + number(b"k", 1) * 2, "'k' twice"),
        (head(pairs=1) + number(b"general.alignment", 24), "a power of two"),
        (head(pairs=1) + number(b"general.alignment", 0), "a power of two"),
        (head(tensors=1) + tensor(sizes=(1,) * 5), "5 axes"),
        (head(tensors=1) + tensor(sizes=(0,)), r"sizes \(0,\)"),
        (head(tensors=1) + tensor(sizes=(33,), kind=2), "a multiple of 32"),
        (head(tensors=1) + tensor(sizes=(), kind=2), "a multiple of 32"),
        (head(tensors=1) + tensor(kind=5), "'a' ends at byte"),
        (head(tensors=1) + tensor(kind=40, offset=2**62), "truncated"),
        (head(tensors=2) + tensor(kind=40) * 2 + bytes(64), "occurs twice"),
        (
            head(tensors=2) + tensor(kind=40) + tensor(b"b", kind=99) + bytes(64),
            "'b' overlaps 'a'",
        ),
        (head(tensors=1) + tensor(offset=8), "not a multiple of general.alignment=32"),
        (head(tensors=1) + tensor(sizes=(2**63, 2**63)), "truncated"),
        (head(tensors=1) + tensor(offset=2**63), "truncated"),
        (head(tensors=1) + tensor(), "'a' ends at byte"),
        (head(tensors=2) + tensor() * 2 + bytes(64), "occurs twice"),
        (head(tensors=2) + tensor() + tensor(b"b") + bytes(64), "overlaps 'a'"),
    ],
)
def test_what_is_not_as_it_says_is_refused_by_name(path, content, message):
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match=message) as error:
        load_gguf(path)
    assert "model.gguf" in str(error.value)


@pytest.mark.parametrize(
    "name", ["Q2_K", "Q3_K", "IQ4_NL", "IQ2_XXS", "TQ1_0", "MXFP4", "NVFP4"]
)
def test_other_types_are_decoded_by_the_reference(path, write_gguf, name):
    kind = gguf.GGMLQuantizationType[name]
    count, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(0)
    held = rng.integers(0, 256, (6, size), dtype=np.uint8)
    whole = {"a": (kind.value, (2, 3 * count), held.tobytes())}
    whole["end"] = F32, (1,), bytes(4)
    path.write_bytes(write_gguf(whole, {}))
    with np.errstate(all="ignore"):
        want = quants.dequantize(held, kind).reshape(2, 3 * count)
    np.testing.assert_array_equal(load_gguf(path)[0]["a"], want)


def test_a_type_that_nobody_decodes_is_named_when_it_is_asked_for(path, write_gguf):
    held = {"a": (15, (256,), bytes(292)), "b": (F32, (1,), bytes(4))}
    path.write_bytes(write_gguf(held, {}))
    tensors, _ = load_gguf(path)
    assert tensors.kind("a") == "Q8_K"
    assert tensors["b"] == 0
    with pytest.raises(CorruptFileError, match="'a' has type Q8_K, which cannot be"):
        tensors["a"]
    with pytest.raises(KeyError):
        tensors["c"]


@pytest.mark.parametrize("code", [5, 40, 42, 99, 2**31])
def test_a_type_newer_than_the_table_hides_no_other_tensor(path, write_gguf, code):
    ours = np.arange(4, dtype=np.float32)
    held = {
        "new": (code, (64,), bytes(64)),
        "old": (F32, (4,), ours.tobytes()),
        "last": (code, (7,), bytes(3)),
    }
    path.write_bytes(write_gguf(held, {"general.architecture": "llama"}))
    tensors, about = load_gguf(path)
    assert about == {"general.architecture": "llama"}
    np.testing.assert_array_equal(tensors["old"], ours)
    assert (tensors.kind("new"), tensors.shape("new")) == (str(code), (64,))
    if code != 40:
        with pytest.raises(CorruptFileError, match=f"'new' has type {code}, which"):
            tensors["new"]
    with pytest.raises(CorruptFileError, match=f"'last' has type {code}, which"):
        tensors["last"]


def test_types_of_the_package_ask_for_it(path, write_gguf, monkeypatch):
    held = {"a": (10, (256,), bytes(84)), "b": (F32, (1,), bytes(4))}
    path.write_bytes(write_gguf(held, {}))
    monkeypatch.setitem(sys.modules, "gguf", None)
    tensors, _ = load_gguf(path)
    assert tensors.kind("a") == "Q2_K"
    assert tensors["b"] == 0
    message = r"'a' has type Q2_K; .*jaxlib-guidance\[lm\]"
    with pytest.raises(ModuleNotFoundError, match=message):
        tensors["a"]


def test_truncated_files_are_refused_at_every_length(path, write_gguf):
    held = {"a": (F32, (3, 2), bytes(24)), "b": (CODES["Q8_0"], (32,), bytes(34))}
    whole = write_gguf(held, {"name": "x", "on": np.array(True)})
    padding = -34 % 32
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        if length >= len(whole) - padding:
            assert len(load_gguf(path)[0]) == 2
        else:
            with pytest.raises(CorruptFileError):
                load_gguf(path)


def test_no_file(path):
    with pytest.raises(FileNotFoundError, match="no weights at"):
        load_gguf(path)
