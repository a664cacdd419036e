"""Checksums: every bit counts, in its place, on any sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxlib_guidance.training import data_mesh
from jaxlib_guidance.training.saving._digests import describe, digest

X = np.asarray(jax.random.normal(jax.random.key(0), (8, 16)))


def reference(words):
    """The formula in Python's own integers."""

    def scramble(x):
        x = (x ^ (x >> 16)) * 0x85EBCA6B % 2**32
        x = (x ^ (x >> 13)) * 0xC2B2AE35 % 2**32
        return x ^ (x >> 16)

    places = range(0x9E3779B9, 0x9E3779B9 + len(words))
    return sum(
        scramble(w ^ scramble(p)) for w, p in zip(words, places, strict=True)
    ) % (2**32)


@pytest.mark.parametrize(
    ("dtype", "word"),
    [
        ("float32", "uint32"),
        ("bfloat16", "uint16"),
        ("float8_e4m3fn", "uint8"),
        ("complex64", "uint32"),
        ("int32", "uint32"),
        ("int8", "uint8"),
        ("bool", "uint8"),
    ],
)
def test_it_is_the_formula(dtype, word):
    x = jnp.asarray(X * 40).astype(dtype)
    bits = np.asarray(x).reshape(-1).view(word)
    if dtype == "int8":
        # As a 32-bit number, sign included.
        bits = np.asarray(x).reshape(-1).astype("int32").view("uint32")
    assert int(digest(x)) == reference(bits.tolist())


def test_every_bit_changes_it():
    bits = X.view(np.uint32)
    flips = np.stack(
        [
            bits ^ (np.arange(128).reshape(8, 16) == e) * np.uint32(1 << b)
            for e in (0, 1, 77, 127)
            for b in range(32)
        ]
    ).astype(np.uint32)
    found = {int(d) for d in jax.vmap(digest)(jnp.asarray(flips))}
    assert len(found | {int(digest(bits))}) == 4 * 32 + 1


def test_every_place_counts():
    whole = int(digest(jnp.asarray(X)))
    assert int(digest(jnp.asarray(X[::-1]))) != whole
    assert int(digest(jnp.asarray(X.T))) != whole
    zeros = jnp.zeros(3)
    assert int(digest(zeros)) != int(digest(jnp.zeros(4)))


@pytest.mark.parametrize("spec", [("data",), (None, "data"), ()])
def test_any_sharding_gives_the_same(spec):
    sharding = NamedSharding(data_mesh(), PartitionSpec(*spec))
    assert int(digest(jax.device_put(X, sharding))) == int(digest(jnp.asarray(X)))


def test_sharded_arrays_are_added_up_in_place():
    split = NamedSharding(data_mesh(), PartitionSpec("data"))
    compiled = jax.jit(digest).lower(jax.device_put(X, split)).compile().as_text()
    assert "all-reduce" in compiled
    assert "all-gather" not in compiled


def test_numpy_arrays_of_64_bits_are_not_rounded():
    wide = np.array([1.0, 1.0 + 2.0**-50])
    assert int(digest(wide)) != int(digest(np.array([1.0, 1.0])))
    assert int(digest(wide)) == reference(wide.view(np.uint32).tolist())


def test_what_is_written_down():
    # Of arrays that do not even live on the same devices.
    split = NamedSharding(data_mesh(), PartitionSpec("data"))
    there = jax.device_put(X, jax.devices()[3])
    tree = {"a": jax.device_put(X, split), "b": there, "key": jax.random.key(3)}
    found = describe(tree, checksum=True)
    assert found["['a']"] == {
        "shape": [8, 16],
        "dtype": "float32",
        "digest": int(digest(X)),
    }
    assert found["['b']"] == found["['a']"]
    assert found["['key']"]["dtype"] == "key<fry>"
    assert found["['key']"]["digest"] == int(digest(jax.random.key_data(tree["key"])))
    assert "digest" not in describe(tree, checksum=False)["['a']"]
