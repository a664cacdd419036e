"""A policy against a learned reward: raw, normalised, clipped, and as PAR shapes it.

    python benchmarks/sums_hacking.py            # minutes of one core
    python benchmarks/sums_hacking.py --picture sums_hacking.png

The reward model is another language model that ships, frozen: its reward is the
log-likelihood of an answer. It was taught for half as long, knows what a sum looks like
and is mostly wrong, so that a policy can please it and be wrong. PAR compares an answer
with answers of the policy before training, through a sigmoid; the baselines normalise
by all rewards so far. The loss centres rewards within a group and does not divide by
their deviation, so that scale and tails of a reward count. The truth is the ceiling.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from drawing import picture
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
from jaxlib_guidance.reduce import finalize
from jaxlib_guidance.worlds import sums


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    start: str = "sums_plain"
    """Model to begin with."""
    judge: str = "sums_young"
    """Model whose log-likelihood is the reward."""
    digits: int = 2
    """Digits of the numbers."""
    updates: int = 60
    """Updates of each run."""
    every: int = 15
    """Updates between evaluations."""
    prompts: int = 6
    """Sums of an update."""
    group: int = 8
    """Answers to each."""
    references: int = 2
    """Answers of the policy before training to each sum, for PAR."""
    rate: float = 5e-4
    """Adam's rate at the start; it falls to 0."""
    seeds: int = 3
    """Runs of each row."""
    tests: int = 128
    """Held-out sums."""
    picture: Path | None = None
    """File for true and proxy reward by update; None for none."""


ROWS = "truth", "raw", "min-max", "clipped", "log-sigmoid, centred", "PAR"


def liked(lm, judge, rows):
    """What the reward model gives to answers ``[N]``: their log-likelihood."""
    return jnp.sum(score(lm, judge, rows), -1)


def make_plan(config, lm, start, judge):
    """What an update and an evaluation are."""
    size, world = config.group, sums.Sums(config.digits, config.digits)
    direct = jax.vmap(lambda p: sums.prompt(p, direct=True))

    def collect(params, key, method, stats):
        which, how, before = jax.random.split(key, 3)
        asked = problems(which, world, config.prompts)
        many, few = repeat(asked, size), repeat(asked, config.references)
        rows = draw(lm, params, how, direct(many))
        found = check_direct(many, rows)
        proxy = groups(liked(lm, judge, rows), size)
        old = draw(lm, start, before, direct(few))
        reference = groups(liked(lm, judge, old), config.references)
        beside = jnp.repeat(reference[:, None], size, 1)
        truth = groups(found.right.astype(jnp.float32), size)
        after, minmax = policy.running_minmax(stats, proxy)
        rewards = [
            truth,
            proxy,
            minmax,
            policy.running_clip(stats, proxy)[1],
            policy.log_sigmoid_centered(proxy, beside),
            policy.par_sigmoid(proxy, beside),
        ]
        return (groups(rows, size), jnp.stack(rewards)[method]), after

    def loss(params, batch, method):
        rows, rewards = batch
        logp = score(lm, params, rows)
        length = rows.tokens.shape[-1]
        out = policy.dr_grpo(logp, rows.old, rewards, rows.mask, max_length=length)
        return finalize(out)[0]

    tests = held_out(config.digits, config.tests)

    def evaluate(params, method, key):
        rows = draw(lm, params, key, direct(tests))
        found = check_direct(tests, rows)
        proxy = liked(lm, judge, rows)
        return jnp.mean(found.right), jnp.mean(proxy), jnp.mean(found.parsed)

    return Plan(collect, loss, evaluate, lambda key: policy.init_reward_stats())


def main(config: Config) -> tuple[np.ndarray, ...]:
    """Prints the table; returns true and proxy reward, and form, by row, seed, time."""
    lm, params = load(config.start)
    judge = load(config.judge)[1]
    right, proxy, parsed = learn(
        make_plan(config, lm, params, judge),
        params,
        jnp.arange(len(ROWS)),
        updates=config.updates,
        every=config.every,
        rate=config.rate,
        seeds=config.seeds,
    )
    before = right[:, :, 0].mean()
    print(f"before: right {before:.3f}, proxy {proxy[:, :, 0].mean():.2f}\n")
    print("| reward | right after (gains) | best on the way | proxy after | sums |")
    print("|---|---|---|---|---|")
    for name, hits, said, sound in zip(ROWS, right, proxy, parsed, strict=True):
        best = hits.mean(0).max()
        print(
            f"| {name} | {told(before, hits[:, -1])} | {best:.3f} | "
            f"{said[:, -1].mean():.2f} | {sound[:, -1].mean():.2f} |"
        )
    if config.picture is not None:
        show(config, right, proxy)
    return right, proxy, parsed


def show(config, right, proxy):
    """True accuracy and proxy reward by update, means and ranges of the seeds."""
    with picture(config.picture, (8, 3.2), dpi=110) as figure:
        axes = figure.subplots(1, 2)
        at = np.arange(right.shape[-1]) * config.every
        for axis, figures in zip(axes, (right, proxy), strict=True):
            for color, (name, rows) in enumerate(zip(ROWS, figures, strict=True)):
                axis.plot(at, rows.mean(0), color=f"C{color}", label=name)
                low, high = rows.min(0), rows.max(0)
                axis.fill_between(at, low, high, color=f"C{color}", alpha=0.15, lw=0)
        axes[0].set(xlabel="update", ylabel="share of right answers")
        axes[1].set(xlabel="update", ylabel="log-likelihood under the judge")
        axes[1].legend(fontsize=7)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
