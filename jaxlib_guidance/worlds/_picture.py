"""Discs, lines and bars on a square of white paper, for pictures of worlds."""

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


def line(picture: Array, a: Array, b: Array, width: float, color: Any) -> Array:
    """The picture with a line of one color from ``a`` to ``b``, ``[2]`` in [0, 1]."""
    _, x, y = paper(len(picture))
    place, along = jnp.stack([x, y], -1), b - a
    share = (place - a) @ along / jnp.maximum(jnp.sum(along**2), 1e-12)
    near = a + jnp.clip(share, 0, 1)[..., None] * along
    close = jnp.linalg.norm(place - near, axis=-1) <= width / 2
    return jnp.where(close[..., None], jnp.asarray(color, jnp.float32), picture)


def bars(picture: Array, heights: Array, zero: Array | float, colors: Any) -> Array:
    """The picture with upright bars ``[N]`` from a height ``zero``, all in [0, 1].

    Args:
      picture: ``[size, size, 3]``.
      heights: Where each bar ends, ``[N]``.
      zero: Where all begin.
      colors: Of each bar, ``[N, 3]``.
    """
    _, x, y = paper(len(picture))
    count = len(heights)
    which = jnp.clip((x * count).astype(jnp.int32), 0, count - 1)
    end = jnp.asarray(heights)[which]
    inside = (y >= jnp.minimum(zero, end)) & (y <= jnp.maximum(zero, end))
    inside &= jnp.abs(x * count - jnp.floor(x * count) - 0.5) < 0.35
    return jnp.where(inside[..., None], jnp.asarray(colors)[which], picture)
