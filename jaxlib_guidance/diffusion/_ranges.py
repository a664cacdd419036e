"""What time grids have in common: their ends, and the checks of their arguments."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.diffusion._process import logsnr
from jaxlib_guidance.types import Array, Process, concrete, require_process


def level(function: Callable[[Array], Array], of: Any) -> Any:
    """A function of a process, such as its ``alpha``; in float64 where it is known.

    What a grid computes with known numbers numpy does: one operation of jax after the
    other would be compiled for each length of a grid, thirty in all.
    """
    with jax.ensure_compile_time_eval():
        out = function(jnp.asarray(of, jnp.float32))
    known = concrete(out)
    return out if known is None else known.astype(np.float64)


def alike(*values: Any) -> tuple[Any, ...]:
    """`numpy` and values in float64; where one is not known `jax.numpy`, in float32."""
    if any(concrete(value) is None for value in values):
        return jnp, *(jnp.asarray(value, jnp.float32) for value in values)
    return np, *(np.asarray(value, np.float64) for value in values)


def finish(times: Any, final_zero: bool) -> Array:
    """The grid with 0 behind it, or as it is; raises where known times repeat."""
    with jax.ensure_compile_time_eval():
        if concrete(times) is None:
            return jnp.append(times, 0.0) if final_zero else times
        known = np.asarray(times, np.float32)
        if not (np.diff(known) < 0).all():
            raise ValueError(
                f"n is too large: float32 does not tell all of {len(known)} times from "
                f"{known[0]:g} to {known[-1]:g} apart; expected fewer steps, or a "
                "spacing less dense at its ends"
            )
        return jnp.asarray(np.append(known, np.float32(0)) if final_zero else known)


def require_steps(n: int, smallest: int = 1) -> None:
    """Raises unless ``n`` is a whole number, at least ``smallest``."""
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < smallest:
        raise ValueError(
            f"n is {n!r}; expected a whole number of steps, at least {smallest}"
        )


def require_untraced(value: Any, name: str) -> None:
    """Raises if a number that decides what the program is is traced."""
    if concrete(value) is None:
        raise ValueError(f"{name} is traced; expected a number known while tracing")


def time_range(
    process: Process,
    t_min: float | None,
    t_max: float | None,
    above_zero: bool = False,
) -> tuple[float, float]:
    """Lowest and highest time, the process's where None; raises if out of order."""
    require_process(process)
    low = process.t_min if t_min is None else t_min
    high = process.t_max if t_max is None else t_max
    require_untraced(low, "t_min")
    require_untraced(high, "t_max")
    if not 0 <= low < high or (above_zero and low == 0):
        raise ValueError(
            f"t_min is {low} and t_max {high}; expected 0 "
            f"{'<' if above_zero else '<='} t_min < t_max"
        )
    return low, high


def logsnr_ends(process: Process, high: float, low: float) -> Any:
    """Log-SNR at both times ``[2]``, bounded so that a grid can be spaced in it."""
    # Where alpha(t_max) is 0 the log-SNR is infinite: space the grid as if it were at
    # sigma / alpha = 1000; the first time stays t_max itself.
    ends = level(lambda t: logsnr(process, t), [high, low])
    xp, ends = alike(ends)
    return xp.clip(ends, -2 * math.log(1e3), 2 * math.log(1e5))


def from_logsnr(
    process: Process, levels: Any, high: float, low: float, final_zero: bool
) -> Array:
    """The grid of these log-SNR, whose ends are the known times ``high, low``."""
    inner = level(process.t_of_logsnr, levels)[1:-1]
    return finish(between(high, inner, low), final_zero)


def between(high: float, inner: Any, low: float) -> Any:
    """Times with the known ones ``high`` before and ``low`` behind them."""
    xp, first, inner, last = alike([high], inner, [low])
    return xp.concatenate([first, inner, last])
