"""A second try that knows something: the place of the first wrong digit of the first.

    python benchmarks/sums_second.py             # minutes of one core

The model answers, is told which digit is wrong (`worlds.sums.follow_up`; of a right
answer nothing), and answers again. SCoRe trains both by rewards in two stages; its
baselines train the second one on the truth (fine-tuning on corrections), both by their
own rewards (GRPO on two turns), or the first alone. All draw the same number of answers
to the same number of sums.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
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
    told,
)

from jaxlib_guidance import policy
from jaxlib_guidance.reduce import aggregate, finalize
from jaxlib_guidance.worlds import chains, sums


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    start: str = "sums_plain"
    """Model to begin with."""
    digits: int = 2
    """Digits of the numbers."""
    updates: int = 80
    """Updates of each run, half of them in SCoRe's first stage."""
    prompts: int = 5
    """Sums of an update."""
    group: int = 8
    """Pairs of tries at each."""
    alpha: float = 1.0
    """SCoRe's weight of progress."""
    rate: float = 3e-4
    """Adam's rate at the start; it falls to 0."""
    seeds: int = 3
    """Runs of each row."""
    tests: int = 256
    """Held-out sums."""


ROWS = "fine-tuning on corrections", "first try alone", "two turns", "SCoRe"


def try_twice(lm, params, key, asked, temperature):
    """Rows of both tries, and whether each is right."""
    plain = jax.vmap(lambda p: sums.prompt(p, direct=True))(asked)
    first = draw(lm, params, key, plain, temperature=temperature)
    found = check_direct(asked, first)
    again = jax.vmap(partial(sums.follow_up, judge=False))(asked, found.answer)
    key = jax.random.fold_in(key, 1)
    second = draw(lm, params, key, again, temperature=temperature)
    return (first, second), (found.right, check_direct(asked, second).right)


def make_plan(config, lm, start):
    """What an update and an evaluation are."""
    size, world = config.group, sums.Sums(config.digits, config.digits)

    def collect(params, key, method, done):
        which, how = jax.random.split(key)
        asked = repeat(problems(which, world, config.prompts), size)
        tries, right = try_twice(lm, params, how, asked, 1.0)
        length = tries[0].tokens.shape[-1]
        write = jax.vmap(lambda p: chains.direct(p, sums.solve(p), length=length))
        tokens, mask = write(asked)
        mask &= ~right[0][:, None]
        truth = tries[1]._replace(tokens=tokens, mask=mask)
        rows = groups((tries, right, truth), size)
        return (*rows, 2 * done >= config.updates), done + 1

    def loss(params, batch, method):
        tries, right, truth, late = batch
        r1, r2 = (x.astype(jnp.float32) for x in right)
        logp = [score(lm, params, rows) for rows in tries]
        mean = partial(aggregate, how="seq_mean_token_mean")
        tuned = finalize(mean(-score(lm, params, truth), truth.mask))[0]
        turns = [
            finalize(policy.grpo(now, rows.old, r, rows.mask))[0]
            for now, rows, r in zip(logp, tries, (r1, r2), strict=True)
        ]
        both = [
            policy.score_rewards(r1, r2, stage=stage, alpha=config.alpha)
            for stage in (1, 2)
        ]
        paid, total = jnp.where(late, both[1], both[0]), 0.0
        for turn, (now, rows) in enumerate(zip(logp, tries, strict=True)):
            before = score(lm, start, rows)
            first, second = (
                policy.score_kl(
                    now, before, jnp.full(now.shape, turn), jnp.array(beta), rows.mask
                )
                for beta in ((0.1, 0.0), (0.01, 0.01))
            )
            advantage = policy.group_normalize(paid[..., turn])
            each = policy.ppo_clip(now, rows.old, advantage, rows.mask)
            each += jnp.where(late, second, first)
            total += finalize(mean(each, rows.mask))[0]
        return jnp.stack([tuned, turns[0], turns[0] + turns[1], total])[method]

    tests = held_out(config.digits, config.tests)

    def evaluate(params, method, key):
        _, (first, second) = try_twice(lm, params, key, tests, 0.0)
        return jnp.mean(first), jnp.mean(second), jnp.mean(first & ~second)

    return Plan(collect, loss, evaluate, lambda key: jnp.int32(0))


def main(config: Config) -> tuple[np.ndarray, ...]:
    """Prints the table; returns both tries' accuracy and what the second spoiled."""
    lm, params = load(config.start)
    first, second, spoiled = learn(
        make_plan(config, lm, params),
        params,
        jnp.arange(len(ROWS)),
        updates=config.updates,
        every=config.updates // 4,
        rate=config.rate,
        seeds=config.seeds,
    )
    before = first[0, 0, 0], second[0, 0, 0]
    print(f"before: {before[0]:.3f} and {before[1]:.3f} right\n")
    print("| trained | first try (gains) | second try (gains) | second - first |")
    print("|---|---|---|---|")
    for name, one, two in zip(ROWS, first, second, strict=True):
        gap = two[:, -1] - one[:, -1]
        each = " ".join(f"{x:+.3f}" for x in gap)
        cells = told(before[0], one[:, -1]), told(before[1], two[:, -1])
        print(f"| {name} | {' | '.join(cells)} | {gap.mean():+.3f} ({each}) |")
    return first, second, spoiled


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
