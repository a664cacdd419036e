"""Null-text inversion: an edit of a source that guidance itself gives back."""

from typing import Any, NamedTuple

import jax

from jaxlib_guidance.editing._optimise_null import NullText, optimise_null
from jaxlib_guidance.editing._pairs import require_states, steps_taken
from jaxlib_guidance.editing._word_terms import word_terms
from jaxlib_guidance.guidance import chain, join_pairs, null_steps, split_pairs
from jaxlib_guidance.sampling import Inversion, ddim, invert, sample
from jaxlib_guidance.types import Array, Denoiser, PyTree, at_least_float32


class NullEdited(NamedTuple):
    """What `null_text` returns.

    Attributes:
      x: Changed pictures ``[B, *S]``.
      source: The pictures as they come back ``[B, *S]``.
      inversion: The noise and the states of the pictures.
      tuned: Null conditions, for other edits of the same pictures with the same weight;
        None at a strength of 0.
    """

    x: Array
    source: Array
    inversion: Inversion
    tuned: NullText | None


def null_text(
    keys: Array,
    denoiser: Denoiser,
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
    cross_share: float = 0.8,
    self_share: float = 0.4,
    cross_sites: str = "*/cross",
    self_sites: str = "*/attn",
    iterations: int = 10,
    rate: float = 1e-2,
    tolerance: float | None = 1e-5,
    strength: float = 1.0,
    inversion: Inversion | None = None,
    tuned: NullText | None = None,
    **options: Any,
) -> NullEdited:
    """Null-text inversion with Prompt-to-Prompt: the source is drawn, and comes back.

    The picture is inverted under its words; `optimise_null` finds a null condition for
    each step with which guidance gives it back; then source and target are drawn by
    DDIM from one noise with these, the target in the source's attention maps. Unlike
    `prompt_to_prompt`, nothing holds the source to its states but the null conditions.

    Args:
      keys: One typed key for each sample ``[B]``.
      denoiser: Network with cross-attention sites.
      grid: Times ``[N + 1]`` from noise to data; the authors take 50 even steps.
      picture: What is changed ``[B, *S]``.
      source: Condition that describes the picture, every leaf ``[B, ...]``.
      target: Condition that describes the result, of the same shapes.
      null: Condition that the optimisation begins with, as for `cfg`.
      words: As of `prompt_to_prompt`.
      gain: As of `prompt_to_prompt`.
      blend: As of `prompt_to_prompt`.
      weight: Factor of ``cfg`` for both; the authors' scale of 7.5 is 6.5 here.
      cross_share: Share of the steps with the source's cross-attention, in [0, 1].
      self_share: Share with its self-attention. With both shares 0 no map is taken.
      cross_sites: Cross-attention sites, by name or pattern.
      self_sites: Self-attention sites, by place, name or pattern.
      iterations: As of `optimise_null`.
      rate: As of `optimise_null`.
      tolerance: As of `optimise_null`.
      strength: Share of the steps that are taken, in [0, 1]; 0 gives the picture back.
      inversion: The picture's, of an edit before, on the same grid; None inverts.
      tuned: Its null conditions, of an edit before with the same strength; None finds
        them.
      **options: ``process`` and other options of `sample`, but no ``guidance``.

    Returns:
      The changed pictures, the source as it came back, and what serves other edits.

    Raises:
      ValueError: Anything that `optimise_null`, `prompt_to_prompt` or `sample` refuses.

    Reference: Mokady et al., arXiv 2211.09794.
    """
    picture = at_least_float32(picture)
    grid, first = steps_taken(strength, grid)
    if first == len(grid) - 1:
        whole = Inversion(picture, picture[None]) if inversion is None else inversion
        return NullEdited(picture, picture, whole, tuned)
    if inversion is None:
        inversion = invert(keys, denoiser, grid, picture, source, **options)
    require_states(inversion, grid)
    states, times = inversion.trajectory[first:], grid[first:]
    if tuned is None:
        tuned = optimise_null(
            *(denoiser, times, Inversion(states[0], states), source, null),
            weight=weight,
            iterations=iterations,
            rate=rate,
            tolerance=tolerance,
            process=options.get("process"),
        )
    terms = word_terms(
        *(len(keys), words, gain, blend, (cross_share, self_share)),
        (cross_sites, self_sites),
    )
    nulls = jax.tree.map(lambda a: jax.vmap(join_pairs)(a, a), tuned.nulls)
    factors = weight if not getattr(weight, "shape", ()) else join_pairs(weight, weight)
    x, _ = sample(
        join_pairs(keys, keys),
        denoiser,
        ddim(),
        times,
        join_pairs(states[0], states[0]),
        join_pairs(source, target),
        guidance=chain(null_steps(factors, nulls), *terms),
        **options,
    )
    own, edited = split_pairs(x)
    return NullEdited(edited, own, inversion, tuned)
