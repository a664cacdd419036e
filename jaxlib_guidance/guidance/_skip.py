"""Guidance away from a network with layers left out or their tokens shuffled."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jaxlib_guidance import rng
from jaxlib_guidance.attention import identity, shuffle, skip
from jaxlib_guidance.guidance._base import BASE, Evals
from jaxlib_guidance.guidance._checks import require_numbers, site_patterns
from jaxlib_guidance.guidance._contrast import Contrast
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    PyTree,
    per_sample,
    pytree_dataclass,
    static,
)

# Tells this term's random stream from others'.
SHUFFLED = 0x00760
MODES = {"attention": identity, "residual": skip}


@method(
    "attention",
    "D + w (D - D_skip), D_skip without some layers",
    space="features",
    evaluations=2,
    source="https://github.com/Stability-AI/sd3.5",
    law="test_skipping_is_a_network_without_the_layer",
)
def slg(weight: Any, sites: str | Sequence[str], name: str | None = None) -> Contrast:
    """Skip-layer guidance: away from the network without some of its layers.

    ``x0 = D + w (D - D_skip)``. A skipped layer hands on what entered it, its MLP and
    cross-attention included. Mostly active in a part of the steps: `during`.

    Args:
      weight: Factor ``w`` of the contrast, scalar or ``[B]``; 0 is off. Stable
        Diffusion 3.5 uses 2.5 in steps from 1 % to 20 % of all.
      sites: Layers, named by the place, name or pattern of their self-attention sites.
      name: Name of the branch; None means "slg:" and the sites.

    Returns:
      A guidance term.

    Raises:
      TypeError: A weight that is no number.

    Example:
      >>> import jaxlib_guidance as jg
      >>> term = jg.guidance.slg(2.5, ("block7", "block8"))
      >>> term.worse, term.control["block8"].skip
      ('slg:block7+block8', 1.0)

    Reference: Stability AI's reference code of Stable Diffusion 3.5.
    """
    require_numbers("slg", weight=weight)
    chosen = site_patterns(sites)
    return Contrast(
        weight,
        control=dict.fromkeys(chosen, skip()),
        worse=name or f"slg:{'+'.join(chosen)}",
    )


@method(
    "attention",
    "D + w (D - D_skip), D_skip without some attention, or some layers",
    space="features",
    evaluations=2,
    source="2411.18664",
    law="test_skipping_is_a_network_without_the_layer",
)
def stg(
    weight: Any,
    sites: str | Sequence[str],
    mode: str = "attention",
    name: str | None = None,
) -> Contrast:
    """Spatiotemporal skip guidance: away from the network that skips in time and space.

    ``x0 = D + w (D - D_skip)``; for networks of videos whose sites attend over frames
    and places together.

    Args:
      weight: Factor ``w`` of the contrast, scalar or ``[B]``; 0 is off. The authors
        recommend at most 2.
      sites: Self-attention sites, by place, name or pattern.
      mode: "attention" for the identity in place of the attention map, as in `pag`
        (STG-A); "residual" to skip the whole layer, as in `slg` (STG-R).
      name: Name of the branch; None means "stg:", the mode and the sites.

    Returns:
      A guidance term. The paper's rescaling is `rescale_std` after it.

    Raises:
      TypeError: A weight that is no number.
      ValueError: Another mode.

    Reference: Hyung et al., arXiv 2411.18664.
    """
    require_numbers("stg", weight=weight)
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; expected one of {tuple(MODES)}")
    chosen = site_patterns(sites)
    return Contrast(
        weight,
        control=dict.fromkeys(chosen, MODES[mode]()),
        worse=name or f"stg:{mode}:{'+'.join(chosen)}",
    )


@pytree_dataclass
class TokenPerturbation:
    """A contrast with shuffled tokens. Build it with `tpg`.

    Attributes:
      weight: Factor of the contrast, scalar or ``[B]``; 0 is off.
      sites: Patterns of self-attention sites (static).
      worse: Name of the shuffled branch (static).
    """

    weight: Array | float
    sites: tuple[str, ...] = static()
    worse: str = static(default="tpg")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The branch with shuffled tokens."""
        control = {}
        for i, site in enumerate(self.sites):
            share = rng.uniform(rng.fold(ctx.keys, SHUFFLED + i))
            control[site] = shuffle(1 + jnp.floor(share * (2**24 - 2)))
        return {self.worse: Branch(ctx.cond, control)}

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """Adds the weighted contrast."""
        contrast = evals.x0[BASE] - evals.x0[self.worse]
        return delta + per_sample(self.weight, delta, "tpg's weight") * contrast, state


@method(
    "attention",
    "D + w (D - D_mixed), D_mixed with tokens shuffled before some layers",
    space="features",
    evaluations=2,
    source="2506.10036",
    law="test_tpg_is_the_network_with_shuffled_tokens",
)
def tpg(
    weight: Any, sites: str | Sequence[str], name: str | None = None
) -> TokenPerturbation:
    """Token perturbation guidance: away from the network with shuffled tokens.

    ``x0 = D + w (D - D_mixed)``. The tokens that enter each of the layers are permuted
    at random, anew for each sample and step, and stay so; sites of one pattern share a
    permutation.

    Args:
      weight: Factor ``w`` of the contrast, scalar or ``[B]``; 0 is off. The authors'
        default is 3.
      sites: Layers, named by the place, name or pattern of their self-attention sites.
      name: Name of the branch; None means "tpg:" and the sites.

    Returns:
      A guidance term.

    Raises:
      TypeError: A weight that is no number.

    Reference: Rajabi et al., arXiv 2506.10036.
    """
    require_numbers("tpg", weight=weight)
    chosen = site_patterns(sites)
    return TokenPerturbation(weight, chosen, name or f"tpg:{'+'.join(chosen)}")
