"""The sampling loop: one scan, whatever the solver and whatever the guidance.

A solver is a `Sampler`, a pair of pure functions. Its step receives the *denoiser*, not
a prediction, so a solver that evaluates twice is as easy to write as one that evaluates
once; and it returns a Gaussian `Transition`, from which the loop draws the next state
and a policy gradient takes its log-probability.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance import rng
from jaxlib_guidance.transition import Transition, draw
from jaxlib_guidance.types import (
    Array,
    Context,
    Denoiser,
    PyTree,
    at_least_float32,
    concrete,
    expand,
)


class Interval(NamedTuple):
    """One step of the time grid, as a solver sees it. Times are scalars or ``[B]``.

    Attributes:
      index: Number of the step, int32.
      t, t_next: Its ends.
      alpha, sigma, alpha_next, sigma_next: Process coefficients at the ends.
      keys: Per-sample keys ``[B]`` of this step.
      process: The noise process, for coefficients at times in between.
      left: Steps to the end of the grid, this one included; many if not known.
    """

    index: Array
    t: Array
    t_next: Array
    alpha: Array
    sigma: Array
    alpha_next: Array
    sigma_next: Array
    keys: Array
    process: Any
    left: Array | int = 2**30


class Stepped(NamedTuple):
    """What a solver's step returns.

    Attributes:
      transition: Law of the next state; a standard deviation of 0 is a plain ODE step.
      x0: The step's estimate of the data ``[B, *S]``.
      memory: The solver's new memory.
      guide: The guidance's new memory, as the last `denoise` call returned it.
    """

    transition: Transition
    x0: Array
    memory: PyTree
    guide: PyTree


Denoise = Callable[[Array, Array, PyTree], tuple[Array, PyTree]]


class Sampler(NamedTuple):
    """A solver.

    Attributes:
      init: ``x -> memory``.
      step: ``(denoise, x, memory, guide, interval) -> Stepped`` where ``denoise(x, t,
        guide) -> (x0, guide)`` is the guided network and ``guide`` its memory.
      stochastic: Whether the loop must draw noise.
      evaluations: Network evaluations in a step.
      reversible: Whether it can run with growing noise, as inversion does.
    """

    init: Callable[[Array], PyTree]
    step: Callable[[Denoise, Array, PyTree, PyTree, Interval], Stepped]
    stochastic: bool = False
    evaluations: int = 1
    reversible: bool = False


class StepInfo(NamedTuple):
    """What a trace function sees of a step: states before and after, estimate, law."""

    index: Array
    t: Array
    t_next: Array
    x: Array
    x_next: Array
    x0: Array
    transition: Transition


def memoryless(x: Array) -> PyTree:
    """The `Sampler.init` of a solver without memory."""
    return ()


@dataclasses.dataclass(frozen=True)
class _Unguided:
    """A plain denoiser behind the interface of a guided one."""

    denoiser: Denoiser

    def init(self, x):
        return ()

    def segments(self, process, times, steps):
        return [(0, steps, self)]

    def __call__(self, ctx, guide):
        return self.denoiser(ctx.x, ctx.t, ctx.cond).x0, guide


def steered(denoiser: Any, guidance: Any, plan: str = "auto") -> Any:
    """The object that loops call: guidance joined to its denoisers.

    Raises:
      TypeError: Something that is not a denoiser, or guidance that is not a chain.
      ValueError: Several networks without guidance that could use them.
    """
    nets = [denoiser] if isinstance(denoiser, Denoiser) else denoiser
    if not isinstance(nets, (tuple, list)) or not nets:
        raise TypeError(
            f"denoiser is {type(denoiser).__name__}; expected a Denoiser, as from "
            "parametrize, or a tuple of them"
        )
    for net in nets:
        if not isinstance(net, Denoiser):
            raise TypeError(
                f"denoiser holds {type(net).__name__}; expected Denoisers, as from "
                "parametrize"
            )
    if guidance is not None:
        from_term = getattr(guidance, "steer", None)
        if from_term is None:
            raise TypeError(
                f"guidance is {type(guidance).__name__}; expected a chain of terms: "
                "guidance=chain(term)"
            )
        return from_term(denoiser, plan)
    if len(nets) != 1:
        raise ValueError(f"{len(nets)} denoisers were given but no guidance")
    return _Unguided(nets[0])


def initial_state(keys: Array, process: Any, t: Array, x: Any) -> Array:
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


def require_grid(grid: Any, reversible: bool) -> tuple[Array, np.ndarray | None]:
    """The grid as an array, and as numpy when its values are known.

    Raises:
      ValueError: Not one-dimensional, fewer than two times, not finite, not monotonic,
        or increasing under a solver that cannot run backwards.
    """
    grid = jnp.asarray(grid, jnp.float32)
    if grid.ndim != 1 or grid.shape[0] < 2:
        raise ValueError(f"grid has shape {grid.shape}; expected [N + 1] with N >= 1")
    known = concrete(grid)
    if known is not None:
        if not np.isfinite(known).all():
            raise ValueError("grid has times that are not finite")
        gaps = np.diff(known)
        if not ((gaps < 0).all() or (gaps > 0).all()):
            raise ValueError(
                "grid must be strictly monotonic, from noise (large t) to 0"
            )
        if gaps[0] > 0 and not reversible:
            raise ValueError(
                "grid increases, which is inversion; this sampler cannot run backwards"
            )
    return grid, known


def require_cond(cond: PyTree, batch: int) -> None:
    """Raises unless every leaf of the condition leads with the batch."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(cond):
        if jnp.shape(leaf)[:1] != (batch,):
            raise ValueError(
                f"cond{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}; "
                f"expected the batch {batch} first"
            )


