"""Guidance terms, and how they compose.

A term says which network evaluations it needs (`branches`) and how it edits the running
correction ``delta`` to the base estimate: ``x0 = x0[cond] + delta``. Everything is an
x0 estimate in float32, where a contrast means the same for every kind of network.
Weight 0 is "off" for every term.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    PyTree,
    concrete,
    expand,
    pytree_dataclass,
    static,
)

BASE = "cond"


class Evals(NamedTuple):
    """What the planner evaluated, by branch name.

    Attributes:
      x0: Estimates ``[B, *S]``.
      maps: Captured arrays by tap.
      grad: The gradient of this term's energy ``[B, *S]``, or None when the term has
        no energy or an earlier term of its group has taken it.
    """

    x0: Mapping[str, Array]
    maps: Mapping[str, Mapping[str, Array]] = {}
    grad: Array | None = None


class Term(Protocol):
    """A guidance term: a frozen pytree whose weights are leaves.

    Optional members: ``init(x) -> state`` for a term with memory, and, for an energy
    term, ``energy(evals, ctx) -> [B]`` with ``through`` (see `energy.Energy`).
    """

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The evaluations this term needs, besides the base branch."""
        ...

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """The new correction ``[B, *S]`` and the new state."""
        ...


def init_state(term: Term, x: Array) -> PyTree:
    """The term's initial memory; ``()`` for a term without."""
    return term.init(x) if hasattr(term, "init") else ()


def core(term: Any) -> Any:
    """The term inside its windows and schedules."""
    while hasattr(term, "inner"):
        term = term.inner
    return term


def is_energy(term: Any) -> bool:
    """Whether the term wants the gradient of an energy."""
    return hasattr(core(term), "energy")


def is_off(term: Any) -> bool:
    """Whether the term's weight is known to be zero while tracing."""
    weight = getattr(core(term), "weight", None)
    value = None if weight is None else concrete(weight)
    return value is not None and not np.any(value)


@pytree_dataclass
class Chain:
    """Terms applied in order. Build it with `chain`."""

    terms: tuple[Any, ...]

    def steer(self, denoiser: Any, plan: str = "auto") -> Any:
        """The guided denoiser that samplers call; see `plan.steer`."""
        from jaxlib_guidance.guidance.plan import steer

        return steer(denoiser, self, plan=plan)


def chain(*terms: Any) -> Chain:
    """Composes terms: their branches run as one call, their updates in this order.

    Args:
      *terms: Terms or chains, which are flattened. None at all means no guidance.

    Raises:
      TypeError: Something that is not a term.
    """
    flat: list[Any] = []
    for term in terms:
        if isinstance(term, Chain):
            flat.extend(term.terms)
        elif hasattr(term, "branches") and hasattr(term, "update"):
            flat.append(term)
        else:
            raise TypeError(f"chain got {type(term).__name__}; expected guidance terms")
    return Chain(tuple(flat))


UNITS = ("fraction", "t", "sigma", "logsnr")


@pytree_dataclass
class During:
    """A term that acts on part of the trajectory. Build it with `during`."""

    inner: Any
    start: Array | float
    stop: Array | float
    unit: str = static(default="fraction")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The inner term's."""
        return self.inner.branches(ctx)

    def init(self, x: Array) -> PyTree:
        """The inner term's."""
        return init_state(self.inner, x)

    def inside(self, process: Any, t: Any, index: Any, steps: int | None) -> Any:
        """Whether steps that start at ``t``, number ``index`` of ``steps``, are inside."""
        if self.unit == "fraction":
            if steps is None:
                raise ValueError(
                    "during(unit='fraction') needs a number of steps, which an adaptive "
                    "solver does not have; use unit='t', 'sigma' or 'logsnr'"
                )
            # The allowance keeps 0.29 of 100 steps at 29 in spite of rounding.
            first = jnp.floor(self.start * steps + 1e-4)
            last = jnp.floor(self.stop * steps + 1e-4)
            index = jnp.asarray(index, jnp.float32)
            return (index >= first) & (index < last)
        alpha, sigma = process.alpha(t), process.sigma(t)
        level = {
            "t": lambda: t,
            "sigma": lambda: sigma / alpha,
            "logsnr": lambda: 2 * (jnp.log(alpha) - jnp.log(sigma)),
        }[self.unit]()
        return (level > self.start) & (level <= self.stop)

    def window(self, process: Any, times: Any, steps: int) -> np.ndarray | None:
        """Which of the N steps are inside, ``bool [N]``; None if only known at run time."""
        if concrete(self.start) is None or concrete(self.stop) is None:
            return None
        if self.unit != "fraction" and times is None:
            return None
        with jax.ensure_compile_time_eval():
            t = None if times is None else jnp.asarray(times[:-1], jnp.float32)
            inside = self.inside(process, t, jnp.arange(steps), steps)
        return concrete(jnp.broadcast_to(inside, (steps,)))

    def update(self, delta, evals, state, ctx):
        """The inner update where the step is inside the window, nothing elsewhere."""
        new_delta, new_state = self.inner.update(delta, evals, state, ctx)
        inside = self.inside(ctx.process, ctx.t_step, ctx.step, ctx.steps)

        def choose(new, old):
            gate = expand(inside, new) if jnp.ndim(inside) <= jnp.ndim(new) else inside
            return jnp.where(gate, new, old)

        return choose(new_delta, delta), jax.tree.map(choose, new_state, state)


