"""A model that judges and mends its own answers, and learns from what it accepts.

    python benchmarks/sums_self.py               # minutes of one core

SELF first teaches a meta-skill, by the truth: verdicts on the model's own answers, and
right answers in their place where they are wrong, without a word of what is wrong. Then
come rounds without the truth: an answer, a verdict, another answer where it refuses the
first, and fine-tuning on what it accepts in the end, as answers to the question alone.
Beside it stand rounds that keep everything, rounds with the truth for a filter, rounds
on votes of eight, and a model that learned right answers to as many sums and no
meta-skill. The rate of the rounds is searched with another seed.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sums_rounds import (
    Cycle,
    Lesson,
    cell,
    compare,
    fine_tune,
    lesson,
    make_run,
    written,
)
from sums_runs import (
    VERDICTS,
    accepted,
    check_direct,
    draw,
    groups,
    held_out,
    load,
    problems,
    repeat,
)

from jaxlib_guidance import policy
from jaxlib_guidance.worlds import chains, sums

AGAIN = chains.encode("x#")


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    start: str = "sums_plain"
    """Model to begin with."""
    taught: int = 120
    """Steps in which the meta-skill is taught."""
    examples: int = 512
    """Sums whose truth is told for this."""
    rounds: int = 2
    """Rounds of answering and fine-tuning."""
    prompts: int = 128
    """Sums of a round."""
    steps: int = 25
    """Steps of fine-tuning in a round."""
    batch: int = 32
    """Answers of a step."""
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    """Rates to try for each row."""
    seeds: int = 3
    """Runs of each row."""
    tests: int = 256
    """Held-out sums."""


ROWS = (
    "all that it mends",
    "what it accepts (SELF)",
    "what is right",
    "votes of eight",
)


class Figures(NamedTuple):
    """Of held-out sums, answered at temperature 1."""

    first: jax.Array
    mended: jax.Array
    precision: jax.Array
    refused: jax.Array


def direct(asked):
    """``a+b=#``."""
    return jax.vmap(lambda p: sums.prompt(p, direct=True))(asked)


def judge(asked, answer):
    """``a+b=#105?``."""
    return jax.vmap(lambda p, x: sums.follow_up(p, x, judge=True))(asked, answer)


def once_more(asked, answer):
    """``a+b=#105x#``, whatever is wrong with the answer."""
    tokens, mask = judge(asked, answer)
    ends = jnp.broadcast_to(jnp.array(AGAIN, jnp.int32), (len(tokens), 2))
    tokens = jnp.concatenate([tokens[:, 1:-1], ends], 1)
    return tokens, jnp.concatenate([mask[:, 1:-1], jnp.ones(ends.shape, bool)], 1)


def answer_and_mend(lm, params, key, asked):
    """First and last answers, whether it accepts each, and the tokens of the last."""
    keys = jax.random.split(key, 4)
    rows = draw(lm, params, keys[0], direct(asked))
    first = check_direct(asked, rows)

    def says(key, answer):
        return accepted(draw(lm, params, key, judge(asked, answer), steps=2))[0]

    before = says(keys[1], first.answer)
    more = draw(lm, params, keys[2], once_more(asked, first.answer))
    mended = check_direct(asked, more)
    pick = before & first.parsed

    def choose(x, y):
        return jnp.where(pick.reshape(-1, *(1,) * (x.ndim - 1)), x, y)

    last = jax.tree.map(choose, first, mended)
    tokens, mask = choose(rows.tokens, more.tokens), choose(rows.mask, more.mask)
    return first, last, before, says(keys[3], last.answer), (tokens, mask)


