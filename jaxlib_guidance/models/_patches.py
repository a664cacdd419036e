"""Samples as tokens and back."""

from jaxlib_guidance.types import Array


def patchify(x: Array, patch: int) -> tuple[Array, tuple[int, ...]]:
    """Cuts samples into tokens.

    Args:
      x: Images ``[B, H, W, C]`` or sequences ``[B, L, C]``.
      patch: Side of a patch, which divides each of ``H, W`` or ``L``.

    Returns:
      ``(tokens [B, T, patch^n C], grid)`` with ``T = prod(grid)`` and ``n`` axes.

    Raises:
      ValueError: Another rank, or a size that ``patch`` does not divide.
    """
    batch, *sizes, channels = x.shape
    if len(sizes) not in (1, 2) or any(size % patch for size in sizes):
        raise ValueError(
            f"x has shape {x.shape}; expected [B, H, W, C] or [B, L, C] with sizes "
            f"that are multiples of patch={patch}"
        )
    grid = tuple(size // patch for size in sizes)
    split = x.reshape(batch, *(n for size in grid for n in (size, patch)), channels)
    axes = len(grid)
    order = (0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1)
    return split.transpose(order).reshape(batch, -1, patch**axes * channels), grid


def unpatchify(tokens: Array, grid: tuple[int, ...], patch: int) -> Array:
    """The inverse of `patchify`.

    Args:
      tokens: Tokens ``[B, T, patch^n C]``.
      grid: Shape of the token grid, of ``n`` axes and product ``T``.
      patch: Side of a patch.

    Returns:
      Images ``[B, H, W, C]`` or sequences ``[B, L, C]``.
    """
    batch, axes = tokens.shape[0], len(grid)
    split = tokens.reshape(batch, *grid, *(patch,) * axes, -1)
    pairs = (n for i in range(axes) for n in (1 + i, 1 + axes + i))
    joined = split.transpose(0, *pairs, 2 * axes + 1)
    return joined.reshape(batch, *(size * patch for size in grid), -1)
