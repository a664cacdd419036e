"""Guidance towards the network with its features rebalanced."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.attention import FeatureEdit
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._contrast import Contrast
from jaxlib_guidance.guidance._registry import method


@method(
    "attention",
    "D + w (D_free - D), backbone amplified and skips damped where a U-Net joins them",
    space="features",
    evaluations=2,
    source="2309.11497",
    law="test_freeu_is_its_formula",
    example={"joins": {"join": (1.5, 0.4)}},
    shape=(8, 8, 1),
)
def freeu(
    weight: Any, joins: Mapping[str, tuple[Any, Any]], name: str | None = None
) -> Contrast:
    """FreeU: a U-Net whose backbone is amplified and whose skips are damped.

    ``x0 = D + w (D_free - D)``, so that 1 is the edited network; `join_features` says
    what is edited. The term holds ``-w``, being a contrast the other way round.

    Args:
      weight: Share ``w`` of the way to the edited network, scalar or ``[B]``; 0 is off.
      joins: Gains ``(b, s)`` of backbone and skip by the name or pattern of a join,
        each a scalar or ``[B]``; 1 changes nothing. For Stable Diffusion 1.5 the
        authors recommend (1.5, 0.9) in the deepest stage of the way up and (1.6, 0.2)
        in the next, for XL (1.3, 0.9) and (1.4, 0.2).
      name: Name of the branch; None means "freeu:" and the joins.

    Returns:
      A guidance term. It edits the conditional branch alone: beside a `cfg` the other
      branch keeps its features.

    Raises:
      TypeError: A weight or gain that is no number.
      ValueError: No joins.

    Reference: Si et al., arXiv 2309.11497.
    """
    if not joins:
        raise ValueError("joins is empty; expected gains (b, s) by the name of a join")
    for join, (backbone, skip) in joins.items():
        gains = {f"{join}'s backbone": backbone, f"{join}'s skip": skip}
        require_numbers("freeu", weight=weight, **gains)
    return Contrast(
        -jnp.asarray(weight, jnp.float32),
        control={
            join: FeatureEdit(backbone=backbone, skip=skip)
            for join, (backbone, skip) in joins.items()
        },
        worse=name or f"freeu:{'+'.join(joins)}",
    )
