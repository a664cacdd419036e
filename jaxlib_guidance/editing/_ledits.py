"""LEDITS++: concepts added to a picture and taken from it, in one pass."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance.editing._guide_and_rescale import Edited
from jaxlib_guidance.editing._pairs import edit_beside, independent
from jaxlib_guidance.guidance import join_pairs, like_cond, semantic_edit
from jaxlib_guidance.sampling import Inversion
from jaxlib_guidance.types import Array, Denoiser, PyTree


class ConceptEdit(NamedTuple):
    """One concept of `ledits`.

    Attributes:
      concept: Its condition, every leaf ``[B, ...]``.
      words: Columns of its words in its text, ``[M]`` or ``[B, M]``.
      weight: Factor of its guidance, scalar or ``[B]``; below 0 it is removed.
      threshold: Share of the places that its masks leave out.
    """

    concept: PyTree
    words: Any
    weight: Any = 5.0
    threshold: Any = 0.9


def ledits(
    keys: Array,
    denoiser: Denoiser | Sequence[Denoiser],
    grid: Any,
    picture: Array,
    source: PyTree,
    null: PyTree,
    edits: Sequence[ConceptEdit],
    *,
    sites: str | Sequence[str] = "*/cross",
    strength: float = 0.85,
    inversion: Inversion | None = None,
    **options: Any,
) -> Edited:
    """LEDITS++: `edit_friendly`, with guidance by concepts inside their own masks.

    The picture and its edit have one description; the edit has the concepts besides, as
    `guidance.semantic_edit`. Where no mask ever is, the picture comes back.

    Args:
      keys: One typed key for each sample ``[B]``.
      denoiser: Network with cross-attention sites, or a tuple of networks.
      grid: Times ``[N + 1]`` from noise to data; the authors take 50.
      picture: What is changed ``[B, *S]``.
      source: Condition of picture and edit, every leaf ``[B, ...]``; the authors take
        that of no text.
      null: Condition of no description, as for `cfg`.
      edits: Concepts, one or several.
      sites: Cross-attention sites of the masks, by name or pattern.
      strength: Share of the steps that are taken, in [0, 1]; the authors skip .15. 0
        gives the picture back.
      inversion: The picture's, of an edit before, on the same grid; None draws it.
      **options: ``process`` and other options of `sample`, but no ``guidance``.

    Returns:
      The changed pictures, and the states that they began from.

    Raises:
      TypeError: Edits that are no list of `ConceptEdit`.
      ValueError: No concepts or sites; anything that `semantic_edit` or `sample`
        refuses.

    Reference: Brack et al., arXiv 2311.16711, with DDPM in place of DPM-Solver++.
    """
    if isinstance(edits, ConceptEdit) or not all(
        isinstance(each, ConceptEdit) for each in edits
    ):
        raise TypeError("ledits takes a list of ConceptEdit")
    if not sites:
        raise ValueError(f"sites is {sites!r}; expected cross-attention sites")
    if not edits:
        raise ValueError("ledits got no edits")
    if inversion is None:
        inversion = independent(keys, denoiser, grid, picture, options)

    def both(a):
        a = jnp.broadcast_to(jnp.asarray(a), (len(keys), *jnp.shape(a)[-1:]))
        return join_pairs(a, a)

    def term(number, edit):
        weight = jnp.broadcast_to(jnp.asarray(edit.weight, jnp.float32), keys.shape)
        nothing = like_cond(null, source)
        return semantic_edit(
            join_pairs(jnp.zeros_like(weight), weight),
            join_pairs(nothing, nothing),
            jax.tree.map(lambda a: join_pairs(a, a), edit.concept),
            both(edit.words),
            edit.threshold,
            sites,
            ("nothing", f"concept {number}"),
        )

    x = edit_beside(
        *(keys, denoiser, grid, inversion.trajectory, (source, source, null)),
        (0.0, 0.0),
        eta=1.0,
        strength=strength,
        terms=[term(number, edit) for number, edit in enumerate(edits)],
        options=options,
    )
    return Edited(x, inversion)
