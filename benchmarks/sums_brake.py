"""Answers that go on after the solution: what of them should train.

    python benchmarks/sums_brake.py              # minutes of one core

The model is first taught to do most sums twice. Then it learns in rounds from its own
right answers: as they are; the shortest of each sum; cut at the first right solution;
or braked by the score of overthinking (Self-Braking Tuning), where the first steps of
too much are kept and do not train, or train as well; or cut after the second solution,
which is kept and does not train (its exact form). The rate of each row is searched
with another seed.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from sums_rounds import Cycle, cell, compare, fine_tune, lesson, make_run, written
from sums_runs import draw, groups, held_out, load, problems, repeat

from jaxlib_guidance import policy
from jaxlib_guidance.worlds import chains, sums

MARKS = chains.encode("wx")


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    start: str = "sums_checker"
    """Model to begin with."""
    taught: int = 60
    """Steps in which it is taught to overthink."""
    rounds: int = 2
    """Rounds of sampling and fine-tuning."""
    prompts: int = 32
    """Sums of a round."""
    group: int = 4
    """Answers to each."""
    length: int = 48
    """Places of an answer."""
    tau: float = 0.2
    """Score from which an answer brakes."""
    margin: float = 0.1
    """Score beyond ``tau`` up to which overthinking stays as context."""
    steps: int = 20
    """Steps of fine-tuning in a round."""
    batch: int = 16
    """Answers of a step."""
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    """Rates to try for each row."""
    seeds: int = 3
    """Runs of each row."""
    tests: int = 96
    """Held-out sums."""


ROWS = (
    "right answers as they are",
    "the shortest right answer",
    "cut at the first solution",
    "braked, all that is kept trains",
    "braked, too much does not train (SBT-D)",
    "cut after the second solution, which does not train (SBT-E)",
)


class Figures(NamedTuple):
    """Of held-out sums, answered at temperature 1."""

    right: jax.Array
    tokens: jax.Array
    again: jax.Array
    score: jax.Array


def overthinking(found, rows, most):
    """Scores up to each step ``[S]``, and whether there is such a step."""
    index = jnp.arange(most)
    upto = index[:, None] >= found.step_of
    marks = jnp.isin(rows[0], jnp.array(MARKS)) & rows[1]
    markers = jnp.sum(upto & marks, 1)
    tokens = jnp.sum(upto & rows[1], 1)
    steps = index + 1
    first = jnp.minimum(found.first_solution + 1, steps)
    scores = policy.overthink_score(first, steps, markers, tokens)
    return scores, index < found.steps


def braked(config, found, rows, method):
    """The answer as a row learns from it: tokens, mask, and what trains."""
    tokens, mask = rows
    scores, exists = overthinking(found, rows, 24)
    brake = policy.brake_point(scores, exists, tau=config.tau, margin=config.margin)
    index = jnp.arange(24)
    once = index <= found.first_solution
    later = (tokens == sums.SOLUTION) & mask & (found.step_of > found.first_solution)
    twice = index <= jnp.min(jnp.where(later, found.step_of, 24))
    kinds = [jnp.ones(24, bool)] * 2 + [once] + [brake.keep > 0] * 2 + [twice]
    keep = jnp.stack(kinds)[method]
    trains = keep & jnp.stack([keep] * 4 + [brake.train > 0, once])[method]
    # The end belongs to no step: it follows what is kept, and always trains.
    inside = mask & (tokens != sums.END)
    step = jnp.maximum(found.step_of, 0)
    kept, trained = inside & keep[step], inside & trains[step]
    count = jnp.sum(kept)
    place = jnp.arange(tokens.shape[0])
    seen = place <= count
    tokens = jnp.where(place < count, tokens, sums.END)
    return tokens, seen, (trained & kept) | (place == count)


def teach(config, lm, params):
    """A model that does most sums twice."""
    world = sums.Sums(2, 2)
    keys = jax.random.split(jax.random.key(3), 1024)
    asked = problems(jax.random.key(4), world, 1024)
    habits = {"error": 0.05, "recheck": 0.3, "again": 0.8}
    answer = jax.vmap(
        lambda key, x: chains.write(key, x, length=config.length, **habits)
    )(keys, asked)
    rows = lesson(written(jax.vmap(sums.prompt)(asked), answer), jnp.ones(1024))
    sizes = {"steps": config.taught, "batch": 32}
    tune = jax.jit(lambda params: fine_tune(lm, params, keys[0], rows, 2e-3, **sizes))
    return tune(params)


def make_cycle(config, lm):
    """What a round and an evaluation are."""
    ask, check = jax.vmap(sums.prompt), jax.vmap(sums.check)
    size = config.group

    def gather(params, key, method):
        which, how = jax.random.split(key)
        asked = repeat(problems(which, sums.Sums(2, 2), config.prompts), size)
        rows = draw(lm, params, how, ask(asked), steps=config.length)
        found = check(asked, rows.tokens, rows.mask)
        parts = jax.vmap(lambda *x: braked(config, *x, method))(
            found, (rows.tokens, rows.mask)
        )
        rows = rows._replace(tokens=parts[0], mask=parts[1])
        right, length = groups((found.right, found.length), size)
        length = jnp.where(right, length, 1000)
        shortest = length == jnp.min(length, 1, keepdims=True)
        kept = jnp.where((method == 1) & right, shortest, right)
        return lesson(rows, kept.reshape(-1).astype(jnp.float32), parts[2])

    tests = held_out(2, config.tests)

    def evaluate(params, method, key):
        rows = draw(lm, params, key, ask(tests), steps=config.length)
        found = check(tests, rows.tokens, rows.mask)
        scores, exists = jax.vmap(lambda *x: overthinking(*x, 24))(
            found, (rows.tokens, rows.mask)
        )
        last = jnp.sum(exists, 1) - 1
        score = jax.vmap(lambda x, i: x[i])(scores, last)
        shown = found.right, found.length, found.solutions > 1, score
        return Figures(*(jnp.mean(x.astype(jnp.float32)) for x in shown))

    return Cycle(gather, evaluate)


def main(config: Config) -> Figures:
    """Prints the table; returns figures ``[row, seed, round]``."""
    lm, params = load(config.start)
    params = teach(config, lm, params)
    cycle = make_cycle(config, lm)
    sizes = {"steps": config.steps, "batch": config.batch}
    run = make_run(lm, cycle, rounds=config.rounds, **sizes)
    # Accuracy decides, and what it costs where that is the same.
    found, rates = compare(
        run,
        params,
        jnp.arange(len(ROWS)),
        config.rates,
        config.seeds,
        lambda x: x.right[:, -1] - 0.01 * x.tokens[:, -1],
    )
    heads = ["rate", "right", "tokens", "a second solution", "overthinking"]
    print(f"| learned from | {' | '.join(heads)} |\n|---|" + "---|" * len(heads))
    before = " | ".join(f"{x[:, :, 0].mean():.3g}" for x in found)
    print(f"| nothing | – | {before} |")
    for row, name in enumerate(ROWS):
        last = [x[row, :, -1] for x in found]
        places = (3, 1, 2, 2)
        cells = " | ".join(cell(*x) for x in zip(last, places, strict=True))
        print(f"| {name} | {rates[row]:g} | {cells} |")
    return found


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
