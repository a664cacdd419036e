"""What the attention of a motion network says: how often, and when."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance.attention import match_sites
from jaxlib_guidance.reduce import divide
from jaxlib_guidance.types import Array, Denoiser, PyTree


class MotionMaps(NamedTuple):
    """Means of attention maps over heads and sites.

    Attributes:
      frames: Attention of frames to frames ``[B, T, T]``.
      words: Attention of frames to words ``[B, T, M]``.
    """

    frames: Array
    words: Array


def read_maps(
    denoiser: Denoiser,
    x: Array,
    cond: PyTree,
    *,
    t: Array | float,
    self_sites: str = "*/attn",
    cross_sites: str = "*/cross",
) -> MotionMaps:
    """The attention of a network to a motion, averaged over heads and sites.

    Args:
      denoiser: Network with attention sites.
      x: Motions ``[B, T, C]``, noisy as ``t`` says.
      cond: Condition with words, every leaf ``[B, ...]``.
      t: Time, scalar or ``[B]``.
      self_sites: Self-attention sites of all frames, by place, name or pattern; those
        of fewer frames are left out.
      cross_sites: Cross-attention sites, likewise.

    Returns:
      The mean maps.

    Raises:
      ValueError: No such sites, or none of all frames.
    """
    names = [
        match_sites(pattern, denoiser.sites) for pattern in (self_sites, cross_sites)
    ]
    heads = dict.fromkeys((*names[0], *names[1]), lambda probs: probs.mean(1))
    t = jnp.broadcast_to(jnp.asarray(t, jnp.float32), x.shape[:1])
    maps = denoiser(x, t, cond, capture=heads).maps
    found = []
    for kind in names:
        whole = [maps[site] for site in kind if maps[site].shape[-2] == x.shape[1]]
        if not whole:
            raise ValueError(f"none of {kind} has the {x.shape[1]} frames of x")
        found.append(jnp.mean(jnp.stack(whole), 0))
    return MotionMaps(*found)


def count_peaks(signal: Array, low: float = 0.35, high: float = 0.65) -> Array:
    """How often a signal rises: exact for periodic ones, deaf to small ripples.

    The signal is scaled to [0, 1] by its least and greatest value. A peak counts where
    it comes to ``high`` after it has been at or below ``low``, or began.

    Args:
      signal: Values ``[..., T]``.
      low: Level that it falls to between two peaks, in [0, 1].
      high: Level that it rises to, above ``low``.

    Returns:
      Numbers int32 ``[...]``; 0 for a constant signal.

    Raises:
      ValueError: Levels outside [0, 1] or in another order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxlib_guidance.editing import count_peaks
      >>> int(count_peaks(jnp.sin(jnp.linspace(0, 6 * jnp.pi, 60))))
      3
    """
    if not 0 <= low < high <= 1:
        raise ValueError(f"low {low}, high {high}; expected 0 <= low < high <= 1")
    signal = jnp.asarray(signal, jnp.float32)
    least = signal.min(-1, keepdims=True)
    span = signal.max(-1, keepdims=True) - least
    scaled = jnp.moveaxis(divide(signal - least, span), -1, 0)

    def step(carry: Any, value: Array) -> Any:
        up, count = carry
        rises = ~up & (value >= high)
        return ((up & (value > low)) | rises, count + rises.astype(jnp.int32)), None

    shape = scaled.shape[1:]
    begin = jnp.zeros(shape, bool), jnp.zeros(shape, jnp.int32)
    (_, count), _ = jax.lax.scan(step, begin, scaled)
    return count


def count_actions(frames: Array, words: Array | None = None) -> Array:
    """How often an action is repeated, from the attention of frames to frames.

    A frame of the action attends to those of the same phase in all repetitions, so its
    row has a peak for each. The row is that of the frame that attends most to the
    action's word, or else the one of the greatest contrast.

    Args:
      frames: Attention of frames to frames ``[B, T, T]``.
      words: Attention of frames to the action's word ``[B, T]``, or None.

    Returns:
      Numbers int32 ``[B]``.

    Reference: Chen et al., MotionCLR, arXiv 2410.18977, section 5.3 (counting by peaks
      of self-attention); which row the authors take is not in the released code.
    """
    score = jnp.std(frames, -1) if words is None else words
    row = jnp.argmax(score, -1)
    return count_peaks(jnp.take_along_axis(frames, row[:, None, None], 1)[:, 0])


def find_word(words: Array, level: float = 0.5) -> Array:
    """Which frames follow a word: those with more attention to it than half-way.

    Args:
      words: Attention of frames to the word ``[B, T]``.
      level: Level between the least and the greatest attention, in (0, 1).

    Returns:
      Bool ``[B, T]``.
    """
    least = words.min(-1, keepdims=True)
    span = words.max(-1, keepdims=True) - least
    return words > least + level * span
