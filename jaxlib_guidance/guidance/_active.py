"""Which terms can act: a weight known to be 0 and a closed window cost nothing."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxlib_guidance.guidance._base import (
    init_term,
)
from jaxlib_guidance.guidance._chain import Chain
from jaxlib_guidance.guidance._schedule import During
from jaxlib_guidance.guidance._tree import is_off
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    PyTree,
)


@dataclasses.dataclass(frozen=True)
class Off:
    """A term that takes no part for now: it keeps its state and costs nothing."""

    term: Any

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """No branches."""
        return {}

    def init(self, x: Array) -> PyTree:
        """The state of the term."""
        return init_term(self.term, x)

    def update(self, delta, evals, state, ctx):
        """Changes nothing."""
        return delta, state


def prune(term: Any, inside: Callable[[During], bool | None]) -> Any:
    """The term with `Off` in place of what cannot act.

    Args:
      term: A term or chain.
      inside: Whether a window is open; None if that is only known at run time.
    """
    if isinstance(term, Chain):
        terms = tuple(prune(each, inside) for each in term.terms)
        return Off(term) if all(isinstance(t, Off) for t in terms) else Chain(terms)
    if not hasattr(term, "inner"):
        return Off(term) if is_off(term) else term
    acts = inside(term) if isinstance(term, During) else None
    inner = prune(term.inner, inside)
    if acts is False or isinstance(inner, Off):
        return Off(term)
    return inner if acts else dataclasses.replace(term, inner=inner)
