"""Guidance away from softer, hotter or smaller versions of the same network."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jaxlib_guidance import rng
from jaxlib_guidance.attention import Edit, identity, skip
from jaxlib_guidance.guidance._base import BASE, Evals
from jaxlib_guidance.guidance._checks import require_numbers, site_patterns
from jaxlib_guidance.guidance._contrast import Contrast
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.reduce import known_false
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
DROPPED = 0x00520


@method(
    "attention",
    "D + w (D - D_soft), D_soft with maps (1 - g) A + g I in self-attention",
    space="attention",
    evaluations=2,
    source="2506.10978",
    law="test_soft_pag_lies_between",
)
def soft_pag(
    weight: Any,
    sites: str | Sequence[str],
    gate: Any = 0.5,
    name: str | None = None,
) -> Contrast:
    """SoftPAG: perturbed-attention guidance whose perturbation has a strength.

    ``x0 = D + w (D - D_soft)`` with self-attention maps ``(1 - g) A + g I`` in
    ``D_soft``; at ``g = 1`` it is `pag`.

    Args:
      weight: Factor ``w`` of the contrast, scalar or ``[B]``; 0 is off.
      sites: Self-attention sites, by place, name or pattern; all heads of a site.
      gate: Share ``g`` of the identity, scalar or ``[B]``; 0 perturbs nothing.
      name: Name of the branch; None means "soft_pag:" and the sites.

    Returns:
      A guidance term.

    Raises:
      TypeError: An argument that is no number.

    Reference: Ahn et al., arXiv 2506.10978, without its selection of heads.
    """
    require_numbers("soft_pag", weight=weight, gate=gate)
    chosen = site_patterns(sites)
    control = dict.fromkeys(chosen, identity(gate))
    return Contrast(
        weight, control=control, worse=name or f"soft_pag:{'+'.join(chosen)}"
    )


@method(
    "attention",
    "D + w (D - D_tau), D_tau with logits of self-attention divided by tau",
    space="attention",
    evaluations=2,
    source="2504.13987",
    example={"temperature": 3.0},
    law="test_erg_is_the_network_at_another_temperature",
)
def erg(
    weight: Any,
    sites: str | Sequence[str],
    temperature: Any,
    name: str | None = None,
) -> Contrast:
    """Entropy rectifying guidance: away from attention at another temperature.

    ``x0 = D + w (D - D_tau)`` where the logits of self-attention in ``D_tau`` are
    divided by ``tau``, which is the energy of attention at another temperature. At
    ``tau = inf`` every query has the mean of all values.

    Args:
      weight: Factor ``w`` of the contrast, scalar or ``[B]``; 0 is off.
      sites: Self-attention sites, by place, name or pattern.
      temperature: Temperature ``tau``, a scalar above 0; 1 switches the term off, above
        1 raises the entropy of the maps.
      name: Name of the branch; None means "erg:" and the sites.

    Returns:
      A guidance term.

    Raises:
      TypeError: An argument that is no number.
      ValueError: A temperature that is no scalar above 0.

    Reference: Ifriqi et al., arXiv 2504.13987: its temperature, without its further
      steps on the energy and without the change of the condition.
    """
    require_numbers("erg", weight=weight, temperature=temperature)
    if jnp.ndim(temperature) or known_false(lambda a: a > 0, temperature):
        raise ValueError(f"erg's temperature is {temperature}; expected one above 0")
    chosen = site_patterns(sites)
    edit = Edit(logit_scale=1 / jnp.asarray(temperature, jnp.float32))
    return Contrast(
        weight,
        control=dict.fromkeys(chosen, edit),
        worse=name or f"erg:{'+'.join(chosen)}",
    )


@pytree_dataclass
class DroppedBlock:
    """A contrast with a random layer left out. Build it with `s2_guidance`.

    Attributes:
      weight: Factor of the contrast, scalar or ``[B]``; 0 is off.
      sites: Patterns of self-attention sites, one of which is drawn (static).
      worse: Name of the branch that skips (static).
    """

    weight: Array | float
    sites: tuple[str, ...] = static()
    worse: str = static(default="s2")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The branch without the layer that each sample drew."""
        share = rng.uniform(rng.fold(ctx.keys, DROPPED))
        drawn = jnp.floor(share * len(self.sites))
        control = {
            site: skip((drawn == i).astype(jnp.float32))
            for i, site in enumerate(self.sites)
        }
        return {self.worse: Branch(ctx.cond, control)}

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """Adds the weighted contrast."""
        contrast = evals.x0[BASE] - evals.x0[self.worse]
        weight = per_sample(self.weight, delta, "s2_guidance's weight")
        return delta + weight * contrast, state


@method(
    "attention",
    "D + w (D - D_drop), D_drop without a layer drawn anew in each step",
    space="features",
    evaluations=2,
    source="2508.12880",
    example={"sites": ("block0/attn", "block1/attn")},
    law="test_s2_guidance_skips_one_of_the_layers",
)
def s2_guidance(
    weight: Any, sites: Sequence[str], name: str | None = None
) -> DroppedBlock:
    """Stochastic self-guidance: away from the network without a random layer.

    ``x0 = D + w (D - D_drop)`` where ``D_drop`` skips one of the layers, drawn anew for
    each sample and step. Added to a `cfg`, it is the paper's whole rule.

    Args:
      weight: Factor ``w`` of the contrast, scalar or ``[B]``; 0 is off. The paper uses
        about 0.25 beside classifier-free guidance.
      sites: Candidates, each the place, name or pattern of the self-attention of one
        layer or of several that go together.
      name: Name of the branch; None means "s2:" and the sites.

    Returns:
      A guidance term.

    Raises:
      TypeError: A weight that is no number.

    Reference: Chen et al., arXiv 2508.12880, equation 4.
    """
    require_numbers("s2_guidance", weight=weight)
    chosen = site_patterns(sites)
    return DroppedBlock(weight, chosen, name or f"s2:{'+'.join(chosen)}")