def make_denoise(guided, process, cond, interval, steps, ref) -> Denoise:
    """The function that a solver's step calls: it knows the step it is part of."""

    def denoise(x, t, guide):
        batch = x.shape[:1]
        ctx = Context(
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
        )
        return guided(ctx, guide)

    return denoise


def make_interval(process, index, t, t_next, keys, left=2**30) -> Interval:
    """The interval between two times, with its coefficients and keys."""
    return Interval(
        index,
        t,
        t_next,
        process.alpha(t),
        process.sigma(t),
        process.alpha(t_next),
        process.sigma(t_next),
        rng.fold(keys, index),
        process,
        left,
    )


def sample(
    keys: Array,
    denoiser: Denoiser | Sequence[Denoiser],
    process: Any,
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
) -> tuple[Array, PyTree]:
    """Draws samples: one `lax.scan` over the time grid.

    Sample *i* depends on ``keys[i]`` and nothing else of the batch. Not jitted inside:
    wrap the call, or a function around it, in `jax.jit`.

    Args:
      keys: One typed key for each sample ``[B]``; see `sample_keys`.
      denoiser: The network, or a tuple of them (the base first) for terms that contrast
        networks.
      process: The noise process.
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
    guided = steered(denoiser, guidance, plan)
    grid, known = require_grid(grid, sampler.reversible)
    steps = grid.shape[0] - 1
    x = initial_state(keys, process, grid[0], x)
    require_cond(cond, x.shape[0])
    for leaf in jax.tree.leaves(ref):
        if jnp.shape(leaf)[:1] != (steps,):
            raise ValueError(
                f"ref has a leaf {jnp.shape(leaf)}; expected leading {steps}"
            )
    carry = (x, sampler.init(x), guided.init(x))

    def body(part, carry, inputs):
        index, t, t_next, ref_now = inputs
        x, memory, guide = carry
        interval = make_interval(process, index, t, t_next, keys, steps - index)
        denoise = make_denoise(part, process, cond, interval, steps, ref_now)
        out = sampler.step(denoise, x, memory, guide, interval)
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
        return (x_next, out.memory, out.guide), trace(info) if trace else None

    if remat:
        body = jax.checkpoint(body, static_argnums=(0,))
    inputs = (jnp.arange(steps), grid[:-1], grid[1:], ref)
    traced = []
    for start, stop, part in guided.segments(process, known, steps):
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
