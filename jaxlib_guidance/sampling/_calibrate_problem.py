"""What a calibration is measured by, and which numbers it may change."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.calls import require_cond
from jaxlib_guidance.diffusion import logsnr_grid
from jaxlib_guidance.guidance import guided
from jaxlib_guidance.reduce import sqrt
from jaxlib_guidance.sampling._calibrated import Calibrated, tabulate
from jaxlib_guidance.sampling._checks import require_sampler
from jaxlib_guidance.sampling._loop import initial_state, sample
from jaxlib_guidance.sampling._multistep import unipc
from jaxlib_guidance.sampling._sampler import Sampler, SampleState
from jaxlib_guidance.types import Array, Process, PyTree

# The default reference is UniPC-3 in this many steps, even in log-SNR.
REFERENCE_STEPS = 100


class _Pair(NamedTuple):
    sampler: Sampler
    grid: Array


class Problem:
    """Starts from which a denoiser is sampled, in batches of one size."""

    def __init__(
        self, keys: Array, denoiser: Any, x: Any, cond: PyTree, batch: int, **options
    ):
        if isinstance(x, SampleState):
            raise TypeError("x is a SampleState; expected a shape, or states [B, *S]")
        self.count = keys.shape[0]
        if not self.count:
            raise ValueError("keys has shape (0,); expected [B], one for each start")
        self.batch = min(batch, self.count)
        self.denoiser, self.options = denoiser, options
        require_cond(cond, self.count)
        self.shape = tuple(x) if isinstance(x, (tuple, list)) else None
        # Checks x: a batch taken from it would have the right size whatever its own.
        process, t = options["process"], jnp.ones(())
        jax.eval_shape(lambda keys: initial_state(keys, process, t, x), keys)
        self.rows = keys, cond, None if self.shape is not None else jnp.asarray(x)
        self.ends = np.zeros(0)

    @property
    def free_start(self) -> bool:
        """Whether states are noise of any level, and not those of one first time."""
        return self.shape is not None

    def earliest(self, grid: Array) -> Array:
        """The bound of the first time."""
        t_max = self.options["process"].t_max
        return jnp.float32(t_max) if self.free_start else grid[0]

    def _x(self, rows):
        return rows[2] if self.shape is None else self.shape

    def draw(
        self, made: Calibrated | _Pair, rows: PyTree, state: Any = None, **more
    ) -> tuple[Any, Any]:
        """What `sample` returns for some starts, from their first state or a later."""
        keys, cond, _ = rows
        x = self._x(rows) if state is None else state
        options = self.options | more
        return sample(keys, self.denoiser, made.sampler, made.grid, x, cond, **options)

    def start(self, made: Calibrated, rows: PyTree) -> SampleState:
        """The trajectories of some starts before their first step."""
        network = guided(self.denoiser, self.options["guidance"], self.options["plan"])
        x = initial_state(rows[0], made.process, made.grid[0], self._x(rows))
        state = made.sampler.init(x), network.init(x)
        return SampleState(x, *state, jnp.int32(0), made.grid[0])

    def some(self, ids: np.ndarray) -> PyTree:
        """The starts of these numbers."""
        return jax.tree.map(lambda leaf: leaf[ids], self.rows)

    def batches(self, ids: np.ndarray) -> np.ndarray:
        """The numbers in batches of one size, the last one filled up."""
        return np.resize(ids, (-(-len(ids) // self.batch), self.batch))

    def refer(self, reference: Any, grid: Array) -> None:
        """Sets the ends that are to be reached from ``grid[0]``.

        Raises:
          ValueError: Ends of another shape, a solver that draws noise, or a grid with
            another last time or first one, but an earlier one from noise.
          TypeError: Neither ends nor a solver with its grid.
          FloatingPointError: Ends that are not finite.
        """
        if isinstance(reference, (np.ndarray, jax.Array)):
            pair = _Pair(unipc(3), grid)
            x = jax.eval_shape(lambda rows: self.draw(pair, rows)[0], self.rows)
            if reference.shape != x.shape:
                raise ValueError(
                    f"reference has shape {reference.shape}; expected ends {x.shape}"
                )
            self.ends = np.asarray(reference)
        else:
            if reference is None:
                first = self.earliest(grid)
                reference = _fine(self.options["process"], first, grid[-1])
            if not (isinstance(reference, (tuple, list)) and len(reference) == 2):
                raise TypeError(
                    f"reference is {reference!r}; expected a pair of solver and grid, "
                    "or ends [B, *S]"
                )
            require_sampler(reference[0])
            if reference[0].stochastic:
                raise ValueError(
                    "reference has a solver that draws noise; expected one whose ends "
                    "depend on the start alone"
                )
            pair = _Pair(reference[0], jnp.asarray(reference[1]))
            ends = [np.asarray(each)[[0, -1]] for each in (pair.grid, grid)]
            # From a shape both begin with the same noise, each at its first level.
            earlier = self.shape is not None and ends[0][0] > ends[1][0]
            compared = slice(1, 2) if earlier else slice(2)
            if not np.allclose(ends[0][compared], ends[1][compared]):
                raise ValueError(
                    f"reference goes from time {ends[0][0]:g} to {ends[0][1]:g}; "
                    f"expected those of the start, {ends[1][0]:g} and {ends[1][1]:g}, "
                    "or an earlier first one where x is a shape"
                )
            draw = jax.jit(lambda rows: self.draw(pair, rows)[0])
            parts = self.batches(np.arange(self.count))
            drawn = np.concatenate([draw(self.some(part)) for part in parts])
            self.ends = drawn[: self.count]
        finite = np.isfinite(self.ends).reshape(self.count, -1).all(1)
        if not finite.all():
            guidance = self.options["guidance"]
            raise FloatingPointError(
                f"reference has ends that are not finite, {np.sum(~finite)} of "
                f"{self.count}: the network may be at fault"
                + (", or its guidance" if guidance is not None else "")
            )

    @functools.cached_property
    def _distance(self):
        def distance(made, rows, ends):
            x, _ = self.draw(made, rows)
            return sqrt(jnp.sum((x - ends) ** 2, axis=tuple(range(1, x.ndim))))

        return jax.jit(distance)

    def distances(self, made: Calibrated, ids: np.ndarray) -> np.ndarray:
        """Distances from the reference's ends of some starts."""
        found = [
            self._distance(made, self.some(part), self.ends[part])
            for part in self.batches(ids)
        ]
        return np.concatenate(found)[: len(ids)]

    def error(self, made: Calibrated, ids: np.ndarray) -> float:
        """Mean distance from the reference's ends over some starts."""
        return float(self.distances(made, ids).mean())


