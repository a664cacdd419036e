"""Answers that go wrong, notice and go on: what of them should train.

    python benchmarks/sums_repair.py             # minutes of one core

The model writes columns and has never seen a correction. It learns in rounds from

- its own right answers;
- its own wrong ones up to the first wrong column, spliced with the correction of it and
  the rest of a right answer to the same sum (Agent-R), where what went wrong trains or
  does not;
- answers with an error that was made up and corrected (STeP), where the wrong column
  trains or does not.

Afterwards it answers held-out sums, and goes on after a wrong first column that it did
not choose. The rate of each row is searched with another seed.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from sums_rounds import Cycle, cell, compare, lesson, make_run, written
from sums_runs import draw, groups, held_out, load, problems, repeat

from jaxlib_guidance import policy
from jaxlib_guidance.worlds import chains, sums

COLUMN, CORRECTION = chains.encode("(x")


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    start: str = "sums_plain"
    """Model to begin with."""
    rounds: int = 2
    """Rounds of sampling and fine-tuning."""
    prompts: int = 64
    """Sums of a round."""
    group: int = 4
    """Answers to each."""
    heat: float = 1.2
    """Temperature of these answers."""
    length: int = 32
    """Places of an answer."""
    steps: int = 20
    """Steps of fine-tuning in a round."""
    batch: int = 16
    """Answers of a step."""
    rates: tuple[float, ...] = (1e-3, 3e-3)
    """Rates to try for each row."""
    seeds: int = 3
    """Runs of each row."""
    tests: int = 96
    """Held-out sums."""


ROWS = (
    "own right answers",
    "own errors spliced, all trains",
    "own errors spliced, from the correction on (Agent-R)",
    "made-up errors, all trains",
    "made-up errors, without the wrong column (STeP)",
)


class Figures(NamedTuple):
    """Of held-out sums, answered at temperature 1."""

    right: jax.Array
    repaired: jax.Array
    slips: jax.Array
    corrections: jax.Array


def repair(bad, wrong, good, length):
    """The wrong columns up to the first, ``x``, and the right answer from there."""
    # Both have the mark of the column.
    return policy.splice(
        bad,
        jnp.array([CORRECTION]),
        good[0],
        error=6 * wrong + 6,
        prefix=6 * wrong + 1,
        good_length=jnp.sum(good[1]),
        length=length,
    )


def first_error(found, tokens):
    """Column of the first error, and whether all before it are columns."""
    wrong = jnp.minimum(found.first_wrong, 1)
    begins = tokens[0] == COLUMN
    second = (wrong == 0) | (tokens[6] == COLUMN)
    return wrong, begins & second & (found.first_wrong < found.columns)


def make_cycle(config, lm):
    """What a round and an evaluation are."""
    length, size = config.length, config.group
    ask, check = jax.vmap(sums.prompt), jax.vmap(sums.check)

    def own(params, key, asked):
        """One wrong and one right answer to each sum, and whether there are any."""
        many = repeat(asked, size)
        heat = config.heat
        rows = draw(lm, params, key, ask(many), steps=length, temperature=heat)
        found = check(many, rows.tokens, rows.mask)
        wrong, repairable = jax.vmap(first_error)(found, rows.tokens)
        clean = found.right & (found.columns == 2) & (found.steps == 3)
        clean &= jnp.all(rows.tokens[:, :7:6] == COLUMN, 1)
        tokens, mask, wrong, bad, good = groups(
            (rows.tokens, rows.mask, wrong, repairable, clean), size
        )

        def first(x, which):
            return jax.vmap(lambda x, i: x[i])(x, jnp.argmax(which, 1))

        answer = first(tokens, good), first(mask, good)
        return (
            (first(tokens, bad), first(wrong, bad), answer),
            jnp.any(bad, 1),
            jnp.any(good, 1),
        )

    def made_up(key, asked):
        """A careless author's columns beside a careful one's."""
        keys = jax.random.split(key, config.prompts)

        def one(key, problem):
            good = chains.write(key, problem, length=length)
            bad = chains.write(key, problem, length=length, error=0.4)
            found = sums.check(problem, *bad)
            wrong, repairable = first_error(found, bad[0])
            return (bad[0], wrong, good), repairable

        return jax.vmap(one)(keys, asked)

    def gather(params, key, row):
        which, how, author = jax.random.split(key, 3)
        asked = problems(which, sums.Sums(2, 2), config.prompts)
        path, bad, good = own(params, how, asked)
        other, broken = made_up(author, asked)
        teacher = row >= 3
        path = jax.tree.map(lambda x, y: jnp.where(teacher, y, x), path, other)
        spliced = jax.vmap(lambda *x: repair(*x, length))(*path)
        use = jnp.where(teacher, broken, bad & good) & (row > 0)
        keep = jnp.where(teacher, True, good)
        whole = use[:, None]
        tokens = jnp.where(whole, spliced.tokens, path[2][0])
        mask = jnp.where(whole, spliced.valid > 0, path[2][1])
        tokens = jnp.where(mask, tokens, sums.END)
        found = check(asked, tokens, mask)
        step = policy.step_mask(jnp.maximum(found.step_of, 0), ~found.step_right, mask)
        after = jnp.where(whole, spliced.mask, mask)
        train = jnp.stack([mask, mask, after, mask, step])[row]
        rows = written(ask(asked), (tokens, mask))
        return lesson(rows, keep.astype(jnp.float32), train)

    tests = held_out(2, config.tests)
    forced = jax.vmap(
        lambda key, problem: chains.write(key, problem, length=6, error=1.0)[0]
    )(jax.random.split(jax.random.key(7), config.tests), tests)

    def evaluate(params, row, key):
        rows = draw(lm, params, key, ask(tests), steps=length)
        found = check(tests, rows.tokens, rows.mask)
        tokens, mask = ask(tests)
        begun = jnp.ones(forced.shape, bool)
        asked = jnp.concatenate([tokens, forced], 1), jnp.concatenate([mask, begun], 1)
        rest = draw(lm, params, key, asked, steps=length - 6)
        whole = (
            jnp.concatenate([forced, rest.tokens], 1),
            jnp.concatenate([begun, rest.mask], 1),
        )
        repaired = check(tests, *whole)
        shown = (
            found.right,
            repaired.right,
            found.first_wrong < found.columns,
            found.corrections > 0,
        )
        return Figures(*(jnp.mean(x.astype(jnp.float32)) for x in shown))

    return Cycle(gather, evaluate)


def main(config: Config) -> Figures:
    """Prints the table; returns figures ``[row, seed, round]``."""
    lm, params = load(config.start)
    cycle = make_cycle(config, lm)
    sizes = {"steps": config.steps, "batch": config.batch}
    run = make_run(lm, cycle, rounds=config.rounds, **sizes)
    found, rates = compare(
        run,
        params,
        jnp.arange(len(ROWS)),
        config.rates,
        config.seeds,
        lambda x: x.right[:, -1] + x.repaired[:, -1],
    )
    heads = ["rate", "right", "right after a wrong column", "a wrong column"]
    heads.append("a correction")
    print(f"| learned from | {' | '.join(heads)} |\n|---|" + "---|" * len(heads))
    before = " | ".join(f"{x[:, :, 0].mean():.3f}" for x in found)
    print(f"| nothing | – | {before} |")
    for row, name in enumerate(ROWS):
        cells = " | ".join(cell(x[row, :, -1]) for x in found)
        print(f"| {name} | {rates[row]:g} | {cells} |")
    return found


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
