"""A judge whose runs vote, and that learns from its own judgements.

    python benchmarks/sums_judge.py              # minutes of one core

A model that adds is asked ``47+58=#105?`` about four of its own answers to a sum, and
says R or W. Its verdicts differ from run to run, so that it can vote (SPCT): of the
four that answer is taken which most of k runs call right. Then it learns from its
verdicts: by SPCT's reward by rule and GRPO, whether a run called the best answer and
no other right; by pairs of a right and a wrong verdict and DPO (the pairs of
self-rationalization, without rationales); by fine-tuning on its right ones; or from the
truth. The rate of each is searched with another seed.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from sums_rounds import cell
from sums_runs import (
    VERDICTS,
    Drawn,
    Plan,
    accepted,
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
from jaxlib_guidance.reduce import aggregate, finalize, masked_mean
from jaxlib_guidance.worlds import sums


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    start: str = "sums_checker"
    """Model to begin with, whose answers are judged."""
    updates: int = 30
    """Updates of each run."""
    prompts: int = 3
    """Sums of an update, with four answers each."""
    runs: int = 8
    """Verdicts on each answer."""
    rates: tuple[float, ...] = (1e-4, 3e-4)
    """Rates to try for each row."""
    seeds: int = 3
    """Runs of each row."""
    tests: int = 96
    """Held-out sums, those of which some answers are right and others wrong."""
    votes: int = 32
    """Most runs of the judge that vote."""


ANSWERS = 4
ROWS = (
    "rule, GRPO (SPCT)",
    "pairs, DPO (self-rationalization)",
    "own right verdicts",
    "the truth",
)


class Figures(NamedTuple):
    """Of four answers to each held-out sum, judged often."""

    verdicts: jax.Array
    """Share of right verdicts of one run, right and wrong answers alike."""
    yes: jax.Array
    """Share of verdicts R."""
    vote: jax.Array
    """Share of right answers taken by k runs, k = 1, 2, 4, ..."""


def own_answers(lm, params, key, asked):
    """Four answers to each sum, and whether they are right."""
    many = repeat(asked, ANSWERS)
    direct = jax.vmap(lambda x: sums.prompt(x, direct=True))(many)
    found = check_direct(many, draw(lm, params, key, direct))
    return many, found.answer, found.right


def make_plan(config, lm, start):
    """What an update and an evaluation are."""
    runs = config.runs
    judge = jax.vmap(partial(sums.follow_up, judge=True))

    def collect(params, key, method, memory):
        which, how, say = jax.random.split(key, 3)
        asked = problems(which, sums.Sums(2, 2), config.prompts)
        asked, answer, right = own_answers(lm, start, how, asked)
        asked, answer, right = repeat((asked, answer, right), runs)
        rows = draw(lm, params, say, judge(asked, answer), steps=2)
        kind = jnp.where(right, *VERDICTS).astype(jnp.int32)
        truth = jnp.stack([kind, jnp.full_like(kind, sums.END)], 1)
        told = method == 3
        rows = rows._replace(
            tokens=jnp.where(told, truth, rows.tokens), mask=rows.mask | told
        )
        yes, clear = accepted(rows)
        # [sum, answer, run] to [sum, run, answer]: a run judges all four.
        shape = config.prompts, ANSWERS, runs
        said, gold = (x.reshape(shape).swapaxes(1, 2) * 1.0 for x in (yes, right))
        rule = policy.rule_reward(said, gold)
        rule = jnp.broadcast_to(rule[:, None], shape).reshape(-1, runs)
        # The distance of a verdict to the truth; what is no verdict is farthest.
        far = jnp.where(clear, jnp.abs(yes * 1.0 - right), 2.0).reshape(-1, runs)
        return (groups(rows, runs), rule, -far), memory

    def loss(params, batch, method):
        rows, rule, near = batch
        logp = score(lm, params, rows)
        by_rule = finalize(policy.grpo(logp, rows.old, rule, rows.mask))[0]
        gain = jnp.sum(logp - score(lm, start, rows), -1)
        pairs = policy.pair_from_scores(near)
        better, worse = (
            jnp.take_along_axis(gain, index[:, None], 1)[:, 0]
            for index in (pairs.chosen, pairs.rejected)
        )
        dpo = masked_mean(policy.dpo(better, worse, beta=0.1), pairs.mask)
        kept = rows.mask * (near == 0)[..., None]
        nll = policy.nll(logp, kept)
        clone = finalize(aggregate(nll, kept, "seq_mean_token_mean"))[0]
        return jnp.stack([by_rule, dpo, clone, clone])[method]

    tests = held_out(2, 6 * config.tests)
    found = jax.jit(partial(own_answers, lm))(start, jax.random.key(6), tests)
    asked, answer, right = groups(found, ANSWERS)
    mixed = jnp.flatnonzero(jnp.any(right, 1) & ~jnp.all(right, 1))[: config.tests]
    right = right[mixed]
    prompts = judge(*jax.tree.map(lambda x: x[mixed].reshape(-1), (asked, answer)))

    def evaluate(params, method, key):
        seen = jnp.ones((len(prompts[0]), 1), bool)
        yes, no = (
            jnp.exp(
                score(lm, params, Drawn(*prompts, jnp.full(seen.shape, k), seen, seen))
            )
            for k in VERDICTS
        )
        p = (yes / (yes + no)).reshape(1, -1, ANSWERS)
        said = jax.random.bernoulli(key, p, (config.votes, *p.shape[1:])) * 1.0

        def taken(size):
            """Right answers among those that most of the runs call right."""
            votes = policy.naive_vote(jnp.moveaxis(said[:size], 0, 1))
            best = votes == jnp.max(votes, -1, keepdims=True)
            share = jnp.sum(best * right, -1) / jnp.sum(best, -1)
            return jnp.mean(share)

        sizes = [2**i for i in range(config.votes.bit_length())]
        hit = said == right
        both = masked_mean(hit[0], right * 1.0), masked_mean(hit[0], 1.0 - right)
        vote = jnp.stack([taken(size) for size in sizes])
        return Figures(sum(both) / 2, jnp.mean(said), vote)

    return Plan(collect, loss, evaluate)


def main(config: Config) -> Figures:
    """Prints the table; returns figures ``[row, seed, before and after, ...]``."""
    lm, start = load(config.start)
    plan = make_plan(config, lm, start)
    sizes = {"updates": config.updates, "every": config.updates}
    count, tried = len(ROWS), jnp.array(config.rates)
    rows, rates = jnp.arange(count), jnp.full(count, tried[0])
    if len(tried) > 1:
        each, rate = jnp.repeat(rows, len(tried)), jnp.tile(tried, count)
        searched = learn(plan, start, each, rate=rate, seeds=1, first=1000, **sizes)
        rates = tried[jnp.argmax(searched.verdicts[:, 0, -1].reshape(count, -1), 1)]
    found = learn(plan, start, rows, rate=rates, seeds=config.seeds, **sizes)
    votes = [f"vote of {2**i}" for i in range(found.vote.shape[-1])]
    heads = ["rate", "verdicts right", "says R", *votes]
    print(f"| learned from | {' | '.join(heads)} |\n|---|" + "---|" * len(heads))
    for index, name in enumerate(["nothing", *ROWS]):
        row, time = max(index - 1, 0), -1 if index else 0
        part = Figures(*(x[row, :, time] for x in found))
        each = [f"{x:.3f}" for x in part.vote.mean(0)]
        each[-1] = cell(part.vote[:, -1])
        rate = f"{rates[row]:g}" if index else "–"
        own = f"{rate} | {cell(part.verdicts)} | {part.yes.mean():.2f}"
        print(f"| {name} | {own} | {' | '.join(each)} |")
    return found


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
