"""How GGUF files store numbers: the types of ggml, and what decodes their blocks.

A quantised type packs a row in blocks of 32 or 256 numbers, each with its own scales.
Layouts: ggml-common.h and ggml-quants.c of https://github.com/ggml-org/ggml.

The eight types decoded here give the same bits as `gguf.quants` 0.19 in a quarter to a
thirtieth of its time (4 million numbers on one core of a Xeon: Q4_K 0.01 s and 0.05 s,
Q8_0 0.003 s and 0.08 s). All others are left to that package.
"""

from collections.abc import Callable
from typing import NamedTuple

import ml_dtypes
import numpy as np


def _view(dtype):
    return lambda blocks: blocks.view(dtype)


def _scale(blocks, at=0):
    """The half-precision number at byte ``at`` of each block, float32 ``[n, 1]``."""
    return blocks[:, at : at + 2].view("<f2").astype(np.float32)


def _nibbles(blocks, at):
    """32 four-bit numbers ``[n, 32]``: 16 low halves of bytes, then 16 high ones."""
    packed = blocks[:, at : at + 16]
    return np.concatenate([packed & 15, packed >> 4], 1)


def _fifth_bits(blocks, at):
    """32 numbers of one bit, worth 16 each, ``[n, 32]``."""
    bits = np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little")
    return bits << 4


def _q8_0(blocks):
    return _scale(blocks) * blocks[:, 2:].view(np.int8)


def _q4_0(blocks):
    return _scale(blocks) * (_nibbles(blocks, 2).astype(np.int8) - np.int8(8))


def _q4_1(blocks):
    return _scale(blocks) * _nibbles(blocks, 4) + _scale(blocks, 2)


def _q5_0(blocks):
    numbers = _nibbles(blocks, 6) | _fifth_bits(blocks, 2)
    return _scale(blocks) * (numbers.astype(np.int8) - np.int8(16))


def _q5_1(blocks):
    numbers = _nibbles(blocks, 8) | _fifth_bits(blocks, 4)
    return _scale(blocks) * numbers + _scale(blocks, 2)


def _six_bit_scales(packed):
    """Eight scales and eight minima of six bits, ``[n, 8]`` each, from 12 bytes."""
    first, second, rest = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = [first & 63, (rest & 15) | (first >> 6 << 4)]
    minima = [second & 63, (rest >> 4) | (second >> 6 << 4)]
    return np.concatenate(scales, 1), np.concatenate(minima, 1)


def _q4_or_q5_k(blocks, packed, fifth):
    scales, minima = _six_bit_scales(blocks[:, 4:16])
    # 64 numbers share 32 bytes: the low halves are the first 32.
    pairs = packed.reshape(-1, 4, 1, 32)
    numbers = np.concatenate([pairs & 15, pairs >> 4], 2).reshape(-1, 8, 32) | fifth
    d, d_min = _scale(blocks) * scales, _scale(blocks, 2) * minima
    return d[..., None] * numbers - d_min[..., None]


def _q4_k(blocks):
    return _q4_or_q5_k(blocks, blocks[:, 16:], np.uint8(0))


def _q5_k(blocks):
    # Bit i of byte j is the fifth bit of number j in group i.
    shifts = np.arange(8, dtype=np.uint8)[:, None]
    fifth = (blocks[:, 16:48].reshape(-1, 1, 32) >> shifts & 1) << 4
    return _q4_or_q5_k(blocks, blocks[:, 48:], fifth)


def _q6_k(blocks):
    # Each half of 128 numbers: 64 bytes of low four bits, 32 bytes of high two bits.
    low = blocks[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate([low & 15, low >> 4], 2).reshape(-1, 2, 4, 32)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts & 3
    numbers = (low | high << 4).astype(np.int8) - np.int8(32)
    scales = _scale(blocks, 208) * blocks[:, 192:208].view(np.int8)
    return scales[..., None] * numbers.reshape(-1, 16, 16)


class Kind(NamedTuple):
    """How a type stores numbers.

    Attributes:
      name: Name of the type in ggml, or its number where it is not in the table here.
      count: Numbers in a block.
      size: Bytes of a block; None where it is not known.
      decode: ``uint8 [n, size] -> [n, count]``, or None for types of the package gguf.
    """

    name: str
    count: int
    size: int | None
    decode: Callable[[np.ndarray], np.ndarray] | None = None


def decode_by_package(code: int, stored: np.ndarray, count: int) -> np.ndarray:
    """Decodes what `KINDS` does not, by the package gguf.

    Args:
      code: Number of the type.
      stored: The tensor's bytes ``uint8 [n]``; those after its last block are ignored.
      count: Numbers in the tensor.

    Returns:
      Float32 ``[count]``.

    Raises:
      ModuleNotFoundError: The package is not installed.
      ValueError: The package does not know the type or does not decode it, or the
        bytes do not hold so many numbers.
    """
    try:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
        from gguf.quants import dequantize
    except ImportError as error:
        raise ModuleNotFoundError(
            "this type needs gguf: pip install 'jaxlib-guidance[lm]'"
        ) from error
    kind = GGMLQuantizationType(code)
    block, size = GGML_QUANT_SIZES[kind]
    if count % block or len(stored) < count // block * size:
        raise ValueError(f"{len(stored)} bytes do not hold {count} numbers")
    blocks = stored[: count // block * size].reshape(-1, size)
    try:
        return dequantize(blocks, kind).reshape(-1)
    except NotImplementedError as error:
        raise ValueError(f"the package gguf does not decode {kind.name}") from error


KINDS = {
    0: Kind("F32", 1, 4, _view("<f4")),
    1: Kind("F16", 1, 2, _view("<f2")),
    2: Kind("Q4_0", 32, 18, _q4_0),
    3: Kind("Q4_1", 32, 20, _q4_1),
    6: Kind("Q5_0", 32, 22, _q5_0),
    7: Kind("Q5_1", 32, 24, _q5_1),
    8: Kind("Q8_0", 32, 34, _q8_0),
    9: Kind("Q8_1", 32, 40),
    10: Kind("Q2_K", 256, 84),
    11: Kind("Q3_K", 256, 110),
    12: Kind("Q4_K", 256, 144, _q4_k),
    13: Kind("Q5_K", 256, 176, _q5_k),
    14: Kind("Q6_K", 256, 210, _q6_k),
    15: Kind("Q8_K", 256, 292),
    16: Kind("IQ2_XXS", 256, 66),
    17: Kind("IQ2_XS", 256, 74),
    18: Kind("IQ3_XXS", 256, 98),
    19: Kind("IQ1_S", 256, 50),
    20: Kind("IQ4_NL", 32, 18),
    21: Kind("IQ3_S", 256, 110),
    22: Kind("IQ2_S", 256, 82),
    23: Kind("IQ4_XS", 256, 136),
    24: Kind("I8", 1, 1, _view("i1")),
    25: Kind("I16", 1, 2, _view("<i2")),
    26: Kind("I32", 1, 4, _view("<i4")),
    27: Kind("I64", 1, 8, _view("<i8")),
    28: Kind("F64", 1, 8, _view("<f8")),
    29: Kind("IQ1_M", 256, 56),
    30: Kind("BF16", 1, 2, _view(ml_dtypes.bfloat16)),
    34: Kind("TQ1_0", 256, 54),
    35: Kind("TQ2_0", 256, 66),
    39: Kind("MXFP4", 32, 17),
}
