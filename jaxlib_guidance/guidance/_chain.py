"""Terms one after the other, as one term."""

from typing import Any

from jaxlib_guidance.guidance._base import init_state
from jaxlib_guidance.guidance._branches import merge
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    PyTree,
    pytree_dataclass,
)


@pytree_dataclass
class Chain:
    """Terms applied in order: itself a term. Build it with `chain`."""

    terms: tuple[Any, ...]

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
