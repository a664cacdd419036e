"""Guidance away from a network whose attention is perturbed.

``delta += w (x0 - x0[perturbed])``: terms that need no label and no second network,
only an edit of attention sites of the same network.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.attention import blur, identity, suppress
from jaxlib_guidance.guidance._contrast import Contrast
from jaxlib_guidance.types import Array


def pag(weight: Any, sites: str | Sequence[str], name: str | None = None) -> Contrast:
    """Perturbed-attention guidance: away from attention that sees only itself.

    ``x0 = D + w (D - D_id)`` where ``D_id`` has the identity for the self-attention
    maps of ``sites``. ``w`` is the paper's ``s``; the ADM scripts' 4.0 means ``w = 3``.

    Args:
      weight: ``w``, scalar or ``[B]``; 3 is usual, at sites of the lowest resolution.
      sites: Self-attention sites, by name or pattern: "block2", "mid", "block*/attn".
      name: Name of the branch; default "pag:" and the sites.

    Reference: Ahn et al., arXiv 2403.17377.
    """
    return Contrast(
        weight,
        control=dict.fromkeys(_patterns(sites), identity()),
        worse=name or _named("pag", sites),
    )


def seg(
    weight: Any,
    sites: str | Sequence[str],
    sigma: Any = float("inf"),
    name: str | None = None,
) -> Contrast:
    """Smoothed energy guidance: away from attention with blurred queries.

    ``x0 = D + w (D - D_blur)``.

    Args:
      weight: ``w``, scalar or ``[B]``; 3 is usual.
      sites: Self-attention sites, by name or pattern.
      sigma: Width of the blur in tokens, scalar or ``[B]``; ``inf`` gives every query
        the mean, 0 switches the term off.
      name: Name of the branch; default "seg:" and the sites. Two terms with different
        ``sigma`` at the same sites need two names.

    Reference: Hong, arXiv 2408.00760.
    """
    return Contrast(
        weight,
        control=dict.fromkeys(_patterns(sites), blur(sigma)),
        worse=name or _named("seg", sites),
    )


def redirect(
    weight: Any,
    sites: str | Sequence[str],
    mask: Array,
    scale: Any = None,
    name: str | None = None,
) -> Contrast:
    """Redirection guidance: *towards* attention that does not see the masked tokens.

    ``x0 = D + w (D_hidden - D)``, so 1 is the edited network itself and 9 is the
    published setting. The term holds ``-w``, being a contrast the other way round.

    Args:
      weight: ``w``, scalar or ``[B]``.
      sites: Self-attention sites, by name or pattern, all of one token grid.
      mask: Tokens to hide, ``[M]`` or ``[B, M]``; see `attention.edits.token_mask`.
      scale: Similarity suppression at the masked queries, 0.3 in the paper's first
        steps; None leaves it out.
      name: Name of the branch; default "redirect:" and the sites.

    Reference: Attentive Eraser, arXiv 2412.12974 (SARG).
    """
    return Contrast(
        -jnp.asarray(weight, jnp.float32),
        control=dict.fromkeys(_patterns(sites), suppress(mask, scale)),
        worse=name or _named("redirect", sites),
    )


def _patterns(sites):
    return (sites,) if isinstance(sites, str) else tuple(sites)


def _named(kind, sites):
    """Terms at the same sites share a branch; the name says which."""
    return f"{kind}:{'+'.join(_patterns(sites))}"
