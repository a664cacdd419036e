"""What every loop over time does first, and what it gives to a solver's step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance import rng
from jaxlib_guidance.diffusion import require_times
from jaxlib_guidance.sampling._sampler import (
    Denoise,
    Interval,
    Level,
    Sampler,
    SampleState,
)
from jaxlib_guidance.transition import Transition
from jaxlib_guidance.types import (
    Array,
    Context,
    Process,
    PyTree,
    concrete,
    expand,
    require_array,
)


def time_type(x: Any) -> Any:
    """The type of times and coefficients for a state: float32, unless it is float64."""
    x = x.x if isinstance(x, SampleState) else x
    wide = hasattr(x, "dtype") and x.dtype == jnp.float64
    return jnp.float64 if wide else jnp.float32


def require_grid(
    grid: Any, process: Process, reversible: bool, x: Any = None
) -> tuple[Array, np.ndarray | None]:
    """The grid as an array, and as numpy when its values are known.

    Args:
      grid: Times ``[N + 1]``.
      process: Noise process, whose range of times the grid must keep to.
      reversible: Whether times may grow.
      x: State, whose float64 the times share; otherwise they are float32.

    Raises:
      TypeError: No numbers.
      ValueError: Not one-dimensional, fewer than two times, not finite, not monotonic,
        outside the range of the process, or increasing under a solver that cannot run
        backwards.
    """
    require_array("grid", grid, "times [N + 1]", lists=True)
    if not isinstance(grid, jax.Array):
        traced = any(isinstance(t, jax.core.Tracer) for t in jax.tree.leaves(grid))
        # Numbers stay known under jit, where an array of jax would not.
        grid = jnp.stack(grid) if traced else np.asarray(grid)
    known = concrete(grid)
    if known is not None:
        known = known.astype(time_type(x))
    grid = jnp.asarray(grid if known is None else known, time_type(x))
    if grid.ndim != 1 or grid.shape[0] < 2:
        raise ValueError(f"grid has shape {grid.shape}; expected [N + 1] with N >= 1")
    if known is not None:
        if not np.isfinite(known).all():
            raise ValueError("grid has times that are not finite")
        gaps = np.diff(known)
        if not ((gaps < 0).all() or (gaps > 0).all()):
            raise ValueError(
                "grid must be strictly monotonic, from noise (large t) to 0"
            )
        require_times(process, known, "grid")
        shape = isinstance(x, (tuple, list)) and not isinstance(x, SampleState)
        if gaps[0] > 0 and shape:
            raise ValueError(
                "grid increases, which is inversion; expected x to be data, or a grid "
                "from noise to 0"
            )
        if gaps[0] > 0 and not reversible:
            raise ValueError(
                "grid increases, which is inversion; this sampler cannot run backwards"
            )
    return grid, known


def require_own_grid(sampler: Sampler, grid: Array, known: np.ndarray | None) -> None:
    """Raises if the solver belongs to another grid, as far as values are known."""
    if sampler.grid is None:
        return
    own = concrete(sampler.grid)
    steps, expected = grid.shape[0] - 1, sampler.grid.shape[0] - 1
    if steps != expected:
        raise ValueError(
            f"grid has {steps} steps; expected the {expected} of sampler.grid, the "
            "grid for which the sampler was calibrated"
        )
    if known is None or own is None:
        return
    if not np.allclose(known, own, rtol=1e-5, atol=1e-7):
        raise ValueError(
            f"grid is {np.round(known, 5).tolist()}; expected sampler.grid, "
            f"{np.round(own, 5).tolist()}, for which the sampler was calibrated"
        )


def make_kernel(
    sampler: Sampler, x: Array, state: PyTree, interval: Interval
) -> Callable[[Array], Transition] | None:
    """The solver's step as a function of the estimate; None without a single one."""
    if sampler.kernel is not None:
        return sampler.kernel(x, state, interval)
    if sampler.evaluations != 1:
        return None

    def transition(x0):
        def estimate(x, t, guidance_state):
            return x0, guidance_state

        return sampler.step(estimate, x, state, (), interval).transition

    return transition


def make_denoise(
    network,
    process,
    cond,
    interval,
    steps,
    ref,
    grid=None,
    kernel=None,
    stochastic=False,
) -> Denoise:
    """The function that a solver's step calls: it knows the step it is part of."""

    def denoise(x, t, guidance_state):
        ctx = make_context(
            *(x, t, process, cond, interval, steps, ref, grid, kernel, stochastic)
        )
        return network(ctx, guidance_state)

    return denoise


def make_context(
    x,
    t,
    process,
    cond,
    interval,
    steps,
    ref=None,
    grid=None,
    kernel=None,
    stochastic=False,
) -> Context:
    """What is known of the state ``x`` at time ``t`` inside a step."""
    batch = x.shape[:1]
    return Context(
        x=x,
        t=jnp.broadcast_to(t, batch),
        alpha=expand(jnp.broadcast_to(process.alpha(t), batch), x),
        sigma=expand(jnp.broadcast_to(process.sigma(t), batch), x),
        cond=cond,
        keys=rng.fold(interval.keys, rng.GUIDANCE),
        process=process,
        step=interval.index,
        steps=steps,
        t_step=interval.t,
        t_next=interval.t_next,
        ref=ref,
        grid=grid,
        kernel=kernel,
        stochastic=stochastic,
    )


def make_interval(process, index, t, t_next, keys, left=2**30) -> Interval:
    """The interval between two times, with its noise levels and keys."""
    return Interval(
        index,
        t,
        t_next,
        Level(process.alpha(t), process.sigma(t), index),
        Level(process.alpha(t_next), process.sigma(t_next), index + 1),
        rng.fold(keys, index),
        process,
        left,
    )
