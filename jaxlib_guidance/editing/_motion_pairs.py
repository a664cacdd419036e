"""Parts of edits of motions: numbers, columns and orders of pairs, windows of time."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.attention import Edit
from jaxlib_guidance.editing._map_sizes import map_sizes
from jaxlib_guidance.editing._motion_draw import MotionDraw
from jaxlib_guidance.editing._pairs import until
from jaxlib_guidance.guidance import edit_branches, join_pairs
from jaxlib_guidance.types import Array, PyTree


def edited_terms(
    draw: MotionDraw,
    cond: PyTree,
    sites: str,
    edit: Callable[[int, int], Edit],
    share: float,
    start: float = 0.0,
) -> tuple[Any, ...]:
    """The term with an edit for each site, of its numbers of frames and of keys."""
    maps = map_sizes(draw.denoiser, draw.keys, draw.shape, cond, sites)
    control: dict[str, Edit] = {site: edit(*size) for site, size in maps.items()}
    return until(edit_branches(control), share, start)


def second_of_pairs(draw: MotionDraw, value: Any, neutral: float) -> Array:
    """A number for the edited of each pair, and the neutral one for the source."""
    value = jnp.broadcast_to(jnp.asarray(value, jnp.float32), draw.keys.shape)
    return join_pairs(jnp.full_like(value, neutral), value)


def paired_columns(draw: MotionDraw, columns: Any, words: int) -> Array:
    """The places of words of both of each pair ``[2 B, M]``.

    Raises:
      ValueError: Columns of another shape; one column for several words would be all
        of them.
    """
    columns = jnp.asarray(columns, jnp.float32)
    batch = len(draw.keys)
    if columns.shape not in ((words,), (1, words), (batch, words)):
        raise ValueError(
            f"columns has shape {columns.shape}; expected [M] or [B, M] with B = "
            f"{batch} and M = {words} words"
        )
    columns = jnp.broadcast_to(columns, (batch, words))
    return join_pairs(columns, columns)


def paired_order(draw: MotionDraw, order: Any) -> Array:
    """An order of tokens for the edited of each pair, the source's own beside it."""
    order = jnp.broadcast_to(
        jnp.asarray(order, jnp.int32), (len(draw.keys), order.shape[-1])
    )
    own = jnp.broadcast_to(jnp.arange(order.shape[-1], dtype=jnp.int32), order.shape)
    return join_pairs(own, order)


def window_rows(window: tuple[float, float] | None, frames: int) -> Array:
    """1 on the frames of a window, 0 elsewhere.

    Raises:
      ValueError: A window that is empty, not inside [0, 1], or has no frame in it.
    """
    start, stop = (0.0, 1.0) if window is None else window
    if not 0 <= start < stop <= 1:
        raise ValueError(f"window is {window}; expected 0 <= start < stop <= 1")
    at = (np.arange(frames) + 0.5) / frames
    inside = (at >= start) & (at < stop)
    if not inside.any():
        raise ValueError(
            f"window is {window}, in which none of {frames} frames has its middle; "
            f"expected at least {1 / frames:.3g} of the clip"
        )
    return jnp.asarray(inside, jnp.float32)
