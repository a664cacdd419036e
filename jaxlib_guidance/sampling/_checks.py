"""Checks of the arguments of solvers."""

from typing import Any


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
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < smallest or (largest is not None and value > largest):
        bounds = f"from {smallest}" + (f" to {largest}" if largest is not None else "")
        raise ValueError(f"{name} is {value!r}; expected a whole number {bounds}")
