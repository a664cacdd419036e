"""Guidance of the estimate towards a known picture."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.guidance._base import BASE, Evals
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    PyTree,
    at_least_float32,
    per_sample,
    pytree_dataclass,
)


@pytree_dataclass
class Toward:
    """The guided estimate, moved towards a picture. Build it with `toward`.

    Attributes:
      weight: Share of the way, scalar or ``[B]``; 0 is off.
      picture: Where it goes ``[B, *S]``.
    """

    weight: Array | float
    picture: Array

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """None of its own."""
        return {}

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``delta + w (r - x0)``, with the estimate that terms before it have made."""
        if jnp.shape(self.picture) != delta.shape:
            raise ValueError(
                f"toward's picture has shape {jnp.shape(self.picture)}; expected the "
                f"state's, {delta.shape}"
            )
        weight = per_sample(self.weight, delta, "toward's weight")
        picture = at_least_float32(self.picture)
        return delta + weight * (picture - evals.x0[BASE] - delta), state


@method(
    "reshape",
    "D + w (r - D)",
    space="x0",
    evaluations=1,
    source="2410.10792",
    example={"weight": 0.5, "picture": np.full((8, 6), 0.3, np.float32)},
    law="test_the_whole_pull_is_a_straight_line_to_the_picture",
)
def toward(weight: Any, picture: Array) -> Toward:
    """Moves the guided estimate towards a known picture: ``x0 -> x0 + w (r - x0)``.

    Under DDIM this is the controlled flow of RF-inversion: ``v -> v + w (v_r - v)``
    with the velocity ``v_r`` of the straight line to the picture. Limit it by `during`.

    Args:
      weight: Share ``w`` of the way, scalar or ``[B]``; 0 is off, 1 is the picture.
      picture: Picture ``r``, ``[B, *S]``.

    Returns:
      A guidance term, which costs no evaluation; terms before it make the estimate.

    Raises:
      TypeError: A weight that is no number.
      ValueError: In a step, a picture of another shape.

    Reference: Rout et al., arXiv 2410.10792, section 3.3.
    """
    require_numbers("toward", weight=weight)
    return Toward(weight, picture)
