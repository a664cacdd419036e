"""Keys: prefixes, offsets, streams."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance import rng

ROOT = jax.random.key(11)


def words(keys):
    return np.asarray(jax.random.key_data(keys))


def test_prefix_and_offset():
    keys = rng.sample_keys(ROOT, 12)
    np.testing.assert_array_equal(words(rng.sample_keys(ROOT, 5)), words(keys)[:5])
    late = rng.sample_keys(ROOT, 4, start=7)
    np.testing.assert_array_equal(words(late), words(keys)[7:11])
    some = rng.sample_keys(ROOT, jnp.array([9, 2]))
    np.testing.assert_array_equal(words(some), words(keys)[jnp.array([9, 2])])
    assert len(np.unique(words(keys), axis=0)) == 12


def test_streams_and_steps_differ():
    keys = rng.sample_keys(ROOT, 2)
    streams = [
        rng.INITIAL,
        rng.GUIDANCE,
        rng.CORRECTOR,
        rng.RECURRENCE,
        rng.KNOWN,
        rng.MIDDLE,
        rng.PARTICLE,
        *range(1000),
    ]
    found = [words(rng.fold(keys, jnp.uint32(s))) for s in streams]
    assert len(np.unique(np.concatenate(found), axis=0)) == 2 * len(streams)


def test_noise_is_per_sample_and_normal():
    keys = rng.sample_keys(ROOT, 4000)
    z = rng.normal(keys, (3,))
    np.testing.assert_array_equal(rng.normal(keys[5:6], (3,))[0], z[5])
    flat = np.asarray(z).ravel()
    assert abs(flat.mean()) < 4 / len(flat) ** 0.5
    assert abs(flat.var() - 1) < 4 * (2 / len(flat)) ** 0.5
    assert np.abs(np.corrcoef(np.asarray(z).T) - np.eye(3)).max() < 0.07
    u = np.asarray(rng.uniform(keys))
    assert u.shape == (4000,)
    assert 0 <= u.min() < u.max() < 1
    assert abs(u.mean() - 0.5) < 4 / (12 * 4000) ** 0.5
    assert rng.normal(keys[:2], (), jnp.bfloat16).dtype == jnp.bfloat16


def test_only_typed_keys():
    legacy = jax.random.PRNGKey(0)
    with pytest.raises(TypeError, match="key has dtype uint32"):
        rng.sample_keys(legacy, 3)
    with pytest.raises(TypeError, match=r"key is 3; expected .*jax.random.key\(3\)"):
        rng.require_key(3)
    with pytest.raises(TypeError, match="keys has dtype uint32"):
        rng.require_keys(legacy)
    with pytest.raises(TypeError, match="seeds is int; expected typed keys"):
        rng.require_keys(3, "seeds")
    with pytest.raises(ValueError, match=r"keys has shape \(\)"):
        rng.require_keys(ROOT)
