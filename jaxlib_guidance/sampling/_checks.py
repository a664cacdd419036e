"""Checks of the arguments of solvers."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.calls import call_energy
from jaxlib_guidance.guidance import Measurement
from jaxlib_guidance.sampling._sampler import Sampler
from jaxlib_guidance.types import Array, Context, PyTree, concrete


def is_zero(a: Any) -> bool:
    """Whether ``a`` is the Python number 0, and not an array, which may be traced."""
    return isinstance(a, (int, float)) and a == 0


def require_whole(
    value: Any, name: str, smallest: int, largest: int | None = None
) -> None:
    """Raises unless ``value`` is a whole number within bounds.

    Raises:
      ValueError: Something else, a truth value included.
    """
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < smallest or (largest is not None and value > largest):
        bounds = f"from {smallest}" + (f" to {largest}" if largest is not None else "")
        raise ValueError(f"{name} is {value!r}; expected a whole number {bounds}")


def require_between(value: Any, name: str, low: float, high: float = np.inf) -> None:
    """Raises unless numbers, where they are known, are within bounds.

    Raises:
      ValueError: Known numbers outside ``[low, high]``, or NaN.
    """
    known = concrete(value)
    if known is not None and not ((known >= low) & (known <= high)).all():
        raise ValueError(f"{name} is {value}; expected {low:g} to {high:g}")


def require_measurement(seen: Any, name: str) -> None:
    """Raises unless ``seen`` is a measurement.

    Raises:
      TypeError: Something else.
    """
    if not isinstance(seen, Measurement):
        raise TypeError(
            f"{name}'s seen is {type(seen).__name__}; expected a measurement(y, "
            "operator, noise)"
        )


def require_sampler(sampler: Any) -> None:
    """Raises unless ``sampler`` is a solver, and not the function that makes one.

    Raises:
      TypeError: Something else.
    """
    if not isinstance(sampler, Sampler):
        name = getattr(sampler, "__name__", type(sampler).__name__)
        pair = hasattr(sampler, "sampler") and hasattr(sampler, "grid")
        both = ", or the first of `sampler, grid = ...`" if pair else ""
        raise TypeError(f"sampler is {name}; expected a Sampler, such as ddim(){both}")


def row_values(
    function: Callable[..., Array],
    params: PyTree,
    x: Array,
    ctx: Context,
    *,
    graded: bool = False,
) -> Array:
    """What a potential's function says of its rows, float32 ``[R]``.

    Raises:
      TypeError: Complex numbers; whole ones where ``graded``.
      ValueError: Another shape, or no array.
    """
    name = "a potential's function"
    return call_energy(function, params, x, ctx, name, graded=graded).astype(
        jnp.float32
    )
