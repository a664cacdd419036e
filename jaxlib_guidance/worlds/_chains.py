"""Writers of sums with steps: right, or with errors, re-checks and corrections."""

import jax
import jax.numpy as jnp

from jaxlib_guidance.types import Array
from jaxlib_guidance.worlds import _sums_rows as rows
from jaxlib_guidance.worlds._checks import require_chance
from jaxlib_guidance.worlds._sums import Problem


def encode(text: str) -> list[int]:
    """Numbers of the tokens of a text.

    Args:
      text: Letters of the world's tokens.

    Returns:
      One number a letter.

    Raises:
      ValueError: Another letter.
    """
    strange = sorted(set(text) - set(rows.TOKENS))
    if strange:
        raise ValueError(f"text has {strange}; expected letters of {rows.TOKENS!r}")
    return [rows.TOKENS.index(letter) for letter in text]


def decode(tokens: Array, mask: Array | None = None) -> str:
    """The text of tokens, to read; not under `jax.jit`.

    Args:
      tokens: Token numbers ``[T]``.
      mask: ``bool [T]``, False on what is left out; None keeps all.
    """
    keep = [True] * len(tokens) if mask is None else mask
    return "".join(rows.TOKENS[int(t)] for t, k in zip(tokens, keep, strict=True) if k)


def write(
    key: Array,
    problem: Problem,
    *,
    length: int,
    error: Array | float = 0.0,
    recheck: Array | float = 0.0,
    notice: Array | float = 1.0,
    again: Array | float = 0.0,
) -> tuple[Array, Array]:
    """Writes an answer with columns, as a careless or a careful author would.

    A column's digit of the sum is wrong with a chance, what follows goes on from what
    was written. With another chance the author looks at the column again: a right one
    is repeated after ``w``; a wrong one is corrected after ``x`` if the error is
    noticed, and repeated if not. After the solution all may be done a second time.

    Args:
      key: Typed key.
      problem: The sum.
      length: Number of places; a longer answer is cut, and does not end.
      error: Probability that a column is wrong.
      recheck: Probability that a column is looked at again.
      notice: Probability that an error is noticed then.
      again: Probability of a second solution, with columns of its own.

    Returns:
      Tokens and mask ``[length]``, with ``.`` where the mask is False.
    """
    for name, value in zip(
        ("error", "recheck", "notice", "again"),
        (error, recheck, notice, again),
        strict=True,
    ):
        require_chance(name, value)
    keys = jax.random.split(key, 3)
    first, second = (_pass(one, problem, error, recheck, notice) for one in keys[:2])
    twice = jax.random.bernoulli(keys[2], again)
    second = second[0], second[1] & twice
    whole = rows.join(first, second, rows.token(rows.END))
    return rows.left(*whole, length)


def direct(problem: Problem, answer: Array, *, length: int) -> tuple[Array, Array]:
    """Digits of an answer and the end, as they follow a prompt that ends with ``#``.

    Args:
      problem: The sum, whose answers have one digit more than its numbers.
      answer: Value of the answer, int32.
      length: Number of places, at least ``digits + 2``.

    Returns:
      Tokens and mask ``[length]``.
    """
    digits = rows.number(answer, problem.digits + 1)
    return rows.left(*rows.join(digits, rows.token(rows.END)), length)


def _pass(key, problem, error, recheck, notice):
    """Columns and a solution, every place there may be and which of them count."""

    def write_column(carry, inputs):
        place, key = inputs
        chances = jax.random.split(key, 4)
        a, b = rows.digit(problem.a, place), rows.digit(problem.b, place)
        total = (a + b + carry) % 10
        slip = (total + jax.random.randint(chances[0], (), 1, 10)) % 10
        wrong, looked, noticed = (
            jax.random.bernoulli(k, p)
            for k, p in zip(chances[1:], (error, recheck, notice), strict=True)
        )
        out = (a + b + carry) // 10
        said = jnp.where(wrong, slip, total)
        corrected = wrong & noticed
        final = jnp.where(looked & corrected, total, said)
        mark = jnp.where(corrected, rows.CORRECTION, rows.RECHECK)
        again = jnp.where(corrected, total, said)
        there = place < problem.digits
        column = jnp.int32(rows.COLUMN), a, b, carry, said, out
        tokens = jnp.stack([*column, mark, a, b, carry, again, out])
        keep = jnp.repeat(jnp.stack([there, there & looked]), 6)
        carry = jnp.where(there, out, carry)
        return carry, (tokens, keep, final)

    places = jnp.arange(rows.DIGITS, dtype=jnp.int32)
    keys = jax.random.split(key, rows.DIGITS)
    carry, (tokens, keep, final) = jax.lax.scan(
        write_column, jnp.int32(0), (places, keys)
    )
    powers = jnp.int32(10) ** places
    there = places < problem.digits
    value = jnp.sum(jnp.where(there, final, 0) * powers)
    value += carry * jnp.int32(10) ** problem.digits
    columns = tokens.reshape(-1), keep.reshape(-1)
    solution = rows.number(value, problem.digits + 1)
    return rows.join(columns, rows.token(rows.SOLUTION), solution)
