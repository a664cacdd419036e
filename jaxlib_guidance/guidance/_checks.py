"""What a term's numbers must be, checked where the term is built."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.guidance._base import Fixed, fixed
from jaxlib_guidance.reduce import known_false


def require_numbers(term: str, **values: Any) -> None:
    """Raises unless each value is a number or an array of numbers.

    Raises:
      TypeError: Something else, such as text or a list.
      ValueError: NaN, where the value is known: every sample would be NaN too.
    """
    for name, value in values.items():
        kind = getattr(getattr(value, "dtype", None), "kind", None)
        array = kind is not None and hasattr(value, "shape") and kind not in "OSU"
        if not array and not isinstance(value, (bool, int, float, Fixed)):
            raise TypeError(
                f"{term}'s {name} is {value!r}; expected a number or an array"
            )
        number = fixed(value)
        real = jnp.issubdtype(jnp.result_type(number), jnp.floating)
        if real and known_false(lambda a: ~np.isnan(a), number):
            raise ValueError(f"{term}'s {name} is {number}; expected no NaN")


def site_patterns(sites: str | Sequence[str]) -> tuple[str, ...]:
    """Patterns of sites, of one or of several."""
    return (sites,) if isinstance(sites, str) else tuple(sites)
