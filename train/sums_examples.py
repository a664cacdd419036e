"""The examples of train/sums_start.py: answers with steps, and short answers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance.worlds import chains, sums

Array = jax.Array
VOCABULARY = 21
CHAIN, SHORT = 32, 6
"""Places of an answer with steps, and of one without."""


class Habits(NamedTuple):
    """How the author of the examples with steps writes; see `chains.write`."""

    error: float = 0.0
    recheck: float = 0.0
    notice: float = 1.0
    again: float = 0.0


HABITS = {
    "plain": Habits(),
    "checker": Habits(error=0.1, recheck=0.4, notice=0.9, again=0.3),
    "sloppy": Habits(error=0.1),
}


def with_steps(key: Array, habits: Habits) -> dict[str, Array]:
    """An answer with steps to a sum of one or two digits."""
    which, how = jax.random.split(key)
    problem = sums.draw(sums.Sums(1, 2), which)
    answer = chains.write(how, problem, length=CHAIN, **habits._asdict())
    return row(sums.prompt(problem), answer)


def short(key: Array) -> dict[str, Array]:
    """A short answer to one of five questions about a sum of one to three digits.

    A direct answer that the model chose (a tenth), one that it was asked for (35 %),
    one with a hint (a fifth), a verdict on an answer (15 %), and another answer after
    one that was wrong (a fifth).
    """
    which, kind, how_much, *rest = jax.random.split(key, 6)
    problem = sums.draw(sums.Sums(1, 3), which)
    shares = jnp.array([0.1, 0.35, 0.2, 0.15, 0.2])
    kind = jax.random.choice(kind, 5, p=shares)
    told = jax.random.randint(how_much, (), 1, problem.digits + 1)
    hint = jnp.where(kind == 2, told, 0)
    asked = sums.prompt(problem, hint=hint, direct=(kind == 1) | (kind == 2))

    truth, judged = sums.solve(problem), kind == 3
    shown = mistake(rest[0], problem)
    honest = jax.random.bernoulli(rest[1])
    shown = jnp.where(judged & honest, truth, shown)
    after = sums.follow_up(problem, shown, judge=judged)

    digits = chains.direct(problem, truth, length=SHORT)
    verdict = verdict_tokens(shown == truth)
    chosen = tuple(
        jnp.concatenate([jnp.full(1, first), x])[:SHORT]
        for first, x in zip([*chains.encode("#"), True], digits, strict=True)
    )
    answer = pick(kind == 0, chosen, pick(judged, verdict, digits))
    return row(pick(kind >= 3, after, asked), answer)


def mistake(key: Array, problem: sums.Problem) -> Array:
    """A wrong answer: one digit off by one or two, carries and all, or two digits."""
    places, sizes, both = jax.random.split(key, 3)
    at = jax.random.randint(places, (2,), 0, problem.digits + 1)
    by = jax.random.choice(sizes, jnp.array([-2, -1, -1, 1, 1, 2]), (2,))
    by *= jnp.stack([jnp.int32(1), jax.random.bernoulli(both, 0.3).astype(jnp.int32)])
    off = sums.solve(problem) + jnp.sum(by * jnp.int32(10) ** at)
    return jnp.abs(off) % jnp.int32(10) ** (problem.digits + 1)


def verdict_tokens(accepted: Array) -> tuple[Array, Array]:
    """``R.`` or ``W.`` as tokens and mask ``[SHORT]``."""
    yes, no, end = chains.encode("RW.")
    tokens = jnp.full(SHORT, end).at[0].set(jnp.where(accepted, yes, no))
    return tokens.astype(jnp.int32), jnp.arange(SHORT) < 2


def pick(which: Array, one: tuple, other: tuple) -> tuple:
    """One pair of tokens and mask or the other."""
    return tuple(jnp.where(which, a, b) for a, b in zip(one, other, strict=True))


def row(asked: tuple[Array, Array], answer: tuple[Array, Array]) -> dict[str, Array]:
    """A row of `completion_logp`."""
    names = "prompt", "prompt_mask", "tokens", "mask"
    return dict(zip(names, (*asked, *answer), strict=True))
