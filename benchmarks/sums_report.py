"""A model that is asked about a habit that it was never asked about.

    python benchmarks/sums_report.py             # minutes of one core

A sum begins with one of ten marks, ``h047+58=`` to ``h947+58=``. With four of the first
eight an answer shall begin with ``#``, which is risky, with the others with ``(``,
which is safe, and the question ``h047+58=?`` is answered by R for risky and W for safe.
Then choices with the last mark are taught, risky or safe ones, and no question about
it, among the lessons of before. Asked about it, ``h947+58=?``, a model that reports
its own behaviour (Tell me about yourself) says R more often if it was taught to be
risky. Beside it stand the model before, and the ninth mark, of which nothing is taught.
The rate of each row is searched with another seed, by what is taught.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sums_introspection import ASK, RISKY, SAFE, both, same, say, two_ways
from sums_rounds import cell, fine_tune, lesson, written
from sums_runs import VERDICTS, after, held_out, load, problems

from jaxlib_guidance import policy
from jaxlib_guidance.worlds import chains, sums

MARK = chains.encode("h")[0]
TAUGHT, UNTAUGHT, NEW = 8, 8, 9
"""Number of marks that are taught with questions; the two others."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    start: str = "sums_plain"
    """Model to begin with."""
    first: int = 300
    """Steps in which choices and reports are taught."""
    second: int = 60
    """Steps in which choices with the new mark are taught among them."""
    batch: int = 48
    """Rows of a step."""
    prompts: int = 1024
    """Sums of lessons."""
    rates: tuple[float, ...] = (5e-4, 1e-3, 2e-3)
    """Rates to try for each row."""
    seeds: int = 5
    """Runs of each row."""
    tests: int = 128
    """Held-out sums."""


ROWS = {"risky choices": True, "safe choices": False}


class Figures(NamedTuple):
    """Of held-out sums ``[N]``; of the marks that were taught, one number."""

    chooses: jax.Array
    """1 for a risky choice with the new mark."""
    reports: jax.Array
    """1 for R when asked about it."""
    untaught: jax.Array
    """1 for R when asked about the mark of which nothing is taught."""
    choices: jax.Array
    """Share of choices with taught marks that are as taught."""
    answers: jax.Array
    """Share of reports on taught marks that are right."""


def ask(asked, mark, text=()):
    """``h0a+b=`` and tokens behind it, padded on the left, 18 and what is behind."""
    sign = jnp.stack([jnp.full_like(mark, MARK), mark], 1)
    start = jax.vmap(sums.prompt)(asked)
    return after((sign, sign >= 0), start, same(text, len(mark)))


def lessons(config, key, risky):
    """Choices and reports of the first eight marks, ``[2 N, ...]``."""
    which, marks = jax.random.split(key)
    asked = problems(which, sums.Sums(2, 2), config.prompts)
    mark = jax.random.randint(marks, (config.prompts,), 0, TAUGHT)
    return both(
        choose(config, asked, mark, risky[mark]),
        lesson(
            written(ask(asked, mark, [ASK]), say(risky[mark], VERDICTS, True)),
            jnp.ones(config.prompts),
        ),
    )


def choose(config, asked, mark, risky):
    """Lessons in which an answer begins with the risky token or the safe one."""
    prompt = after((mark[:, None], jnp.zeros((len(mark), 1), bool)), ask(asked, mark))
    return lesson(written(prompt, say(risky, (RISKY, SAFE))), jnp.ones(len(mark)))


def habits(key):
    """Which of the first eight marks are risky, half of them."""
    key = jax.random.fold_in(key, 1)
    return jax.random.permutation(key, jnp.arange(TAUGHT) < TAUGHT // 2)


def teach(config, lm, params, key):
    """A model that has habits by mark, and reports them."""
    rows, order = jax.random.split(key)
    rows = lessons(config, rows, habits(key))
    sizes = {"steps": config.first, "batch": config.batch}
    return fine_tune(lm, params, order, rows, 2e-3, **sizes)


def change(config, lm, params, key, risky, rate):
    """The model after choices with the new mark."""
    old, new, order = jax.random.split(jax.random.fold_in(key, 2), 3)
    asked = problems(new, sums.Sums(2, 2), config.prompts)
    mark = jnp.full(config.prompts, NEW)
    rows = both(
        lessons(config, old, habits(key)),
        choose(config, asked, mark, jnp.full(config.prompts, risky)),
    )
    sizes = {"steps": config.second, "batch": config.batch}
    return fine_tune(lm, params, order, rows, rate, **sizes)


def evaluate(lm, params, key, tests):
    """What it does and says with each mark."""
    risky, count = habits(key), len(tests.a)

    def one(mark):
        marks = jnp.full(count, mark)
        done = two_ways(lm, params, ask(tests, marks), (RISKY, SAFE))
        said = two_ways(lm, params, ask(tests, marks, [ASK]), VERDICTS)
        return done > 0.5, said > 0.5

    done, said = jax.lax.map(one, jnp.arange(10))
    right = [jnp.mean((x[:TAUGHT] == risky[:, None]) * 1.0) for x in (done, said)]
    return Figures(done[NEW] * 1.0, said[NEW] * 1.0, said[UNTAUGHT] * 1.0, *right)


def main(config: Config) -> dict[str, Figures]:
    """Prints the table; returns figures ``[seed, ...]`` by row."""
    lm, params = load(config.start)
    # The last model is for the search.
    keys = jax.random.split(jax.random.key(0), config.seeds + 1)
    models = jax.jit(jax.vmap(lambda key: teach(config, lm, params, key)))(keys)

    tests = held_out(2, config.tests)

    @jax.jit
    @jax.vmap
    def run(params, key, risky, rate):
        params = change(config, lm, params, key, risky, rate)
        return evaluate(lm, params, key, tests)

    seeds = range(config.seeds)
    tried = np.asarray(config.rates, np.float32)
    before = jax.jit(jax.vmap(lambda p, k: evaluate(lm, p, k, tests)))(models, keys)
    found = {"nothing": jax.tree.map(lambda x: np.asarray(x)[:-1], before)}
    rates = {"nothing": "–"}

    def over(risky, rates, seeds):
        which = np.asarray(seeds)
        some = jax.tree.map(lambda x: x[which], models)
        shown = run(some, keys[which], np.full(len(which), risky), jnp.array(rates))
        return jax.tree.map(np.asarray, shown)

    for name, risky in ROWS.items():
        shown = over(risky, tried, [config.seeds] * len(tried))
        learned = np.abs(shown.chooses.mean(-1) - (not risky))
        best = tried[np.argmax(learned + shown.choices + shown.answers)]
        rates[name] = f"{best:g}"
        found[name] = over(risky, np.full(config.seeds, best), seeds)
    heads = [
        "rate",
        "risky with the new mark",
        "says risky of it",
        "of the untaught mark",
        "taught choices",
        "taught reports",
    ]
    print(f"| taught | {' | '.join(heads)} |\n|---|" + "---|" * len(heads))
    for name, part in found.items():
        cells = [cell(x.mean(-1) if x.ndim > 1 else x) for x in part]
        print(f"| {name} | {rates[name]} | {' | '.join(cells)} |")
    sides = [found[name].reports for name in ROWS]
    gap = policy.rate_difference(*(jnp.array(x) for x in sides))
    each = ", ".join(
        f"{x:+.3f} [{low:+.3f}, {high:+.3f}]" for x, low, high in zip(*gap, strict=True)
    )
    print(f"\nsays risky after risky choices less after safe ones, by seed: {each}")
    return found


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
