"""Prompt-to-Prompt: new words in the source's attention maps."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.attention import Before, Edit, borrow, combine
from jaxlib_guidance.editing._guide_and_rescale import Edited
from jaxlib_guidance.editing._pairs import by_maps, until
from jaxlib_guidance.guidance import edit_branches, join_pairs
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
      and null-text inversion; here its states are known, as in arXiv 2310.01506.
    """
    if not cross_share and (words is not None or gain is not None):
        raise ValueError(
            "words and gain act in the steps of cross_share, which is 0; expected more"
        )
    if words is None:
        cross = borrow("probs", Before())
    else:
        words = jnp.asarray(words, jnp.float32)
        if words.ndim not in (2, 3) or words.shape[:-2] not in ((), keys.shape):
            raise ValueError(
                f"words has shape {words.shape}; expected [M, M] or [{len(keys)}, M, M]"
            )
        words = jnp.broadcast_to(words, (len(keys), *words.shape[-2:]))
        words = join_pairs(words, words)
        columns = jnp.any(words > 0, axis=1).astype(jnp.float32)
        cross = borrow("probs", Before(), words=words, columns=columns)
    if gain is not None:
        gain = jnp.asarray(gain, jnp.float32)
        if gain.ndim not in (1, 2) or gain.shape[:-1] not in ((), keys.shape):
            raise ValueError(
                f"gain has shape {gain.shape}; expected [M] or [{len(keys)}, M]"
            )
        gain = jnp.broadcast_to(gain, (len(keys), gain.shape[-1]))
        both = join_pairs(jnp.ones_like(gain), gain)
        cross = combine(cross, Edit(prob_gain=both[:, None, None]))
    # The same queries and keys are the same map, without one that is ever held.
    own = borrow(("q", "k"), Before())
    return by_maps(
        *(keys, denoiser, grid, picture, (source, target, null)),
        (source_weight, weight),
        strength=strength,
        terms=(
            *until(edit_branches({cross_sites: cross}), cross_share),
            *until(edit_branches({self_sites: own}), self_share),
            *(() if blend is None else (blend,)),
        ),
        inversion=inversion,
        options=options,
    )
