"""MotionCLR: motions drawn again with other attention to frames."""

import math

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance import rng
from jaxlib_guidance.attention import Before, borrow, combine, reorder
from jaxlib_guidance.editing._motion_draw import MotionDraw, MotionPair, draw_pair
from jaxlib_guidance.editing._motion_pairs import edited_terms, paired_order
from jaxlib_guidance.editing._pairs import until
from jaxlib_guidance.guidance import edit_branches
from jaxlib_guidance.types import PyTree

# Tells this file's random stream from others'.
CHUNKS = 0x30710


def shift_motion(
    draw: MotionDraw,
    cond: PyTree,
    ratio: float,
    *,
    share: float = 0.4,
    sites: str = "*/attn",
) -> MotionPair:
    """The motion's order in time, rolled by a part of its length.

    Args:
      draw: How to draw.
      cond: Condition with words, every leaf ``[B, ...]``.
      ratio: Part of the clip by which it moves, towards the end if positive; frames
        that leave come in at the other end. The nearest number of frames of each site.
      share: Share of the steps with the edit; the authors take 4 of 10.
      sites: Self-attention sites, by place, name or pattern.

    Returns:
      The motions without and with it.

    Raises:
      ValueError: A share outside [0, 1]; anything that `sample` refuses.

    Reference: Chen et al., MotionCLR, arXiv 2410.18977, section 4.3. The released code
      needs a ratio that gives a whole number of frames.
    """

    def edit(frames, _):
        order = (np.arange(frames) - round(ratio * frames)) % frames
        order = paired_order(draw, order)
        return combine(borrow(("q", "k", "v"), Before()), reorder(order, order))

    return draw_pair(draw, cond, cond, edited_terms(draw, cond, sites, edit, share))


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
      ValueError: A chunk outside (0, 1]; steps in another order; anything that
        `sample` refuses.

    Reference: Chen et al., MotionCLR, arXiv 2410.18977, section 4.3.
    """
    if not 0 < chunk <= 1:
        raise ValueError(f"chunk is {chunk}; expected a part of the clip in (0, 1]")
    if len(steps) != 2 or not steps[0] <= steps[1]:
        raise ValueError(f"steps is {steps}; expected the first share and the last")
    count = math.ceil(1 / chunk)
    ranks = rng.uniform(rng.fold(draw.keys, CHUNKS), (count,))

    def edit(frames, _):
        length = max(1, round(chunk * frames))
        which = np.minimum(np.arange(frames) // length, count - 1)
        order = jnp.argsort(ranks[:, which], axis=-1, stable=True)
        return combine(borrow("q", Before()), reorder(paired_order(draw, order)))

    terms = edited_terms(draw, cond, sites, edit, steps[1], steps[0])
    return draw_pair(draw, cond, cond, terms)


def transfer_style(
    draw: MotionDraw,
    style: PyTree,
    cond: PyTree,
    *,
    share: float = 0.5,
    sites: str = "*/attn",
) -> MotionPair:
    """What the words say, in the order and manner of another motion.

    Args:
      draw: How to draw.
      style: Condition of the motion whose queries are taken, every leaf ``[B, ...]``.
      cond: Condition of the result, of the same shapes.
      share: Share of the steps with the edit; the authors take 5 of 10.
      sites: Self-attention sites, by place, name or pattern.

    Returns:
      Motions of the style, and of the words in it.

    Raises:
      ValueError: A share outside [0, 1]; anything that `sample` refuses.

    Reference: Chen et al., MotionCLR, arXiv 2410.18977, section 4.3.
    """
    terms = until(edit_branches({sites: borrow("q", Before())}), share)
    return draw_pair(draw, style, cond, terms)
