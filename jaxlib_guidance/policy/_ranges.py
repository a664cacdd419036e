"""Checks of values that are known while tracing."""

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.types import Array, concrete, require_array


def require_range(
    name: str,
    x: Array | float,
    low: float = -np.inf,
    high: float = np.inf,
    mask: Array | None = None,
    *,
    inside: bool = False,
) -> None:
    """Raises where a known value lies outside ``[low, high]``; NaN in an array passes.

    Args:
      name: What to call ``x`` in the error.
      x: Numbers of any shape. Nothing is checked while they are traced.
      low: Smallest value allowed.
      high: Largest value allowed.
      mask: 0 on elements that may have any value, of the shape of ``x``; None for none.
      inside: Whether the two bounds themselves are refused where they are finite.

    Raises:
      ValueError: A value out of range, or a single number that is NaN.
    """
    require_array(name, x, "numbers", lists=True)
    known = concrete(x)
    keep = None if mask is None else concrete(mask)
    if known is None or (mask is not None and keep is None):
        return
    values = known.astype(np.float64)
    # A mask of another shape is refused by the formula, with its own message.
    if keep is not None and keep.shape == values.shape:
        known, values = known[keep > 0], values[keep > 0]
    wrong = (values < low) | (values > high)
    if inside:
        wrong |= np.isfinite(values) & ((values == low) | (values == high))
    if values.ndim == 0:
        wrong |= np.isnan(values)
    if wrong.any():
        left = "(" if inside or low == -np.inf else "["
        right = ")" if inside or high == np.inf else "]"
        raise ValueError(
            f"{name} is {known[wrong].flat[0].item()}; expected a number in "
            f"{left}{low:g}, {high:g}{right}"
        )


def require_floating(name: str, x: Array | float) -> None:
    """Raises unless ``x`` is an array, or a number, of a floating-point type.

    Args:
      name: What to call ``x`` in the error.
      x: What the caller gave, such as log-probabilities for which ids of tokens are
        easily taken.

    Raises:
      TypeError: Integers, truth values, or a list.
    """
    require_array(name, x)
    kind = jnp.result_type(x)
    if not jnp.issubdtype(kind, jnp.floating):
        raise TypeError(f"{name} is {kind}; expected floating-point numbers")


def require_clip(clip_low: float | Array, clip_high: float | Array) -> None:
    """Raises for a clip range that does not hold 1, where it is known."""
    require_range("clip_low", clip_low, 0)
    require_range("clip_high", clip_high, 0)
