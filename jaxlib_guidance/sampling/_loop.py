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

from jaxlib_guidance import rng
from jaxlib_guidance.guidance import guided
from jaxlib_guidance.sampling._prepare import (
    make_denoise,
    make_interval,
    require_cond,
    require_grid,
)
from jaxlib_guidance.sampling._sampler import Sampler, StepInfo
from jaxlib_guidance.transition import draw
from jaxlib_guidance.types import (
    Array,
    Denoiser,
    Process,
    PyTree,
    at_least_float32,
    process_of,
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
        eps = rng.normal(rng.fold(keys, rng.INITIAL), tuple(x))
        return process.sigma(jnp.asarray(t, jnp.float32)) * eps
    if x.shape[:1] != keys.shape:
        raise ValueError(
            f"x has shape {x.shape}; expected batch {keys.shape[0]} of keys"
        )
    return at_least_float32(x)


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
    trace: Callable[[StepInfo], PyTree] | None = None,
    remat: bool = False,
    progress: Callable[[int, int], None] | None = None,
    plan: str = "auto",
    unroll: int = 1,
    process: Process | None = None,
) -> tuple[Array, PyTree]:
    """Draws samples: one `lax.scan` over the time grid.

    Sample *i* depends on ``keys[i]`` and nothing else of the batch. Not jitted inside:
    wrap the call, or a function around it, in `jax.jit`.

    Args:
      keys: One typed key for each sample ``[B]``; see `sample_keys`.
      denoiser: The network, or a tuple of them (the base first) for terms that contrast
        networks.
      sampler: The solver, such as ``ddim()``.
      grid: Times ``[N + 1]`` from noise to data, the last usually 0. A growing grid
        runs the ODE backwards, for solvers that can.
      x: A sample's shape ``(*S,)`` to start from noise, or the state ``[B, *S]`` at
        ``grid[0]``.
      cond: Condition pytree, every leaf ``[B, ...]``.
      guidance: A chain of guidance terms.
      ref: A pytree with leading ``N`` that terms see step by step as ``ctx.ref``.
      trace: What to keep of each step, ``StepInfo -> pytree``.
      remat: Recompute each step on the backward pass, so that a gradient through the
        sampler holds one step's activations and not N.
      progress: Called on the host with ``(steps done, N)``, at most twenty times.
      plan: How guidance batches its branches; see `guidance.steer`.
      unroll: Steps per iteration of the compiled loop.
      process: The noise process; None takes the denoiser's.

    Returns:
      ``(x [B, *S], traced)`` where ``traced`` has leading ``N``, or is None.

    Raises:
      ValueError: Shapes or grids that do not fit, with the argument's name.
      TypeError: Keys that are not typed keys; a denoiser, sampler or guidance that is
        something else.
    """
    if not isinstance(sampler, Sampler):
        name = getattr(sampler, "__name__", type(sampler).__name__)
        raise TypeError(f"sampler is {name}; expected a Sampler, such as ddim()")
    network = guided(denoiser, guidance, plan)
    process = process_of(denoiser, process)
    grid, known = require_grid(grid, sampler.reversible)
    steps = grid.shape[0] - 1
    x = initial_state(keys, process, grid[0], x)
    require_cond(cond, x.shape[0])
    for leaf in jax.tree.leaves(ref):
        if jnp.shape(leaf)[:1] != (steps,):
            raise ValueError(
                f"ref has a leaf {jnp.shape(leaf)}; expected leading {steps}"
            )
    carry = (x, sampler.init(x), network.init(x))

    def body(part, carry, inputs):
        index, t, t_next, ref_now = inputs
        x, state, guidance_state = carry
        interval = make_interval(process, index, t, t_next, keys, steps - index)
        denoise = make_denoise(part, process, cond, interval, steps, ref_now)
        out = sampler.step(denoise, x, state, guidance_state, interval)
        x_next = (
            draw(out.transition, interval.keys)
            if sampler.stochastic
            else out.transition.mean
        )
        if progress is not None:
            done = index + 1
            jax.lax.cond(
                done * 20 // steps != index * 20 // steps,
                lambda: jax.debug.callback(lambda n: progress(int(n), steps), done),
                lambda: None,
            )
        info = StepInfo(index, t, t_next, x, x_next, out.x0, out.transition)
        return (x_next, out.state, out.guidance_state), trace(info) if trace else None

    if remat:
        body = jax.checkpoint(body, static_argnums=(0,))
    inputs = (jnp.arange(steps), grid[:-1], grid[1:], ref)
    traced = []
    for start, stop, part in network.segments(process, known, steps):
        run = jax.tree.map(lambda leaf, a=start, b=stop: leaf[a:b], inputs)
        carry, kept = jax.lax.scan(
            lambda carry, step, part=part: body(part, carry, step),
            carry,
            run,
            unroll=min(unroll, stop - start),
        )
        traced.append(kept)
    if trace is None:
        return carry[0], None
    return carry[0], jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *traced)
