"""Guidance terms, and how they compose.

A term says which network evaluations it needs (`branches`) and how it edits the running
correction ``delta`` to the base estimate: ``x0 = x0[cond] + delta``. Everything is an
x0 estimate in float32, where a contrast means the same for every kind of network.
Weight 0 is "off" for every term.
"""

import dataclasses
from collections.abc import Iterator, Mapping
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
    pytree_dataclass,
    static,
)

BASE = "cond"


@pytree_dataclass
class Fixed:
    """A number that stays known when the term is an argument of a jitted function."""

    value: Any = static()


def fix(a: Any) -> Any:
    """A Python number as `Fixed`; an array, which may be traced, as it is."""
    return Fixed(a) if isinstance(a, (bool, int, float)) else a


def fixed(a: Any) -> Any:
    """The number or array that `fix` took."""
    return a.value if isinstance(a, Fixed) else a


class Evals(NamedTuple):
    """What the planner evaluated, by branch name.

    Attributes:
      x0: Estimates ``[B, *S]``.
      maps: Captured arrays by tap.
      grad: The gradient of this term's energy ``[B, *S]``; None when the term has no
        energy or its neighbour before has taken the sum. A chain's is a tuple.
    """

    x0: Mapping[str, Array]
    maps: Mapping[str, Mapping[str, Array]] = {}
    grad: Any = None


class Term(Protocol):
    """A guidance term: a frozen pytree whose weights are leaves.

    Optional members:
      weight: When known to be 0, the planner leaves the term out.
      init: ``(x) -> state``, for a term with memory; its arrays lead with the batch.
      inner: The term or chain that this one wraps, as `during` does.
      energy: ``(evals, ctx) -> [B]``, for a term that wants its gradient as
        ``evals.grad``. Then ``through`` says with respect to what (see `energy`), and
        ``linear`` whether `update` only adds a multiple of the gradient that depends on
        nothing else, so that neighbours can share one backward pass.
    """

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The evaluations this term needs, besides the base branch."""
        ...

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """The new correction ``[B, *S]`` and the new state."""
        ...


def init_state(term: Any, x: Array) -> PyTree:
    """The term's initial memory; ``()`` for a term without."""
    return term.init(x) if hasattr(term, "init") else ()


def is_off(term: Any) -> bool:
    """Whether the term's weight is known to be zero while tracing."""
    weight = getattr(term, "weight", None)
    value = None if weight is None else concrete(weight)
    return value is not None and not np.any(value)


def children(term: Any) -> tuple[Any, ...]:
    """The terms that this one chains or wraps."""
    if isinstance(term, Chain):
        return term.terms
    return (term.inner,) if hasattr(term, "inner") else ()


def walk(term: Any) -> Iterator[Any]:
    """The term and all below it, outermost first."""
    yield term
    for each in children(term):
        yield from walk(each)


@dataclasses.dataclass(frozen=True)
class Off:
    """A term that takes no part for now: it keeps its memory and costs nothing."""

    term: Any

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """None."""
        return {}

    def init(self, x: Array) -> PyTree:
        """The term's."""
        return init_state(self.term, x)

    def update(self, delta, evals, state, ctx):
        """Changes nothing."""
        return delta, state


@pytree_dataclass
class Chain:
    """Terms applied in order: itself a term. Build it with `chain`."""

    terms: tuple[Any, ...]

    def steer(self, denoiser: Any, plan: str = "auto") -> Any:
        """The guided denoiser that samplers call; see `plan.steer`."""
        from jaxlib_guidance.guidance.plan import steer

        return steer(denoiser, self, plan=plan)

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The union of the terms'."""
        return merge(*(term.branches(ctx) for term in self.terms))

    def init(self, x: Array) -> PyTree:
        """A tuple of the terms'."""
        return tuple(init_state(term, x) for term in self.terms)

    def update(self, delta, evals, state, ctx):
        """The terms' updates, one after the other."""
        grads = (None,) * len(self.terms) if evals.grad is None else evals.grad
        new = []
        for term, grad, old in zip(self.terms, grads, state, strict=True):
            delta, kept = term.update(delta, evals._replace(grad=grad), old, ctx)
            new.append(kept)
        return delta, tuple(new)


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


def merge(*asked: Mapping[str, Branch]) -> dict[str, Branch]:
    """The union of branches by name, in the order they are first asked for.

    Raises:
      ValueError: One name for different evaluations.
    """
    union: dict[str, Branch] = {}
    for name, branch in (item for branches in asked for item in branches.items()):
        held = union.get(name)
        if held is not None:
            if not _same(held, branch):
                raise ValueError(
                    f"two terms ask for different evaluations under the name {name!r}; "
                    "give one of them another name"
                )
            branch = held._replace(
                grad=held.grad or branch.grad,
                capture=tuple(dict.fromkeys(held.capture + branch.capture)),
            )
        union[name] = branch
    return union


def _same(a: Branch, b: Branch) -> bool:
    one = (a.cond, a.control, a.x, a.net)
    two = (b.cond, b.control, b.x, b.net)
    if jax.tree.structure(one) != jax.tree.structure(two):
        return False

    def equal(x, y):
        if x is y:
            return True
        x, y = concrete(x), concrete(y)
        return x is not None and y is not None and np.array_equal(x, y)

    return all(map(equal, jax.tree.leaves(one), jax.tree.leaves(two)))


def sample_axes(x: Array) -> tuple[int, ...]:
    """All axes but the batch."""
    return tuple(range(1, jnp.ndim(x)))


def sample_norm(x: Array) -> Array:
    """Euclidean norm of each sample ``[B, 1, ...]``, differentiable at zero."""
    square = jnp.sum(x**2, axis=sample_axes(x), keepdims=True)
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)
