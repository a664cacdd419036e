"""Tokens of a map as places of a sample."""

import math

import jax.numpy as jnp

from jaxlib_guidance.types import Array


def token_grid(count: int, shape: tuple[int, ...], name: str) -> tuple[int, ...]:
    """The grid ``(h, w)`` of patches of one size that cover a sample ``(H, W, C)``.

    Args:
      count: Number of tokens.
      shape: One sample ``*S``.
      name: What has so many tokens, for the error.

    Raises:
      ValueError: There is no such grid.
    """
    space = shape[:-1]
    each = round((math.prod(space) / count) ** (1 / max(len(space), 1)))
    grid = tuple(n // each for n in space) if each else ()
    if tuple(n * each for n in grid) != space or math.prod(grid) != count:
        raise ValueError(
            f"{name} has {count} tokens; expected patches of one size that cover "
            f"samples of shape {shape}"
        )
    return grid


def to_pixels(tokens: Array, shape: tuple[int, ...], name: str) -> Array:
    """What tokens hold ``[B, M]``, at each place of samples ``[B, *shape[:-1], 1]``."""
    grid = token_grid(tokens.shape[1], shape, name)
    places = tokens.reshape(-1, *grid, 1)
    for axis, (size, count) in enumerate(zip(shape, grid, strict=False)):
        places = jnp.repeat(places, size // count, axis=1 + axis)
    return places


def head_mean(probs: Array) -> Array:
    """The mean over heads of a map, ``[B, H, Q, M]`` to ``[B, Q, M]``."""
    return jnp.mean(probs, axis=1)


def word_columns(words: Array, probs: Array, term: str, site: str) -> Array:
    """Columns of words for each row of a map ``[2 B, Q, M]`` of pairs.

    Args:
      words: ``[2 B, M]``, or ``[2, M]`` for all pairs.
      probs: The map.
      term: What has the words, for the error.
      site: Where the map is of.

    Returns:
      ``[2 B, M]``.

    Raises:
      ValueError: Another number of rows or columns.
    """
    if words.shape[0] == 2:  # The same words for all pairs.
        words = jnp.tile(words, (probs.shape[0] // 2, 1))
    if words.shape != (probs.shape[0], probs.shape[-1]):
        raise ValueError(
            f"{term}'s words have shape {words.shape}; expected "
            f"{(probs.shape[0], probs.shape[-1])}, as the map of {site!r} has it for "
            "pairs of source and edit"
        )
    return words
