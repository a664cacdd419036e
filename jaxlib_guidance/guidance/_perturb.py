"""Guidance away from a network whose attention is perturbed.

``delta += w (x0 - x0[perturbed])``: terms that need no label and no second network,
only an edit of attention sites of the same network.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.attention import blur, identity, suppress
from jaxlib_guidance.guidance._checks import require_numbers, site_patterns
from jaxlib_guidance.guidance._contrast import Contrast
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.types import Array


@method(
    "attention",
    "D + w (D - D_id), D_id with the identity for maps of self-attention",
    space="attention",
    evaluations=2,
    source="2403.17377",
    law="test_each_term_is_its_formula",
)
def pag(weight: Any, sites: str | Sequence[str], name: str | None = None) -> Contrast:
    """Perturbed-attention guidance: away from attention that sees only itself.

    ``x0 = D + w (D - D_id)`` where ``D_id`` has the identity for the self-attention
    maps of ``sites``. ``w`` is the paper's ``s``; the ADM scripts' 4.0 means ``w = 3``.

    Args:
      weight: Factor ``w`` of the contrast, scalar or ``[B]``; 0 is off. The paper uses
        3, at sites of the lowest resolution.
      sites: Self-attention sites, by place, name or pattern: "block2", "mid",
        "block*/attn".
      name: Name of the branch; None means "pag:" and the sites.

    Returns:
      A guidance term.

    Raises:
      TypeError: A weight that is no number.

    Example:
      >>> import jaxlib_guidance as jg
      >>> guidance = jg.chain(jg.cfg(2.0, null=10), jg.pag(1.5, "block2"))
      >>> [term.worse for term in guidance.terms]
      ['uncond', 'pag:block2']

    Reference: Ahn et al., arXiv 2403.17377.
    """
    require_numbers("pag", weight=weight)
    return Contrast(
        weight,
        control=dict.fromkeys(site_patterns(sites), identity()),
        worse=name or _named("pag", sites),
    )


@method(
    "attention",
    "D + w (D - D_blur), D_blur with blurred queries",
    space="attention",
    evaluations=2,
    source="2408.00760",
    law="test_each_term_is_its_formula",
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
      weight: Factor ``w`` of the contrast, scalar or ``[B]``; 0 is off. The paper uses
        3.
      sites: Self-attention sites, by place, name or pattern.
      sigma: Width of the blur in tokens, scalar or ``[B]``; ``inf`` gives every query
        the mean, 0 switches the term off.
      name: Name of the branch; None means "seg:" and the sites. Two terms with
        different ``sigma`` at the same sites need two names.

    Returns:
      A guidance term.

    Raises:
      TypeError: A weight or width that is no number.
      ValueError: A width below 0.

    Example:
      >>> import jaxlib_guidance as jg
      >>> term = jg.seg(3.0, "mid", sigma=2.0)
      >>> term.worse, term.control["mid"].query_blur
      ('seg:mid', 2.0)

    Reference: Hong, arXiv 2408.00760.
    """
    require_numbers("seg", weight=weight, sigma=sigma)
    return Contrast(
        weight,
        control=dict.fromkeys(site_patterns(sites), blur(sigma)),
        worse=name or _named("seg", sites),
    )


@method(
    "attention",
    "D + w (D_hidden - D), D_hidden blind to masked tokens",
    space="attention",
    evaluations=2,
    source="2412.12974",
    law="test_redirection_by_one_is_the_edited_network",
)
def redirect(
    weight: Any,
    sites: str | Sequence[str],
    mask: Array | Mapping[str, Array],
    scale: Any = None,
    name: str | None = None,
) -> Contrast:
    """Redirection guidance: *towards* attention that does not see the masked tokens.

    ``x0 = D + w (D_hidden - D)``, so 1 is the edited network itself and 9 is the
    published setting. The term holds ``-w``, being a contrast the other way round.

    Args:
      weight: Factor ``w`` of the contrast, scalar or ``[B]``; 0 is off.
      sites: Self-attention sites, by place, name or pattern.
      mask: Tokens to hide, ``[M]`` or ``[B, M]``, non-zero on them; `token_mask` makes
        it of a mask of pixels. One for all sites, or, where their token grids differ, a
        mapping that has one for each of ``sites``.
      scale: Factor of the similarities at the masked queries, scalar or ``[B]``; 0.3 in
        the paper's first steps, None leaves them.
      name: Name of the branch; None means "redirect:" and the sites.

    Returns:
      A guidance term.

    Raises:
      TypeError: A weight that is no number.
      ValueError: A mask that is not ``[M]`` or ``[B, M]``, or holds NaN; a mapping
        that has not all sites, or others.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxlib_guidance as jg
      >>> pixels = jnp.zeros((8, 8)).at[2:6, 2:6].set(1)
      >>> mask = jg.attention.token_mask(pixels, (4, 4))
      >>> mask.shape, jg.redirect(9.0, "block2", mask).worse
      ((16,), 'redirect:block2')

    Reference: Attentive Eraser, arXiv 2412.12974 (SARG).
    """
    require_numbers("redirect", weight=weight)
    patterns = site_patterns(sites)
    masks = mask if isinstance(mask, Mapping) else dict.fromkeys(patterns, mask)
    if set(masks) != set(patterns):
        raise ValueError(
            f"mask has sites {sorted(masks)}; expected sites, {sorted(patterns)}"
        )
    return Contrast(
        -jnp.asarray(weight, jnp.float32),
        control={site: suppress(masks[site], scale) for site in patterns},
        worse=name or _named("redirect", sites),
    )


def _named(kind, sites):
    """Terms at the same sites share a branch; the name says which."""
    return f"{kind}:{'+'.join(site_patterns(sites))}"
