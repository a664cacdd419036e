"""Guidance inside cross-attention: negatives, and sparse maps."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.attention import Edit, move_away, sparse
from jaxlib_guidance.guidance._base import BASE, Evals, fix
from jaxlib_guidance.guidance._checks import require_numbers, site_patterns
from jaxlib_guidance.guidance._contrast import Contrast, like_cond
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

CROSS = "*/cross"


@pytree_dataclass
class AttentionNegative:
    """Towards the network whose attention moves away from a negative.

    Build it with `nag`, `nasa` or `orthogonal_negative`.

    Attributes:
      weight: Share of the way to the edited network, scalar or ``[B]``; 0 is off.
      cond: Negative condition.
      control: Attention edits of the better branch, by site or place.
      better: Name of the edited branch (static).
      negative: Name of the negative branch (static).
    """

    weight: Array | float
    cond: PyTree
    control: Mapping[str, Edit]
    better: str = static()
    negative: str = static(default="uncond")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The negative branch, for its keys, and the edited one."""
        return {
            self.negative: Branch(like_cond(self.cond, ctx.cond)),
            self.better: Branch(ctx.cond, self.control),
        }

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """Adds the weighted way to the edited branch."""
        change = evals.x0[self.better] - evals.x0[BASE]
        weight = per_sample(self.weight, delta, f"the weight of {self.better!r}")
        return delta + weight * change, state


def _negative(rule, weight, null, sites, name, negative, **numbers):
    require_numbers(rule, weight=weight, **numbers)
    sites = site_patterns(sites)
    edit = move_away(negative, rule, **numbers)
    return AttentionNegative(
        weight, jax.tree.map(fix, null), dict.fromkeys(sites, edit), name, negative
    )


@method(
    "attention",
    "D + w (D_nag - D), z -> a norm-limited (s z - (s - 1) z') in cross-attention",
    space="attention",
    evaluations=3,
    source="2505.21179",
    law="test_attention_negatives_are_their_formulas",
)
def nag(
    weight: Any,
    null: PyTree,
    sites: str | Sequence[str] = CROSS,
    scale: Any = 5.0,
    limit: Any = 2.5,
    mix: Any = 0.25,
    name: str = "nag",
    negative: str = "uncond",
) -> AttentionNegative:
    """Normalised attention guidance: a negative prompt inside cross-attention.

    With ``z`` and ``z'`` the attention outputs to the prompt's and the negative's keys,
    ``z -> (1 - mix) z + mix m min(1, limit |z| / |m|)`` with ``m = scale z - (scale -
    1) z'``, norms the sums of absolute values of each token. ``x0 = D + w (D_nag -
    D)``: 1 is the edited network.

    Args:
      weight: Share ``w`` of the way to the edited network, scalar or ``[B]``; 0 is off.
      null: Negative condition: a pytree of the condition's structure whose leaves
        broadcast against it.
      sites: Attention sites whose keys come from the condition, by name or pattern.
      scale: Factor in ``m``, scalar or ``[B]``; 1 moves nothing.
      limit: Largest growth of the norm, scalar or ``[B]``, at least 1.
      mix: Share of the moved output, scalar or ``[B]``; 0 switches the term off.
      name: Name of the edited branch.
      negative: Name of the negative branch; the default is shared with `cfg`.

    Returns:
      A guidance term.

    Raises:
      TypeError: An argument that is no number.
      ValueError: A limit below 1.

    Reference: Chen et al., arXiv 2505.21179, and the authors' released code. The
      negative costs a whole evaluation here.
    """
    if known_false(lambda a: a >= 1, limit):
        raise ValueError(f"limit is {limit}; expected at least 1")
    numbers = {"scale": scale, "limit": limit, "mix": mix}
    return _negative("nag", weight, null, sites, name, negative, **numbers)


@method(
    "attention",
    "D + w (D_nasa - D), z -> z - s z' in cross-attention",
    space="attention",
    evaluations=3,
    source="2412.02687",
    law="test_attention_negatives_are_their_formulas",
)
def nasa(
    weight: Any,
    null: PyTree,
    sites: str | Sequence[str] = CROSS,
    scale: Any = 0.3,
    name: str = "nasa",
    negative: str = "uncond",
) -> AttentionNegative:
    """NASA: the attention to a negative prompt taken from the attention to the prompt.

    ``z -> z - scale z'`` in cross-attention, and ``x0 = D + w (D_nasa - D)``: 1 is the
    edited network. It serves networks of few steps.

    Args:
      weight: Share ``w`` of the way to the edited network, scalar or ``[B]``; 0 is off.
      null: Negative condition: a pytree of the condition's structure whose leaves
        broadcast against it.
      sites: Attention sites whose keys come from the condition, by name or pattern.
      scale: Factor of ``z'``, scalar or ``[B]``, mostly from 0.1 to 0.5; 0 switches the
        term off.
      name: Name of the edited branch.
      negative: Name of the negative branch; the default is shared with `cfg`.

    Returns:
      A guidance term.

    Raises:
      TypeError: An argument that is no number.

    Reference: SNOOPI, arXiv 2412.02687 (NASA). The formula and the range of the scale
      were not compared with the authors' code.
    """
    return _negative("nasa", weight, null, sites, name, negative, scale=scale)


