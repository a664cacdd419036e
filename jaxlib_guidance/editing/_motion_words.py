"""MotionCLR: motions drawn again with other attention to words."""

from typing import Any

from jaxlib_guidance.attention import Before, attenuate, borrow, combine, emphasise
from jaxlib_guidance.editing._map_sizes import map_sizes
from jaxlib_guidance.editing._motion_draw import MotionDraw, MotionPair, draw_pair
from jaxlib_guidance.editing._motion_pairs import (
    edited_terms,
    paired_columns,
    second_of_pairs,
    window_rows,
)
from jaxlib_guidance.editing._pairs import until
from jaxlib_guidance.guidance import edit_branches
from jaxlib_guidance.types import Array, PyTree


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

    def edit(frames, words):
        return emphasise(
            paired_columns(draw, columns, words),
            second_of_pairs(draw, amount, 0.0),
            window_rows(window, frames),
        )

    return draw_pair(draw, cond, cond, edited_terms(draw, cond, sites, edit, share))


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

    def edit(frames, words):
        columns_of = paired_columns(draw, columns, words)
        return attenuate(
            columns_of, second_of_pairs(draw, gain, 1.0), window_rows(window, frames)
        )

    return draw_pair(draw, cond, cond, edited_terms(draw, cond, sites, edit, share))


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

    def edit(frames, words):
        inside = window_rows(window, frames)
        columns_of = paired_columns(draw, columns, words)
        return combine(
            emphasise(columns_of, second_of_pairs(draw, amount, 0.0), inside),
            attenuate(columns_of, second_of_pairs(draw, gain, 1.0), 1 - inside),
        )

    return draw_pair(draw, cond, cond, edited_terms(draw, cond, sites, edit, share))


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
    maps = map_sizes(draw.denoiser, draw.keys, draw.shape, source, cross_sites)
    words = next(iter(maps.values()))[1]
    kept = 1 - paired_columns(draw, columns, words)
    cross = borrow("probs", Before(), columns=kept)
    # The same queries and keys are the same map, without one that is ever held.
    own = borrow(("q", "k"), Before())
    terms = (
        *until(edit_branches({cross_sites: cross}), cross_share),
        *until(edit_branches({self_sites: own}), self_share),
    )
    return draw_pair(draw, source, target, terms)
