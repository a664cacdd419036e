"""When a term acts, and how strongly: windows and schedules of terms and chains."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.diffusion import logsnr
from jaxlib_guidance.guidance._base import fix, fixed, init_term
from jaxlib_guidance.guidance._chain import Chain, chain
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.guidance._tree import (
    changes_condition,
    conditioned,
    rewrites,
)
from jaxlib_guidance.reduce import known_false
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    Process,
    PyTree,
    concrete,
    expand,
    per_sample,
    pytree_dataclass,
    static,
)

UNITS = ("fraction", "t", "sigma", "logsnr")


@pytree_dataclass
class During:
    """A term that acts on part of the trajectory. Build it with `during`.

    Attributes:
      inner: Term or chain that is limited.
      start: Lower bound of the window, a number, or an array, scalar or ``[B]``.
      stop: Upper bound of the window, of the same kind.
      unit: What the bounds measure: "fraction", "t", "sigma" or "logsnr" (static).
    """

    inner: Any
    start: Any
    stop: Any
    unit: str = static(default="fraction")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The branches of the inner term."""
        return self.inner.branches(ctx)

    def init(self, x: Array) -> PyTree:
        """The state of the inner term."""
        return init_term(self.inner, x)

    def rewrite(self, branches: dict[str, Branch], ctx: Context) -> dict[str, Branch]:
        """Nothing of its own: a window that is not known yet cannot edit attention."""
        if rewrites(self.inner):
            raise ValueError(
                "during limits a term that edits other terms' branches to a window "
                "that is only known at run time; expected bounds that are numbers, and "
                "a grid or a step that is not traced"
            )
        return branches

    def inside(self, process: Process, t: Any, index: Any, steps: int | None) -> Any:
        """Whether steps are inside the window.

        Args:
          process: The noise process.
          t: Times at which the steps start.
          index: Numbers of the steps, 0 for the first.
          steps: Number of steps ``N``, or None under an adaptive solver.

        Returns:
          Booleans of the shape of ``t`` or ``index``, broadcast against the bounds.

        Raises:
          ValueError: A window in fractions without a number of steps.
        """
        start, stop = fixed(self.start), fixed(self.stop)
        if self.unit == "fraction":
            if steps is None:
                raise ValueError(
                    "during(unit='fraction') needs a number of steps, which an "
                    "adaptive solver does not have; use unit='t', 'sigma' or 'logsnr'"
                )
            # The allowance keeps 0.29 of 100 steps at 29 in spite of rounding.
            begin = jnp.floor(start * steps + 1e-4)
            end = jnp.floor(stop * steps + 1e-4)
            index = jnp.asarray(index, jnp.float32)
            return (index >= begin) & (index < end)
        if self.unit == "t":
            level = t
        elif self.unit == "sigma":
            level = process.sigma(t) / process.alpha(t)
        else:
            level = logsnr(process, t)
        return (level > start) & (level <= stop)

    def condition(self, ctx: Context) -> PyTree:
        """The inner terms' condition where the step is inside, the caller's elsewhere.

        Without such a term it is the caller's, and nothing is computed.
        """
        if not changes_condition(self.inner):
            return ctx.cond
        inside = self.inside(ctx.process, ctx.t_step, ctx.step, ctx.steps)
        return jax.tree.map(
            lambda new, old: jnp.where(expand(inside, jnp.asarray(new)), new, old),
            conditioned(self.inner, ctx),
            ctx.cond,
        )

    def window(self, process: Process, times: Any, steps: int) -> np.ndarray | None:
        """Which of the N steps are inside, ``bool [N]``; None if not known yet."""
        for bound in (fixed(self.start), fixed(self.stop)):
            if concrete(bound) is None or jnp.ndim(bound):
                return None
        if self.unit == "fraction":
            t = None
        elif times is None:
            return None
        else:
            t = times[:-1]
        with jax.ensure_compile_time_eval():
            t = None if t is None else jnp.asarray(t, jnp.float32)
            return concrete(self.inside(process, t, jnp.arange(steps), steps))

    def update(self, delta, evals, state, ctx):
        """The inner update where the step is inside the window, nothing elsewhere."""
        for name in ("start", "stop"):
            per_sample(fixed(getattr(self, name)), delta, f"during's {name}")
        new_delta, new_state = self.inner.update(delta, evals, state, ctx)
        inside = self.inside(ctx.process, ctx.t_step, ctx.step, ctx.steps)

        def choose(new, old):
            return jnp.where(expand(inside, new), new, old)

        return choose(new_delta, delta), jax.tree.map(choose, new_state, state)


