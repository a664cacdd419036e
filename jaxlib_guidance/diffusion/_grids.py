"""Time grids: where a solver's steps fall, apart from which solver takes them.

Every grid is an array ``[N + 1]`` that decreases from noise to data and ends at 0,
ready for `sample`. Spacing decides more than order does: `flow_grid` is best with
`adams`, even log-SNR with solvers that integrate in it; docs/samplers.md has figures.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.diffusion._ranges import (
    alike,
    between,
    finish,
    from_logsnr,
    level,
    logsnr_ends,
    require_steps,
    require_untraced,
    time_range,
)
from jaxlib_guidance.diffusion._times import require_positive
from jaxlib_guidance.types import Array, Process, concrete, require_array

# By how much a step of `flow_grid` may exceed the one before. A multistep solver of
# fourth order amplifies a network's own error 7 times at 1, 13 at 1.25 and 90 at 2.
GROWTH = 1.25


def _ramp(start: Any, last: Any, n: int) -> Any:
    """``n`` values from ``start`` to ``last``, in even steps until they have to grow,
    by `GROWTH` each, to the one that follows them, from ``last`` to 0.
    """
    xp, start, last = alike(start, last)
    if n == 1:
        return start[None]
    length = start - last
    back = xp.arange(1.0, n)  # number of the step, from the end
    # Growing steps may take 4/5 of the length, so those to a high floor grow faster.
    grown = last * xp.maximum(GROWTH, 1 + last / (0.8 * length)) ** -back
    # The even step h for which max(h, grown) sums to the length.
    total = xp.append(0 * last, xp.cumsum(grown)[:-1])
    even = xp.min((length - total) / (n - back))
    steps = xp.maximum(even, grown)
    ramp = xp.append(last, last + xp.cumsum(steps))[::-1]
    return xp.append(start, ramp[1:])


def uniform_grid(
    process: Process,
    n: int,
    t_max: float | None = None,
    t_min: float | None = None,
) -> Array:
    """Times ``t_max (1 - i / n)`` for i = 0, ..., n; the last is 0.

    Args:
      process: The noise process, whose ``t_max`` is the default.
      n: Number of steps.
      t_max: First time; None is the process's.
      t_min: Last time before 0, to which the other steps are even; None makes the last
        step one of them.

    Returns:
      Float32 ``[n + 1]``.

    Raises:
      TypeError: ``process`` is not a noise process.
      ValueError: ``n`` below 1, or below 2 with ``t_min``, or times out of order.

    Example:
      >>> import jaxlib_guidance as jg
      >>> jg.uniform_grid(jg.RectifiedFlow(), 4).tolist()
      [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    require_steps(n, 1 if t_min is None else 2)
    start = 0.0 if t_min is None else t_min
    low, high = time_range(process, start, t_max, above_zero=t_min is not None)
    if t_min is None:
        return finish(np.linspace(high, 0.0, n + 1), False)
    return finish(np.linspace(high, low, n), True)


def flow_grid(
    process: Process,
    n: int,
    shift: float = 1.0,
    t_min: float | None = None,
    t_max: float | None = None,
    *,
    rho: float = 1.0,
) -> Array:
    """Evenly spaced in ``sigma / (alpha + sigma)``: a flow's time, for any process.

    The noise ratio of step i is ``sigma / alpha = shift u / (1 - u)`` with u even from
    that of ``t_max`` to 0, which for a rectified flow is `uniform_grid`, shifted by
    `shift_grid`. Where even steps would be shorter than the last one, from ``t_min`` to
    0, the steps before that one grow towards it by 1.25 each, so that a multistep
    solver never reaches far beyond its past. With ``rho`` it is ``u^(1 / rho)`` that is
    even: steps shrink towards the data, as those of `karras_grid` do, and are regular
    where all is noise, too. `recommended` has the values to take.

    Args:
      process: The noise process.
      n: Number of steps; the last ends at 0.
      shift: Factor of the noise ratio; above 1 means more steps at high noise, below
        1 more at low noise.
      t_min: Bound that no time but the last is below; None is the process's.
      t_max: First time; None is the process's.
      rho: Exponent of the spacing; the default 1 is even in u. Above 1 steps shrink by
        themselves, and none is stretched towards ``t_min``.

    Returns:
      Float32 ``[n + 1]``.

    Raises:
      TypeError: ``process`` is not a noise process.
      ValueError: ``n`` below 1, ``shift`` not above 0, ``rho`` below 1, or times out
        of order.

    Example:
      >>> import jaxlib_guidance as jg
      >>> [round(float(t), 3) for t in jg.flow_grid(jg.RectifiedFlow(), 2)]
      [1.0, 0.5, 0.0]

    Reference: Esser et al., arXiv 2403.03206, eq. 23 (the shift).
    """
    require_steps(n)
    require_positive(shift, "shift")
    require_untraced(rho, "rho")
    if not 1 <= rho < np.inf:
        raise ValueError(f"rho is {rho}; expected a finite number, at least 1")
    low, high = time_range(process, t_min, t_max)
    alpha, sigma = (level(f, [high, low]) for f in (process.alpha, process.sigma))
    xp, alpha, sigma, shift = alike(alpha, sigma, shift)
    u = sigma / (shift * alpha + sigma)
    if rho == 1:
        ramp = _ramp(u[0], xp.maximum(u[0] / n, u[1]), n)
    else:
        v = u ** (1 / float(rho))
        ramp = xp.linspace(v[0], xp.maximum(v[0] / n, v[1]), n) ** float(rho)
    # The first of them may be pure noise, of infinite ratio: it is known, `high`.
    ratio = shift * ramp[1:] / (1 - ramp[1:])
    times = level(process.t_of_logsnr, -2 * xp.log(ratio))
    xp, times, floor = alike(times, low)
    with jax.ensure_compile_time_eval():
        return jnp.asarray(between(high, xp.maximum(times, floor), 0), jnp.float32)


def logsnr_grid(
    process: Process,
    n: int,
    t_min: float | None = None,
    t_max: float | None = None,
    final_zero: bool = True,
    rho: float = 1.0,
) -> Array:
    """Evenly spaced in log-SNR, the time in which exponential integrators think.

    The same grid as an exponential (geometric) spacing of ``sigma / alpha``, which
    diffusers offers twice, as ``use_exponential_sigmas`` and ``use_lu_lambdas``. With
    ``rho`` k-diffusion's polyexponential spacing: the distance in log-SNR from the
    last time is in proportion to ``(1 - i / N)^rho``.

    Args:
      process: The noise process.
      n: Number of steps; with ``final_zero`` the last of them goes from ``t_min`` to 0.
      t_min: Last time before 0; None is the process's.
      t_max: First time; None is the process's.
      final_zero: Whether to append 0; else the grid ends at ``t_min``.
      rho: Exponent of the spacing; 1 is even, more puts more steps near data.

    Returns:
      Float32 ``[n + 1]``.

    Raises:
      TypeError: ``process`` is not a noise process.
      ValueError: Too few steps or too many for float32, ``rho`` not above 0, or times
        out of order.

    Example:
      >>> import jaxlib_guidance as jg
      >>> grid = jg.logsnr_grid(jg.VE(t_min=0.01, t_max=1.0), 3)
      >>> [round(float(t), 3) for t in grid]
      [1.0, 0.1, 0.01, 0.0]

    Reference: Lu et al., DPM-Solver, arXiv 2206.00927, section 4.
    """
    require_steps(n, 2 if final_zero else 1)
    require_positive(rho, "rho")
    low, high = time_range(process, t_min, t_max, above_zero=True)
    ramp = np.linspace(1.0, 0.0, n if final_zero else n + 1)
    _, ends, ramp, rho = alike(logsnr_ends(process, high, low), ramp, rho)
    levels = ends[1] + ramp**rho * (ends[0] - ends[1])
    return from_logsnr(process, levels, high, low, final_zero)


def karras_grid(
    process: Process,
    n: int,
    rho: float = 7.0,
    t_min: float | None = None,
    t_max: float | None = None,
    final_zero: bool = True,
) -> Array:
    """Evenly spaced in ``(sigma / alpha)^(1 / rho)``.

    Args:
      process: The noise process. Where ``alpha(t_max)`` is 0 the spacing is that from
        a noise ratio of 1000; the first time is ``t_max`` itself.
      n: Number of steps; with ``final_zero`` the last of them goes from ``t_min`` to 0.
      rho: Exponent of the spacing; 1 is even in noise level, infinity even in log-SNR.
      t_min: Last time before 0; None is the process's.
      t_max: First time; None is the process's.
      final_zero: Whether to append 0; else the grid ends at ``t_min``.

    Returns:
      Float32 ``[n + 1]``.

    Raises:
      TypeError: ``process`` is not a noise process.
      ValueError: Too few steps or too many for float32, ``rho`` not above 0, or times
        out of order.

    Example:
      >>> import jaxlib_guidance as jg
      >>> grid = jg.karras_grid(jg.VE(), 10)
      >>> grid.shape, round(float(grid[0]), 3), float(grid[-1])
      ((11,), 80.0, 0.0)

    Reference: Karras et al., arXiv 2206.00364, eq. 5.
    """
    require_steps(n, 2 if final_zero else 1)
    require_positive(rho, "rho")
    low, high = time_range(process, t_min, t_max, above_zero=True)
    # In log space, because sigma / alpha reaches 1e4 on a cosine schedule.
    ramp = np.linspace(0.0, 1.0, n if final_zero else n + 1)
    xp, ends, ramp, rho = alike(logsnr_ends(process, high, low), ramp, rho)
    first, last = xp.exp(-ends / (2 * rho))
    levels = -2 * rho * xp.log(first + ramp * (last - first))
    return from_logsnr(process, levels, high, low, final_zero)


def shift_grid(grid: Array, shift: float) -> Array:
    """``t' = s t / (1 + (s - 1) t)``: more of a flow's steps at high noise for s > 1.

    Args:
      grid: Times in [0, 1], any shape.
      shift: Factor ``s`` of the noise ratio; 1 changes nothing, Stable Diffusion 3
        uses 3.

    Returns:
      Times in [0, 1], of ``grid``'s shape.

    Raises:
      ValueError: Times outside [0, 1], such as EDM's noise levels; ``shift`` not above
        0.

    Example:
      >>> import jaxlib_guidance as jg
      >>> grid = jg.uniform_grid(jg.RectifiedFlow(), 2)
      >>> jg.shift_grid(grid, 3.0).tolist()
      [1.0, 0.75, 0.0]

    Reference: Esser et al., arXiv 2403.03206, eq. 23.
    """
    require_positive(shift, "shift")
    require_array("grid", grid, "an array of times")
    known = concrete(grid)
    if known is not None and not ((known >= 0) & (known <= 1)).all():
        raise ValueError(
            f"grid goes from {known.max()} to {known.min()}; expected times in [0, 1], "
            "those of a flow"
        )
    with jax.ensure_compile_time_eval():
        return shift * grid / (1 + (shift - 1) * grid)
