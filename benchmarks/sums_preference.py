"""A judge with a tool: pairs of the best and the worst answer, and DPO.

    python benchmarks/sums_preference.py         # minutes of one core

A model answers sums, a judge scores the answers, and DPO prefers the best of each sum
to the worst (Anyprefer). The judge is the model itself, by the probability of its
verdict R; itself with a tool that adds one column, so that a wrong last digit costs a
point; with a calculator, which is the truth; or it is chance. The rate of each is
searched with another seed.
"""

import dataclasses

import jax
import jax.numpy as jnp
from sums_rounds import cell
from sums_runs import (
    VERDICTS,
    Drawn,
    Plan,
    check_direct,
    draw,
    groups,
    held_out,
    learn,
    load,
    problems,
    repeat,
    score,
)

from jaxlib_guidance import policy
from jaxlib_guidance.reduce import masked_mean
from jaxlib_guidance.worlds import sums


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    start: str = "sums_checker"
    """Model to begin with."""
    digits: int = 2
    """Digits of both numbers."""
    updates: int = 30
    """Updates of each run."""
    prompts: int = 4
    """Sums of an update."""
    group: int = 8
    """Answers to each."""
    rates: tuple[float, ...] = (3e-5, 1e-4)
    """Rates to try for each row."""
    seeds: int = 3
    """Runs of each row."""
    tests: int = 256
    """Held-out sums."""


ROWS = ("chance", "the model", "the model and a tool", "a calculator")


def make_plan(config, lm, start):
    """What an update and an evaluation are."""
    size = config.group
    direct = jax.vmap(lambda p: sums.prompt(p, direct=True))

    def belief(params, asked, answer):
        """Log-odds of the verdict R."""
        judge = jax.vmap(lambda p, x: sums.follow_up(p, x, judge=True))(asked, answer)
        seen = jnp.ones((len(answer), 1), bool)
        odds = [
            score(lm, params, Drawn(*judge, jnp.full(seen.shape, kind), seen, seen))
            for kind in VERDICTS
        ]
        return (odds[0] - odds[1])[:, 0]

    def gather(params, key, judge, prompts):
        which, how, chance = jax.random.split(key, 3)
        asked = problems(which, sums.Sums(config.digits, config.digits), prompts)
        asked = repeat(asked, size)
        rows = draw(lm, params, how, direct(asked))
        found = check_direct(asked, rows)
        own = jax.nn.sigmoid(belief(start, asked, found.answer))
        last = found.answer % 10 == sums.solve(asked) % 10
        scores = jnp.stack(
            [
                jax.random.uniform(chance, own.shape),
                own,
                own + last,
                found.right.astype(jnp.float32),
            ]
        )[judge]
        scores = jnp.where(found.parsed, scores, -1.0)
        best = policy.pair_from_scores(groups(scores, size))
        return groups(rows, size), best, groups(found.right, size)

    def collect(params, key, judge, memory):
        return gather(params, key, judge, config.prompts), memory

    def loss(params, batch, judge):
        rows, pairs, _ = batch
        gain = jnp.sum(score(lm, params, rows) - score(lm, start, rows), -1)
        better, worse = (
            jnp.take_along_axis(gain, index[:, None], 1)[:, 0]
            for index in (pairs.chosen, pairs.rejected)
        )
        return masked_mean(policy.dpo(better, worse, beta=0.1), pairs.mask)

    tests = held_out(config.digits, config.tests)

    def evaluate(params, judge, key):
        rows = [draw(lm, params, key, direct(tests), temperature=t) for t in (1.0, 0.0)]
        right = [jnp.mean(check_direct(tests, x).right * 1.0) for x in rows]
        # What the pairs are worth: how often either side is right.
        again = jax.random.fold_in(key, 1)
        _, pairs, truth = gather(params, again, judge, config.tests // size)
        chosen, other = (
            jnp.take_along_axis(truth, index[:, None], 1)[:, 0] * 1.0
            for index in (pairs.chosen, pairs.rejected)
        )
        return jnp.stack(
            [*right, masked_mean(chosen, pairs.mask), masked_mean(other, pairs.mask)]
        )

    return Plan(collect, loss, evaluate)


def main(config: Config) -> jax.Array:
    """Prints the table; returns ``[row, seed, time, figure]``."""
    lm, params = load(config.start)
    plan = make_plan(config, lm, params)
    sizes = {"updates": config.updates, "every": config.updates}
    count, tried = len(ROWS), jnp.array(config.rates)
    rows, rates = jnp.arange(count), jnp.full(count, tried[0])
    if len(tried) > 1:
        each = jnp.repeat(rows, len(tried))
        searched = learn(
            plan,
            params,
            each,
            rate=jnp.tile(tried, count),
            seeds=1,
            first=1000,
            **sizes,
        )
        rates = tried[jnp.argmax(searched[:, 0, -1, 0].reshape(count, -1), 1)]
    found = learn(plan, params, rows, rate=rates, seeds=config.seeds, **sizes)
    heads = ["rate", "sampled", "greedy", "right among preferred", "among the others"]
    print(f"| judge | {' | '.join(heads)} |\n|---|" + "---|" * len(heads))
    before = " | ".join(f"{x:.3f}" for x in found[:, :, 0, :2].mean((0, 1)))
    print(f"| before | – | {before} | | |")
    for row, name in enumerate(ROWS):
        after = [cell(found[row, :, -1, i]) for i in range(2)]
        worth = [f"{found[row, :, 0, i].mean():.3f}" for i in (2, 3)]
        print(f"| {name} | {rates[row]:g} | {' | '.join(after + worth)} |")
    return found


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
