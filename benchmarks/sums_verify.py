"""A model that adds and judges its own sums: solving alone, or both in one update.

    python benchmarks/sums_verify.py             # minutes of one core
    python benchmarks/sums_verify.py --updates 0 --start sums_checker   # no training

RISE trains verdicts on the model's own answers beside the answers, by rewards of the
same rule. The runs that only solve train on twice the answers, so that all draw the
same number of samples. Afterwards the model judges eight answers of its own to each
held-out sum, before and after the training, and votes among those that it accepts
(Self-PRM), beside a plain vote, one answer, and the truth.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from sums_runs import (
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
from jaxlib_guidance.reduce import finalize
from jaxlib_guidance.worlds import sums


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    start: str = "sums_plain"
    """Model to begin with."""
    updates: int = 80
    """Updates of each run; 0 judges the model as it is."""
    prompts: int = 6
    """Sums of an update."""
    group: int = 8
    """Answers to each, and as many verdicts or further answers."""
    rate: float = 3e-4
    """Adam's rate at the start; it falls to 0."""
    seeds: int = 3
    """Runs of each row."""
    tests: int = 128
    """Held-out sums."""


ROWS = {"solve": False, "solve and verify": True}


class Judged(NamedTuple):
    """What eight answers to each held-out sum, and verdicts on them, are worth."""

    one: jax.Array
    vote: jax.Array
    own_vote: jax.Array
    best: jax.Array
    verdicts: jax.Array
    precision: jax.Array
    recall: jax.Array
    hard: jax.Array


def follow(problem, answer, again):
    """A verdict is asked for, or, ``again``, another answer to the sum."""
    judge = sums.follow_up(problem, answer, judge=True)
    anew = sums.prompt(problem, direct=True)
    return jax.tree.map(lambda x, y: jnp.where(again, x, y), anew, judge)


def make_plan(config, lm):
    """What an update and an evaluation are."""
    size = config.group

    def collect(params, key, verifies, memory):
        which, first, second = jax.random.split(key, 3)
        asked = repeat(problems(which, sums.Sums(2, 2), config.prompts), size)
        direct = jax.vmap(lambda p: sums.prompt(p, direct=True))(asked)
        rows = draw(lm, params, first, direct)
        found = check_direct(asked, rows)
        paid = policy.outcome_reward(found.right, found.parsed)
        after = jax.vmap(follow, (0, 0, None))(asked, found.answer, ~verifies)
        more = draw(lm, params, second, after)
        again = check_direct(asked, more)
        says, clear = accepted(more)
        said = policy.outcome_reward(says, clear)
        verdict = policy.verification_reward(said, paid, clear)
        other = policy.outcome_reward(again.right, again.parsed)
        rewards = paid, jnp.where(verifies, verdict, other)
        return groups(((rows, more), rewards), size), memory

    def loss(params, batch, setting):
        total = 0.0
        for rows, rewards in zip(*batch, strict=True):
            logp = score(lm, params, rows)
            total += finalize(policy.grpo(logp, rows.old, rewards, rows.mask))[0]
        return total

    world = held_out(2, config.tests)

    def evaluate(params, setting, key):
        asked = repeat(world, size)
        direct = jax.vmap(lambda p: sums.prompt(p, direct=True))(asked)
        found = check_direct(asked, draw(lm, params, key, direct))
        judge = jax.vmap(follow, (0, 0, None))(asked, found.answer, False)
        says, _ = accepted(draw(lm, params, key, judge, temperature=0.0))
        found, says = groups((found, says), size)
        right = found.right.astype(jnp.float32)
        truth = sums.solve(world)
        plain = policy.weighted_vote(found.answer, mask=found.parsed)
        own = policy.self_verdict_vote(found.answer, says, found.parsed)
        # Hard are the sums of which at most two of eight answers are right.
        hard = jnp.broadcast_to(jnp.mean(right, 1, keepdims=True) <= 0.25, right.shape)
        verdicts, on_hard = (
            policy.verdict_scores(says.reshape(-1), right.reshape(-1), mask)
            for mask in (None, hard.reshape(-1))
        )
        return Judged(
            one=jnp.mean(right),
            vote=jnp.mean(plain.label == truth),
            own_vote=jnp.mean(own.label == truth),
            best=jnp.mean(jnp.max(right, 1)),
            verdicts=jnp.mean((says == (right > 0)).astype(jnp.float32)),
            precision=verdicts.precision,
            recall=verdicts.recall,
            hard=on_hard.precision,
        )

    return Plan(collect, loss, evaluate)


def cell(x):
    """The mean and each seed."""
    return f"{x.mean():.3f} ({' '.join(f'{one:.3f}' for one in x)})"


def main(config: Config) -> Judged:
    """Prints the table; returns figures ``[row, seed, before and after]``."""
    lm, params = load(config.start)
    found = learn(
        make_plan(config, lm),
        params,
        jnp.array(list(ROWS.values())[: None if config.updates else 1]),
        updates=config.updates,
        every=max(config.updates, 1),
        rate=config.rate,
        seeds=config.seeds,
    )
    heads = ["one answer", "vote of 8", "among accepted", "best of 8"]
    heads += ["verdicts right", "precision", "recall", "precision on hard sums"]
    print(f"| trained to | {' | '.join(heads)} |")
    print("|---" * (len(heads) + 1) + "|")
    print(f"| nothing | {' | '.join(cell(x[0, :, 0]) for x in found)} |")
    for row, name in enumerate(ROWS if config.updates else ()):
        print(f"| {name} | {' | '.join(cell(x[row, :, -1]) for x in found)} |")
    return found


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
