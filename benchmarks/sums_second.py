"""A second try that is told which digit of the first was wrong.

    python benchmarks/sums_second.py             # minutes of one core

The model answers, is told the leftmost digit that is wrong, or that none is, and
answers again. SCoRe trains both answers in two stages: the second alone, while a KL
penalty holds the first; then both, and progress from the first to the second pays. The
second stage alone stands beside it, GRPO on both answers without a price of progress,
GRPO on first answers only, and fine-tuning on corrections: right second answers after
wrong first ones. All draw as many answers; the rate of each is searched with another
seed.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from sums_rounds import cell
from sums_runs import (
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
from jaxlib_guidance.reduce import finalize, masked_mean
from jaxlib_guidance.worlds import sums


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    start: str = "sums_plain"
    """Model to begin with."""
    updates: int = 150
    """Updates of each run; SCoRe's first stage is half of them."""
    prompts: int = 4
    """Sums of an update."""
    group: int = 8
    """First answers to each, and as many second ones."""
    alpha: float = 2.0
    """Price of progress."""
    beta: float = 0.1
    """KL penalty of the first answer in the first stage; a tenth of it for both in the
    second."""
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    """Rates to try for each row."""
    seeds: int = 3
    """Runs of each row."""
    tests: int = 256
    """Held-out sums."""


ROWS = (
    "first answers, GRPO",
    "both answers, GRPO",
    "corrections, fine-tuning",
    "second stage of SCoRe",
    "SCoRe",
)


class Figures(NamedTuple):
    """Of held-out sums, answered at temperature 1."""

    first: jax.Array
    second: jax.Array
    mended: jax.Array
    """Share of wrong first answers after which the second is right."""
    spoiled: jax.Array
    """Share of right first answers after which the second is wrong."""


def make_plan(config, lm, reference):
    """What an update and an evaluation are."""
    size = config.group
    direct = jax.vmap(lambda p: sums.prompt(p, direct=True))
    follow = jax.vmap(lambda p, x: sums.follow_up(p, x, judge=False))

    def both(params, key, asked):
        one, two = jax.random.split(key)
        rows = draw(lm, params, one, direct(asked))
        first = check_direct(asked, rows)
        more = draw(lm, params, two, follow(asked, first.answer))
        return (rows, first.right * 1.0), (more, check_direct(asked, more).right * 1.0)

    def collect(params, key, row, update):
        which, how = jax.random.split(key)
        asked = repeat(problems(which, sums.Sums(2, 2), config.prompts), size)
        first, second = both(params, how, asked)
        # Who learns from first answers alone draws others in place of the second.
        other = draw(lm, params, jax.random.fold_in(how, 2), direct(asked))
        right = check_direct(asked, other).right * 1.0
        second = jax.tree.map(
            lambda x, y: jnp.where(row == 0, x, y), (other, right), second
        )
        early = (row == 4) & (2 * update < config.updates)
        return (groups((first, second), size), early), update + 1

    def loss(params, batch, row):
        pairs, early = batch
        rewards = [right for _, right in pairs]
        logp = [score(lm, params, rows) for rows, _ in pairs]
        plain = [
            finalize(policy.grpo(x, rows.old, right, rows.mask))[0]
            for x, (rows, right) in zip(logp, pairs, strict=True)
        ]
        second, after = pairs[1]
        # Right second answers after wrong first ones.
        kept = second.mask * (after * (1 - rewards[0]))[..., None]
        clone = masked_mean(policy.nll(logp[1], kept), kept)

        def by_stage(stage, beta):
            paid = policy.score_rewards(*rewards, stage=stage, alpha=config.alpha)
            gain = paid - jnp.mean(paid, 1, keepdims=True)
            total = 0.0
            for turn, (x, (rows, _)) in enumerate(zip(logp, pairs, strict=True)):
                each = policy.reinforce(x, gain[..., turn], rows.mask)
                flat = [y.reshape(-1, y.shape[-1]) for y in (x, rows.mask)]
                old = score(lm, reference, rows).reshape(flat[0].shape)
                turns = jnp.full(flat[0].shape, turn)
                held = policy.score_kl(flat[0], old, turns, jnp.array(beta), flat[1])
                total += masked_mean(each, rows.mask) + masked_mean(held, flat[1])
            return total

        stages = [by_stage(1, (config.beta, 0.0)), by_stage(2, (config.beta / 10,) * 2)]
        score_loss = jnp.where(early, *stages)
        alone, pair = plain[0] + plain[1], plain[0] + plain[1]
        return jnp.stack([alone, pair, clone, stages[1], score_loss])[row]

    tests = held_out(2, config.tests)

    def evaluate(params, row, key):
        (_, first), (_, second) = both(params, key, tests)
        mended = masked_mean(second, 1 - first)
        spoiled = masked_mean(1 - second, first)
        return Figures(jnp.mean(first), jnp.mean(second), mended, spoiled)

    return Plan(collect, loss, evaluate, lambda key: jnp.int32(0))


def main(config: Config) -> Figures:
    """Prints the table; returns figures ``[row, seed, before and after]``."""
    lm, params = load(config.start)
    plan = make_plan(config, lm, params)
    sizes = {"updates": config.updates, "every": config.updates}
    count, tried = len(ROWS), jnp.array(config.rates)
    rows, rates = jnp.arange(count), jnp.full(count, tried[0])
    if len(tried) > 1:
        each, rate = jnp.repeat(rows, len(tried)), jnp.tile(tried, count)
        searched = learn(plan, params, each, rate=rate, seeds=1, first=1000, **sizes)
        last = searched.second[:, 0, -1].reshape(count, -1)
        rates = tried[jnp.argmax(last, 1)]
    found = learn(plan, params, rows, rate=rates, seeds=config.seeds, **sizes)
    heads = ["rate", "first", "second", "second - first", "mended", "spoiled"]
    print(f"| trained on | {' | '.join(heads)} |\n|---|" + "---|" * len(heads))
    for index, name in enumerate(["nothing", *ROWS]):
        row, time = max(index - 1, 0), -1 if index else 0
        part = Figures(*(x[row, :, time] for x in found))
        gain = part.second - part.first
        cells = [cell(x) for x in (part.first, part.second, gain, *part[2:])]
        rate = f"{rates[row]:g}" if index else "–"
        print(f"| {name} | {rate} | {' | '.join(cells)} |")
    return found


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
