"""Checks of numbers that are known while tracing, and actions of limited length."""

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.reduce import require_shape, sqrt
from jaxlib_guidance.types import Array, concrete, require_array


def require_number(
    name: str,
    value: Array | float,
    low: float = -np.inf,
    high: float = np.inf,
    *,
    above: bool = False,
    finite: bool = True,
) -> None:
    """Raises where a known number is not finite, outside ``[low, high]``, or ``low``.

    Args:
      name: What to call the value in the error.
      value: Numbers of any shape. Nothing is checked while they are traced.
      low: Smallest value allowed.
      high: Largest value allowed.
      above: Whether ``low`` itself is refused.
      finite: Whether infinities are refused too.

    Raises:
      ValueError: A value out of range, infinite, or NaN.
    """
    require_array(name, value, "numbers", lists=True)
    known = concrete(value)
    if known is None:
        return
    # Written so that NaN fails too.
    right = (known > low if above else known >= low) & (known <= high)
    if finite:
        right &= np.isfinite(known)
    if not right.all():
        wrong = known[~right].flat[0].item()
        if np.isinf([low, high]).all():
            wanted = "a finite number"
        elif np.isinf(high):
            wanted = f"more than {low:g}" if above else f"at least {low:g}"
            wanted += " and finite" if np.isinf(wrong) else ""
        else:
            wanted = f"{'above ' if above else ''}{low:g} to {high:g}"
        raise ValueError(f"{name} is {wrong}; expected {wanted}")


def require_chance(name: str, value: Array | float) -> None:
    """Raises where a known probability is NaN or outside [0, 1]."""
    require_number(name, value, 0, 1)


def require_index(name: str, value: Array | int, count: int) -> None:
    """Raises where known numbers of things are not integers of 0 to ``count - 1``.

    Raises:
      TypeError: A list, of which ``==`` compares the whole and not the entries.
      ValueError: Other numbers.
    """
    require_array(name, value)
    if not jnp.issubdtype(jnp.asarray(value).dtype, jnp.integer):
        raise ValueError(f"{name} is {value}; expected integers")
    require_number(name, value, 0, count - 1)


def require_words(name: str, value: Array | int, count: int, things: Array) -> None:
    """Raises for what is not one of ``count`` words for each of the things ``[N]``."""
    require_index(name, value, count)
    require_shape(name, value, (*jnp.shape(value)[:-1], *jnp.shape(things)))


def at_most_one(action: Array) -> Array:
    """A direction ``[2]`` shortened to length 1 where it is longer.

    Raises:
      TypeError: A list.
      ValueError: Another shape.
    """
    require_array("action", action)
    require_shape("action", action, (2,))
    return action / jnp.maximum(sqrt(jnp.sum(action**2)), 1.0)


def require_trailing(name: str, x: Array, shape: tuple[int, ...]) -> None:
    """Raises unless the last axes of ``x`` are ``shape``.

    Raises:
      TypeError: A list.
      ValueError: Other axes.
    """
    require_array(name, x)
    if jnp.shape(x)[-len(shape) :] != shape:
        wanted = ", ".join(map(str, shape))
        raise ValueError(f"{name} has shape {jnp.shape(x)}; expected [..., {wanted}]")
