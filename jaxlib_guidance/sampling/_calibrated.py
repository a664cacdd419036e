"""A multistep solver whose coefficients are numbers: calibrated, saved, loaded.

Every deterministic multistep solver with one evaluation a step is linear in what it
remembers, so on one grid it is a table:

    x_{i+1} = keep_i x_i + sum_{j <= i} weights_ij x0_j,

where ``x0_j`` is the prediction of step ``j``. `tabulate` reads the table of any of
them; `calibrate` learns a better one, which also adds the cube of each prediction: a
prediction from few steps is a mean of many data, too flat, and a cube sharpens it.
"""

import hashlib
import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance import rng
from jaxlib_guidance.files import CorruptFileError, export_weights, load_weights
from jaxlib_guidance.sampling._checks import require_sampler
from jaxlib_guidance.sampling._prepare import (
    make_interval,
    require_grid,
    require_own_grid,
)
from jaxlib_guidance.sampling._sampler import Sampler, Stepped
from jaxlib_guidance.transition import Transition
from jaxlib_guidance.types import (
    Array,
    Process,
    PyTree,
    concrete,
    pytree_dataclass,
    require_process,
)

# The first kind of file has no cubes, and is read as if they had no weight.
FORMATS = "jaxlib_guidance.calibrated.1", "jaxlib_guidance.calibrated.2"
SQUARE = "weights", "cubes"


@pytree_dataclass
class Calibrated:
    """A multistep solver and its time grid, as arrays.

    ``x_{i+1} = keep_i x_i + sum_{j <= i} weights_ij x0_j + cubes_ij x0_j^3``. It goes
    into `sample` as its two parts, which belong together: ``solver, grid = calibrated``
    unpacks them.

    Attributes:
      grid: Times ``[N + 1]``, from noise to the end, the last usually 0.
      keep: Factor of the state in each step, ``[N]``.
      weights: Weight of the prediction of step ``j`` in step ``i``, ``[N, N]``, 0 above
        the diagonal.
      cubes: Weight of the cube of the prediction of step ``j``, entry by entry, in step
        ``i``, ``[N, N]``, 0 above the diagonal; all 0 for a linear solver.
      process: Noise process of the grid.

    Reference: Shaul et al., Bespoke Non-Stationary solvers, arXiv 2403.01329, section
    3.1, in the basis of the state and the predictions of x0.
    """

    grid: Array
    keep: Array
    weights: Array
    cubes: Array
    process: Process

    @property
    def sampler(self) -> Sampler:
        """The solver, for ``grid`` alone, with one evaluation a step."""
        count = self.keep.shape[0]

        def init(x):
            # Made of x, so that on a mesh with explicit axes it lies as x does, which
            # `zeros_like` does not promise.
            rows = jnp.broadcast_to(x[:, None], (x.shape[0], count, *x.shape[1:]))
            return jnp.where(False, rows, 0)

        def step(denoise, x, state, guidance_state, interval):
            x0, guidance_state = denoise(x, interval.t, guidance_state)
            # The batch leads, so that a state is divided among devices as samples are.
            state = jax.lax.dynamic_update_slice_in_dim(
                state, x0[:, None].astype(state.dtype), interval.index, 1
            )
            tables = self.keep, self.weights, self.cubes
            keep, row, cubes = (a[interval.index].astype(x.dtype) for a in tables)
            row, cubes = (a.reshape(-1, *(1,) * (x.ndim - 1)) for a in (row, cubes))
            # A sum and no matrix product, which accelerators round to bfloat16.
            mean = keep * x + jnp.sum((row + cubes * state**2) * state, axis=1)
            std = jnp.zeros_like(interval.end.sigma)
            return Stepped(Transition(mean, std), x0, state, guidance_state)

        return Sampler(init, step, grid=self.grid)

    def __iter__(self) -> Iterator[Any]:
        """The solver and its grid."""
        return iter((self.sampler, self.grid))

    def save(self, path: str | os.PathLike, *, params: PyTree = None) -> None:
        """Writes a file of a few kilobytes, which `load_calibrated` reads.

        Args:
          path: File to write, with the suffix ``.safetensors``.
          params: Parameters of the network that it was calibrated for. The file keeps
            their digest, by which another network is refused; None keeps none.

        Raises:
          ValueError: Another suffix.
          OSError: The file cannot be written; an older one stays as it was.
        """
        arrays = {name: getattr(self, name) for name in ("grid", "keep", *SQUARE)}
        arrays |= _levels(self.process, self.grid)
        about = {
            "format": FORMATS[-1],
            "process": type(self.process).__name__,
            "n": int(self.keep.shape[0]),
        }
        if params is not None:
            about["params"] = _digest(params)
        export_weights(path, jax.tree.map(np.asarray, arrays), about)


def _levels(process, grid):
    """The noise levels at the grid's times, by which a file knows its process."""
    grid = jnp.asarray(grid)
    return {"alpha": process.alpha(grid), "sigma": process.sigma(grid)}


