"""Maps by their queries and keys: the same distances and slopes, and no map is held."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.attention import _queries as module
from jaxlib_guidance.attention import _rows as attention_rows
from jaxlib_guidance.attention import (
    attend,
    emphasise,
    identity,
    map_distance,
    queries_and_keys,
)

A, B = (jax.random.normal(jax.random.key(i), (2, 2, 12, 2, 4)) for i in range(2))


def maps(packed):
    q, k = packed[:, 0], packed[:, 1]
    return attend(q, k, k, capture=True)[1]


@pytest.mark.parametrize("held", [1, 100, 2**22])
def test_the_distance_is_that_of_the_maps(held, monkeypatch):
    """However many rows are made at a time; so are its slopes."""
    monkeypatch.setattr(module, "HELD", held)

    def total(distance, a, b):
        return jnp.sum(distance(a, b) * jnp.array([1.0, 2.0]))

    got = map_distance(A, B)
    np.testing.assert_allclose(got, map_distance(maps(A), maps(B)), rtol=1e-5)
    want = jnp.mean((maps(A) - maps(B)) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(got, want, rtol=1e-5)
    slopes, expected = (
        jax.grad(total, 1)(each, A, B)
        for each in (map_distance, lambda a, b: map_distance(maps(a), maps(b)))
    )
    np.testing.assert_allclose(slopes, expected, atol=1e-7)
    assert (np.asarray(map_distance(A, A)) == 0).all()


def test_attention_returns_them_where_they_are_the_map():
    q, k, v = A[:, 0], A[:, 1], B[:, 0]
    out, packed = attend(q, k, v, capture=queries_and_keys)
    np.testing.assert_array_equal(packed, A)
    np.testing.assert_allclose(out, attend(q, k, v)[0], atol=1e-6)
    hidden = jnp.ones((2, 12), bool).at[:, 3].set(False)
    wholes = [
        attend(q[:, :5], k, v, capture=queries_and_keys),
        attend(q, k, v, mask=hidden, capture=queries_and_keys),
        attend(q, k, v, identity(0.5), capture=queries_and_keys),
        attend(q, k, v, emphasise(jnp.ones(12), 0.1), capture=queries_and_keys),
    ]
    assert [m.shape[-2:] for _, m in wholes] == [(5, 12), *[(12, 12)] * 3]
    # One in either form: another term's edit may have made a map of it.
    mixed = map_distance(A, maps(B)), map_distance(maps(A), B)
    np.testing.assert_allclose(mixed, [map_distance(A, B)] * 2, rtol=1e-5)
    with pytest.raises(ValueError, match="maps have shapes"):
        map_distance(A, maps(B[:, :, :5]))


def test_a_large_map_is_not_held_for_the_way_back(monkeypatch):
    """As compiled, with its slope: a part of the two maps' size."""
    monkeypatch.setattr(module, "HELD", 2**18)
    a = jax.ShapeDtypeStruct((1, 2, 1024, 2, 4), jnp.float32)

    def slope(distance):
        grad = jax.grad(lambda a, b: distance(a, b).sum())
        return jax.jit(grad).lower(a, a).compile().memory_analysis()

    found = slope(map_distance)
    if found is None:
        pytest.skip("this backend does not count")
    whole = slope(lambda a, b: map_distance(maps(a), maps(b)))
    assert whole.temp_size_in_bytes > 2 * 4 * 2 * 1024**2
    assert found.temp_size_in_bytes < whole.temp_size_in_bytes / 3


def test_a_few_rows_at_a_time_are_the_whole_attention(monkeypatch):
    """Under a mask too, and their slopes; a prime number of queries is not parted."""
    k, v = (jax.random.normal(jax.random.key(i), (2, 20, 2, 4)) for i in (3, 4))
    q = jax.random.normal(jax.random.key(5), (2, 48, 2, 4))
    hidden = jnp.ones((2, 20), bool).at[1, 3:].set(False)

    def total(q, k, v):
        out = attend(q, k, v)[0], attend(q, k, v, mask=hidden)[0]
        return sum((o**3).sum() for o in out), out

    def run():
        return jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(q, k, v)

    want = run()
    monkeypatch.setattr(attention_rows, "LARGE", 16 * 20)
    for queries, parts in ((q, 2), (q[:, :47], 0)):
        jaxpr = jax.make_jaxpr(lambda q: total(q, k, v))(queries)
        assert str(jaxpr).count("scan[") == parts
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-5), run(), want)


def test_a_large_map_of_attention_is_not_held_either(monkeypatch):
    """As compiled, on the way back too."""
    a = jax.ShapeDtypeStruct((1, 1024, 2, 4), jnp.float32)

    def held():
        grad = jax.grad(lambda q, k: attend(q, k, k)[0].sum(), (0, 1))
        found = jax.jit(grad).lower(a, a).compile().memory_analysis()
        return None if found is None else found.temp_size_in_bytes

    whole = held()
    if whole is None:
        pytest.skip("this backend does not count")
    monkeypatch.setattr(attention_rows, "LARGE", 2**15)
    assert held() < whole / 10