@method(
    "when",
    "the terms' correction inside a window of steps, t, sigma or logsnr",
    space="any",
    off="outside the window",
    evaluations=None,
    source="2404.07724",
    strength=None,
    example={"start": 0.3, "stop": 1.0},
    law="test_units",
)
def during(term: Any, start: Any, stop: Any, unit: str = "fraction") -> Chain:
    """Limits a term or a chain to part of the trajectory.

    With bounds that are numbers the trajectory is cut into segments, and steps outside
    the window do not evaluate the term's branches at all; with bounds that are arrays,
    which may be traced or differ by sample, they do, and the result is masked. A step
    belongs to the window if its start does, for all the evaluations it makes. Outside,
    a term's state rests.

    Args:
      term: A term or a chain.
      start: Lower bound: a number, or an array, scalar or ``[B]``.
      stop: Upper bound, above ``start``: a number, or an array, scalar or ``[B]``.
      unit: What the bounds measure. "fraction" of the steps, each in [0, 1]:
        ``int(start N) <= i < int(stop N)``. Or the half-open interval ``(start, stop]``
        of time "t", noise level "sigma" (meaning sigma / alpha, as in Kynkaanniemi et
        al., arXiv 2404.07724) or "logsnr".

    Returns:
      A chain that holds the limited term.

    Raises:
      TypeError: Bounds that are no numbers.
      ValueError: Unknown unit, an empty window, or a fraction outside [0, 1].

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x + cond, jg.VE())
      >>> keys, cond = jg.sample_keys(jax.random.key(0), 2), jnp.array([[1.0], [3.0]])
      >>> term, grid = jg.during(jg.cfg(2.0, null=0.0), 0.0, 0.5), [1.0, 0.5, 0.0]
      >>> x, _ = jg.sample(keys, denoiser, jg.ddim(), grid, (1,), cond, guidance=term)
      >>> x.tolist()  # The second of two steps is not guided.
      [[1.0], [3.0]]

    Reference: Kynkaanniemi et al., arXiv 2404.07724.
    """
    if unit not in UNITS:
        raise ValueError(f"unit is {unit!r}; expected one of {UNITS}")
    require_numbers("during", start=start, stop=stop)
    if known_false(lambda low, high: low < high, start, stop):
        raise ValueError(
            f"during got start {start} and stop {stop}; expected start < stop"
        )
    if unit == "fraction":
        for name, bound in (("start", start), ("stop", stop)):
            if known_false(lambda share: (share >= 0) & (share <= 1), bound):
                raise ValueError(
                    f"during's {name} is {bound}; expected a fraction of the steps in "
                    "[0, 1]. Bounds may also be in unit='t', 'sigma' or 'logsnr'"
                )
    elif unit != "logsnr" and known_false(lambda high: high > 0, stop):
        raise ValueError(f"during's stop is {stop}; expected a {unit} above 0")
    return chain(During(_single(term), fix(start), fix(stop), unit))


@pytree_dataclass
class Scheduled:
    """A term whose contribution is scaled step by step. Build it with `scheduled`.

    Attributes:
      inner: Term or chain that is scaled.
      values: One factor for each step ``[N]``; None with ``function``.
      params: First argument of ``function`` when not None: leaves of the tree.
      function: ``([params,] Context) -> factor``, scalar or ``[B]``; None with
        ``values`` (static).
    """

    inner: Any
    values: Array | None = None
    params: PyTree = None
    function: Callable[..., Array] | None = static(default=None)

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The branches of the inner term."""
        return self.inner.branches(ctx)

    def init(self, x: Array) -> PyTree:
        """The state of the inner term."""
        return init_term(self.inner, x)

    def update(self, delta, evals, state, ctx):
        """``delta + w_t (inner(delta) - delta)``."""
        new_delta, state = self.inner.update(delta, evals, state, ctx)
        if self.function is not None:
            args = (ctx,) if self.params is None else (self.params, ctx)
            scale = self.function(*args)
        else:
            values = jnp.asarray(self.values)
            if ctx.steps is None:
                raise ValueError(
                    "scheduled needs a number of steps, which an adaptive solver does "
                    "not have; give w_t as a function of the context"
                )
            if values.shape[0] != ctx.steps:
                raise ValueError(
                    f"scheduled's w_t has {values.shape[0]} values; expected one for "
                    f"each of the {ctx.steps} steps"
                )
            scale = values[ctx.step]
        scale = per_sample(scale, delta, "scheduled's w_t")
        return delta + scale * (new_delta - delta), state


@method(
    "when",
    "the terms' correction times w_t",
    space="any",
    off="w_t = 0",
    evaluations=None,
    source="2404.13040",
    strength=None,
    example={"w_t": (0.5, 0.7)},
    law="test_a_schedule_multiplies",
)
def scheduled(term: Any, w_t: Any, params: PyTree = None) -> Chain:
    """Scales what a term or a chain adds by a weight that varies in time.

    Args:
      term: A term or a chain.
      w_t: Factor of what it adds: one value for each step ``[N]`` (a leaf: sweep it,
        learn it), or a function of the `Context` that returns a scalar or ``[B]``.
        Inside `sample` the context knows the step's ends and, but for an adaptive
        solver, the whole grid.
      params: Pytree that a function ``w_t`` receives before the context, whose leaves
        may be swept and learned; None for a function without one.

    Returns:
      A chain that holds the scaled term.

    Raises:
      TypeError: ``params`` without a function; a term that changes the condition.
      ValueError: An array that is not one-dimensional.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x + cond, jg.VE())
      >>> keys, cond = jg.sample_keys(jax.random.key(0), 2), jnp.array([[1.0], [3.0]])
      >>> term, grid = jg.scheduled(jg.cfg(2.0, null=0.0), [1.0, 0.5]), [1.0, 0.5, 0.0]
      >>> x, _ = jg.sample(keys, denoiser, jg.ddim(), grid, (1,), cond, guidance=term)
      >>> x.tolist()  # The last step has weight 0.5 * 2.
      [[2.0], [6.0]]
    """
    if changes_condition(chain(term)):
        raise TypeError(
            "scheduled got a term that changes the condition, which is no correction "
            "to scale; give that term a weight that varies, or limit it by during"
        )
    if callable(w_t):
        return chain(Scheduled(_single(term), params=params, function=w_t))
    if params is not None:
        raise TypeError(f"params have no effect on w_t = {w_t!r}; expected a function")
    values = jnp.asarray(w_t)
    if values.ndim != 1:
        raise ValueError(f"w_t has shape {values.shape}; expected [N], one a step")
    return chain(Scheduled(_single(term), values))


def _single(term: Any) -> Any:
    """One term for a wrapper to hold: a chain only where it is more than one."""
    terms = chain(term).terms
    return terms[0] if len(terms) == 1 else Chain(terms)
