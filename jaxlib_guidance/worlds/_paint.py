"""Pictures of grid worlds: one colour a cell, smaller squares on top."""

from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.types import Array

FLOOR = (0.93, 0.92, 0.88)
WALL = (0.25, 0.27, 0.32)
AGENT = (0.80, 0.20, 0.16)
GOAL = (0.30, 0.62, 0.36)


def paint(cells: Array, tokens: Array, *, scale: int, inset: tuple[int, ...]) -> Array:
    """A picture ``[H scale, W scale, 3]`` of cells and of squares upon them.

    Args:
      cells: Colour of each cell, ``[H, W, 3]`` in [0, 1], row 0 at the bottom.
      tokens: Colours of the squares on each cell, ``[K, H, W, 3]``, NaN for none; later
        ones lie on top.
      scale: Side of a cell in pixels.
      inset: How many pixels of a cell's rim each of the ``K`` squares leaves free.
    """
    shade = jnp.kron(cells, jnp.ones((scale, scale, 1)))
    place = jnp.arange(scale)
    from_rim = jnp.minimum(place, scale - 1 - place)
    for square, rim in zip(tokens, inset, strict=True):
        inside = (from_rim[:, None] >= rim) & (from_rim[None] >= rim)
        inside = jnp.tile(inside, cells.shape[:2])[..., None]
        over = jnp.repeat(jnp.repeat(square, scale, 0), scale, 1)
        shade = jnp.where(inside & ~jnp.isnan(over), over, shade)
    return shade[::-1]


def spot(shape: tuple[int, int], x: Any, y: Any, colour: Any) -> Array:
    """``colour [3]`` in the cell ``(x, y)`` and NaN elsewhere, ``[H, W, 3]``."""
    height, width = shape
    here = (jnp.arange(height)[:, None] == y) & (jnp.arange(width)[None] == x)
    return jnp.where(here[..., None], jnp.asarray(colour), jnp.nan)