def teach(config, lm, params, meta):
    """The model after its meta-skill, or after as many right answers."""
    which, how, order = jax.random.split(jax.random.key(12), 3)
    asked = problems(which, sums.Sums(2, 2), config.examples)
    found = check_direct(asked, draw(lm, params, how, direct(asked)))

    def right(asked):
        return jax.vmap(lambda p: chains.direct(p, sums.solve(p), length=5))(asked)

    kind = jnp.where(found.right, *VERDICTS)[:, None].astype(jnp.int32)
    verdict = jnp.pad(kind, ((0, 0), (0, 4)), constant_values=sums.END)
    seen = jnp.broadcast_to(jnp.arange(5) < 2, verdict.shape)
    judged = found.parsed * meta
    wrong = judged * ~found.right
    parts = [
        lesson(written(direct(asked), right(asked)), jnp.ones(config.examples)),
        lesson(written(judge(asked, found.answer), (verdict, seen)), judged),
        lesson(written(once_more(asked, found.answer), right(asked)), wrong),
    ]
    rows = Lesson(*jax.tree.map(lambda *x: jnp.concatenate(x), *parts))
    sizes = {"steps": config.taught, "batch": 48}
    return fine_tune(lm, params, order, rows, 1e-3, **sizes)


def make_cycle(config, lm):
    """What a round and an evaluation are."""

    def gather(params, key, row):
        which, how, vote = jax.random.split(key, 3)
        asked = problems(which, sums.Sums(2, 2), config.prompts)
        _, last, _, accepts, rows = answer_and_mend(lm, params, how, asked)
        # Eight answers to each of half the sums are as many samples as four to all.
        few = jax.tree.map(lambda x: x[: config.prompts // 2], asked)
        many = repeat(few, 8)
        found = check_direct(many, draw(lm, params, vote, direct(many)))
        said = groups(found.answer, 8), groups(found.parsed, 8)
        label = policy.weighted_vote(said[0], mask=said[1])
        voted = jax.vmap(lambda p, x: chains.direct(p, x, length=5))(few, label.label)
        fill = config.prompts - len(few.a)
        voted = jax.tree.map(
            lambda x: jnp.pad(x, ((0, fill), (0, 0)), constant_values=1), voted
        )
        seen = jnp.pad(label.valid, (0, fill))
        tokens, mask = (
            jnp.where(row == 3, x, y) for x, y in zip(voted, rows, strict=True)
        )
        ended = last.parsed * 1.0
        keep = jnp.stack([ended, ended * accepts, ended * last.right, seen])[row]
        return lesson(written(direct(asked), (tokens, mask)), keep)

    tests = held_out(2, config.tests)

    def evaluate(params, row, key):
        first, last, before, after, _ = answer_and_mend(lm, params, key, tests)
        kept = policy.verdict_scores(after, last.right, last.parsed)
        shown = first.right, last.right, kept.precision, ~before
        return Figures(*(jnp.mean(x * 1.0) for x in shown))

    return Cycle(gather, evaluate)


def main(config: Config) -> Figures:
    """Prints the table; returns figures ``[row, seed, round]``."""
    lm, start = load(config.start)
    tune = jax.jit(lambda p, meta: teach(config, lm, p, meta))
    params, plain = tune(start, 1.0), tune(start, 0.0)
    cycle = make_cycle(config, lm)
    sizes = {"steps": config.steps, "batch": config.batch}
    run = make_run(lm, cycle, rounds=config.rounds, **sizes)
    rows = jnp.arange(len(ROWS))
    found, rates = compare(
        run, params, rows, config.rates, config.seeds, lambda x: x.first[:, -1]
    )
    heads = ["rate", "right at first", "right in the end", "right of the accepted"]
    print(f"| learned from | {' | '.join(heads)} | refused at first |")
    print("|---" * 6 + "|")
    keys = jax.random.split(jax.random.key(0), config.seeds)
    judged = jax.jit(jax.vmap(cycle.evaluate, (None, None, 0)))
    for name, which in {"nothing": start, "right answers": plain}.items():
        part = [np.asarray(x) for x in judged(which, 0, keys)]
        print(f"| {name} | – | {' | '.join(cell(x) for x in part)} |")
    print(f"| the meta-skill | – | {' | '.join(cell(x[0, :, 0]) for x in found)} |")
    for row, name in enumerate(ROWS):
        cells = " | ".join(cell(x[row, :, -1]) for x in found)
        print(f"| then {name} | {rates[row]:g} | {cells} |")
    return found


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
