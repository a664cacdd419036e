"""Discs on a square of white paper, for pictures of worlds."""

from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.types import Array


def paper(size: int) -> tuple[Array, Array, Array]:
    """White ``[size, size, 3]``, and ``x`` and ``y`` of each pixel's centre in [0, 1].

    Raises:
      ValueError: ``size`` below 1.
    """
    if size < 1:
        raise ValueError(f"size is {size}; expected at least 1")
    centre = (jnp.arange(size, dtype=jnp.float32) + 0.5) / size
    x, y = jnp.meshgrid(centre, centre[::-1])
    return jnp.ones((size, size, 3), jnp.float32), x, y


def disc(picture: Array, at: Array, radius: float | Array, color: Any) -> Array:
    """The picture with a disc of one color on it."""
    _, x, y = paper(len(picture))
    inside = (x - at[0]) ** 2 + (y - at[1]) ** 2 <= radius**2
    return jnp.where(inside[..., None], jnp.asarray(color, jnp.float32), picture)
