"""Checks of slates, the numbers of items that are shown together, and of clicks."""

import jax.numpy as jnp

from jaxlib_guidance.reduce import known_false, require_shape
from jaxlib_guidance.types import Array
from jaxlib_guidance.worlds._checks import require_index


def require_slate(name: str, slate: Array, count: int) -> Array:
    """The slate as an array ``[K]``; raises for what is not numbers of items.

    Args:
      name: What to call it in the error.
      slate: Integers, an array or a list.
      count: Number of items.

    Raises:
      ValueError: Another rank; known numbers that are not 0 to ``count - 1``.
    """
    slate = jnp.asarray(slate)
    require_index(name, slate, count)
    if slate.ndim != 1:
        raise ValueError(f"{name} has shape {slate.shape}; expected [K]")
    return slate


def require_clicks(clicks: Array, slate: Array) -> Array:
    """The clicks as bool ``[K]``; raises for what is not one for each item.

    Args:
      clicks: Booleans, or 0 and 1, an array or a list.
      slate: What was shown ``[K]``.

    Raises:
      ValueError: Another shape than the slate's; known numbers other than 0 and 1.
    """
    if known_false(lambda x: (x == 0) | (x == 1), clicks):
        raise ValueError(f"clicks are {clicks}; expected 0 or 1 for each item")
    clicks = jnp.asarray(clicks, bool)
    require_shape("clicks", clicks, slate.shape)
    return clicks
