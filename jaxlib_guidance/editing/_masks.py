"""Masks of any kind and size, made to fit a picture and a network's token grids."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.attention import match_sites, token_mask
from jaxlib_guidance.types import Array, Denoiser, PyTree, concrete

# The authors' threshold of the blurred mask.
LEAST = 0.1


def prepare_mask(
    mask: Any, size: tuple[int, int], dilation: Array | float = 0.0
) -> Array:
    """A mask of any kind and size as a mask of a picture's pixels, dilated.

    A pixel counts if any of the mask that falls into it does, and also where the mask,
    blurred by a Gaussian of standard deviation ``dilation``, is at least 0.1: a
    straight edge moves outward by 1.28 ``dilation``. What is thin stays in the mask,
    which the blur alone would lose.

    Args:
      mask: What counts, ``[H, W]`` or ``[B, H, W]``, of one channel with or without an
        axis for it: bool, numbers of which those from 0.5 to 1 count, or bytes, those
        above 127; whole numbers that only a compiled program knows count unless they
        are 0.
      size: Height and width of the picture in pixels.
      dilation: Standard deviation of the blur in pixels of the picture, which may be
        traced; 0 does not dilate. The authors blur 512 to 1024 pixels by 11.9, or by
        1.4 where masks are exact.

    Returns:
      Bool of the picture's size, ``[H, W]`` or ``[B, H, W]``.

    Raises:
      ValueError: A mask of another rank or without pixels, numbers outside their range
        or NaN, a size below 1, or a negative dilation.

    Example:
      >>> import numpy as np
      >>> from jaxlib_guidance.editing import prepare_mask
      >>> drawn = np.zeros((100, 60), np.uint8)
      >>> drawn[40:60, 20:30] = 255
      >>> int(prepare_mask(drawn, (10, 6)).sum())
      2

    Reference: Attentive Eraser, arXiv 2412.12974, and the authors' code.
    """
    if min(size) < 1:
        raise ValueError(f"size is {size}; expected at least 1")
    spread = concrete(dilation)
    if spread is not None and not (np.ndim(spread) == 0 and 0 <= spread < math.inf):
        raise ValueError(f"dilation is {dilation}; expected a number of pixels from 0")
    mask = mask if hasattr(mask, "dtype") else np.asarray(mask)
    shape = jnp.shape(mask)
    flat = mask[..., 0] if len(shape) > 2 and shape[-1] == 1 else mask
    if jnp.ndim(flat) not in (2, 3) or 0 in shape:
        raise ValueError(
            f"mask has shape {shape}; expected [H, W] or [B, H, W], of one channel"
        )
    hidden: Any = _counts(flat)
    # What is known is computed by numpy, so that it stays known under jit.
    known = isinstance(hidden, np.ndarray)
    for axis, new in ((-2, size[0]), (-1, size[1])):
        if hidden.shape[axis] != new:
            share = _along(hidden, _overlap(hidden.shape[axis], new), axis)
            hidden = share > 0
    if spread is None or spread > 0:
        blurred = hidden
        for axis in (-2, -1):
            weights = _gaussian(
                hidden.shape[axis], dilation if spread is None else spread
            )
            blurred = _along(blurred, weights, axis)
        hidden = hidden | (blurred >= LEAST)
    if not known:
        return hidden
    with jax.ensure_compile_time_eval():
        return jnp.asarray(hidden)


def site_masks(
    denoiser: Denoiser,
    x: Array,
    cond: PyTree,
    sites: str | Sequence[str],
    mask: Array,
) -> dict[str, Array]:
    """The mask of a picture as one of tokens, for each attention site.

    The token grid of a site follows from the number of its queries, which the network
    is traced for and not run. A token counts if any of its pixels does. Where all
    tokens of a site would count there is nothing to rebuild them from, and none does.

    Args:
      denoiser: Network with attention sites.
      x: Pictures or latents ``[B, H, W, C]``, or their shapes.
      cond: Condition, every leaf ``[B, ...]``.
      sites: Self-attention sites, by place, name or pattern.
      mask: Mask of pixels ``[H, W]`` or ``[B, H, W]``, non-zero where it counts.

    Returns:
      Site to mask of tokens, bool ``[M]`` or ``[B, M]``.

    Raises:
      ValueError: Unknown sites, a mask of another size than ``x``, or a site whose
        tokens are no grid over the picture: cross-attention, or attention to a text
        besides.
    """
    height, width = x.shape[1:3]
    if jnp.ndim(mask) not in (2, 3) or jnp.shape(mask)[-2:] != (height, width):
        raise ValueError(
            f"mask has shape {jnp.shape(mask)}; expected {(height, width)} or [B, "
            f"{height}, {width}], x's; prepare_mask makes it fit"
        )
    patterns = (sites,) if isinstance(sites, str) else sites
    names = dict.fromkeys(
        site for pattern in patterns for site in match_sites(pattern, denoiser.sites)
    )
    times = jax.ShapeDtypeStruct(x.shape[:1], jnp.float32)
    maps = jax.eval_shape(
        lambda x, t, cond: denoiser(x, t, cond, capture=tuple(names)).maps,
        *(x, times, cond),
    )
    return {
        site: _tokens(mask, _stride(site, maps[site].shape, (height, width)))
        for site in names
    }


def _counts(mask):
    """Which numbers count."""
    values, kind = concrete(mask), mask.dtype
    if kind == jnp.bool_:
        return mask if values is None else values
    if jnp.issubdtype(kind, jnp.integer):
        if values is None or values.max() <= 1:
            low, high, least = 0, 1, 1
        else:
            low, high, least = 0, 255, 128
    elif jnp.issubdtype(kind, jnp.floating):
        low, high, least = 0, 1, 0.5
    else:
        raise ValueError(f"mask is of type {kind}; expected bool or numbers")
    # Written so that NaN fails too.
    if values is not None and not ((values >= low) & (values <= high)).all():
        raise ValueError(
            f"mask is {kind} from {values.min()} to {values.max()}; expected bool, "
            "numbers from 0 to 1, or whole numbers from 0 to 255"
        )
    return (mask if values is None else values) >= least


def _along(mask, weights, axis):
    """Weighted sums along an axis, by numpy for arrays of numpy."""
    known = isinstance(mask, np.ndarray) and isinstance(weights, np.ndarray)
    if known:
        moved = np.moveaxis(mask.astype(np.float32), axis, -1) @ weights.T
        return np.moveaxis(moved, -1, axis)
    moved = jnp.moveaxis(jnp.asarray(mask, jnp.float32), axis, -1)
    moved = jnp.matmul(moved, weights.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.moveaxis(moved, -1, axis)


def _overlap(old, new):
    """Which of the old parts of a side each new one overlaps ``[new, old]``."""
    here, there = np.arange(new)[:, None], np.arange(old)
    inside = (here * old < (there + 1) * new) & (there * new < (here + 1) * old)
    return inside.astype(np.float32)


def _gaussian(size, sigma):
    """Weights ``[size, size]`` of a blur, which sum to 1 at the border too."""
    square = np.square(np.subtract.outer(np.arange(size), np.arange(size)))
    xp = jnp if isinstance(sigma, jax.Array) else np
    rate = 1 / xp.maximum(xp.asarray(sigma, np.float32), 1e-3)
    each = xp.exp(-0.5 * square.astype(np.float32) * rate**2)
    return each / each.sum(-1, keepdims=True)


def _stride(site, shape, size):
    """Pixels along a side of a token, from the number of tokens."""
    queries, keys = shape[-2:]
    for stride in range(1, max(size) + 1) if queries == keys else ():
        if math.prod(-(-side // stride) for side in size) == queries:
            return stride
    raise ValueError(
        f"{site!r} has {queries} queries and {keys} keys; expected a self-attention "
        f"whose tokens are a grid over {size}"
    )


def _tokens(mask, stride):
    size = mask.shape[-2:]
    grid = tuple(-(-side // stride) for side in size)
    # Strided convolutions round up: the last token has fewer pixels.
    missing = [(0, n * stride - side) for n, side in zip(grid, size, strict=True)]
    hidden = jnp.asarray(mask).astype(bool)
    hidden = jnp.pad(hidden, [(0, 0)] * (hidden.ndim - 2) + missing)
    tokens = token_mask(hidden, grid)
    return tokens & ~jnp.all(tokens, -1, keepdims=True)
