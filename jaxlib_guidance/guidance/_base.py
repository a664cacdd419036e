"""Guidance terms, and how they compose.

A term says which network evaluations it needs (`branches`) and how it edits the running
correction ``delta`` to the base estimate: ``x0 = x0[cond] + delta``. Everything is an
x0 estimate in float32, where a contrast means the same for every kind of network.
Weight 0 is "off" for every term.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp

from jaxlib_guidance.reduce import sqrt
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    PyTree,
    pytree_dataclass,
    static,
)

BASE = "cond"


@pytree_dataclass
class Fixed:
    """A number that stays known when the term is an argument of a jitted function.

    Attributes:
      value: The number, part of the tree's structure: another one compiles anew.
    """

    value: Any = static()


def fix(a: Any) -> Any:
    """A Python number as `Fixed`; an array, which may be traced, as it is.

    Args:
      a: A number or an array.

    Returns:
      What stays known when it is part of an argument of a jitted function.
    """
    return Fixed(a) if isinstance(a, (bool, int, float)) else a


def fixed(a: Any) -> Any:
    """The number or array that `fix` took.

    Args:
      a: A result of `fix`.

    Returns:
      The number or array.
    """
    return a.value if isinstance(a, Fixed) else a


class Jacobian(NamedTuple):
    """The derivative ``J`` of the base estimate by the state, as an operator.

    ``sigma^2 / alpha J`` is the covariance of the data under the denoiser's posterior.

    Attributes:
      transpose: Function ``v [B, *S] -> J^T v [B, *S]``, one backward pass.
      matvec: Function ``v [B, *S] -> J v [B, *S]``, one forward pass; None for a term
        that asks for the transpose alone.
    """

    transpose: Callable[[Array], Array]
    matvec: Callable[[Array], Array] | None = None


class Evals(NamedTuple):
    """What the planner evaluated, by branch name.

    Attributes:
      x0: Estimates ``[B, *S]`` by branch.
      maps: Captured arrays by branch, then by tap.
      grad: Gradient of this term's energy ``[B, *S]``; None when the term has no energy
        or the term before it has taken the sum of both. For a chain, a tuple.
      evaluate: Function ``{name: Branch} -> Evals`` that evaluates further branches, in
        one batched call for each network, for a term whose branches depend on other
        evaluations.
      jacobian: The denoiser's Jacobian at the base branch; None unless a term of the
        chain asks for it.
    """

    x0: Mapping[str, Array]
    maps: Mapping[str, Mapping[str, Array]] = {}
    grad: Any = None
    evaluate: Callable[[Mapping[str, Branch]], "Evals"] | None = None
    jacobian: Jacobian | None = None


class Term(Protocol):
    """A guidance term: a frozen pytree whose weights are leaves.

    Optional members:
      weight: Factor of what the term adds. When known to be 0, the planner leaves the
        term out.
      init: ``(x) -> state``, for a term with a state; its arrays lead with the batch.
      inner: The term or chain that this one wraps, as `during` does.
      energy: ``(evals, ctx) -> [B]``, for a term that wants its gradient as
        ``evals.grad``. Then ``through`` says with respect to what (see `energy`), and
        ``linear`` whether `update` only adds a multiple of the gradient that depends on
        nothing else, so that neighbours can share one backward pass.
      condition: ``(ctx) -> cond``, for a term that changes the condition with which all
        branches are evaluated, the base and other terms' included.
      rewrite: ``(branches, ctx) -> branches``, for a term that changes evaluations that
        other terms ask for, the base's included, as `edit_branches` does.
      jacobian: "transpose" or "both" for a term that wants ``evals.jacobian``, with
        ``J^T v`` alone or with ``J v`` too, which networks whose kernels know no
        forward derivative do not have.
    """

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The evaluations this term needs, besides the base branch."""
        ...

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """The new correction ``[B, *S]`` and the new state."""
        ...


def init_term(term: Any, x: Array) -> PyTree:
    """The initial state of a term; ``()`` for a term without one.

    Args:
      term: A term or a chain.
      x: State of the sampler ``[B, *S]``.

    Returns:
      A pytree whose arrays lead with the batch.
    """
    return term.init(x) if hasattr(term, "init") else ()


def sample_axes(x: Array) -> tuple[int, ...]:
    """All axes but the batch.

    Args:
      x: Array ``[B, *S]``.

    Returns:
      The axes ``1, 2, ...``.
    """
    return tuple(range(1, jnp.ndim(x)))


def sample_norm(x: Array) -> Array:
    """Euclidean norm of each sample, differentiable at zero.

    Args:
      x: Array ``[B, *S]``.

    Returns:
      Norms ``[B, 1, ...]``.
    """
    return sqrt(jnp.sum(x**2, axis=sample_axes(x), keepdims=True))
