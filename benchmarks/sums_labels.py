"""Learning to add without answers: the vote of another phrasing, one's own, the truth.

    python benchmarks/sums_labels.py             # minutes of one core

Each update asks for sums in both orders, "a+b" and "b+a". An answer is right by the
truth, by the majority of the answers to the same order, or by the majority of those to
the other order (Co-Reward). A second question is what is done with wrong answers: GRPO,
NFT, and rejection fine-tuning, which is NFT that leaves them out. All start from the
same checkpoint and draw the same number of answers.
"""

import dataclasses
from functools import partial
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
from jaxlib_guidance.reduce import aggregate, finalize
from jaxlib_guidance.worlds import sums


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    start: str = "sums_plain"
    """Model to begin with."""
    updates: int = 80
    """Updates of each run."""
    prompts: int = 6
    """Sums of an update; each is asked in two orders."""
    group: int = 8
    """Answers to each order."""
    rate: float = 3e-4
    """Adam's rate at the start."""
    falls: bool = True
    """Whether the rate falls to 0."""
    seeds: int = 3
    """Runs of each row."""
    tests: int = 256
    """Held-out sums."""


class Setting(NamedTuple):
    """A row: where labels come from, and the loss."""

    label: int
    loss: int


ROWS = {
    "truth, GRPO": Setting(0, 0),
    "own vote, GRPO": Setting(1, 0),
    "other order's vote, GRPO": Setting(2, 0),
    "truth, NFT": Setting(0, 1),
    "truth, rejection fine-tuning": Setting(0, 2),
}


def make_plan(config, lm):
    """What an update and an evaluation are."""
    size = config.group

    def collect(params, key, setting, memory):
        which, how = jax.random.split(key)
        asked = problems(which, sums.Sums(2, 2), config.prompts)
        both = jax.tree.map(lambda x: jnp.tile(x, 2), asked)
        turned = jnp.arange(2 * config.prompts) >= config.prompts
        prompt = jax.vmap(lambda p, t: sums.prompt(p, turned=t, direct=True))
        rows = draw(lm, params, how, repeat(prompt(both, turned), size))
        found = groups(check_direct(repeat(both, size), rows), size)
        ids, right = found.answer, found.right.astype(jnp.float32)
        vote = policy.weighted_vote(ids, mask=found.parsed)
        own = (ids == vote.label[:, None]) & found.parsed
        one, other = jnp.split(ids, 2)
        sound = jnp.split(found.parsed, 2)
        crossed = policy.cross_view_reward(one, other, *sound)
        labels = jnp.stack([right, own.astype(jnp.float32), jnp.concatenate(crossed)])
        return (groups(rows, size), labels[setting.label]), memory

    def loss(params, batch, setting):
        rows, rewards = batch
        logp = score(lm, params, rows)
        rate = jnp.broadcast_to(jnp.mean(rewards, 1, keepdims=True), rewards.shape)
        teaches = policy.informative(rewards)[..., None]

        def mean(each):
            total = aggregate(each * teaches, rows.mask, "seq_mean_token_mean")
            return finalize(total)[0]

        nft = partial(policy.nft, logp, rows.old, rewards, rate, rows.mask)
        losses = [
            finalize(policy.grpo(logp, rows.old, rewards, rows.mask))[0],
            mean(nft()),
            mean(nft(negative=0.0)),
        ]
        return jnp.stack(losses)[setting.loss]

    world = held_out(2, config.tests)

    def evaluate(params, setting, key):
        asked = jax.vmap(lambda p: sums.prompt(p, direct=True))(world)
        greedy = draw(lm, params, key, asked, temperature=0.0)
        sampled = check_direct(world, draw(lm, params, key, asked)).right
        sure = jnp.exp(jnp.sum(greedy.old, 1))
        right = check_direct(world, greedy).right
        return tuple(jnp.mean(x) for x in (right, sampled, sure))

    return Plan(collect, loss, evaluate)


def main(config: Config) -> tuple[np.ndarray, ...]:
    """Prints the table; returns greedy and sampled accuracy and sureness by time."""
    lm, params = load(config.start)
    settings = jax.tree.map(lambda *x: jnp.array(x), *ROWS.values())
    right, sampled, sure = found = learn(
        make_plan(config, lm),
        params,
        settings,
        updates=config.updates,
        every=config.updates // 4,
        rate=config.rate,
        seeds=config.seeds,
        falls=config.falls,
    )
    before = [x[:, :, 0].mean() for x in found]
    print(f"before: greedy {before[0]:.3f}, sampled {before[1]:.3f} right; ", end="")
    print(f"probability of the greedy answer {before[2]:.2f}\n")
    print("| labels, loss | greedy (gains) | sampled (gains) | greedy's probability |")
    print("|---|---|---|---|")
    for name, hits, draws, odds in zip(ROWS, right, sampled, sure, strict=True):
        cells = told(before[0], hits[:, -1]), told(before[1], draws[:, -1])
        print(f"| {name} | {' | '.join(cells)} | {odds[:, -1].mean():.2f} |")
    return found


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
