"""What a term's numbers must be, checked where the term is built."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxlib_guidance.guidance._base import Fixed
from jaxlib_guidance.types import concrete


def require_numbers(term: str, **values: Any) -> None:
    """Raises unless each value is a number or an array of numbers.

    Raises:
      TypeError: Something else, such as text or a list.
    """
    for name, value in values.items():
        kind = getattr(getattr(value, "dtype", None), "kind", None)
        array = kind is not None and hasattr(value, "shape") and kind not in "OSU"
        if not array and not isinstance(value, (bool, int, float, Fixed)):
            raise TypeError(
                f"{term}'s {name} is {value!r}; expected a number or an array"
            )


def known_false(holds: Callable[..., Any], *values: Any) -> bool:
    """Whether the values are known and what they should fulfil does not hold."""
    known = [concrete(value) for value in values]
    return all(k is not None for k in known) and not np.all(holds(*known))


def site_patterns(sites: str | Sequence[str]) -> tuple[str, ...]:
    """Patterns of sites, of one or of several."""
    return (sites,) if isinstance(sites, str) else tuple(sites)
