"""The sampling loop: one scan, whatever the solver and whatever the guidance.

A solver is a `Sampler`, a pair of pure functions. Its step receives the *denoiser*, not
a prediction, so a solver that evaluates twice is as easy to write as one that evaluates
once; and it returns a Gaussian `Transition`, from which the loop draws the next state
and a policy gradient takes its log-probability.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance import rng
from jaxlib_guidance.calls import process_of, require_cond
from jaxlib_guidance.guidance import guided
from jaxlib_guidance.sampling._checks import require_sampler, require_whole
from jaxlib_guidance.sampling._prepare import (
    make_denoise,
    make_interval,
    make_kernel,
    require_grid,
    require_own_grid,
)
from jaxlib_guidance.sampling._sampler import Sampler, SampleState, StepInfo
from jaxlib_guidance.transition import draw
from jaxlib_guidance.types import (
    Array,
    Denoiser,
    Process,
    PyTree,
    at_least_float32,
    concrete,
)


def initial_state(keys: Array, process: Process, t: Array, x: Any) -> Array:
    """The state at the first time: noise ``sigma(t) eps`` for a shape, else ``x``.

    Args:
      keys: Per-sample keys ``[B]``.
      process: The noise process.
      t: First time of the grid.
      x: A sample's shape ``(*S,)``, or the state ``[B, *S]`` itself.

    Raises:
      ValueError: A state whose batch is not that of ``keys``.
    """
    rng.require_keys(keys)
    if isinstance(x, (tuple, list)):
        if not all(_is_size(each) for each in x):
            raise TypeError(
                f"x is {x!r}; expected the shape of one sample, such as (8, 8, 1), or "
                "an array of states"
            )
        eps = rng.normal(rng.fold(keys, rng.INITIAL), tuple(x))
        return process.sigma(jnp.asarray(t, jnp.float32)) * eps
    if not hasattr(x, "shape"):
        raise TypeError(
            f"x is {x!r}; expected the shape of one sample, such as (8, 8, 1), or an "
            "array of states"
        )
    if x.shape[:1] != keys.shape:
        raise ValueError(
            f"x has shape {x.shape}; expected batch {keys.shape[0]} of keys"
        )
    return at_least_float32(x)


def _is_size(a: Any) -> bool:
    return hasattr(a, "__index__") and not isinstance(a, bool) and a >= 0


def sample(
    keys: Array,
    denoiser: Denoiser | Sequence[Denoiser],
    sampler: Sampler,
    grid: Any,
    x: Any,
    cond: PyTree = None,
    *,
    guidance: Any = None,
    ref: PyTree = None,
    steps: int | None = None,
    trace: Callable[[StepInfo], PyTree] | None = None,
    remat: bool = False,
    progress: Callable[[int, int], None] | None = None,
    plan: str = "auto",
    unroll: int = 1,
    process: Process | None = None,
) -> tuple[Any, PyTree]:
    """Draws samples: one `lax.scan` over the time grid.

    Sample *i* depends on ``keys[i]`` and nothing else of the batch. Not jitted inside:
    wrap the call, or a function around it, in `jax.jit`. A bare call works, but traces
    and compiles its loop anew each time.

    A trajectory may be cut: with ``steps`` the call stops after that many and returns a
    `SampleState`, which takes the place of ``x`` in the call that goes on, with the
    same keys and the whole grid. Pieces equal the whole, bit for bit where the compiler
    makes the same arithmetic of both, for every solver and chain of guidance: solver,
    guidance, noise, windows and ``ref`` know their place in the whole. (A second call
    with the rest of the grid and a bare ``x`` is another trajectory, which begins with
    the noise and the empty states of step 0.)

    Args:
      keys: Typed keys ``[B]``, one for each sample; see `sample_keys`.
      denoiser: Network, or a tuple of networks (the base first) for terms that contrast
        them.
      sampler: Solver, such as ``ddim()``.
      grid: Times ``[N + 1]`` from noise to data, the last usually 0. A growing grid
        runs the ODE backwards, for solvers that can.
      x: Shape ``(*S,)`` of one sample, to start from noise; or the state ``[B, *S]`` at
        ``grid[0]``; or a `SampleState` to go on from.
      cond: Condition pytree, every leaf ``[B, ...]``; None for a network without one.
      guidance: Guidance term or chain of terms; None samples without guidance.
      ref: Pytree whose leaves lead with ``N``, row ``i`` of which terms see at step
        ``i`` as ``ctx.ref``.
      steps: Number of steps to take before stopping; None takes all that are left. A
        `SampleState` whose ``step`` is traced, as under `jax.jit`, needs it; one
        program then serves every place of the grid. More steps than are left give NaN
        there, where they cannot raise.
      trace: Function of a `StepInfo` that returns what to keep of each step.
      remat: Whether to recompute each step on the backward pass, so that a gradient
        through the sampler holds one step's activations and not N.
      progress: Function called on the host with ``(steps done, N)``, at most twenty
        times; None reports nothing.
      plan: How guidance batches its branches, "auto" or "fused"; see `guided`.
      unroll: Number of steps in an iteration of the compiled loop.
      process: Noise process; None takes the denoiser's.

    Returns:
      ``(x [B, *S], traced)``, or with ``steps`` ``(SampleState, traced)``; ``traced``
      leads with the steps taken, or is None.

    Raises:
      ValueError: Shapes or grids that do not fit, times outside the process's range,
        more steps than are left, a `SampleState` of another grid, or another process
        than the denoiser's.
      TypeError: Keys that are not typed keys; a denoiser, sampler, guidance or ``x``
        that is something else; a `SampleState` of a solver or guidance whose state has
        another structure.

    Example:
      >>> import jax, jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0.5 * x, jg.VPCosine())
      >>> keys, grid = jg.sample_keys(jax.random.key(0), 4), jg.logsnr_grid(
      ...     denoiser.process, 10
      ... )
      >>> x, _ = jg.sample(keys, denoiser, jg.dpmpp_2m(), grid, (8, 8))
      >>> x.shape
      (4, 8, 8)
      >>> half, _ = jg.sample(keys, denoiser, jg.dpmpp_2m(), grid, (8, 8), steps=5)
      >>> rest, _ = jg.sample(keys, denoiser, jg.dpmpp_2m(), grid, half)
      >>> bool(abs(rest - x).max() < 1e-5)
      True
    """
    require_sampler(sampler)
    require_whole(unroll, "unroll", 1)
    network = guided(denoiser, guidance, plan)
    process = process_of(denoiser, process)
    grid, known = require_grid(grid, process, sampler.reversible, x)
    require_own_grid(sampler, grid, known)
    total = grid.shape[0] - 1
    begin = _begin(keys, process, sampler, network, grid, x)
    require_cond(cond, begin.x.shape[0])
    for leaf in jax.tree.leaves(ref):
        if jnp.shape(leaf)[:1] != (total,):
            raise ValueError(
                f"ref has a leaf {jnp.shape(leaf)}; expected leading {total}"
            )
    place, count = _steps_to_take(begin.step, steps, total)

    def body(part, carry, inputs):
        index, t, t_next, ref_now = inputs
        x, state, guidance_state = carry
        interval = make_interval(process, index, t, t_next, keys, total - index)
        denoise = make_denoise(
            *(part, process, cond, interval, total, ref_now, grid),
            kernel=make_kernel(sampler, x, state, interval),
            stochastic=sampler.stochastic,
        )
        out = sampler.step(denoise, x, state, guidance_state, interval)
        x_next = (
            draw(out.transition, interval.keys)
            if sampler.stochastic
            else out.transition.mean
        )
        info = StepInfo(index, t, t_next, x, x_next, out.x0, out.transition, out.state)
        return (x_next, out.state, out.guidance_state), trace(info) if trace else None

    def reported(part, carry, inputs):
        # Outside of what is computed again on the backward pass, or it would report
        # twice.
        out = (jax.checkpoint(body, static_argnums=(0,)) if remat else body)(
            part, carry, inputs
        )
        if progress is not None:
            _report(progress, inputs[0], total)
        return out

    rows = (jnp.arange(total, dtype=jnp.int32), grid[:-1], grid[1:], ref)
    if place is None:
        # Windows cannot be cut out at a place that is not known: they are masks.
        pieces = [(0, count, network)]
        rows = jax.tree.map(
            lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, begin.step, count), rows
        )
        inside = (begin.step >= 0) & (begin.step + count <= total)
        begin = begin._replace(x=jnp.where(inside, begin.x, jnp.nan))
    else:
        rows = jax.tree.map(lambda leaf: leaf[place : place + count], rows)
        pieces = [
            (max(start - place, 0), min(stop - place, count), part)
            for start, stop, part in network.segments(process, known, total)
            if start < place + count and stop > place
        ]
    carry, traced = (begin.x, begin.state, begin.guidance_state), []
    for start, stop, part in pieces:
        run = jax.tree.map(lambda leaf, a=start, b=stop: leaf[a:b], rows)
        carry, kept = jax.lax.scan(
            lambda carry, step, part=part: reported(part, carry, step),
            carry,
            run,
            unroll=min(unroll, stop - start),
        )
        traced.append(kept)
    end = carry[0]
    if steps is not None:
        # An array, so that it can be saved; and a known one stays known under jit.
        with jax.ensure_compile_time_eval():
            now = jnp.asarray(begin.step + count, jnp.int32)
        x, state, memory = carry
        end = SampleState(x, state, memory, now, grid[begin.step + count])
    if trace is None:
        return end, None
    return end, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *traced)


def _begin(keys, process, sampler, network, grid, x) -> SampleState:
    """The trajectory before its first step, or the one that goes on."""
    if not isinstance(x, SampleState):
        x = initial_state(keys, process, grid[0], x)
        return SampleState(x, sampler.init(x), network.init(x), 0, grid[0])
    now = x._replace(x=initial_state(keys, process, grid[0], x.x))
    fresh = jax.eval_shape(lambda x: (sampler.init(x), network.init(x)), now.x)
    for name, new, old in zip(
        ("solver", "guidance"), fresh, (now.state, now.guidance_state), strict=True
    ):
        shapes = [jax.tree.map(jnp.shape, tree) for tree in (new, old)]
        if shapes[0] != shapes[1]:
            raise TypeError(
                f"x is a SampleState of another {name}: its state has shapes "
                f"{shapes[1]}; expected {shapes[0]}"
            )
    # A number that is known stays one inside a jitted function.
    fit = lambda new, old: jnp.asarray(old, new.dtype)  # noqa: E731
    solver, terms = jax.tree.map(fit, fresh, (now.state, now.guidance_state))
    now = now._replace(state=solver, guidance_state=terms)
    known, here = concrete(now.step), concrete(now.t)
    if known is None:
        return now
    if known != int(known) or not 0 <= known < grid.shape[0]:
        raise ValueError(
            f"x is a SampleState at step {known}; expected a whole number from 0 to "
            f"the {grid.shape[0] - 1} steps of the grid"
        )
    now, times = now._replace(step=int(known)), concrete(grid)
    there = None if times is None else times[now.step]
    told = here is not None and there is not None
    if told and not np.isclose(here, there, rtol=1e-5, atol=1e-7):
        raise ValueError(
            f"x is a SampleState at time {here}, but grid[{known}] is {there}; "
            "expected the whole grid that it was made with"
        )
    return now


def _steps_to_take(step, steps, total) -> tuple[int | None, int]:
    """Where the trajectory is, None if not known yet, and how far it goes."""
    known = concrete(step)
    place = None if known is None else int(known)
    whole = isinstance(steps, (int, np.integer)) and not isinstance(steps, bool)
    left = total if place is None else total - place
    if steps is None and place is None:
        raise ValueError(
            "x is a SampleState whose step is traced; expected steps, the number of "
            "steps to take"
        )
    if steps is not None and (not whole or not 1 <= steps <= left):
        raise ValueError(
            f"steps is {steps!r}; expected a whole number from 1 to the {left} steps "
            "that are left"
        )
    if left < 1:
        raise ValueError(f"x is a SampleState at the end of the grid's {total} steps")
    return place, left if steps is None else int(steps)


def _report(progress, index, total):
    done = index + 1
    jax.lax.cond(
        done * 20 // total != index * 20 // total,
        lambda: jax.debug.callback(lambda n: progress(int(n), total), done),
        lambda: None,
    )
