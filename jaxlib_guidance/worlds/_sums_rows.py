"""Rows of tokens of which some count: the plumbing of sums and of their writers."""

import jax.numpy as jnp

from jaxlib_guidance.types import Array, concrete

TOKENS = "0123456789+=(#.wxRW?h"
"""Letters in the order of their numbers; a digit is its own number."""
DIGITS = 3
"""Most digits of a number."""
PROMPT = 3 * DIGITS + 7
"""Places of a prompt, whatever it holds."""
PLUS, EQUALS, COLUMN, SOLUTION, END, RECHECK, CORRECTION, RIGHT, WRONG, ASK, HINT = (
    range(10, len(TOKENS))
)


def digit(value: Array, place: Array | int) -> Array:
    """Digit of a number at a place, 0 the rightmost; broadcasts."""
    return value // jnp.int32(10) ** place % 10


def number(value: Array, digits: Array) -> tuple[Array, Array]:
    """A number as digits, the leftmost first.

    Args:
      value: The number, int32.
      digits: Number of digits to write, at most ``DIGITS + 1``.

    Returns:
      Tokens ``[DIGITS + 1]`` and which of them count, the last ``digits``.
    """
    places = jnp.arange(DIGITS, -1, -1)
    return digit(value, places), places < digits


def join(*parts: tuple[Array, Array]) -> tuple[Array, Array]:
    """Tokens and which of them count, of several parts in one row."""
    tokens, keep = zip(*parts, strict=True)
    return jnp.concatenate(tokens), jnp.concatenate(keep)


def left(tokens: Array, keep: Array, length: int) -> tuple[Array, Array]:
    """What counts, moved to the left of ``length`` places; what is beyond is lost.

    Args:
      tokens: Token numbers ``[T]``.
      keep: Which of them count, bool ``[T]``.
      length: Number of places.

    Returns:
      Tokens and mask ``[length]``, with `END` where the mask is False.
    """
    order = jnp.argsort(~keep, stable=True)
    tokens = jnp.pad(tokens[order], (0, length))[:length]
    mask = jnp.arange(length) < jnp.sum(keep)
    return jnp.where(mask, tokens, END).astype(jnp.int32), mask


def right(tokens: Array, keep: Array, length: int) -> tuple[Array, Array]:
    """What counts, moved to the right of ``length`` places; the first are lost."""
    reverse = left(tokens[::-1], keep[::-1], length)
    return reverse[0][::-1], reverse[1][::-1]


def token(number: Array | int, keep: Array | bool = True) -> tuple[Array, Array]:
    """One token that counts, or not."""
    return jnp.full(1, number), jnp.full(1, keep)


def split(tokens: Array, mask: Array, most: int) -> tuple[Array, ...]:
    """Steps of an answer ``[T]``, each of which begins with a mark.

    Returns:
      Step of each token ``[T]``, number of steps, and of each step its mark ``[S]``,
      what follows the mark ``[S, 6]``, and how many digits follow at once ``[S]``.
    """
    t = jnp.where(mask, tokens, END)
    marks = jnp.array([COLUMN, RECHECK, CORRECTION, SOLUTION])
    begins = mask & jnp.any(t[:, None] == marks, 1)
    step_of = jnp.cumsum(begins, dtype=jnp.int32) - 1
    steps = jnp.minimum(jnp.sum(begins, dtype=jnp.int32), most)
    size = tokens.size
    at = jnp.sort(jnp.where(begins, jnp.arange(size, dtype=jnp.int32), size))
    at = jnp.pad(at, (0, most), constant_values=size)[:most]
    padded = jnp.pad(t, (0, 8), constant_values=END)
    rows = padded[at[:, None] + jnp.arange(7)]
    body = rows[:, 1:]
    digits = (body >= 0) & (body < PLUS)
    count = jnp.sum(jnp.cumprod(digits, 1), 1, dtype=jnp.int32)
    return step_of, steps, rows[:, 0], body, count


def require_row(tokens: Array, mask: Array | None) -> tuple[Array, Array]:
    """One answer's tokens and which of them count, or an error."""
    tokens = jnp.asarray(tokens)
    if tokens.ndim != 1 or not tokens.size:
        raise ValueError(
            f"tokens has shape {tokens.shape}; expected [T], at least one token of one "
            "answer: jax.vmap is for many"
        )
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise TypeError(f"tokens is {tokens.dtype}; expected integers")
    mask = jnp.ones(tokens.shape, bool) if mask is None else jnp.asarray(mask, bool)
    if mask.shape != tokens.shape:
        raise ValueError(f"mask has shape {mask.shape}; expected {tokens.shape}")
    known, keep = concrete(tokens), concrete(mask)
    if known is not None and keep is not None:
        strange = known[keep & ((known < 0) | (known >= len(TOKENS)))]
        if strange.size:
            raise ValueError(
                f"tokens has {strange[0]}; expected 0 to {len(TOKENS) - 1} where the "
                "mask is True"
            )
    return tokens, mask
