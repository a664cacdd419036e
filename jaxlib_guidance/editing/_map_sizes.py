"""Sizes of attention maps, without an evaluation."""

import jax
import jax.numpy as jnp

from jaxlib_guidance.attention import match_sites
from jaxlib_guidance.types import Array, Denoiser, PyTree


def map_sizes(
    denoiser: Denoiser, keys: Array, shape: tuple[int, ...], cond: PyTree, sites: str
) -> dict[str, tuple[int, int]]:
    """Number of queries and of keys at each attention site that a pattern selects.

    Raises:
      ValueError: The pattern selects nothing.
    """
    names = match_sites(sites, denoiser.sites)
    x = jax.ShapeDtypeStruct((len(keys), *shape), jnp.float32)
    t = jax.ShapeDtypeStruct(keys.shape, jnp.float32)
    maps = jax.eval_shape(
        lambda x, t, cond: denoiser(x, t, cond, capture=names).maps, x, t, cond
    )
    return {site: maps[site].shape[-2:] for site in names}
