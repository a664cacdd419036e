"""Checksums of arrays that any sharding computes alike.

A checksum of the bytes in their order, such as CRC-32, needs the whole array in one
place. This one is a sum over elements, so that devices and hosts each add up what they
hold and one scalar travels. It is computed where the array is, and not on a copy.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlib_guidance.types import Array, PyTree


def _scramble(x):
    """A bijection of 32-bit words in which each bit depends on each (MurmurHash3)."""
    x = (x ^ (x >> jnp.uint32(16))) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> jnp.uint32(13))) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> jnp.uint32(16))


def _words(leaf):
    """The bits as uint32, one or two for each element."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        leaf = jnp.stack([leaf.real, leaf.imag], -1)
    size = leaf.dtype.itemsize
    if size == 8:
        return lax.bitcast_convert_type(leaf, jnp.uint32)
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        # Of types below a byte numpy's size is that of a byte.
        bits = jnp.finfo(leaf.dtype).bits
        leaf = lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{bits}"))
    return leaf.astype(jnp.uint32)


def _unrounded(leaf):
    """Numpy's 64-bit numbers as words, for jax would make 32-bit numbers of them."""
    wide = isinstance(leaf, np.ndarray) and leaf.dtype.itemsize > 4
    return leaf[..., None].view(np.uint32) if wide else leaf


def digest(leaf: Array) -> Array:
    """A checksum: ``sum_i h(word_i ^ h(i + c))`` modulo 2^32, with a bijection ``h``.

    Any change within one 32-bit word changes it; of other changes it misses one in
    2^32. A guard against accidents, not against forgery.

    Args:
      leaf: Array of any type, typed keys included.

    Returns:
      uint32 scalar.
    """
    words = _words(_unrounded(leaf))
    place = jnp.full(words.shape, 0x9E3779B9, jnp.uint32)
    for axis in range(words.ndim):
        stride = jnp.uint32(math.prod(words.shape[axis + 1 :]) % 2**32)
        place += lax.broadcasted_iota(jnp.uint32, words.shape, axis) * stride
    return jnp.sum(_scramble(words ^ _scramble(place)), dtype=jnp.uint32)


@jax.jit
def _digests(leaves):
    return jax.tree.map(digest, leaves)


def describe(tree: PyTree, checksum: bool) -> dict[str, dict[str, Any]]:
    """``{path: {shape, dtype, digest}}``, as JSON can hold it.

    With several processes all of them must call it.

    Args:
      tree: Pytree of arrays, or without checksums of anything with shape and dtype.
      checksum: Whether to include digests.
    """
    named = {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    found: dict[str, dict[str, Any]] = {
        name: {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}
        for name, leaf in named.items()
    }
    if checksum:
        # One program for those that share devices: a sum for each leaf, all under way
        # at once, can stall where several processes add up.
        together: dict[Any, dict[str, Any]] = {}
        for name, leaf in named.items():
            where = getattr(getattr(leaf, "sharding", None), "device_set", None)
            group = together.setdefault(where and frozenset(where), {})
            group[name] = _unrounded(leaf)
        for group in together.values():
            for name, value in jax.device_get(_digests(group)).items():
                found[name]["digest"] = int(value)
    return found


def require_like(saved: dict[str, Any], like: PyTree, where: str) -> None:
    """Raises unless the saved leaves have the names, shapes and types of ``like``.

    Args:
      saved: Description of the saved leaves, from `describe`.
      like: Pytree of anything with shapes and dtypes.
      where: Name of what was saved, for the message.

    Raises:
      ValueError: Some differ; the first five are named.
    """
    want = describe(like, checksum=False)
    problems = [f"{name} is missing" for name in want if name not in saved]
    problems += [f"{name} is not expected" for name in saved if name not in want]
    for name in want.keys() & saved.keys():
        for what in ("shape", "dtype"):
            if saved[name][what] != want[name][what]:
                problems.append(
                    f"{name} has {what} {saved[name][what]}; expected "
                    f"{want[name][what]}"
                )
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(
            f"{where} is of another model or optimiser: "
            f"{'; '.join(sorted(problems)[:5])}{more}"
        )
