"""Habits before rewards: what a primer gives to learning by reward.

    python benchmarks/sums_habits.py             # minutes of one core

A model that writes columns and looks at none again is primed with answers that look at
columns again and correct some, right or wrong ones, or with right answers without such
habits, or not at all. Then all learn by GRPO from the truth alone. The rate of this is
searched for each row with another seed; the primer's is one for all.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sums_rounds import cell, fine_tune, lesson, written
from sums_runs import Plan, draw, groups, held_out, learn, load, problems, repeat, score

from jaxlib_guidance import policy
from jaxlib_guidance.reduce import finalize
from jaxlib_guidance.worlds import chains, sums


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    start: str = "sums_young"
    """Model to begin with."""
    primed: int = 200
    """Steps of the primer."""
    primer_rate: float = 2e-3
    """Its rate."""
    updates: int = 40
    """Updates by reward."""
    prompts: int = 4
    """Sums of an update."""
    group: int = 8
    """Answers to each."""
    length: int = 32
    """Places of an answer."""
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    """Rates to try for each row."""
    seeds: int = 3
    """Runs of each row."""
    tests: int = 96
    """Held-out sums."""


class Author(NamedTuple):
    """Who writes the primer, and whether what is kept is right."""

    error: float = 0.0
    recheck: float = 0.0
    notice: float = 1.0
    right: bool = True


ROWS = {
    "no primer": None,
    "right, without habits": Author(),
    "right, with habits": Author(0.1, 0.5, 0.95),
    "wrong, with habits": Author(0.3, 0.5, 0.6, False),
}


class Figures(NamedTuple):
    """Of held-out sums, answered at temperature 1; habits are counts an answer."""

    right: jax.Array
    rechecks: jax.Array
    corrections: jax.Array
    tokens: jax.Array


def prime(config, lm, params, author, seed):
    """The model after its primer."""
    if author is None:
        return params
    asked = problems(jax.random.key(seed), sums.Sums(2, 2), 1024)
    keys = jax.random.split(jax.random.key(100 + seed), 1024)
    *habits, right = author
    names = "error", "recheck", "notice"
    options = dict(zip(names, habits, strict=True))
    answer = jax.vmap(
        lambda key, x: chains.write(key, x, length=config.length, **options)
    )(keys, asked)
    found = jax.vmap(sums.check)(asked, *answer)
    kept = found.parsed & (found.right == right)
    rows = written(jax.vmap(sums.prompt)(asked), answer)
    rows = lesson(rows, kept.astype(jnp.float32))
    sizes = {"steps": config.primed, "batch": 32}
    rate = config.primer_rate
    return fine_tune(lm, params, keys[0], rows, rate, **sizes)


def make_plan(config, lm):
    """What an update and an evaluation are."""
    ask, check = jax.vmap(sums.prompt), jax.vmap(sums.check)
    size = config.group

    def collect(params, key, rate, memory):
        which, how = jax.random.split(key)
        asked = repeat(problems(which, sums.Sums(2, 2), config.prompts), size)
        rows = draw(lm, params, how, ask(asked), steps=config.length)
        right = check(asked, rows.tokens, rows.mask).right
        return groups((rows, right.astype(jnp.float32)), size), memory

    def loss(params, batch, rate):
        rows, right = batch
        logp = score(lm, params, rows)
        return finalize(policy.grpo(logp, rows.old, right, rows.mask))[0]

    tests = held_out(2, config.tests)

    def evaluate(params, rate, key):
        rows = draw(lm, params, key, ask(tests), steps=config.length)
        found = check(tests, rows.tokens, rows.mask)
        counts = jnp.stack([found.rechecks, found.corrections], 1)
        habits = policy.behaviour_rate(counts)
        right, tokens = (jnp.mean(x * 1.0) for x in (found.right, found.length))
        return Figures(right, *habits, tokens)

    return Plan(collect, loss, evaluate)


def main(config: Config) -> Figures:
    """Prints the table; returns figures ``[row, seed, time]``, first after primers."""
    lm, start = load(config.start)
    plan, rates = make_plan(config, lm), jnp.array(config.rates)
    before, after, chosen = [], [], []
    sizes = {"updates": config.updates, "every": config.updates}
    sizes["seeds"] = config.seeds + 1
    for author in ROWS.values():
        primer = jax.jit(lambda p, seed, a=author: prime(config, lm, p, a, seed))
        many = [primer(start, seed) for seed in range(config.seeds + 1)]
        many = jax.tree.map(lambda *x: jnp.stack(x), *many)
        # The last seed is the one that chooses the rate.
        found = learn(plan, many, rates, rate=rates, each=True, **sizes)
        best = int(np.argmax(found.right[:, -1, -1]))
        chosen.append(config.rates[best])
        before.append([x[best, :-1, 0] for x in found])
        after.append([x[best, :-1, -1] for x in found])
    heads = ["rate", "right after the primer", "right", "re-checks", "corrections"]
    print(f"| primer | {' | '.join([*heads, 'tokens'])} |\n|---|" + "---|" * 6)
    for name, rate, x, y in zip(ROWS, chosen, before, after, strict=True):
        cells = [cell(x[0]), cell(y[0]), *(cell(z, 2) for z in y[1:3]), cell(y[3], 1)]
        print(f"| {name} | {rate:g} | {' | '.join(cells)} |")
    both = [
        np.stack([np.array(x), np.array(y)], -1)
        for x, y in zip(before, after, strict=True)
    ]
    return Figures(*np.stack(both, 1))


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
