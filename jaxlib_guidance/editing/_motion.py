"""MotionCLR: motions drawn again with other attention to words and frames.

Each edit draws a pair from the same noise, a motion and beside it the edited one, which
may take queries, keys, values or maps from the first.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance import rng
from jaxlib_guidance.attention import (
    Before,
    Edit,
    attenuate,
    borrow,
    combine,
    emphasise,
    match_sites,
    reorder,
)
from jaxlib_guidance.editing._pairs import until
from jaxlib_guidance.guidance import cfg, chain, edit_branches, join_pairs, split_pairs
from jaxlib_guidance.sampling import Sampler, ddim, sample
from jaxlib_guidance.types import Array, Denoiser, PyTree

# Tells this file's random stream from others'.
CHUNKS = 0x30710


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
      weight: Factor of ``cfg``; the authors' scale of 2.5 is 1.5 here.
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
    x, _ = sample(
        join_pairs(draw.keys, draw.keys),
        draw.denoiser,
        ddim() if draw.sampler is None else draw.sampler,
        draw.grid,
        draw.shape,
        join_pairs(source, target),
        guidance=chain(cfg(draw.weight, draw.null), *terms),
        **draw.options,
    )
    return MotionPair(*split_pairs(x))


def emphasise_word(
    draw: MotionDraw,
    cond: PyTree,
    columns: Array,
    amount: Any,
    *,
    window: tuple[float, float] | None = None,
    share: float = 1.0,
    sites: str = "*/cross",
) -> MotionPair:
    """More of what a word says, or less of it: its attention plus ``amount``.

    Args:
      draw: How to draw.
      cond: Condition with words, every leaf ``[B, ...]``.
      columns: Places of the word, 1 on them, ``[M]`` or ``[B, M]``.
      amount: What is added to its probabilities, scalar or ``[B]``, mostly from -1 to
        1; 0 is off.
      window: Part of the clip that is meant, start and stop in [0, 1]; None is all.
      share: Share of the steps with the edit.
      sites: Cross-attention sites, by name or pattern.

    Returns:
      The motions without and with it.

    Raises:
      ValueError: Columns or a window of another shape or range; anything that `sample`
        refuses.

    Reference: Chen et al., MotionCLR, arXiv 2410.18977, section 4.1; the released code
      adds to a word's two tokens.
    """

    def edit(frames):
        return emphasise(
            _paired_columns(draw, columns),
            _second(draw, amount, 0.0),
            _rows(window, frames),
        )

    return draw_pair(draw, cond, cond, _edited(draw, cond, sites, edit, share))


def erase_word(
    draw: MotionDraw,
    cond: PyTree,
    columns: Array,
    *,
    window: tuple[float, float] | None = None,
    gain: Any = 0.1,
    share: float = 1.0,
    sites: str = "*/cross",
) -> MotionPair:
    """Takes out what a word says, in a part of the clip.

    Args:
      draw: How to draw.
      cond: Condition with words, every leaf ``[B, ...]``.
      columns: Places of the word, 1 on them, ``[M]`` or ``[B, M]``.
      window: Part of the clip that is meant, start and stop in [0, 1]; None is all.
      gain: Factor of the word's probabilities there, scalar or ``[B]``; 1 is off.
      share: Share of the steps with the edit.
      sites: Cross-attention sites, by name or pattern.

    Returns:
      The motions without and with it.

    Raises:
      ValueError: Columns or a window of another shape or range; anything that `sample`
        refuses.

    Reference: Chen et al., MotionCLR, arXiv 2410.18977, section 4.1.
    """

    def edit(frames):
        columns_of = _paired_columns(draw, columns)
        return attenuate(columns_of, _second(draw, gain, 1.0), _rows(window, frames))

    return draw_pair(draw, cond, cond, _edited(draw, cond, sites, edit, share))


def ground_word(
    draw: MotionDraw,
    cond: PyTree,
    columns: Array,
    window: tuple[float, float],
    *,
    amount: Any = 0.5,
    gain: Any = 0.0,
    share: float = 1.0,
    sites: str = "*/cross",
) -> MotionPair:
    """Lets a word speak in a part of the clip alone: more in it, less outside.

    Args:
      draw: How to draw.
      cond: Condition with words, every leaf ``[B, ...]``.
      columns: Places of the word, 1 on them, ``[M]`` or ``[B, M]``.
      window: Part of the clip in which it is meant, start and stop in [0, 1].
      amount: What is added to its probabilities there, scalar or ``[B]``.
      gain: Factor of its probabilities elsewhere, scalar or ``[B]``.
      share: Share of the steps with the edit.
      sites: Cross-attention sites, by name or pattern.

    Returns:
      The motions without and with it.

    Raises:
      ValueError: Columns or a window of another shape or range; anything that `sample`
        refuses.

    Reference: Chen et al., MotionCLR, arXiv 2410.18977, grounded generation; how the
      authors move the attention is not in the released code, and this is ours.
    """

    def edit(frames):
        inside, columns_of = _rows(window, frames), _paired_columns(draw, columns)
        return combine(
            emphasise(columns_of, _second(draw, amount, 0.0), inside),
            attenuate(columns_of, _second(draw, gain, 1.0), 1 - inside),
        )

    return draw_pair(draw, cond, cond, _edited(draw, cond, sites, edit, share))


def replace_word(
    draw: MotionDraw,
    source: PyTree,
    target: PyTree,
    columns: Array,
    *,
    self_share: float = 0.3,
    cross_share: float = 0.3,
    self_sites: str = "*/attn",
    cross_sites: str = "*/cross",
) -> MotionPair:
    """Another action at the same place: the target's word in the source's maps.

    Args:
      draw: How to draw.
      source: Condition with words, every leaf ``[B, ...]``.
      target: Condition that differs in a word, of the same shapes.
      columns: Places of the words that differ, 1 on them, ``[M]`` or ``[B, M]``.
      self_share: Share of the steps with the source's self-attention maps; the authors
        take 3 of 10.
      cross_share: Share with its cross-attention to the other words.
      self_sites: Self-attention sites, by place, name or pattern.
      cross_sites: Cross-attention sites, by name or pattern.

    Returns:
      Motions of the source and of the target beside it.

    Raises:
      ValueError: Columns of another shape; shares outside [0, 1]; anything that
        `sample` refuses.

    Reference: Chen et al., MotionCLR, arXiv 2410.18977, section 4.2.
    """
    kept = 1 - _paired_columns(draw, columns)
    cross = borrow("probs", Before(), columns=kept)
    # The same queries and keys are the same map, without one that is ever held.
    own = borrow(("q", "k"), Before())
    terms = (
        *until(edit_branches({cross_sites: cross}), cross_share),
        *until(edit_branches({self_sites: own}), self_share),
    )
    return draw_pair(draw, source, target, terms)


def shift_motion(
    draw: MotionDraw,
    cond: PyTree,
    ratio: float,
    *,
    share: float = 0.5,
    sites: str = "*/attn",
) -> MotionPair:
    """The motion's order in time, rolled by a part of its length.

    Args:
      draw: How to draw.
      cond: Condition with words, every leaf ``[B, ...]``.
      ratio: Part of the clip by which it moves, towards the end if positive; frames
        that leave come in at the other end. The nearest number of frames of each site.
      share: Share of the steps with the edit; the authors take 5 of 10.
      sites: Self-attention sites, by place, name or pattern.

    Returns:
      The motions without and with it.

    Raises:
      ValueError: A share outside [0, 1]; anything that `sample` refuses.

    Reference: Chen et al., MotionCLR, arXiv 2410.18977, section 4.3. The released code
      needs a ratio that gives a whole number of frames.
    """

    def edit(frames):
        order = (np.arange(frames) - round(ratio * frames)) % frames
        order = _paired_order(draw, order)
        return combine(borrow(("q", "k", "v"), Before()), reorder(order, order))

    return draw_pair(draw, cond, cond, _edited(draw, cond, sites, edit, share))


def vary_motion(
    draw: MotionDraw,
    cond: PyTree,
    chunk: float,
    *,
    steps: tuple[float, float] = (0.5, 0.6),
    sites: str = "*/attn",
) -> MotionPair:
    """Another motion of the same kind: the example's queries in shuffled chunks.

    Args:
      draw: How to draw.
      cond: Condition with words, every leaf ``[B, ...]``.
      chunk: Length of a chunk as part of the clip, in (0, 1]; the authors take 20
        frames. Each sample has an order of its own, by its key.
      steps: First and last share of the steps in which the queries are taken; the
        authors take the sixth of ten.
      sites: Self-attention sites, by place, name or pattern.

    Returns:
      The examples, and what is made of them.

    Raises:
      ValueError: A chunk outside (0, 1]; anything that `sample` refuses.

    Reference: Chen et al., MotionCLR, arXiv 2410.18977, section 4.3.
    """
    if not 0 < chunk <= 1:
        raise ValueError(f"chunk is {chunk}; expected a part of the clip in (0, 1]")
    count = math.ceil(1 / chunk)
    ranks = rng.uniform(rng.fold(draw.keys, CHUNKS), (count,))

    def edit(frames):
        length = max(1, round(chunk * frames))
        which = np.minimum(np.arange(frames) // length, count - 1)
        order = jnp.argsort(ranks[:, which], axis=-1, stable=True)
        return combine(borrow("q", Before()), reorder(_paired_order(draw, order)))

    terms = _edited(draw, cond, sites, edit, steps[1], steps[0])
    return draw_pair(draw, cond, cond, terms)


def transfer_style(
    draw: MotionDraw,
    style: PyTree,
    cond: PyTree,
    *,
    share: float = 0.6,
    sites: str = "*/attn",
) -> MotionPair:
    """What the words say, in the order and manner of another motion.

    Args:
      draw: How to draw.
      style: Condition of the motion whose queries are taken, every leaf ``[B, ...]``.
      cond: Condition of the result, of the same shapes.
      share: Share of the steps with the edit; the authors take 6 of 10.
      sites: Self-attention sites, by place, name or pattern.

    Returns:
      Motions of the style, and of the words in it.

    Raises:
      ValueError: A share outside [0, 1]; anything that `sample` refuses.

    Reference: Chen et al., MotionCLR, arXiv 2410.18977, section 4.3.
    """
    terms = until(edit_branches({sites: borrow("q", Before())}), share)
    return draw_pair(draw, style, cond, terms)


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
    names = match_sites(sites, draw.denoiser.sites)
    x = jax.ShapeDtypeStruct((len(draw.keys), *draw.shape), jnp.float32)
    t = jax.ShapeDtypeStruct(draw.keys.shape, jnp.float32)
    maps = jax.eval_shape(
        lambda x, t, cond: draw.denoiser(x, t, cond, capture=names).maps, x, t, cond
    )
    return {site: maps[site].shape[-2] for site in names}


def _edited(draw, cond, sites, edit, share, start=0.0) -> tuple[Any, ...]:
    """The term with an edit for each site, of its number of frames."""
    control: dict[str, Edit] = {
        site: edit(frames) for site, frames in site_frames(draw, cond, sites).items()
    }
    return until(edit_branches(control), share, start)


def _second(draw, value, neutral):
    """A number for the edited of each pair, and the neutral one for the source."""
    value = jnp.broadcast_to(jnp.asarray(value, jnp.float32), draw.keys.shape)
    return join_pairs(jnp.full_like(value, neutral), value)


def _paired_columns(draw, columns):
    columns = jnp.asarray(columns, jnp.float32)
    if columns.ndim not in (1, 2):
        raise ValueError(f"columns has shape {columns.shape}; expected [M] or [B, M]")
    columns = jnp.broadcast_to(columns, (len(draw.keys), columns.shape[-1]))
    return join_pairs(columns, columns)


def _paired_order(draw, order):
    order = jnp.broadcast_to(
        jnp.asarray(order, jnp.int32), (len(draw.keys), order.shape[-1])
    )
    own = jnp.broadcast_to(jnp.arange(order.shape[-1], dtype=jnp.int32), order.shape)
    return join_pairs(own, order)


def _rows(window, frames):
    """1 on the frames of a window, 0 elsewhere."""
    start, stop = (0.0, 1.0) if window is None else window
    if not 0 <= start < stop <= 1:
        raise ValueError(f"window is {window}; expected 0 <= start < stop <= 1")
    at = (np.arange(frames) + 0.5) / frames
    return jnp.asarray((at >= start) & (at < stop), jnp.float32)
