"""Hints where no answer is right: failed sums are tried again with a part of the truth.

    python benchmarks/sums_hints.py              # minutes of one core

The model begins almost without right answers to sums of three digits, so that rewards
say nothing. Half of the answers of an update are a first attempt. The other half are
the same (the baseline), or, for sums of which no first attempt was right, attempts with
the first digits of the sum in the prompt (Agent-RLVR). What was found with a hint is
learned as an answer to the prompt without it: by GRPO, by DPO of a right answer against
a wrong one, or by fine-tuning on the right ones. All draw equally many answers.
"""

import dataclasses
from typing import NamedTuple

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
from jaxlib_guidance.reduce import aggregate, finalize, masked_mean
from jaxlib_guidance.worlds import sums


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    start: str = "sums_plain"
    """Model to begin with."""
    updates: int = 100
    """Updates of each run."""
    prompts: int = 8
    """Sums of an update."""
    group: int = 8
    """Answers to each, half of them first attempts."""
    hint: int = 3
    """Digits of the sum that a hint tells, of four."""
    rate: float = 5e-4
    """Adam's rate at the start; it falls to 0."""
    seeds: int = 3
    """Runs of each row."""
    tests: int = 256
    """Held-out sums."""


class Setting(NamedTuple):
    """A row: whether there are hints, and the loss."""

    hints: bool
    loss: int


ROWS = {
    "no hints, GRPO": Setting(False, 0),
    "hints, GRPO": Setting(True, 0),
    "hints, DPO": Setting(True, 1),
    "hints, fine-tuning": Setting(True, 2),
}


def make_plan(config, lm, reference):
    """What an update and an evaluation are."""
    half = config.group // 2

    def collect(params, key, setting, memory):
        which, first, second = jax.random.split(key, 3)
        asked = repeat(problems(which, sums.Sums(3, 3), config.prompts), half)
        plain = jax.vmap(lambda p: sums.prompt(p, direct=True))(asked)
        rows = draw(lm, params, first, plain)
        right = check_direct(asked, rows).right
        failed = ~jnp.any(groups(right, half), 1)
        hint = jnp.where(setting.hints & jnp.repeat(failed, half), config.hint, 0)
        helped = jax.vmap(lambda p, h: sums.prompt(p, hint=h, direct=True))(asked, hint)
        more = draw(lm, params, second, helped)
        again = check_direct(asked, more).right
        # Learned without the hint.
        more = more._replace(prompt=plain[0], prompt_mask=plain[1])
        more = more._replace(old=score(lm, params, more))
        both = groups(((rows, right), (more, again)), half)
        rows, right = jax.tree.map(lambda x, y: jnp.concatenate([x, y], 1), *both)
        return (rows, right.astype(jnp.float32)), memory

    def loss(params, batch, setting):
        rows, right = batch
        logp = score(lm, params, rows)
        gain = jnp.sum(logp - score(lm, reference, rows), -1)
        pairs = policy.pair_from_scores(right)
        better, worse = (
            jnp.take_along_axis(gain, index[:, None], 1)[:, 0]
            for index in (pairs.chosen, pairs.rejected)
        )
        dpo = policy.dpo(better, worse, beta=0.1)
        nll = -jnp.where(right[..., None] > 0, logp, 0.0)
        kept = rows.mask * right[..., None]
        losses = [
            finalize(policy.grpo(logp, rows.old, right, rows.mask))[0],
            masked_mean(dpo, pairs.mask),
            finalize(aggregate(nll, kept, "seq_mean_token_mean"))[0],
        ]
        return jnp.stack(losses)[setting.loss]

    world = held_out(3, config.tests)

    def evaluate(params, setting, key):
        asked = jax.vmap(lambda p: sums.prompt(p, direct=True))(world)
        hinted = jax.vmap(lambda p: sums.prompt(p, hint=config.hint, direct=True))
        drawn = [
            draw(lm, params, key, prompts, temperature=heat)
            for prompts, heat in ((asked, 1.0), (asked, 0.0), (hinted(world), 1.0))
        ]
        return jnp.stack([jnp.mean(check_direct(world, x).right) for x in drawn])

    return Plan(collect, loss, evaluate)


def main(config: Config) -> np.ndarray:
    """Prints the table; returns accuracies ``[row, seed, time, kind]``."""
    lm, params = load(config.start)
    right = learn(
        make_plan(config, lm, params),
        params,
        jax.tree.map(lambda *x: jnp.array(x), *ROWS.values()),
        updates=config.updates,
        every=config.updates // 4,
        rate=config.rate,
        seeds=config.seeds,
        falls=False,
    )
    before = right[0, :, 0].mean(0)
    print(f"before: sampled {before[0]:.3f}, greedy {before[1]:.3f}, ", end="")
    print(f"sampled with the hint {before[2]:.3f}\n")
    print("| trained with | sampled (gains) | greedy (gains) |\n|---|---|---|")
    for name, found in zip(ROWS, right, strict=True):
        cells = [told(before[i], found[:, -1, i]) for i in range(2)]
        print(f"| {name} | {' | '.join(cells)} |")
    return right


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
