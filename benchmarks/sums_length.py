"""Rewards that know how long an answer is, on the plane of accuracy and length.

    python benchmarks/sums_length.py             # minutes of one core
    python benchmarks/sums_length.py --picture sums_length.png

The model writes sums with steps, re-checks columns, corrects some errors, and often
does all a second time. Rewards are the truth alone; the truth where the answer is not
longer than a limit; LASER's step at a target length, with one target or with targets by
difficulty, chosen as training goes on (-D), and with wrong answers that may be long
(-DE); conciseness among right answers; and RLSP's price of short ones. Every run draws
the same number of answers and begins with the same model.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from drawing import picture
from sums_runs import (
    Plan,
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

    start: str = "sums_checker"
    """Model to begin with."""
    updates: int = 60
    """Updates of each run."""
    every: int = 15
    """Updates between evaluations."""
    prompts: int = 4
    """Sums of an update."""
    group: int = 8
    """Answers to each."""
    length: int = 40
    """Places of an answer."""
    target: float = 20.0
    """Target length of truncation and of LASER; a sum without re-checks has 17."""
    lam: float = 5.0
    """RLSP's penalty times tokens."""
    monitored: int = 8
    """Updates whose answers choose the targets of LASER-D."""
    rate: float = 3e-4
    """Adam's rate at the start; it falls to 0."""
    seeds: int = 3
    """Runs of each row."""
    tests: int = 128
    """Held-out sums."""
    picture: Path | None = None
    """File for the plane of accuracy and length; None for none."""


ROWS = (
    "truth",
    "truncation",
    "LASER",
    "LASER-D",
    "LASER-DE",
    "conciseness among right",
    "RLSP",
)


class Figures(NamedTuple):
    """Of held-out sums, answered at temperature 1."""

    right: jax.Array
    tokens: jax.Array
    rechecks: jax.Array
    again: jax.Array
    steps: jax.Array


def make_plan(config, lm):
    """What an update and an evaluation are."""
    size = config.group
    free = jax.vmap(sums.prompt)
    check = jax.vmap(sums.check)
    thresholds = jnp.arange(14.0, config.length + 1, 2.0)

    def rewards_of(found, monitor):
        right, tokens = found.right.astype(jnp.float32), found.length
        targets = policy.laser_targets(*monitor, thresholds, group_size=size)
        mine = jnp.broadcast_to(
            targets[policy.laser_level(right)][:, None], right.shape
        )
        # Long answers that do not say the same sum twice.
        fresh = found.solutions < 2
        step = (right, tokens)
        return [
            right,
            right * (tokens <= config.target),
            policy.length_step(*step, config.target),
            policy.length_step(*step, mine),
            policy.length_step(*step, mine, wrong=-0.5, explore=fresh),
            policy.shortest_correct(right, tokens),
            policy.inverse_length(right, tokens, config.lam),
        ]

    def collect(params, key, method, memory):
        which, how = jax.random.split(key)
        asked = problems(which, sums.Sums(2, 2), config.prompts)
        asked = repeat(asked, size)
        rows = draw(lm, params, how, free(asked), steps=config.length)
        found = groups(check(asked, rows.tokens, rows.mask), size)
        fresh = found.right.astype(jnp.float32), found.length.astype(jnp.float32)
        memory = tuple(
            jnp.concatenate([old[config.prompts :], new])
            for old, new in zip(memory, fresh, strict=True)
        )
        rewards = jnp.stack(rewards_of(found, memory))[method]
        return (groups(rows, size), rewards), memory

    def loss(params, batch, method):
        rows, rewards = batch
        logp = score(lm, params, rows)
        return finalize(policy.grpo(logp, rows.old, rewards, rows.mask))[0]

    tests = held_out(2, config.tests)

    def evaluate(params, method, key):
        rows = draw(lm, params, key, free(tests), steps=config.length)
        found = check(tests, rows.tokens, rows.mask)
        looks = (found.rechecks + found.corrections > 0, found.solutions > 1)
        shown = (found.right, found.length, *looks, found.steps)
        return Figures(*(jnp.mean(x.astype(jnp.float32)) for x in shown))

    def memory(key):
        # Before the first update: all right, and as long as there is room.
        shape = config.monitored * config.prompts, size
        return jnp.ones(shape), jnp.full(shape, float(config.length))

    return Plan(collect, loss, evaluate, memory)


def main(config: Config) -> Figures:
    """Prints the table; returns figures ``[row, seed, time]``."""
    lm, params = load(config.start)
    found = learn(
        make_plan(config, lm),
        params,
        jnp.arange(len(ROWS)),
        updates=config.updates,
        every=config.every,
        rate=config.rate,
        seeds=config.seeds,
    )
    heads = ["right", "tokens", "re-checks", "a second solution", "steps"]
    print(f"| reward | {' | '.join(heads)} |\n|---|" + "---|" * len(heads))
    before = " | ".join(f"{x[:, :, 0].mean():.3g}" for x in found)
    print(f"| before | {before} |")
    for row, name in enumerate(ROWS):
        after = [x[row, :, -1] for x in found]
        each = (" ".join(f"{one:.3g}" for one in x) for x in after)
        cells = (f"{x.mean():.3g} ({y})" for x, y in zip(after, each, strict=True))
        print(f"| {name} | {' | '.join(cells)} |")
    if config.picture is not None:
        show(config, found)
    return found


def show(config, found):
    """The way of each reward over the plane of accuracy and length."""
    with picture(config.picture, (6, 3.6), dpi=110) as figure:
        axis = figure.subplots()
        for color, name in enumerate(ROWS):
            x, y = (part[color].mean(0) for part in (found.tokens, found.right))
            axis.plot(x, y, ".-", color=f"C{color}", linewidth=0.8, markersize=3)
            axis.plot(x[-1], y[-1], "o", color=f"C{color}", label=name)
            ends = found.tokens[color, :, -1], found.right[color, :, -1]
            axis.plot(*ends, "x", color=f"C{color}", markersize=4)
        start = found.tokens[:, :, 0].mean(), found.right[:, :, 0].mean()
        axis.plot(*start, "k*", label="before")
        axis.set(xlabel="tokens of an answer", ylabel="share of right answers")
        axis.legend(fontsize=7)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