def during(term: Any, start: Any, stop: Any, unit: str = "fraction") -> Chain:
    """Limits a term, or each term of a chain, to part of the trajectory.

    With known bounds the trajectory is cut into segments and steps outside the window
    do not evaluate the term's branches at all; with traced bounds they do, and the
    result is masked. A step belongs to the window if its start does, for all the
    evaluations it makes.

    Args:
      term: A term or a chain.
      start: Lower bound.
      stop: Upper bound, above ``start``.
      unit: "fraction" of the steps, ``int(start N) <= i < int(stop N)``; or the
        half-open interval ``(start, stop]`` of time "t", noise level "sigma" (meaning
        sigma / alpha, as in Kynkaanniemi et al., arXiv 2404.07724) or "logsnr".

    Raises:
      ValueError: Unknown unit or an empty window.
    """
    if unit not in UNITS:
        raise ValueError(f"unit is {unit!r}; expected one of {UNITS}")
    low, high = concrete(start), concrete(stop)
    if low is not None and high is not None and not np.all(low < high):
        raise ValueError(
            f"during got start {low} and stop {high}; expected start < stop"
        )
    return Chain(tuple(During(t, start, stop, unit) for t in chain(term).terms))


@pytree_dataclass
class Scheduled:
    """A term whose contribution is scaled step by step. Build it with `scheduled`."""

    inner: Any
    values: Array | None = None
    function: Callable[[Context], Array] | None = static(default=None)

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The inner term's."""
        return self.inner.branches(ctx)

    def init(self, x: Array) -> PyTree:
        """The inner term's."""
        return init_state(self.inner, x)

    def update(self, delta, evals, state, ctx):
        """``delta + w_t (inner(delta) - delta)``."""
        new_delta, state = self.inner.update(delta, evals, state, ctx)
        if self.function is not None:
            scale = self.function(ctx)
        else:
            steps = self.values.shape[0]
            if ctx.steps is not None and ctx.steps != steps:
                raise ValueError(
                    f"scheduled has {steps} values; expected one for each of the "
                    f"{ctx.steps} steps"
                )
            scale = self.values[ctx.step]
        return delta + expand(scale, delta) * (new_delta - delta), state


def scheduled(term: Any, w_t: Any) -> Chain:
    """Scales what a term, or each term of a chain, adds by a weight that varies in time.

    Args:
      term: A term or a chain.
      w_t: One value for each step ``[N]`` (a leaf: sweep it, learn it), or a function of
        the `Context` that returns a scalar or ``[B]``.

    Raises:
      ValueError: An array that is not one-dimensional.
    """
    if callable(w_t):
        made = [Scheduled(t, function=w_t) for t in chain(term).terms]
    else:
        if jnp.ndim(w_t) != 1:
            raise ValueError(
                f"w_t has shape {jnp.shape(w_t)}; expected [N], one a step"
            )
        made = [Scheduled(t, jnp.asarray(w_t)) for t in chain(term).terms]
    return Chain(tuple(made))
