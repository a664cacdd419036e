"""What a calibration is measured by: starts, their reference ends, and distances."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.diffusion import logsnr_grid
from jaxlib_guidance.reduce import sqrt
from jaxlib_guidance.sampling._calibrated import Calibrated, tabulate
from jaxlib_guidance.sampling._loop import sample
from jaxlib_guidance.sampling._multistep import unipc
from jaxlib_guidance.sampling._prepare import require_cond
from jaxlib_guidance.sampling._sampler import Sampler, SampleState
from jaxlib_guidance.types import Array, Process, PyTree

# The default reference is UniPC-3 in this many steps, even in log-SNR.
REFERENCE_STEPS = 100


class Problem:
    """Starts from which a denoiser is sampled, in batches of one size."""

    def __init__(
        self, keys: Array, denoiser: Any, x: Any, cond: PyTree, batch: int, **options
    ):
        if isinstance(x, SampleState):
            raise TypeError("x is a SampleState; expected a shape, or states [B, *S]")
        self.count = keys.shape[0]
        self.batch = min(batch, self.count)
        self.denoiser, self.options = denoiser, options
        require_cond(cond, self.count)
        self.shape = tuple(x) if isinstance(x, (tuple, list)) else None
        self.rows = keys, cond, None if self.shape is not None else jnp.asarray(x)
        self.ends = np.zeros(0)

    def draw(self, sampler: Sampler, grid: Array, rows: PyTree, **more) -> Array:
        """Samples of some starts."""
        keys, cond, x = rows
        x = self.shape if self.shape is not None else x
        options = self.options | more
        return sample(keys, self.denoiser, sampler, grid, x, cond, **options)[0]

    def some(self, ids: np.ndarray) -> PyTree:
        """The starts of these numbers."""
        return jax.tree.map(lambda leaf: leaf[ids], self.rows)

    def each(self, fn: Callable[[PyTree, np.ndarray], Array], ids: Any) -> np.ndarray:
        """``fn(starts, their numbers)`` for all of ``ids``, in batches of one size."""
        parts = np.resize(ids, (-(-len(ids) // self.batch), self.batch))
        return np.concatenate([fn(self.some(i), i) for i in parts])[: len(ids)]

    def refer(self, reference: Any, grid: Array) -> None:
        """Sets the ends that are to be reached from ``grid[0]``.

        Raises:
          ValueError: A reference of another shape, or with another first or last time.
          FloatingPointError: Ends that are not finite.
        """
        if isinstance(reference, (np.ndarray, jax.Array)):
            x = jax.eval_shape(
                lambda: self.draw(unipc(3), grid, self.some(np.arange(self.count)))
            )
            if reference.shape != x.shape:
                raise ValueError(
                    f"reference has shape {reference.shape}; expected ends {x.shape}"
                )
            self.ends = np.asarray(reference)
        else:
            sampler, fine = reference or _fine(self.options["process"], grid)
            ends = [np.asarray(each)[[0, -1]] for each in (fine, grid)]
            same = np.allclose(ends[0], ends[1])
            if not same:
                raise ValueError(
                    f"reference goes from time {fine[0]} to {fine[-1]}; expected those "
                    f"of the start's grid, {grid[0]} and {grid[-1]}"
                )
            draw = jax.jit(lambda rows: self.draw(sampler, fine, rows))
            self.ends = self.each(lambda rows, _: draw(rows), np.arange(self.count))
        if not np.isfinite(self.ends).all():
            raise FloatingPointError("reference has ends that are not finite")

    def distances(self, made: Calibrated, rows: PyTree, ends: Array, **more) -> Array:
        """Distance ``[b]`` of each sample from its reference."""
        x = self.draw(made.sampler, made.grid, rows, **more)
        return sqrt(jnp.sum((x - ends) ** 2, axis=tuple(range(1, x.ndim))))

    @functools.cached_property
    def _measured(self):
        return jax.jit(self.distances)

    def error(self, made: Calibrated, ids: np.ndarray) -> float:
        """Mean distance over some starts."""
        distance = lambda rows, i: self._measured(made, rows, self.ends[i])  # noqa: E731
        return float(self.each(distance, ids).mean())


def _fine(process, grid):
    first, last = float(grid[0]), float(grid[-1])
    options = {"t_max": first, "final_zero": last == 0}
    if last > 0:
        options["t_min"] = last
    return unipc(3), logsnr_grid(process, REFERENCE_STEPS, **options)


def learnable(
    sampler: Sampler, grid: Array, process: Process
) -> tuple[PyTree, Callable[[PyTree], Calibrated]]:
    """Parameters that are 0 for a fixed solver, and the solver that they make.

    Times are gaps of ``u = sigma / (alpha + sigma)``, each times the exponential of a
    parameter and all scaled to the same sum: whatever is learned, times fall, and stay
    between the first and the process's lowest. The fixed solver's table is made anew on
    those times. Weights are learned in units of DDIM's weight of x0 in the same step.

    Args:
      sampler: Fixed solver to begin from.
      grid: Times ``[n + 1]``, known.
      process: Noise process.

    Returns:
      ``(parameters, function from such to a solver)``.
    """
    n = grid.shape[0] - 1
    bound = jnp.maximum(grid[-1], process.t_min)

    def flow_time(t):
        alpha, sigma = process.alpha(t), process.sigma(t)
        return sigma / (alpha + sigma)

    u = flow_time(jnp.append(grid[:-1], bound))
    gaps = jnp.maximum(u[:-1] - u[1:], 0)

    def build(learned):
        grown = gaps * jnp.exp(learned["gaps"])
        falls = jnp.cumsum(grown)[:-1] * (jnp.sum(gaps) / jnp.sum(grown))
        inner = u[0] - falls
        times = process.t_of_logsnr(-2 * jnp.log(inner / (1 - inner)))
        made = tabulate(sampler, jnp.concatenate([grid[:1], times, grid[-1:]]), process)
        alpha, sigma = process.alpha(made.grid), process.sigma(made.grid)
        unit = alpha[1:] - sigma[1:] * alpha[:-1] / sigma[:-1]
        weights = made.weights + unit[:, None] * jnp.tril(learned["weights"])
        return Calibrated(made.grid, made.keep + learned["keep"], weights, process)

    zero = {"gaps": jnp.zeros(n), "keep": jnp.zeros(n), "weights": jnp.zeros((n, n))}
    return zero, build
