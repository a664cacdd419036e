"""Prompt-to-Prompt: new words in the source's attention maps."""

from collections.abc import Sequence
from typing import Any

from jaxlib_guidance.editing._guide_and_rescale import Edited
from jaxlib_guidance.editing._pairs import by_maps
from jaxlib_guidance.editing._word_terms import word_terms
from jaxlib_guidance.sampling import Inversion
from jaxlib_guidance.types import Array, Denoiser, PyTree


def prompt_to_prompt(
    keys: Array,
    denoiser: Denoiser | Sequence[Denoiser],
    grid: Any,
    picture: Array,
    source: PyTree,
    target: PyTree,
    null: PyTree,
    *,
    words: Any = None,
    gain: Any = None,
    blend: Any = None,
    weight: Any = 6.5,
    source_weight: Any = None,
    cross_share: float = 0.8,
    self_share: float = 0.4,
    cross_sites: str = "*/cross",
    self_sites: str = "*/attn",
    strength: float = 1.0,
    inversion: Inversion | None = None,
    **options: Any,
) -> Edited:
    """Prompt-to-Prompt: other words, in the attention maps of the picture's own.

    Beside the inverted picture the edit takes, in the first steps, the columns of the
    cross-attention maps that its words share with the source's, and the self-attention
    maps. Of the four edits of the paper, ``words`` makes replacement and refinement,
    ``gain`` a new weight of words, and ``blend`` leaves the rest as it was.

    Args:
      keys: One typed key for each sample ``[B]``.
      denoiser: Network with cross-attention sites, or a tuple of networks.
      grid: Times ``[N + 1]`` from noise to data; the authors take 50 even steps.
      picture: What is changed ``[B, *S]``.
      source: Condition that describes the picture, every leaf ``[B, ...]``.
      target: Condition that describes the result, of the same shapes.
      null: Condition of no description, as for `cfg`.
      words: Where the source's columns go, ``[M, M]`` or ``[B, M, M]``, as from
        `attention.align_words`; columns that get none are the edit's own. None leaves
        each at its place: word for word.
      gain: Factor of each of the target's columns, ``[M]`` or ``[B, M]``, for more or
        less of a word; None is none.
      blend: A `guidance.local_blend`, or None for an edit everywhere.
      weight: Factor of ``cfg``; the authors' scale of 7.5 is 6.5 here.
      source_weight: That of the source; None is the same.
      cross_share: Share of the steps with the source's cross-attention, in [0, 1].
      self_share: Share with its self-attention; the authors take maps of at most 16 by
        16 tokens, which ``self_sites`` may name.
      cross_sites: Cross-attention sites, by name or pattern.
      self_sites: Self-attention sites, by place, name or pattern.
      strength: Share of the steps that are taken, in [0, 1]; 0 gives the picture back.
      inversion: The picture's, of an edit before, on the same grid; None inverts.
      **options: ``process`` and other options of `sample`, but no ``guidance``.

    Returns:
      The changed pictures, and the inversion.

    Raises:
      ValueError: Shares outside [0, 1]; words or gain of another shape; anything that
        `invert` or `sample` refuses.

    Reference: Hertz et al., arXiv 2208.01626. The authors run the source with guidance
      and null-text inversion, which is `null_text`; here its states are known, as in
      arXiv 2310.01506.
    """
    return by_maps(
        *(keys, denoiser, grid, picture, (source, target, null)),
        (source_weight, weight),
        strength=strength,
        terms=word_terms(
            *(len(keys), words, gain, blend, (cross_share, self_share)),
            (cross_sites, self_sites),
        ),
        inversion=inversion,
        options=options,
    )
