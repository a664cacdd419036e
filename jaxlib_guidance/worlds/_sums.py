"""Sums written as steps that can be checked alone: a world for language models.

A prompt is ``47+58=``. An answer goes column by column from the right and ends with the
sum: ``(78051(45110#105.``. A step is one of

- ``(`` and five digits, a column: both digits, carry in, digit of the sum, carry out;
- ``w`` and five digits, the column before written once more, a re-check;
- ``x`` and five digits, the column before written anew, a correction;
- ``#`` and the digits of a sum, a solution; columns after it begin at the right again.

The last solution is the answer, ``.`` ends it. An answer may begin with ``#``: then it
is direct, without columns. What else prompts hold is in `prompt` and `follow_up`.

All functions take one problem; `jax.vmap` is for many. Tokens are the letters of
``0123456789+=(#.wxRW?h`` in this order, so that a digit is its own number;
``sums.END`` is that of ``.``, and ``sums.SOLUTION`` that of ``#``.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance.types import Array, concrete
from jaxlib_guidance.worlds._sums_rows import (
    ASK,
    COLUMN,
    CORRECTION,
    DIGITS,
    END,
    EQUALS,
    HINT,
    PLUS,
    PROMPT,
    RECHECK,
    SOLUTION,
    digit,
    join,
    number,
    require_row,
    right,
    split,
    token,
)


class Sums(NamedTuple):
    """Which sums are asked.

    Attributes:
      low: Fewest digits of a number, at least 1.
      high: Most digits of a number, at most 3.
    """

    low: int = 2
    high: int = 2


class Problem(NamedTuple):
    """One sum, ``a + b`` of so many digits each; int32 scalars.

    Attributes:
      a: First number.
      b: Second number.
      digits: Number of digits that both are written with, with zeros in front.
    """

    a: Array
    b: Array
    digits: Array


class Check(NamedTuple):
    """What is known of an answer.

    Attributes:
      parsed: Whether it is steps, at least one of them a solution, and an end; bool.
      answer: Value of the last solution, -1 without one; int32.
      right: Whether the answer is the sum, and parsed; bool.
      steps: Number of steps, int32.
      length: Number of tokens, with the end, int32.
      step_right: Whether each step follows from what stands before it, bool ``[S]``:
        its digits are the problem's, its carry is that of the column before as it was
        last written, and it adds up; of a solution, that it is the sum.
      first_wrong: Index of the first step that is not right, ``steps`` if all are.
      first_solution: Index of the first solution that is the sum, ``steps`` without.
      columns: Number of columns, without re-checks and corrections.
      rechecks: Number of re-checks.
      corrections: Number of corrections.
      solutions: Number of solutions.
      step_of: Step of each token, int32 ``[T]``; -1 before the first one, and the last
        step's at the end.
    """

    parsed: Array
    answer: Array
    right: Array
    steps: Array
    length: Array
    step_right: Array
    first_wrong: Array
    first_solution: Array
    columns: Array
    rechecks: Array
    corrections: Array
    solutions: Array
    step_of: Array


def reset(params: Sums, key: Array) -> tuple[Problem, tuple[Array, Array]]:
    """Draws a sum.

    Args:
      params: Which sums are asked.
      key: Typed key.

    Returns:
      The state, and the `prompt` as ``(tokens [16], mask [16])``.
    """
    problem = draw(params, key)
    return problem, prompt(problem)


def step(
    params: Sums, state: Problem, action: tuple[Array, Array], key: Array
) -> tuple[Problem, tuple[Array, Array], Array, Array]:
    """Takes a whole answer; it ends the episode.

    Args:
      params: Which sums are asked.
      state: The sum.
      action: ``(tokens [T], mask [T])`` of the answer.
      key: Typed key, which nothing here needs.

    Returns:
      ``(state, prompt, reward, terminated)``: 1.0 for a right answer, and True.
    """
    del params, key
    reward = check(state, *action).right.astype(jnp.float32)
    return state, prompt(state), reward, jnp.bool_(True)


def draw(params: Sums, key: Array) -> Problem:
    """Draws a sum that is not `held_out`.

    Args:
      params: Which sums are asked.
      key: Typed key.

    Returns:
      The sum; one in 10^8 is held out after all.

    Raises:
      ValueError: Numbers of more digits than there may be, or none.
    """
    if not 1 <= params.low <= params.high <= DIGITS:
        raise ValueError(
            f"digits are {params.low} to {params.high}; expected 1 to {DIGITS} in order"
        )
    how_many, which = jax.random.split(key)
    digits = jax.random.randint(how_many, (), params.low, params.high + 1)
    pairs = jax.random.randint(which, (8, 2), 0, 10**digits)
    problems = Problem(pairs[:, 0], pairs[:, 1], jnp.broadcast_to(digits, 8))
    first = jnp.argmax(~held_out(problems))
    return jax.tree.map(lambda x: x[first], problems)


def held_out(problem: Problem) -> Array:
    """Whether a sum is for tests alone, as a tenth of all are by a hash; any shape."""
    a, b = (jnp.asarray(x, jnp.uint32) for x in problem[:2])
    mixed = a * jnp.uint32(2654435761) ^ (b + 1) * jnp.uint32(2246822519)
    mixed = (mixed ^ mixed >> 15) * jnp.uint32(668265263)
    return (mixed >> 8) % 10 == 0


def solve(problem: Problem) -> Array:
    """The sum."""
    return problem.a + problem.b


def wrong_place(problem: Problem, answer: Array) -> Array:
    """Place of the leftmost digit of an answer that is wrong, 0 the rightmost.

    Args:
      problem: The sum.
      answer: Value of the answer, int32.

    Returns:
      int32; -1 for the right answer, 3, the leftmost there is, for one that no sum has.
    """
    places = jnp.arange(DIGITS, -1, -1)
    differ = digit(solve(problem), places) != digit(answer, places)
    place = jnp.where(jnp.any(differ), DIGITS - jnp.argmax(differ), -1)
    strange = (answer < 0) | (answer >= 10 ** (DIGITS + 1))
    return jnp.where(strange, DIGITS, place).astype(jnp.int32)


def prompt(
    problem: Problem,
    *,
    turned: Array | bool = False,
    hint: Array | int = 0,
    direct: Array | bool = False,
) -> tuple[Array, Array]:
    """``a+b=``, with a hint ``a+bh10=``, and ``#`` where the answer shall be direct.

    Args:
      problem: The sum.
      turned: Whether to write ``b+a=``, the same question in other words.
      hint: Number of digits of the sum to tell, from the left, 0 to 3; the first is the
        carry of the leftmost column.
      direct: Whether the prompt ends with ``#``, so that the answer is a sum alone.

    Returns:
      Tokens and mask ``[16]``, padded on the left.

    Raises:
      ValueError: A hint out of range, where it is known.
    """
    known = concrete(hint)
    if known is not None and not ((known >= 0) & (known <= DIGITS)).all():
        raise ValueError(f"hint is {hint}; expected 0 to {DIGITS}")
    tokens, keep = number(solve(problem), problem.digits + 1)
    keep &= jnp.cumsum(keep) <= hint
    told = join(token(HINT, jnp.asarray(hint) > 0), (tokens, keep))
    asked = join(_question(problem, turned), told, token(EQUALS))
    return right(*join(asked, token(SOLUTION, direct)), PROMPT)


def follow_up(
    problem: Problem, answer: Array, *, judge: Array | bool
) -> tuple[Array, Array]:
    """What is asked about an answer: ``a+b=#105?``, or a new one, ``a+b=#105x0#``.

    The first wants a verdict, ``R.`` or ``W.``. The second tells the `wrong_place` of
    the answer, and wants the digits of another one; of a right answer it tells nothing,
    ``a+b=#105x#``.

    Args:
      problem: The sum.
      answer: Value of the answer, int32; one that no sum has is shown by its last
        digits.
      judge: Whether to ask for a verdict.

    Returns:
      Tokens and mask ``[16]``, padded on the left.
    """
    place = wrong_place(problem, answer)
    shown = number(jnp.maximum(answer, 0), problem.digits + 1)
    first = join(_question(problem, False), token(EQUALS), token(SOLUTION), shown)
    told = jnp.asarray(judge) | (place < 0)
    rest = join(
        token(jnp.where(judge, ASK, CORRECTION)),
        token(place, ~told),
        token(SOLUTION, ~jnp.asarray(judge)),
    )
    return right(*join(first, rest), PROMPT)


def _question(problem, turned):
    a = jnp.where(turned, problem.b, problem.a)
    b = jnp.where(turned, problem.a, problem.b)
    digits = problem.digits
    return join(number(a, digits), token(PLUS), number(b, digits))


def check(
    problem: Problem, tokens: Array, mask: Array | None = None, *, most: int = 24
) -> Check:
    """Checks an answer step by step.

    Args:
      problem: The sum.
      tokens: Token numbers of the answer ``[T]``.
      mask: False after the end, bool ``[T]``; None keeps all. What is masked must stand
        at the end.
      most: Number of steps ``S`` that are looked at; an answer of more is not parsed.

    Returns:
      What is known of it.

    Raises:
      ValueError: Tokens that are not one answer, empty ones, a mask of another shape,
        no steps to look at, or a token that does not exist, where it is known.
      TypeError: Tokens that are not integers.
    """
    tokens, mask = require_row(tokens, mask)
    if most < 1:
        raise ValueError(f"most is {most}; expected at least 1")
    step_of, steps, mark, body, count = split(tokens, mask, most)
    index = jnp.arange(most, dtype=jnp.int32)
    exists = index < steps
    solution = exists & (mark == SOLUTION)
    column = exists & (mark == COLUMN)
    whole = exists & jnp.where(solution, (count >= 1) & (count <= 5), count == 5)

    a, b, carry, total, out = (body[:, i] for i in range(5))
    # Columns since the last solution; a re-check is of the column before it.
    done = jnp.cumsum(column, dtype=jnp.int32)
    begun = jax.lax.cummax(jnp.where(solution, done, 0))
    place = done - 1 - begun
    # Nothing follows from a column that is not whole.
    out = jnp.where(count == 5, out, -1)
    before = jnp.concatenate([jnp.zeros(1, out.dtype), out[:-1]])
    came = jnp.where((place == 0) | ~column, 0, before)
    # What came into the column that a re-check is of.
    own = jax.lax.cummax(jnp.where(column, index, 0))
    came = jnp.where(column, came, came[own])
    within = (place >= 0) & (place < problem.digits)
    safe = jnp.clip(place, 0, DIGITS - 1)
    value = digit(problem.a, safe) + digit(problem.b, safe) + carry
    adds = (a == digit(problem.a, safe)) & (b == digit(problem.b, safe))
    adds &= (carry == came) & (total == value % 10) & (out == value // 10)

    powers = jnp.int32(10) ** jnp.clip(count[:, None] - 1 - jnp.arange(5), 0, 5)
    told = jnp.where(jnp.arange(5) < count[:, None], body[:, :5], 0) * powers
    values = jnp.where(whole & solution, jnp.sum(told, 1, dtype=jnp.int32), -1)
    true = values == solve(problem)
    step_right = whole & jnp.where(solution, true, within & adds)

    last = jnp.max(jnp.where(solution, index, -1))
    answer = jnp.where(last >= 0, values[last], -1)
    covered = jnp.sum(jnp.where(whole, count + 1, 0), dtype=jnp.int32) + 1
    length = jnp.sum(mask, dtype=jnp.int32)
    ended = mask & (tokens == END)
    last_ends = (length > 0) & ended[jnp.maximum(length - 1, 0)]
    once = last_ends & (jnp.sum(ended, dtype=jnp.int32) == 1)
    parsed = once & (covered == length) & (last >= 0)
    first = jnp.argmax(jnp.append(exists & ~step_right, True)).astype(jnp.int32)
    found = jnp.argmax(jnp.append(solution & true, True)).astype(jnp.int32)

    def counted(kind):
        return jnp.sum(exists & (mark == kind), dtype=jnp.int32)

    return Check(
        parsed=parsed,
        answer=answer,
        right=parsed & (answer == solve(problem)),
        steps=steps,
        length=length,
        step_right=step_right,
        first_wrong=jnp.minimum(first, steps),
        first_solution=jnp.minimum(found, steps),
        columns=counted(COLUMN),
        rechecks=counted(RECHECK),
        corrections=counted(CORRECTION),
        solutions=counted(SOLUTION),
        step_of=step_of,
    )
