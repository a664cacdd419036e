"""A solver learned from the network that it is to sample: `calibrate`."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance import rng
from jaxlib_guidance.calls import process_of, require_callable
from jaxlib_guidance.diffusion import require_positive
from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.sampling._calibrate_newton import descend
from jaxlib_guidance.sampling._calibrate_problem import Problem, learnable
from jaxlib_guidance.sampling._calibrated import Calibrated, tabulate
from jaxlib_guidance.sampling._checks import require_sampler, require_whole
from jaxlib_guidance.sampling._multistep import adams
from jaxlib_guidance.sampling._prepare import require_grid
from jaxlib_guidance.sampling._recommended import recommended
from jaxlib_guidance.sampling._sampler import Sampler
from jaxlib_guidance.types import Array, Denoiser, Process, PyTree


class CalibrationReport(NamedTuple):
    """What `calibrate` did. Errors are mean distances to the reference's ends.

    Attributes:
      train_before: Error of the fixed solver on the starts that were trained on.
      train_after: Error of the calibrated solver on those.
      held_out_before: Error of the fixed solver on the other starts, by which the best
        of the solvers on the way was chosen.
      held_out_after: Error of the calibrated solver on those.
      losses: Error on the starts to train on, before and after each step that lowered
        it, ``[1 + steps taken]``.
      best_step: Number of the step whose solver was kept, 0 for the fixed solver.
      reference: Ends of the reference trajectories ``[B, *S]``, which may be given to
        another calibration from the same starts.
      reference_seconds: Time that the reference took.
      seconds: Time that the rest took, compilation included.
    """

    train_before: float
    train_after: float
    held_out_before: float
    held_out_after: float
    losses: np.ndarray
    best_step: int
    reference: np.ndarray
    reference_seconds: float
    seconds: float


def calibrate(
    keys: Array,
    denoiser: Denoiser | Sequence[Denoiser],
    n: int,
    x: Any,
    cond: PyTree = None,
    *,
    guidance: Any = None,
    start: tuple[Sampler, Any] | None = None,
    scale: float = 1.0,
    reference: tuple[Sampler, Any] | Array | np.ndarray | None = None,
    steps: int = 8,
    batch: int = 32,
    held_out: float = 0.25,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    plan: str = "auto",
    process: Process | None = None,
) -> tuple[Calibrated, CalibrationReport]:
    """Learns the times and coefficients of an n-step solver for one network.

    Minimises ``E |x_N - y|``, where ``y`` is the end of a reference trajectory from the
    same noise, under the same guidance, and ``x_N`` that of

        x_{i+1} = keep_i x_i + sum_{j <= i} weights_ij x0_j + cubes_ij x0_j^3.

    Learned are the times but the last, as gaps in ``sigma / (alpha + sigma)`` that stay
    positive, and ``keep``, ``weights`` and ``cubes``, as differences from those of a
    fixed solver on the learned times, whose ``cubes`` are 0. It begins at that solver
    exactly, and what is returned is the best on starts that are held out, the fixed
    solver itself included: by the geometric mean of their distances, so that a few
    starts from which the flow divides do not decide.

    The result is for this network, this chain of guidance with these weights, and
    conditions like these; other starts need no other calibration. This is a loop on the
    host, as training is, which compiles what it runs: arrays that ``denoiser`` and
    ``guidance`` hold become constants of the program.

    Args:
      keys: Typed keys ``[B]``, one for each start. Some hundred are enough.
      denoiser: Network, or a tuple of networks (the base first) for terms that contrast
        them.
      n: Number of steps, each with one evaluation.
      x: Shape ``(*S,)`` of one sample, to start from noise; or states ``[B, *S]`` at
        the first time.
      cond: Condition pytree, every leaf ``[B, ...]``; None for a network without one.
      guidance: Guidance term or chain of terms, whose leaves hold no axis of samples;
        None is without guidance.
      start: Deterministic solver with one evaluation a step, and its grid ``[n + 1]``,
        to begin from. None takes ``adams(3, scale=scale)`` on the grid of
        `recommended`, which where ``x`` is a shape begins at a log-SNR of
        ``-(10 + n) / 4 - 2 log scale``: few evaluations are better spent where there is
        some signal. The last time stays as it is. So does the first where ``x`` is
        states, or where the grid begins at the process's first time.
      scale: Scale of the data, as in `recommended`, for the start that is not given.
      reference: Solver and grid whose ends are the target; or these ends ``[B, *S]``.
        None takes ``unipc(3)`` in 100 steps, from the process's first time where ``x``
        is a shape. Its last time is that of ``start``, and so is the first, but where
        ``x`` is a shape it may begin earlier, from the same noise.
      steps: Number of steps of least squares at most; 0 gives the fixed solver as
        numbers.
      batch: Number of starts at once, which bounds the memory: that of one evaluation
        of ``(2 n + 2) batch`` samples.
      held_out: Share of the starts to choose the best by; with none left they are
        those of training.
      seed: Seed of the split.
      progress: Function called on the host with ``(steps done, steps)``; None reports
        nothing.
      plan: How guidance batches its branches, "auto" or "fused"; see `guided`.
      process: Noise process; None takes the denoiser's.

    Returns:
      The solver with its grid, and a report.

    Raises:
      ValueError: Arguments out of range, shapes or grids that do not fit, or a solver
        to begin from that draws noise, evaluates more than once a step or is not
        linear, as one whose order adapts; or a scale beside a solver to begin from.
      FloatingPointError: The reference, the fixed solver or a slope is not finite.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: jnp.tanh(x), jg.VPCosine())
      >>> keys = jg.sample_keys(jax.random.key(0), 32)
      >>> calibrated, report = jg.calibrate(keys, denoiser, 4, (2,))
      >>> report.held_out_after < report.held_out_before
      True
      >>> fresh = jg.sample_keys(jax.random.key(1), 8)
      >>> solver, grid = calibrated
      >>> x, _ = jg.sample(fresh, denoiser, solver, grid, (2,))
      >>> x.shape
      (8, 2)

    Reference: Shaul et al., Bespoke Non-Stationary solvers, arXiv 2403.01329 (the
      family); Tong et al., LD3, 2405.15506 (times by derivatives through the sampler);
      Frankel et al., S4S, 2502.17423 (coefficients and times). They learn by Adam; this
      is Levenberg and Marquardt's least squares, reweighted.
    """
    least = {"n": (n, 1), "steps": (steps, 0), "batch": (batch, 1), "seed": (seed, 0)}
    for name, (number, smallest) in least.items():
        require_whole(number, name, smallest)
    if not 0 <= held_out < 1:
        raise ValueError(f"held_out is {held_out}; expected a share from 0 to below 1")
    if progress is not None:
        require_callable(progress, "progress", ("done", "steps"))
    began = time.perf_counter()
    rng.require_keys(keys)
    process = process_of(denoiser, process)
    options = {"guidance": guidance, "plan": plan, "process": process}
    problem = Problem(keys, denoiser, x, cond, batch, **options)
    fixed, grid = _start(start, n, process, scale, problem.free_start)
    best = tabulate(fixed, grid, process)
    problem.refer(reference, grid)
    referred = time.perf_counter()

    shuffled = np.random.default_rng(seed).permutation(problem.count)
    kept = min(round(held_out * problem.count), problem.count - 1)
    train, rest = shuffled[kept:], shuffled[:kept] if kept else shuffled
    far = problem.distances(best, rest)
    before = [problem.error(best, train), float(far.mean())]
    if not np.isfinite(before).all():
        raise FloatingPointError(
            f"the solver to begin from is off by {before[0]} on the starts to train on "
            f"and by {before[1]} on the others; expected finite numbers"
        )
    best_step, losses = 0, [before[0]]
    zero, build = learnable(fixed, grid, process, problem.earliest(grid))
    tried = descend(problem, zero, build, train, steps)
    for done, (loss, made) in enumerate(tried, 1):
        losses.append(loss)
        found = problem.distances(made, rest)
        if _geometric_mean(found) < _geometric_mean(far):
            best, far, best_step = made, found, done
        if progress is not None:
            progress(done, steps)
    return best, CalibrationReport(
        train_before=before[0],
        train_after=losses[best_step],
        held_out_before=before[1],
        held_out_after=float(far.mean()),
        losses=np.asarray(losses),
        best_step=best_step,
        reference=problem.ends,
        reference_seconds=referred - began,
        seconds=time.perf_counter() - referred,
    )


def _geometric_mean(distances: np.ndarray) -> float:
    """By which solvers are compared: a start that may end in two places is not all.

    Where the flow divides, a distance is many times the others', and some of these
    would outweigh what all the rest gain.
    """
    return float(np.exp(np.mean(np.log(distances + 1e-12))))


def _start(start, n, process, scale, free) -> tuple[Sampler, Array]:
    """The solver to begin from, and its grid."""
    require_positive(scale, "scale")
    require_shape("scale", scale, ())
    if start is None:
        t_max = None
        if free:
            level = -(10 + n) / 4 - 2 * math.log(scale)
            t_max = min(float(process.t_of_logsnr(jnp.float32(level))), process.t_max)
        grid = recommended(process, n, scale=scale, t_max=t_max).grid
        start = adams(3, scale=scale), grid
    elif scale != 1.0:
        raise ValueError(f"scale is {scale} beside start, which has its own; give one")
    if not (isinstance(start, (tuple, list)) and len(start) == 2):
        raise TypeError(f"start is {start!r}; expected a pair of solver and grid")
    sampler, grid = start
    require_sampler(sampler)
    grid, known = require_grid(grid, process, reversible=False)
    if known is None:
        raise ValueError("start has a grid that is traced; expected known times")
    if grid.shape[0] != n + 1:
        raise ValueError(f"start has a grid {grid.shape}; expected [n + 1], ({n + 1},)")
    return sampler, grid
