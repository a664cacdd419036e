"""Checks of numbers: times of a process, told from step numbers, and scales."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.types import Process, concrete, require_array, require_process

# Times may exceed the process's t_max by this factor: a grid from 1 for a process that
# is trained to .999.
BEYOND = 1.01


def require_times(process: Process, t: Any, name: str = "t") -> None:
    """Raises unless times are those of the process.

    Args:
      process: Noise process.
      t: Times of any shape. What is traced is checked for its type alone.
      name: Name of the argument in the error.

    Raises:
      TypeError: ``process`` is not a noise process, or ``t`` no numbers.
      ValueError: Known times outside ``[0, t_max]`` (1 % beyond it passes), or integers
        while they are traced, which are step numbers.
    """
    require_process(process)
    require_array(name, t, "times", lists=True)
    known, end = concrete(t), concrete(process.t_max)
    kind = type(process).__name__
    if known is None:
        if jnp.issubdtype(jnp.result_type(t), jnp.integer):
            raise ValueError(
                f"{name} has dtype {jnp.result_type(t)}; expected times of {kind}, "
                "floats: step i of a table of T is the time (i + 1) / T"
            )
        return
    # Written so that NaN fails too.
    if end is not None and not ((known >= 0) & (known <= BEYOND * end)).all():
        raise ValueError(
            f"{name} has times from {known.min():g} to {known.max():g}; expected "
            f"times of {kind}, 0 to {end}: not step numbers, noise levels or the grid "
            "of another process"
        )


def require_positive(value: Any, name: str) -> None:
    """Raises unless a number, where it is known, is above 0 and finite.

    Args:
      value: Number to check; what is traced passes.
      name: Name of the argument in the error.

    Raises:
      TypeError: No number.
      ValueError: A known number that is not above 0, or not finite.
    """
    known = concrete(value)
    if known is None:
        return
    if not jnp.issubdtype(known.dtype, jnp.number):
        raise TypeError(f"{name} is {value!r}; expected a number above 0")
    if not ((known > 0) & (known < np.inf)).all():
        raise ValueError(f"{name} is {value}; expected a finite number above 0")
