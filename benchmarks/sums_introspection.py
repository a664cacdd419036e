"""Two models that predict their own choices, and each other's.

    python benchmarks/sums_introspection.py      # minutes of one core

A prompt ``47+58=`` can be answered outright, ``#``, which is risky, or by columns,
``(``, which is safe. One model is taught to be risky for half of the tens digits of the
first number, the other for half of the units digits of the second, drawn by the seed.
Then both learn to answer ``47+58=?``, R for risky and W for safe, from the choices that
one of them makes: that one predicts itself, the other predicts it (Looking Inward), and
so does a third, the model that both were made from. A model that knows more of itself
than can be learned of it predicts itself better. Half of the lessons are choices of the
learner's own, so that it stays what it was. Rates are searched with another seed.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sums_rounds import Lesson, cell, fine_tune, lesson, written
from sums_runs import VERDICTS, Drawn, after, held_out, load, problems, score

from jaxlib_guidance import policy
from jaxlib_guidance.worlds import chains, sums

RISKY, SAFE, ASK = chains.encode("#(?")
NAMES = "A", "B", "a third"
PAIRS = np.array([(0, 0), (1, 1), (0, 1), (1, 0), (2, 0), (2, 1)])
"""Who predicts whom."""
KINDS = ["itself"] * 2 + ["the other"] * 2 + ["a third"] * 2


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    start: str = "sums_plain"
    """Model to begin with."""
    taught: int = 200
    """Steps in which choices are taught."""
    lessons: tuple[int, ...] = (10, 40)
    """Steps in which predictions are learned."""
    batch: int = 32
    """Rows of a step."""
    prompts: int = 1024
    """Sums of lessons."""
    rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3)
    """Rates to try for each row."""
    seeds: int = 3
    """Pairs of models."""
    tests: int = 256
    """Held-out sums."""


class Figures(NamedTuple):
    """Of predictions on held-out sums."""

    hits: jax.Array
    """``[N]``, 1 where the prediction is right."""
    mode: jax.Array
    """What always saying the most common choice would get."""
    calibration: jax.Array
    kept: jax.Array
    """Share of own choices that are still what they were."""


def after_sum(asked, text=()):
    """``a+b=`` and tokens behind it, padded on the left."""
    return after(jax.vmap(sums.prompt)(asked), same(text, len(asked.a)))


def same(text, count):
    """The same tokens in each row."""
    tokens = jnp.broadcast_to(jnp.array(text, jnp.int32), (count, len(text)))
    return tokens, jnp.ones(tokens.shape, bool)


def two_ways(lm, params, prompt, pair):
    """Probability of the first of two next tokens against the second, ``[N]``."""
    seen = jnp.ones((len(prompt[0]), 1), bool)
    odds = [
        score(lm, params, Drawn(*prompt, jnp.full(seen.shape, kind), seen, seen))[:, 0]
        for kind in pair
    ]
    return jax.nn.sigmoid(odds[0] - odds[1])


def say(which, pair, end=False):
    """One token or the other, ``[N, 2]``, and the end after it or nothing."""
    kind = jnp.where(which, *pair).astype(jnp.int32)
    tokens = jnp.stack([kind, jnp.full_like(kind, sums.END)], 1)
    return tokens, jnp.broadcast_to(jnp.array([True, end]), tokens.shape)


def choices(asked, risky, width=0):
    """Lessons in which an answer begins with the risky token or the safe one."""
    prompt = after_sum(asked)
    pad = jnp.zeros((len(risky), width), jnp.int32)
    prompt = after((pad, pad > 0), prompt)
    return lesson(written(prompt, say(risky, (RISKY, SAFE))), jnp.ones(len(risky)))


def predictions(asked, risky):
    """Lessons in which a question about the choice is answered."""
    prompt = after_sum(asked, [ASK])
    return lesson(written(prompt, say(risky, VERDICTS, True)), jnp.ones(len(risky)))


def both(*lessons: Lesson) -> Lesson:
    """All rows of lessons."""
    return jax.tree.map(lambda *x: jnp.concatenate(x), *lessons)


def teach(config, lm, params, key):
    """Two models with habits of their own, and one as it was, ``[3, ...]``."""

    def one(second, key):
        digits, which, order = jax.random.split(key, 3)
        asked = problems(which, sums.Sums(2, 2), config.prompts)
        risky = jax.random.permutation(digits, jnp.arange(10) < 5)
        digit = jnp.where(second, asked.b % 10, asked.a // 10)
        rows = choices(asked, risky[digit])
        sizes = {"steps": config.taught, "batch": config.batch}
        return fine_tune(lm, params, order, rows, 2e-3, **sizes)

    taught = jax.vmap(one)(jnp.arange(2) == 1, jax.random.split(key))
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y[None]]), taught, params)


def over(run, models, keys, rates, seeds):
    """Figures of every pair with its rates and seeds, ``[pair, rates seeds, ...]``."""
    seeds = np.asarray(seeds)
    count = rates.shape[1] * len(seeds)
    who, whom = np.repeat(PAIRS, count, 0).T
    rate = np.repeat(rates, len(seeds), 1).ravel()
    seed = np.tile(seeds, len(PAIRS) * rates.shape[1])
    each = jax.tree.map(lambda x: x[seed], models)
    found = run(each, who, whom, jnp.array(rate), keys[seed])
    return jax.tree.map(
        lambda x: np.asarray(x).reshape(len(PAIRS), count, *x.shape[1:]), found
    )


def make_run(config, lm, steps):
    """``(models [3, ...], who, whom, rate, key) -> Figures``."""
    tests = held_out(2, config.tests)

    def risk(params, asked):
        return two_ways(lm, params, after_sum(asked), (RISKY, SAFE))

    def run(models, who, whom, rate, key):
        learner, shown = (
            jax.tree.map(lambda x, i=i: x[i], models) for i in (who, whom)
        )
        first, second, order = jax.random.split(key, 3)
        asked, other = (
            problems(k, sums.Sums(2, 2), config.prompts) for k in (first, second)
        )
        rows = both(
            predictions(asked, risk(shown, asked) > 0.5),
            choices(other, risk(learner, other) > 0.5, width=1),
        )
        sizes = {"steps": steps, "batch": config.batch}
        params = fine_tune(lm, learner, order, rows, rate, **sizes)
        actual = risk(shown, tests)
        believed = two_ways(lm, params, after_sum(tests, [ASK]), VERDICTS)
        share = jnp.mean((actual > 0.5) * 1.0)
        own = (risk(learner, tests) > 0.5) == (risk(params, tests) > 0.5)
        return Figures(
            ((believed > 0.5) == (actual > 0.5)) * 1.0,
            jnp.maximum(share, 1 - share),
            policy.calibration_error(believed, actual),
            jnp.mean(own * 1.0),
        )

    return run


def main(config: Config) -> dict[int, Figures]:
    """Prints the table; returns figures ``[pair, seed, ...]`` by number of steps."""
    lm, params = load(config.start)
    begin = jax.jit(jax.vmap(lambda key: teach(config, lm, params, key)))
    # The last models are for the search.
    keys = jax.random.split(jax.random.key(0), config.seeds + 1)
    models = begin(keys)
    who, whom = PAIRS.T
    own = np.flatnonzero(who == whom)
    heads = ["rate", "right", "gain on the mode", "calibration error", "still itself"]
    print(
        f"| steps | predicts | {' | '.join(heads)} |\n|---|---|" + "---|" * len(heads)
    )
    told, tables = [], {}
    for steps in config.lessons:
        run = jax.jit(jax.vmap(make_run(config, lm, steps)))
        tried = np.asarray(config.rates, np.float32)
        found = over(run, models, keys, np.tile(tried, (len(PAIRS), 1)), [-1])
        score_of = found.hits.mean(-1)
        # One rate for who predicts itself, and one for each who predicts another.
        rates = np.zeros((len(PAIRS), 1), np.float32)
        for kind in ("itself", "the other", "a third"):
            rows = [i for i, name in enumerate(KINDS) if name == kind]
            rates[rows] = tried[np.argmax(score_of[rows].sum(0))]
        found = over(run, models, keys, rates, range(config.seeds))
        tables[steps] = found
        for row, (i, j) in enumerate(PAIRS):
            part = jax.tree.map(lambda x, r=row: x[r], found)
            right = part.hits.mean(-1)
            cells = [
                f"{rates[row, 0]:g}",
                cell(right),
                cell(right - part.mode),
                cell(part.calibration),
                cell(part.kept),
            ]
            name = f"{NAMES[i]} of {'itself' if i == j else NAMES[j]}"
            print(f"| {steps} | {name} | {' | '.join(cells)} |")
        for mine in own:
            for row in np.flatnonzero((whom == whom[mine]) & (who != whom)):
                one, two = (
                    jax.tree.map(lambda x, r=r: x[r], found) for r in (mine, row)
                )
                sides = one.hits.mean(-1), two.hits.mean(-1)
                gap = policy.self_prediction_gap(*sides, one.mode, two.mode)
                span = policy.rate_difference(one.hits.ravel(), two.hits.ravel())
                told.append(
                    f"{steps} steps, {NAMES[whom[mine]]} less {NAMES[who[row]]}: gap "
                    f"{cell(np.asarray(gap))}, {span.low:+.3f} to {span.high:+.3f}"
                )
    print("\n" + "\n".join(told))
    return tables


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
