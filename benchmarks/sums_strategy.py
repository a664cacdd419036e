"""Which way to answer at the first try: at once, or by columns.

    python benchmarks/sums_strategy.py           # minutes of one core

The model can say a sum at once or work it out by columns, which has three times the
tokens and fails for other sums. It tries the way that it would choose, and the other if
that failed, and learns to begin with what it ended with (SMART), without the truth of a
sum at test time; or it tries them in an order that is fixed. Beside it stand the model
before, either way alone, a coin, trying both, and the oracle that knows which way
succeeds. The rate is searched with another seed.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from sums_rounds import Cycle, cell, compare, lesson, make_run
from sums_runs import Drawn, draw, held_out, load, problems

from jaxlib_guidance import policy
from jaxlib_guidance.worlds import chains, sums

WAYS = chains.encode("#(")
"""First tokens of the two ways."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    models: tuple[str, ...] = ("sums_plain", "sums_checker")
    """Models to begin with."""
    rounds: int = 3
    """Rounds of trying and learning."""
    prompts: int = 96
    """Sums of a round, of one and of two digits."""
    length: int = 32
    """Places of an answer."""
    steps: int = 20
    """Steps of learning in a round."""
    batch: int = 32
    """Sums of a step."""
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    """Rates to try for each row."""
    seeds: int = 3
    """Runs of each row."""
    tests: int = 96
    """Held-out sums of each number of digits."""


ROWS = ("own choice first (SMART)", "at once first", "columns first")


class Figures(NamedTuple):
    """Of held-out sums, answered at temperature 1."""

    right: jax.Array
    tokens: jax.Array
    once: jax.Array
    columns: jax.Array
    oracle: jax.Array
    both: jax.Array
    """Tokens of trying both, own choice first."""
    at_once: jax.Array
    """Share of answers that begin at once."""
    known: jax.Array
    """Share of answers that begin with the way that succeeds, where one way does."""


def ways(lm, params, key, asked, length):
    """Whether each way succeeds, ``[N, 2]``, and its tokens."""
    prompt, seen = jax.vmap(sums.prompt)(asked)
    one = jnp.ones((len(prompt), 1), bool)
    right, size = [], []
    for way, places in zip(WAYS, (6, length), strict=True):
        first = jnp.full(one.shape, way)
        given = jnp.concatenate([prompt, first], 1), jnp.concatenate([seen, one], 1)
        rest = draw(lm, params, jax.random.fold_in(key, way), given, steps=places - 1)
        tokens = jnp.concatenate([first, rest.tokens], 1)
        mask = jnp.concatenate([one, rest.mask], 1)
        found = jax.vmap(sums.check)(asked, tokens, mask)
        right.append(found.right)
        size.append(found.length)
    return jnp.stack(right, 1), jnp.stack(size, 1)


def make_cycle(config, lm):
    """What a round and an evaluation are."""

    def choose(params, key, asked):
        """The way that the model begins with, ``[N]``."""
        first = draw(lm, params, key, jax.vmap(sums.prompt)(asked), steps=1)
        return (first.tokens[:, 0] == WAYS[1]).astype(jnp.int32)

    def gather(params, key, row):
        which, how, pick = jax.random.split(key, 3)
        asked = problems(which, sums.Sums(1, 2), config.prompts)
        right, _ = ways(lm, params, how, asked, config.length)
        own = choose(params, pick, asked)
        begin = jnp.where(row[1] == 0, own, row[1] - 1)
        order = jnp.stack([begin, 1 - begin], 1)
        first, some = policy.first_success(jnp.take_along_axis(right, order, 1))
        target = jnp.array(WAYS)[jnp.where(first == 0, begin, 1 - begin)][:, None]
        prompt = jax.vmap(sums.prompt)(asked)
        one = jnp.ones(target.shape, bool)
        return lesson(Drawn(*prompt, target, one, one * 0.0), some)

    parts = [held_out(digits, config.tests) for digits in (1, 2)]
    tests = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)

    def evaluate(params, row, key):
        right, size = ways(lm, params, key, tests, config.length)
        chosen = choose(params, key, tests)[:, None]
        own, cost = (
            jnp.take_along_axis(x, chosen, 1)[:, 0] * 1.0 for x in (right, size)
        )
        other = jnp.take_along_axis(size, 1 - chosen, 1)[:, 0]
        both = cost + jnp.where(own > 0, 0, other)
        differ = right[:, 0] != right[:, 1]
        hit = jnp.sum(own * differ) / jnp.maximum(jnp.sum(differ), 1)
        shown = own, cost, right[:, 0], right[:, 1], jnp.any(right, 1), both
        return Figures(
            *(jnp.mean(x * 1.0) for x in shown), 1 - jnp.mean(chosen * 1.0), hit
        )

    return Cycle(gather, evaluate)


def main(config: Config) -> Figures:
    """Prints the table; returns figures ``[row, seed, round]``."""
    loaded = [load(name) for name in config.models]
    lm = loaded[0][0]
    models = jax.tree.map(lambda *x: jnp.stack(x), *(x[1] for x in loaded))
    sizes = {"steps": config.steps, "batch": config.batch}
    tune = make_run(lm, make_cycle(config, lm), rounds=config.rounds, **sizes)

    def run(_, rows, rates, keys):
        return tune(jax.tree.map(lambda x: x[rows[:, 0]], models), rows, rates, keys)

    rows = [(i, j) for i in range(len(loaded)) for j in range(len(ROWS))]
    first = loaded[0][1]
    found, rates = compare(
        run,
        first,
        jnp.array(rows),
        config.rates,
        config.seeds,
        lambda x: x.right[:, -1],
    )
    heads = ["right", "tokens", "begins at once", "with the way that succeeds"]
    print(f"| model | begins with | rate | {' | '.join(heads)} |")
    print("|---" * (len(heads) + 3) + "|")
    for index, (model, order) in enumerate(rows):
        name = config.models[model].removeprefix("sums_")
        part = Figures(*(x[index] for x in found))
        if order == 0:
            start = Figures(*(x[:, 0].mean() for x in part))
            own = start.right, start.tokens, start.at_once, start.known
            cells = " | ".join(f"{x:.3g}" for x in own)
            print(f"| {name} | own choice, before | – | {cells} |")
            print(f"| | always at once | – | {start.once:.3f} | | 1 | |")
            print(f"| | always columns | – | {start.columns:.3f} | | 0 | |")
            print(
                f"| | a coin | – | {(start.once + start.columns) / 2:.3f} | | 0.5 | |"
            )
            both = f"{start.oracle:.3f} | {start.both:.1f}"
            print(f"| | both, until one succeeds | – | {both} | 1 | |")
        last = [x[:, -1] for x in (part.right, part.tokens, part.at_once, part.known)]
        cells = [cell(x, n) for x, n in zip(last, (3, 1, 2, 2), strict=True)]
        way = f"learned, {ROWS[order]} | {rates[index]:g}"
        print(f"| {name} | {way} | {' | '.join(cells)} |")
    return found


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
