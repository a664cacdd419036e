"""Terms one after the other, as one term."""

from typing import Any

from jaxlib_guidance.guidance._base import init_term
from jaxlib_guidance.guidance._branches import merge_branches
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    PyTree,
    pytree_dataclass,
)


@pytree_dataclass
class Chain:
    """Terms applied in order: itself a term. Build it with `chain`.

    Attributes:
      terms: Terms in the order of their updates.
    """

    terms: tuple[Any, ...]

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The union of the terms' branches."""
        return merge_branches(*(term.branches(ctx) for term in self.terms))

    def init(self, x: Array) -> PyTree:
        """A tuple of the terms' states."""
        return tuple(init_term(term, x) for term in self.terms)

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

    Returns:
      A chain, which is a term too.

    Raises:
      TypeError: Something that is not a term.

    Example:
      >>> import jaxlib_guidance as jg
      >>> guidance = jg.chain(jg.cfg(2.0, null=10), jg.clip_x0(-1.0, 1.0))
      >>> len(guidance.terms)
      2
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
