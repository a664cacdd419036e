"""Randomness per sample: sample *i* is the same whatever the batch or device count.

Every sample owns a key, ``fold_in(root, sample_id)``; every step derives from it,
``fold_in(key, step)``. Nothing ever splits a key by batch size.
"""

import jax
import jax.numpy as jnp

from jaxlib_guidance.types import Array, require_array

# Streams of one sample that must not meet its step numbers. A number once given stays
# with its stream, so that samples stay what they were.
INITIAL, GUIDANCE, NOISING, CORRECTOR, RECURRENCE, KNOWN, MIDDLE, PARTICLE, RESTORED = (
    2**31 + i for i in range(9)
)


def sample_keys(key: Array, n: int | Array, start: int = 0) -> Array:
    """Keys of samples ``start, ..., start + n - 1``, or of those that ``n`` lists.

    Args:
      key: Typed root key, as from `jax.random.key`.
      n: Number of samples, or their indices ``[B]``.
      start: Index of the first sample, so that batches and hosts can share a root.

    Returns:
      Typed keys ``[n]`` or ``[B]``.

    Raises:
      TypeError: A legacy uint32 key, which cannot be told from data.

    Example:
      >>> import jax
      >>> import jaxlib_guidance as jg
      >>> jg.sample_keys(jax.random.key(0), 4).shape
      (4,)
    """
    require_key(key)
    require_array("n", n, "a number of samples, or an array of their indices")
    if not jnp.issubdtype(jnp.result_type(n), jnp.integer):
        raise TypeError(
            f"n has type {jnp.result_type(n)}; expected a number of samples, or their "
            "indices"
        )
    ids = jnp.asarray(jnp.arange(n) if jnp.ndim(n) == 0 else n, jnp.uint32)
    ids = ids + jnp.uint32(start)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, ids)


def require_key(key: Array) -> None:
    """Raises unless ``key`` is a typed key, as from `jax.random.key`."""
    if not hasattr(key, "dtype"):
        raise TypeError(
            f"key is {key!r}; expected a typed key, such as jax.random.key({key!r})"
        )
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"key has dtype {key.dtype}; expected a key from jax.random.key"
        )


def fold(keys: Array, data: Array | int) -> Array:
    """``fold_in`` of one number into each key ``[B]``."""
    data = jnp.asarray(data, jnp.uint32)
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def normal(keys: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Standard normal noise ``[B, *shape]``, each row from its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys)


def uniform(keys: Array, shape: tuple[int, ...] = (), dtype=jnp.float32) -> Array:
    """Uniform numbers in [0, 1), ``[B, *shape]``, each row from its own key."""
    return jax.vmap(lambda key: jax.random.uniform(key, shape, dtype))(keys)


def require_keys(keys: Array, name: str = "keys") -> None:
    """Raises unless ``keys`` is a batch of typed keys ``[B]``."""
    dtype = getattr(keys, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        got = f"is {type(keys).__name__}" if dtype is None else f"has dtype {dtype}"
        raise TypeError(f"{name} {got}; expected typed keys [B], as from sample_keys")
    if keys.ndim != 1:
        raise ValueError(f"{name} has shape {keys.shape}; expected [B], one per sample")
