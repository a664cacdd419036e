"""The union of the branches that terms ask for."""

from collections.abc import Mapping

import jax
import numpy as np

from jaxlib_guidance.types import (
    Branch,
    concrete,
)


def merge_branches(*asked: Mapping[str, Branch]) -> dict[str, Branch]:
    """The union of branches by name, in the order they are first asked for.

    Args:
      *asked: Branches by name, one mapping for each term.

    Returns:
      One branch for each name, with all captures that were asked for.

    Raises:
      ValueError: One name for different evaluations.
    """
    union: dict[str, Branch] = {}
    for name, branch in (item for branches in asked for item in branches.items()):
        known = union.get(name)
        if known is not None:
            if not _same(known, branch):
                raise ValueError(
                    f"two terms ask for different evaluations under the name {name!r}; "
                    "give one of them another name"
                )
            branch = known._replace(
                grad=known.grad or branch.grad,
                capture=tuple(dict.fromkeys(known.capture + branch.capture)),
            )
        union[name] = branch
    return union


def _same(a: Branch, b: Branch) -> bool:
    one = (a.cond, a.control, a.x, a.t, a.net)
    two = (b.cond, b.control, b.x, b.t, b.net)
    if jax.tree.structure(one) != jax.tree.structure(two):
        return False

    def equal(x, y):
        if x is y:
            return True
        x, y = concrete(x), concrete(y)
        return x is not None and y is not None and np.array_equal(x, y)

    return all(map(equal, jax.tree.leaves(one), jax.tree.leaves(two)))
