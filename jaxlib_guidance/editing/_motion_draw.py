"""How motions are drawn in pairs: one, and beside it what an edit makes of it.

Both begin from the same noise, and the second may take queries, keys, values or maps
from the first.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxlib_guidance.editing._map_sizes import map_sizes
from jaxlib_guidance.guidance import cfg, chain, join_pairs, like_cond, split_pairs
from jaxlib_guidance.sampling import Sampler, ddim, sample
from jaxlib_guidance.types import Array, Denoiser, PyTree


class MotionPair(NamedTuple):
    """What an edit of motions returns.

    Attributes:
      source: Motions without the edit ``[B, T, C]``.
      edited: Motions with it ``[B, T, C]``.
    """

    source: Array
    edited: Array


class MotionDraw(NamedTuple):
    """What all edits of motions are given: how to draw.

    Attributes:
      keys: One typed key for each motion ``[B]``.
      denoiser: Network with attention sites, such as `models.MotionCLR`'s.
      grid: Times ``[N + 1]`` from noise to data. The authors take 10 steps.
      shape: Frames and channels of a motion ``(T, C)``.
      null: Condition of no words, as for `cfg`.
      weight: Factor of ``cfg``, scalar or ``[B]``; the authors' scale of 2.5 is 1.5
        here.
      sampler: Solver; None is `ddim`.
      options: Other options of `sample`, but no ``guidance``.
    """

    keys: Array
    denoiser: Denoiser
    grid: Any
    shape: tuple[int, ...]
    null: PyTree
    weight: Any = 1.5
    sampler: Sampler | None = None
    options: Mapping[str, Any] = {}


def draw_pair(
    draw: MotionDraw, source: PyTree, target: PyTree, terms: Sequence[Any]
) -> MotionPair:
    """Motions of the source's words and of the target's, from the same noise.

    Args:
      draw: How to draw.
      source: Condition of the first of each pair, every leaf ``[B, ...]``.
      target: Condition of the second.
      terms: Terms beside `cfg`, such as `edit_branches`, of batches of pairs.

    Returns:
      The motions.

    Raises:
      ValueError: Anything that `sample` refuses.
    """
    # A number for each motion, as one for each of both.
    nulls = (like_cond(draw.null, cond) for cond in (source, target))
    weight = draw.weight
    if jnp.ndim(weight):
        weight = join_pairs(weight, weight)
    x, _ = sample(
        join_pairs(draw.keys, draw.keys),
        draw.denoiser,
        ddim() if draw.sampler is None else draw.sampler,
        draw.grid,
        draw.shape,
        join_pairs(source, target),
        guidance=chain(cfg(weight, join_pairs(*nulls)), *terms),
        **draw.options,
    )
    return MotionPair(*split_pairs(x))


def site_frames(draw: MotionDraw, cond: PyTree, sites: str) -> dict[str, int]:
    """Number of frames at each attention site, which the network is traced for.

    Args:
      draw: How to draw.
      cond: Condition, every leaf ``[B, ...]``.
      sites: A site, a place or a shell pattern.

    Returns:
      Site to number of frames.

    Raises:
      ValueError: The pattern selects nothing.
    """
    of = draw.denoiser, draw.keys, draw.shape
    return {site: size[0] for site, size in map_sizes(*of, cond, sites).items()}
