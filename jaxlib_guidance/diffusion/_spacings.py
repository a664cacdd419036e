"""Spacings of time grids that other packages offer, for any process."""

from typing import Literal

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
from jaxlib_guidance.types import Array, Process


def kl_optimal_grid(
    process: Process,
    n: int,
    scale: float = 1.0,
    t_min: float | None = None,
    t_max: float | None = None,
    final_zero: bool = True,
) -> Array:
    """Evenly spaced in the angle ``atan(sigma / (scale alpha))``.

    For Gaussian data of that standard deviation no other ``n`` steps bring the samples
    of DDIM as close to the data, in Kullback-Leibler divergence. At scale 1 it is the
    time of a cosine schedule.

    Args:
      process: The noise process.
      n: Number of steps; with ``final_zero`` the last of them goes from ``t_min`` to 0.
      scale: Standard deviation of the data.
      t_min: Last time before 0; None is the process's.
      t_max: First time; None is the process's.
      final_zero: Whether to append 0; else the grid ends at ``t_min``.

    Returns:
      Float32 ``[n + 1]``.

    Raises:
      TypeError: ``process`` is not a noise process.
      ValueError: Too few steps or too many for float32, ``scale`` not above 0, or times
        out of order.

    Example:
      >>> import jaxlib_guidance as jg
      >>> grid = jg.diffusion.kl_optimal_grid(jg.VPCosine(), 3)
      >>> [round(float(t), 3) for t in grid]
      [0.999, 0.5, 0.001, 0.0]

    Reference: Sabour et al., Align Your Steps, arXiv 2404.14507, theorem 3.1.
    """
    require_steps(n, 2 if final_zero else 1)
    require_positive(scale, "scale")
    low, high = time_range(process, t_min, t_max, above_zero=True)
    alpha, sigma = (level(f, [high, low]) for f in (process.alpha, process.sigma))
    xp, alpha, sigma, scale = alike(alpha, sigma, scale)
    first, last = xp.arctan2(sigma, scale * alpha)
    inner = xp.linspace(first, last, n if final_zero else n + 1)[1:-1]
    times = level(process.t_of_logsnr, -2 * xp.log(scale * xp.tan(inner)))
    return finish(between(high, times, low), final_zero)


def beta_grid(
    process: Process,
    n: int,
    alpha: float = 0.6,
    beta: float = 0.6,
    space: Literal["time", "sigma"] = "time",
    t_min: float | None = None,
    t_max: float | None = None,
) -> Array:
    """Quantiles of a Beta distribution: dense at both ends, where most happens.

    "time": ``t_min + q(1 - i / n) (t_max - t_min)`` for i = 0, ..., n - 1, then 0, with
    ``q`` the quantile function, as in the paper and in ComfyUI. "sigma": the same rule
    for ``sigma / alpha``, with ``i / (n - 1)``, as with diffusers'
    ``use_beta_sigmas``.

    Args:
      process: The noise process.
      n: Number of steps; the last ends at 0.
      alpha: Parameter of the distribution; less puts more steps near data.
      beta: Parameter of the distribution; less puts more steps near noise.
      space: Quantity that is spaced: "time" or "sigma".
      t_min: Lower end of the spacing; None is the process's.
      t_max: First time; None is the process's.

    Returns:
      Float32 ``[n + 1]``.

    Raises:
      TypeError: ``process`` is not a noise process.
      ValueError: Too few steps or too many for float32, a parameter not above 0, times
        out of order, or an unknown ``space``.

    Reference: Lee et al., Beta Sampling is All You Need, arXiv 2407.12173.
    """
    # Imported here because scipy takes longer to load than the rest of this room.
    from scipy.special import betaincinv

    if space not in ("time", "sigma"):
        raise ValueError(f"space is {space!r}; expected 'time' or 'sigma'")
    require_steps(n, 1 if space == "time" else 2)
    for value, name in ((alpha, "alpha"), (beta, "beta")):
        require_untraced(value, name)
        require_positive(value, name)
    low, high = time_range(process, t_min, t_max, above_zero=space == "sigma")
    count = n if space == "time" else n - 1
    share = betaincinv(alpha, beta, 1 - np.arange(n) / count)
    if space == "time":
        return finish(low + share * (high - low), True)
    xp, ends, share = alike(logsnr_ends(process, high, low), share)
    first, last = xp.exp(-0.5 * ends)
    ratio = last + share * (first - last)
    return from_logsnr(process, -2 * xp.log(ratio), high, low, True)


def linear_quadratic_grid(
    process: Process,
    n: int,
    threshold: float = 0.025,
    linear_steps: int | None = None,
    t_max: float | None = None,
) -> Array:
    """Short even steps near noise, then steps that grow linearly: Mochi's grid.

    In the flow's time ``u = sigma / (alpha + sigma)``, from ``u(t_max)``: even steps to
    ``(1 - threshold) u(t_max)``, then a parabola to 0 that goes on from their slope.

    Args:
      process: The noise process; a rectified flow's own time is ``u``.
      n: Number of steps.
      threshold: Share of the way that the even steps take.
      linear_steps: Number of even steps; None is half of them all.
      t_max: First time; None is the process's.

    Returns:
      Float32 ``[n + 1]``, the last 0.

    Raises:
      TypeError: ``process`` is not a noise process.
      ValueError: ``n`` below 1, ``linear_steps`` not between 1 and ``n - 1``, or
        numbers that give no decreasing grid.

    Reference: Genmo, Mochi 1, github.com/genmoai/mochi, ``linear_quadratic_schedule``.
    """
    require_steps(n)
    _, high = time_range(process, 0.0, t_max)
    share = _linear_quadratic(n, threshold, linear_steps)
    alpha, sigma = (level(f, [high]) for f in (process.alpha, process.sigma))
    xp, alpha, sigma, share = alike(alpha, sigma, share)
    u = sigma / (alpha + sigma) * share[1:-1]
    inner = level(process.t_of_logsnr, -2 * xp.log(u / (1 - u)))
    xp, first, inner = alike([high], inner)
    return finish(xp.concatenate([first, inner]), True)


def _linear_quadratic(n, threshold, linear_steps):
    even = n // 2 if linear_steps is None else linear_steps
    if n == 1 and linear_steps is None:
        return np.array([1.0, 0.0])
    if isinstance(even, bool) or even != int(even) or not 1 <= even < n:
        raise ValueError(
            f"linear_steps is {linear_steps}; expected a whole number from 1 to "
            f"n - 1 = {n - 1}"
        )
    i = np.arange(n + 1)
    slope, rest = threshold / even, n - even
    # The parabola through (even, threshold) with that slope, and through (n, 1).
    bend = (1 - threshold - slope * rest) / rest**2
    way = slope * i + bend * np.maximum(i - even, 0) ** 2
    if not (np.diff(way) > 0).all():
        raise ValueError(
            f"threshold is {threshold} with {even} even steps of {n}; expected a share "
            "between 0 and 1 from which the other steps can go on"
        )
    return 1 - way