def _fine(process, first, last):
    first, last = float(first), float(last)
    options = {"t_max": first, "final_zero": last == 0}
    if last > 0:
        options["t_min"] = last
    return unipc(3), logsnr_grid(process, REFERENCE_STEPS, **options)


def learnable(
    sampler: Sampler, grid: Array, process: Process, earliest: Array | None = None
) -> tuple[Array, Callable[[Array], Calibrated]]:
    """Parameters that are 0 for a fixed solver, and the solver that they make.

    Times are gaps of ``u = sigma / (alpha + sigma)``, each times the exponential of a
    parameter and all scaled to the same sum: whatever is learned, times fall, and stay
    between the earliest and the process's lowest. The fixed solver's table is made anew
    on those times. Weights, also of cubes, are learned in units of DDIM's weight of x0
    in the same step.

    Args:
      sampler: Fixed solver to begin from.
      grid: Times ``[n + 1]``, known.
      process: Noise process.
      earliest: Bound of the first time, which is learned where it is above the grid's;
        None leaves the first time as it is.

    Returns:
      ``(parameters, function from such to a solver)``; the parameters are ``n`` for
      times, ``n`` for ``keep``, and the lower triangles of ``weights`` and ``cubes``.
    """
    n = grid.shape[0] - 1
    bound = jnp.maximum(grid[-1], process.t_min)

    def flow_time(t):
        alpha, sigma = process.alpha(t), process.sigma(t)
        return sigma / (alpha + sigma)

    first = grid[0] if earliest is None else jnp.maximum(grid[0], earliest)
    u = flow_time(jnp.concatenate([first[None], grid[:-1], bound[None]]))
    gaps = jnp.maximum(u[:-1] - u[1:], 0)
    lower = np.tril_indices(n)
    count = len(lower[0])

    def build(learned):
        at = n, 2 * n, 2 * n + count
        sizes, keep, *added = jnp.split(learned, at)
        grown = gaps * jnp.append(jnp.exp(sizes), 1)
        falls = jnp.cumsum(grown)[:-1] * (jnp.sum(gaps) / jnp.sum(grown))
        inner = u[0] - falls
        times = process.t_of_logsnr(-2 * jnp.log(inner / (1 - inner)))
        # A first time that can't be earlier stays, to the last bit.
        times = jnp.where((gaps[0] == 0) & (jnp.arange(n) == 0), grid[:-1], times)
        made = tabulate(sampler, jnp.append(times, grid[-1]), process)
        alpha, sigma = process.alpha(made.grid), process.sigma(made.grid)
        unit = alpha[1:] - sigma[1:] * alpha[:-1] / sigma[:-1]
        weights, cubes = (
            unit[:, None] * jnp.zeros((n, n)).at[lower].set(rows) for rows in added
        )
        return dataclasses.replace(
            made, keep=made.keep + keep, weights=made.weights + weights, cubes=cubes
        )

    return jnp.zeros(2 * n + 2 * count), build
