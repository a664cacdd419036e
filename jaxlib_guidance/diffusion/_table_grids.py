"""Time grids that are given: by a network's table of timesteps, or by noise levels."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.diffusion._discrete import VPDiscrete
from jaxlib_guidance.diffusion._ranges import require_steps
from jaxlib_guidance.types import Array, Process, concrete, require_process

# Noise ratios of ten steps each, arXiv 2404.14507, table 3.
ALIGNED = {
    "sd15": (
        *(14.615, 6.475, 3.861, 2.697, 1.886, 1.396),
        *(0.963, 0.652, 0.399, 0.152, 0.029),
    ),
    "sdxl": (
        *(14.615, 6.315, 3.771, 2.181, 1.342, 0.862),
        *(0.555, 0.380, 0.234, 0.113, 0.029),
    ),
    "deepfloyd_if": (
        *(160.41, 8.081, 3.315, 1.885, 1.207, 0.785),
        *(0.553, 0.293, 0.186, 0.030, 0.006),
    ),
    "svd": (
        *(700.0, 54.5, 15.886, 7.977, 4.248, 1.789),
        *(0.981, 0.403, 0.173, 0.034, 0.002),
    ),
}

Spacing = Literal["leading", "trailing", "linspace"]
Placement = Literal["ddim", "euler", "dpm"]


def discrete_grid(
    process: VPDiscrete,
    n: int,
    spacing: Spacing = "trailing",
    offset: int = 1,
    solver: Placement = "ddim",
    final_zero: bool = True,
) -> Array:
    """The timesteps of a DDPM-trained network, as diffusers' schedulers choose them.

    Of a table of ``T`` steps, from the last to the first:

    - "trailing": ``T - 1 - i T / n``, rounded, for every solver;
    - "leading": multiples of ``T // n`` from 0, plus ``offset``; for "dpm" multiples of
      ``T // (n + 1)`` from the first, plus ``offset``;
    - "linspace": ``n`` even values from ``T - 1`` to 0, rounded for "ddim"; for "dpm"
      the first ``n`` of ``n + 1``, rounded.

    Args:
      process: A process with a table, from `vp_discrete`.
      n: Number of steps, at most ``T``.
      spacing: Rule by which steps are chosen: "leading", "trailing" or "linspace".
      offset: Number added to the steps of the leading rule, diffusers'
        ``steps_offset``.
      solver: Family of schedulers whose timesteps are wanted: "ddim" (DDIM, DDPM,
        PNDM), "euler" (Euler, Heun, LMS, DPM-2, DPM++ SDE) or "dpm" (DPM-Solver++,
        UniPC, DEIS, SA-Solver).
      final_zero: Whether the grid ends at 0; else at the noise level of the table's
        first step, as with ``final_sigmas_type="sigma_min"`` and
        ``set_alpha_to_one=False``.

    Returns:
      Float32 ``[n + 1]``.

    Raises:
      TypeError: A process without a table.
      ValueError: ``n`` below 1 or above ``T``, an unknown rule or family, or a choice
        that takes a step of the table twice.

    Example:
      >>> import jaxlib_guidance as jg
      >>> process = jg.vp_discrete(jg.diffusion.linear_betas(1000))
      >>> process.index(jg.discrete_grid(process, 4)[:-1]).tolist()
      [999.0, 749.0, 499.0, 249.0]

    Reference: Lin et al., arXiv 2305.08891, table 2.
    """
    require_steps(n)
    if not isinstance(process, VPDiscrete):
        raise TypeError(
            f"process is {process!r}; expected one with a table, from vp_discrete"
        )
    if solver not in get_args(Placement):
        raise ValueError(f"solver is {solver!r}; expected one of {get_args(Placement)}")
    total = process.steps
    if n > total:
        raise ValueError(f"n is {n}; expected at most the table's {total} steps")
    dropped = int(solver == "dpm")  # of the steps at the end, where noise is least
    match spacing:
        case "leading":
            kept = np.arange(dropped, n + dropped)[::-1]
            index = kept * (total // (n + dropped)) + offset
            index -= max(0, index[0] - (total - 1))  # n = T leaves no room for it
        case "trailing":
            index = np.round(total - np.arange(n) * total / n) - 1
        case "linspace":
            index = np.linspace(total - 1, 0, n + dropped)[:n]
            index = index if solver == "euler" else np.round(index)
        case _:
            raise ValueError(
                f"spacing is {spacing!r}; expected 'leading', 'trailing' or 'linspace'"
            )
    times = np.append(index + 1, 0 if final_zero else 1) / total
    if not (np.diff(times) < 0).all():
        raise ValueError(
            f"n is {n}; with spacing={spacing!r}, offset={offset}, solver={solver!r} "
            f"and final_zero={final_zero} that takes a step of the table's {total} "
            "twice; expected fewer steps, or another rule"
        )
    return jnp.asarray(times, jnp.float32)


def sigmas_grid(process: Process, sigmas: Array | np.ndarray | list[float]) -> Array:
    """The times at which a process has given noise ratios ``sigma / alpha``.

    k-diffusion and EDM write grids as such ratios, which they call sigmas: the output
    of any of their functions, with the 0 that they append, becomes a grid for any
    process. A flow's sigmas, as in diffusers' FlowMatch schedulers, are its times: they
    are a grid already.

    Args:
      process: The noise process.
      sigmas: Noise ratios ``[N + 1]``, from noise to data; the last may be 0. The first
        may be the process's highest and the others its lowest rounded to three digits.

    Returns:
      Float32 times ``[N + 1]``.

    Raises:
      TypeError: ``process`` is not a noise process.
      ValueError: ``sigmas`` of another shape, not decreasing, below 0, or beyond the
        noise levels of the process's ``t_max`` and ``t_min``, at which the network is
        evaluated.

    Example:
      >>> import jaxlib_guidance as jg
      >>> grid = jg.diffusion.sigmas_grid(jg.RectifiedFlow(), [4.0, 1.0, 0.0])
      >>> grid.round(3).tolist()
      [0.8, 0.5, 0.0]

    Reference: Karras et al., EDM, arXiv 2206.00364, section 2.
    """
    require_process(process)
    with jax.ensure_compile_time_eval():
        levels = jnp.asarray(sigmas, jnp.float32)
        if levels.ndim != 1 or levels.size < 2:
            raise ValueError(f"sigmas has shape {levels.shape}; expected [N + 1]")
        ends = jnp.array([process.t_max, process.t_min], jnp.float32)
        _require_levels(levels, process.sigma(ends) / process.alpha(ends))
        positive = levels > 0
        times = process.t_of_logsnr(-2 * jnp.log(jnp.where(positive, levels, 1)))
        times = times.at[:-1].set(jnp.clip(times[:-1], ends[1], ends[0]))
        return jnp.where(positive, times, 0)


def _require_levels(levels, ends):
    """Raises for noise ratios that are known and out of order or of range."""
    known, ends = concrete(levels), concrete(ends)
    if known is None:
        return
    if not ((np.diff(known) < 0).all() and known[-1] >= 0):
        raise ValueError(
            f"sigmas is {known}; expected numbers that decrease, the last at least 0"
        )
    if ends is None:
        return
    high, low = 1.001 * ends[0], 0.999 * ends[1]
    if known[0] > high or known[-2] < low:
        raise ValueError(
            f"sigmas goes from {known[0]} to {known[-2]} before its last; expected "
            f"noise ratios from {ends[0]} to {ends[1]}, those of the process's t_max "
            "and t_min"
        )


def align_your_steps_grid(
    process: Process, n: int, model: Literal["sd15", "sdxl", "deepfloyd_if", "svd"]
) -> Array:
    """Published steps for a published model, optimised on that model.

    Another number of steps than 10 interpolates the logarithms of the noise ratios, as
    the authors recommend.

    Args:
      process: The noise process of that model, whose noise levels reach as high.
      n: Number of steps.
      model: Name of the model: "sd15", "sdxl", "deepfloyd_if" (stage 1) or "svd".

    Returns:
      Float32 ``[n + 1]``, the last 0.

    Raises:
      TypeError: ``process`` is not a noise process.
      ValueError: ``n`` below 1, an unknown model, or a process with less noise.

    Example:
      >>> import jaxlib_guidance as jg
      >>> process = jg.vp_discrete(jg.diffusion.scaled_linear_betas())
      >>> grid = jg.diffusion.align_your_steps_grid(process, 10, "sd15")
      >>> process.index(grid[:3]).round().tolist()
      [999.0, 850.0, 736.0]

    Reference: Sabour et al., arXiv 2404.14507, table 3.
    """
    require_steps(n)
    if model not in ALIGNED:
        raise ValueError(f"model is {model!r}; expected one of {tuple(ALIGNED)}")
    logs = np.log(ALIGNED[model])
    places = np.linspace(0, len(logs) - 1, n + 1)
    ratios = np.exp(np.interp(places, np.arange(len(logs)), logs))
    return sigmas_grid(process, [*ratios[:-1], 0.0])
