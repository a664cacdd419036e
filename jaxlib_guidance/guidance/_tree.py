"""A term and the terms below it."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxlib_guidance.types import Branch, Context, PyTree, concrete


def is_off(term: Any) -> bool:
    """Whether the term's weight is known to be zero while tracing."""
    weight = getattr(term, "weight", None)
    value = None if weight is None else concrete(weight)
    return value is not None and not np.any(value)


def children(term: Any) -> tuple[Any, ...]:
    """The terms that this one chains or wraps."""
    if hasattr(term, "terms"):
        return term.terms
    return (term.inner,) if hasattr(term, "inner") else ()


def conditioned(term: Any, ctx: Context) -> PyTree:
    """The condition once a term and those below it have changed it, in their order."""
    if hasattr(term, "terms"):
        for each in term.terms:
            ctx = ctx._replace(cond=conditioned(each, ctx))
        return ctx.cond
    return term.condition(ctx) if hasattr(term, "condition") else ctx.cond


def rewritten(
    term: Any, branches: dict[str, Branch], ctx: Context
) -> dict[str, Branch]:
    """The branches once a term and those below it have changed them, in their order."""
    if hasattr(term, "rewrite"):
        branches = term.rewrite(branches, ctx)
    for each in children(term):
        branches = rewritten(each, branches, ctx)
    return branches


def rewrites(term: Any) -> bool:
    """Whether the term or one below it changes other terms' branches."""
    return any(hasattr(each, "rewrite") for each in walk(term))


def changes_condition(term: Any) -> bool:
    """Whether the term or one below it changes the condition."""
    if hasattr(term, "inner"):
        return changes_condition(term.inner)
    below = map(changes_condition, getattr(term, "terms", ()))
    return hasattr(term, "condition") or any(below)


def walk(term: Any) -> Iterator[Any]:
    """The term and all below it, outermost first."""
    yield term
    for each in children(term):
        yield from walk(each)