def _digest(params):
    """SHA-256 of the shapes, types and values of all leaves, in the tree's order."""
    digest = hashlib.sha256()
    for leaf in map(np.asarray, jax.tree.leaves(params)):
        digest.update(f"{leaf.shape} {leaf.dtype};".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()


def load_calibrated(
    path: str | os.PathLike, process: Process, *, params: PyTree = None
) -> Calibrated:
    """Reads what `Calibrated.save` wrote.

    Args:
      path: File to read.
      process: Noise process of the denoiser that is to be sampled.
      params: Parameters of the network that is to be sampled, to be those with which
        the file was saved. A file that was saved without any is not compared, and
        neither is one that is read with None.

    Returns:
      The solver and its grid.

    Raises:
      FileNotFoundError: No such file.
      CorruptFileError: Another kind of file, or one that was damaged.
      ValueError: It was calibrated for a process with other noise levels, or for a
        network with other parameters.
      TypeError: ``process`` is not a noise process.
    """
    require_process(process)
    arrays, about = load_weights(path)
    if not isinstance(about, dict) or about.get("format") not in FORMATS:
        raise CorruptFileError(f"{path} is not a solver that Calibrated.save wrote")
    here = _levels(process, arrays["grid"])
    for name, level in here.items():
        if not np.allclose(level, arrays[name], rtol=1e-3, atol=1e-5):
            raise ValueError(
                f"{path} was calibrated for {about['process']}, whose {name} at the "
                f"times of its grid is {np.round(arrays[name], 4).tolist()}; that of "
                f"process, {type(process).__name__}, is "
                f"{np.round(np.asarray(level), 4).tolist()}"
            )
    known = about.get("params")
    if params is not None and known is not None and known != _digest(params):
        raise ValueError(
            f"{path} was calibrated for a network with other parameters than params, "
            "or with these in another type; expected those that it was saved with. "
            "Loaded without params it is not compared"
        )
    if about["format"] == FORMATS[0]:
        arrays["cubes"] = np.zeros_like(arrays["weights"])
    arrays = {name: jnp.asarray(arrays[name]) for name in ("grid", "keep", *SQUARE)}
    return Calibrated(**arrays, process=process)


def tabulate(sampler: Sampler, grid: Array, process: Process) -> Calibrated:
    """The table of a fixed solver on a grid; differentiable in the grid.

    The solver is run on unit vectors in place of the first state and the predictions:
    what it makes of them are its coefficients.

    Args:
      sampler: Deterministic solver with one evaluation a step, linear in the state and
        the predictions, as all multistep solvers of this library are.
      grid: Times ``[N + 1]``.
      process: Noise process of the grid.

    Returns:
      The same solver as numbers.

    Raises:
      ValueError: A grid that `sample` refuses for this solver and process; a solver
        that draws noise, evaluates more than once a step, or is not linear, such as one
        whose order adapts; where the grid is traced, and it cannot raise for the last,
        ``keep`` is NaN.
    """
    require_sampler(sampler)
    if sampler.stochastic or sampler.evaluations != 1:
        raise ValueError(
            f"sampler has stochastic={sampler.stochastic} and {sampler.evaluations} "
            "evaluations a step; expected a deterministic one with 1, such as adams()"
        )
    typed = grid if isinstance(grid, jax.Array) else None
    grid, known = require_grid(grid, process, reversible=False, x=typed)
    require_own_grid(sampler, grid, known)
    count = grid.shape[0] - 1
    keys = rng.sample_keys(jax.random.key(0), 2)
    units = jnp.eye(count + 1, dtype=grid.dtype)
    # Beside the unit vectors another sample, of smooth predictions: is it as they say?
    place = jnp.linspace(0, 1, count + 1, dtype=grid.dtype)
    smooth = place[:, None] ** jnp.arange(count + 1, dtype=grid.dtype) + 0.1
    vectors = jnp.stack([units, smooth], 1)
    x = vectors[0]

    def body(carry, row):
        index, t, t_next, x0 = row
        interval = make_interval(process, index, t, t_next, keys, count - index)

        def denoise(x, t, guidance_state):
            return x0, guidance_state

        out = sampler.step(denoise, carry[0], carry[1], (), interval)
        x = out.transition.mean
        return (x, out.state), x

    rows = (jnp.arange(count, dtype=jnp.int32), grid[:-1], grid[1:], vectors[1:])
    _, reached = jax.lax.scan(body, (x, sampler.init(x)), rows)
    # In terms of the first state and the predictions; then of the state before.
    table = jnp.concatenate([x[None, 0], reached[:, 0]])
    foreseen = jnp.matmul(table[1:], smooth, precision="highest")
    off = jnp.abs(foreseen - reached[:, 1]).max()
    linear = off <= 1e-4 * jnp.abs(reached).max()
    if concrete(linear) is not None and not linear:
        raise ValueError(
            "sampler is not linear in its predictions, as one whose order adapts; "
            "expected a multistep solver of fixed order, such as adams()"
        )
    keep = jnp.where(linear, table[1:, 0] / table[:-1, 0], jnp.nan)
    weights = table[1:, 1:] - keep[:, None] * table[:-1, 1:]
    weights = jnp.tril(weights)
    return Calibrated(grid, keep, weights, jnp.zeros_like(weights), process)