@method(
    "attention",
    "D + w (D_orth - D), z -> z - s (z' - z' along z) in cross-attention",
    space="attention",
    evaluations=3,
    source="2412.02687",
    law="test_attention_negatives_are_their_formulas",
)
def orthogonal_negative(
    weight: Any,
    null: PyTree,
    sites: str | Sequence[str] = CROSS,
    scale: Any = 0.3,
    name: str = "orthogonal",
    negative: str = "uncond",
) -> AttentionNegative:
    """A negative prompt of which attention loses only what is not of the prompt.

    ``z -> z - scale (z' - z <z, z'> / |z|^2)`` of each token, so that a negative equal
    to the prompt changes nothing; ``x0 = D + w (D_orth - D)``.

    Args:
      weight: Share ``w`` of the way to the edited network, scalar or ``[B]``; 0 is off.
      null: Negative condition: a pytree of the condition's structure whose leaves
        broadcast against it.
      sites: Attention sites whose keys come from the condition, by name or pattern.
      scale: Factor of the perpendicular part, scalar or ``[B]``; 0 switches the term
        off.
      name: Name of the edited branch.
      negative: Name of the negative branch; the default is shared with `cfg`.

    Returns:
      A guidance term.

    Raises:
      TypeError: An argument that is no number.

    Reference: a variant of NASA, arXiv 2412.02687, that projects as Perp-Neg does.
    """
    return _negative("orthogonal", weight, null, sites, name, negative, scale=scale)


@method(
    "attention",
    "D + w (D_sparse - D), maps s entmax + (1 - s) softmax in cross-attention",
    space="attention",
    evaluations=2,
    source="2503.07677",
    law="test_pladis_is_the_network_with_sparse_maps",
)
def pladis(
    weight: Any,
    sites: str | Sequence[str] = CROSS,
    scale: Any = 2.0,
    name: str = "pladis",
) -> Contrast:
    """PLADIS: cross-attention beyond its sparse counterpart.

    Maps become ``scale entmax + (1 - scale) softmax`` with 1.5-entmax; ``x0 = D + w
    (D_sparse - D)``, so that 1 is the edited network. The term holds ``-w``, being a
    contrast the other way round.

    Args:
      weight: Share ``w`` of the way to the edited network, scalar or ``[B]``; 0 is off.
      sites: Attention sites, by place, name or pattern.
      scale: Factor of the sparse map, scalar or ``[B]``; 0 switches the term off, 1 is
        the sparse map alone. The paper uses 2.
      name: Name of the branch.

    Returns:
      A guidance term. It edits the conditional branch alone: beside a `cfg` the other
      branch keeps its maps.

    Raises:
      TypeError: An argument that is no number.

    Reference: Kim and Sim, arXiv 2503.07677.
    """
    require_numbers("pladis", weight=weight, scale=scale)
    sites = site_patterns(sites)
    return Contrast(
        -jnp.asarray(weight, jnp.float32),
        control=dict.fromkeys(sites, sparse(scale)),
        worse=name,
    )


@method(
    "attention",
    "D + w (D_vsf - D), one softmax over own and negative keys in cross-attention, "
    "values v and -s v'",
    space="attention",
    evaluations=3,
    source="https://github.com/weathon/VSF",
    law="test_value_sign_flip_is_one_softmax_over_both",
)
def vsf(
    weight: Any,
    null: PyTree,
    sites: str | Sequence[str] = CROSS,
    scale: Any = 3.5,
    bias: Any = -0.1,
    name: str = "vsf",
    negative: str = "uncond",
) -> AttentionNegative:
    """Value sign flip: negative words attended to, with their values turned round.

    In cross-attention the keys of the negative condition join the prompt's in one
    softmax, with ``bias`` added to their logits and ``-s`` times their values. ``x0 = D
    + w (D_vsf - D)``: 1 is the edited network. Few-step networks take it where a
    contrast of whole predictions fails.

    Args:
      weight: Share ``w`` of the way to the edited network, scalar or ``[B]``; 0 is off.
      null: Negative condition: a pytree of the condition's structure whose leaves
        broadcast against it.
      sites: Attention sites whose keys come from the condition, by name or pattern.
      scale: Factor ``s`` of the negative values, scalar or ``[B]``.
      bias: Number that is added to the negative's logits, scalar or ``[B]``; at
        ``-inf`` the term is off.
      name: Name of the edited branch.
      negative: Name of the negative branch; the default is shared with `cfg`.

    Returns:
      A guidance term.

    Raises:
      TypeError: An argument that is no number.

    Reference: Guo and Du's VSF, github.com/weathon/VSF, without its masks between
      tokens of joint attention. The negative costs a whole evaluation here.
    """
    numbers = {"scale": scale, "bias": bias}
    return _negative("flip", weight, null, sites, name, negative, **numbers)
