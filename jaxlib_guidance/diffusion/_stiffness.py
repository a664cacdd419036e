"""How fast a dynamical system changes along its own step: where steps must be short.

A residual network ``x + f(x)`` is one Euler step of ``x' = f(x)``, and a solver's step
is one of the probability flow. What either loses on the exact path is, to first order,
half of its step times the change of ``f`` along it, which both functions measure.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.calls import require_callable, require_cond
from jaxlib_guidance.diffusion._ranges import (
    finish,
    level,
    require_steps,
    require_untraced,
)
from jaxlib_guidance.diffusion._times import require_positive, require_times
from jaxlib_guidance.reduce import divide, sqrt
from jaxlib_guidance.types import (
    Array,
    Denoiser,
    Process,
    PyTree,
    at_least_float32,
    concrete,
    expand,
    require_array,
)


def stiffness(
    f: Callable[[Array], Array],
    x: Array,
    step: Any = 1.0,
    *,
    then: Callable[[Array], Array] | None = None,
) -> Array:
    """The rate at which a velocity changes along a step that is taken by it.

    ``s = |f(x + h f(x)) - f(x)| / (h |f(x)|)`` for each sample: the Lipschitz constant
    of ``f`` along the step is at least that. For ``f(x) = A x`` it is ``|A f| / |f|``,
    the absolute eigenvalue where one dominates. ``h s`` well above 1 says that the step
    is too long for its velocity: an explicit solver overshoots, and a residual block
    undoes a part of what it did.

    It is of the units of ``1 / h``, and no change of the scale of ``x`` changes it:
    ``x -> c x`` with ``f(x) -> c f(x / c)``. The map ``c f`` with the step ``h`` has
    ``c`` times the stiffness of ``f`` with ``c h``.

    Args:
      f: Velocity ``[B, *S] -> [B, *S]``, or what a residual block adds to its input;
        samples must not see each other for the result to be theirs alone.
      x: States ``[B, *S]``, real floats.
      step: Length ``h`` of the step, above 0, a scalar or ``[B]``; the default 1 is
        that of a residual block.
      then: Velocity at the end of the step, where it is another one, as of the next
        block or of a later time; None is ``f`` itself.

    Returns:
      Stiffness ``[B]``, float32 (float64 for such states). 0 where ``f(x)`` is 0: what
      rests needs no steps. In half precision the end of the step is rounded to the type
      of ``x``, and so is what ``f`` returns: changes below that are noise.

    Raises:
      TypeError: ``x`` is no array of real floats, ``f`` or ``then`` no function of it,
        or what it returns no array of real numbers.
      ValueError: ``x`` without a batch axis, a step that is not above 0 or not of these
        shapes, or a velocity of another shape than ``x``.

    Reference: of our own. That stiffness along depth is what a residual network has to
    measure, and that its attention adapts the step to it, is Huang et al.'s claim,
    arXiv 2308.09939.
    """
    _require_states(x)
    x = jnp.asarray(x)
    for name, function in (("f", f), ("then", f if then is None else then)):
        require_callable(function, name, ("x",))
    require_positive(step, "step")
    if jnp.shape(step) not in ((), x.shape[:1]):
        raise ValueError(
            f"step has shape {jnp.shape(step)}; expected () or {x.shape[:1]}"
        )
    first = _velocity("f", f, x)
    h = jnp.asarray(step, first.dtype)
    moved = at_least_float32(x) + expand(h, x) * first
    last = _velocity("f" if then is None else "then", then or f, moved.astype(x.dtype))
    return _rate(first, last, h)


def flow_stiffness(
    denoiser: Denoiser, x: Array, grid: Array, cond: PyTree = None
) -> Array:
    """Stiffness of a network's probability flow along its own path through the noise.

    In ``y = x / (alpha + sigma)`` and ``tau = sigma / (alpha + sigma)`` the flow of
    every process is ``dy/dtau = eps - x0``, and Euler's method on it is DDIM. The path
    is that of DDIM over the grid, and `stiffness` is taken between one evaluation and
    the next, with ``tau`` as time. Where it is large, steps of a sampler must be dense:
    the error of one step of DDIM is half of ``|dtau|^2 |eps - x0|`` times it. On a fine
    grid it shows also how rough the network is in its noise level.

    Args:
      denoiser: Denoiser with a ``process``.
      x: States ``[B, *S]`` at ``grid[0]``: for a draw from the start noise of deviation
        ``sigma(grid[0])``, or noised data.
      grid: Decreasing times ``[N + 1]``, ``N`` at least 1, the last above 0: a grid
        made with ``final_zero=False``.
      cond: Condition of the network.

    Returns:
      Float32 ``[N, B]``, the stiffness along each step for each sample. It costs
      ``N + 1`` evaluations of the network.

    Raises:
      TypeError: ``denoiser`` is none, or ``x`` no array of real floats.
      ValueError: A denoiser without a process, a condition without the batch first, or
        a grid that is not 1-D, too short, outside the process's times, not decreasing,
        or that ends at 0.
    """
    if not isinstance(denoiser, Denoiser):
        kind = type(denoiser).__name__
        raise TypeError(f"denoiser is {kind}; expected a Denoiser, as by parametrize")
    process = denoiser.process
    if process is None:
        raise ValueError(
            "denoiser has no process; expected one with its own, as by parametrize"
        )
    _require_states(x)
    _require_grid(process, grid)
    require_cond(cond, jnp.shape(x)[0])

    def velocity(y, t):
        scale, tau = _level(process, t)
        x0 = denoiser(scale * y, jnp.broadcast_to(t, y.shape[:1]), cond).x0
        # eps - x0 with eps = (y - (1 - tau) x0) / tau.
        return (y - x0) / tau

    def step(carry, times):
        y, first = carry
        t, t_next = times
        h = _level(process, t)[1] - _level(process, t_next)[1]
        y = y - h * first
        last = velocity(y, t_next)
        return (y, last), _rate(first, last, h)

    times = jnp.asarray(grid, jnp.float32)
    y = jnp.asarray(x, jnp.float32) / _level(process, times[0])[0]
    carry = y, velocity(y, times[0])
    return jax.lax.scan(step, carry, (times[:-1], times[1:]))[1]


def stiffness_grid(process: Process, grid: Array, stiffness: Array, n: int) -> Array:
    """A grid whose steps are as short as a measured stiffness asks.

    In ``tau = sigma / (alpha + sigma)`` a step of DDIM errs by ``h^2 s / 2`` times a
    speed that hardly changes. To first order the sum of ``n`` such errors is least
    where all are the same: the steps have the density ``sqrt(s)``. What a later step
    makes of an error is not counted.

    Args:
      process: The noise process.
      grid: Times ``[N + 1]`` between which ``stiffness`` was measured, known numbers,
        best several times finer than the grid that is made.
      stiffness: Of each of its steps, ``[N]`` or ``[N, B]`` as from `flow_stiffness`:
        known numbers from 0, whose mean over samples counts.
      n: Number of steps, 1 to ``N``, the last of which ends at 0.

    Returns:
      Float32 ``[n + 1]`` from ``grid[0]`` to 0.

    Raises:
      TypeError: ``process`` is not a noise process.
      ValueError: Too few steps or too many for float32, a grid as `flow_stiffness`
        refuses, stiffness of another number of steps, negative or not finite, or
        arguments that are traced.
    """
    require_steps(n)
    for value, name in ((grid, "grid"), (stiffness, "stiffness")):
        require_untraced(value, name)
    _require_grid(process, grid)
    known = np.asarray(stiffness, np.float64)
    steps = len(np.asarray(grid)) - 1
    if known.ndim not in (1, 2) or len(known) != steps or not known.size:
        raise ValueError(
            f"stiffness has shape {known.shape}; expected ({steps},) or ({steps}, B), "
            "one for each step of the grid"
        )
    if not ((known >= 0) & (known < np.inf)).all():
        raise ValueError("stiffness has values that are negative or not finite")
    if n > steps:
        raise ValueError(
            f"n is {n}; expected at most {steps}, the steps that were measured"
        )
    density = np.sqrt(known if known.ndim == 1 else known.mean(1))
    alpha, sigma = (level(f, grid) for f in (process.alpha, process.sigma))
    tau = sigma / (alpha + sigma)
    require_untraced(tau, "process")
    # Where all paths are straight any grid will do.
    mass = (density if density.any() else np.ones(steps)) * -np.diff(tau)
    share = np.concatenate([[0], np.cumsum(mass) / mass.sum()])
    u = np.interp(np.arange(1, n) / n, share, tau)
    inner = level(process.t_of_logsnr, 2 * np.log((1 - u) / u))
    return finish(np.concatenate([np.asarray(grid)[:1], inner]), True)


def _require_states(x):
    require_array("x", x)
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
        raise TypeError(f"x has dtype {jnp.result_type(x)}; expected real floats")
    if jnp.ndim(x) < 1:
        raise ValueError("x has shape (); expected [B, *S]")


def _require_grid(process, grid):
    known = concrete(grid)
    if jnp.ndim(grid) != 1 or jnp.shape(grid)[0] < 2:
        raise ValueError(
            f"grid has shape {jnp.shape(grid)}; expected [N + 1] times, at least two"
        )
    require_times(process, grid, "grid")
    if known is not None and not ((known[1:] < known[:-1]).all() and known[-1] > 0):
        raise ValueError(
            f"grid goes from {known[0]:g} to {known[-1]:g}; expected times that "
            "decrease and end above 0, as with final_zero=False"
        )


def _level(process, t):
    alpha, sigma = process.alpha(t), process.sigma(t)
    return alpha + sigma, sigma / (alpha + sigma)


def _velocity(name, f, x):
    out = f(x)
    require_array(f"what {name} returns", out)
    if jnp.shape(out) != x.shape:
        raise ValueError(
            f"{name} returns shape {jnp.shape(out)}; expected that of x, {x.shape}"
        )
    if jnp.issubdtype(jnp.result_type(out), jnp.complexfloating):
        raise TypeError(
            f"{name} returns dtype {jnp.result_type(out)}; expected real numbers"
        )
    return at_least_float32(out).astype(at_least_float32(x).dtype)


def _rate(first, last, h):
    change = _norm(last - first)
    rate = divide(change, h * _norm(first))
    return jnp.where(jnp.isnan(change), jnp.nan, rate)


def _norm(a):
    axes = tuple(range(1, a.ndim))
    # In units of the largest entry: squares of 1e20 or 1e-20 leave float32.
    unit = jax.lax.stop_gradient(jnp.max(jnp.abs(a), axes, initial=0.0))
    return unit * sqrt(jnp.sum(divide(a, expand(unit, a)) ** 2, axes))
