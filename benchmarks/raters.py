"""A policy from raters who disagree in circles: self-play or a reward model.

    python benchmarks/raters.py                 # half a minute of one core
    python benchmarks/raters.py --updates 300
    python benchmarks/raters.py --picture raters.png

The worlds are `worlds.raters`, whose minimax winner is exact: a circle of three, a
crowd of random rankings in circles, and one with scores that all share, with noise. A
softmax policy draws 16 options an update. SPO compares each with each other, or with a
queue of what was drawn before, and pays the share that it wins (`policy.win_rate`); the
other fits Bradley and Terry's reward (`policy.bradley_terry`) to the same number of
verdicts, all that were ever asked, and is paid by that; or once, to verdicts on options
drawn evenly. Rates and a weight of entropy were searched for both.
"""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from drawing import picture

from jaxlib_guidance.policy import bradley_terry, win_rate
from jaxlib_guidance.worlds import raters as world


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    updates: int = 3000
    """Updates of the policy."""
    batch: int = 16
    """Options drawn for an update; each pair of them is one verdict."""
    seeds: int = 5
    """Runs of each cell."""
    search: int = 3
    """Runs that choose the settings of each cell, which are not reported."""
    rates: tuple[float, ...] = (0.03, 0.1, 0.3)
    """Step sizes of the policy, each tried by each method."""
    entropies: tuple[float, ...] = (0.0, 0.01, 0.1)
    """Weights of the entropy, each tried by each method."""
    picture: Path | None = None
    """File for the policies over updates; None for none."""


METHODS = ("SPO", "SPO with a queue", "reward model", "reward model, once")


def worlds():
    """Preferences by name; options that all have alike are added to the smaller."""
    gen = np.random.default_rng(3)
    while True:
        mixed = world.crowd(gen.normal(size=(7, 6)))
        if (world.solve(mixed) > 0.05).sum() > 2:
            break
    score = np.array([0.0, 0.3, 0.6, 0.9, 1.2, 1.5])
    scores = 1 / (1 + np.exp(score[None] - score[:, None]))
    return {
        "circle of three": world.circle(),
        "seven random rankings": mixed,
        "shared scores": scores,
    }


def learn(config, method, preference, setting, key):
    """Exploitability of the policy and of its mean so far, ``[updates, 2]``."""
    rate, weight = setting
    count = len(preference)

    def update(carry, key):
        theta, mean, reward, verdicts, queue, at = carry
        draw, ask, other = jax.random.split(key, 3)
        policy = jax.nn.softmax(theta)
        drawn = jax.random.categorical(draw, theta, shape=(config.batch,))
        asks = jnp.bool_(True)
        if method == 3:
            # A tenth of the updates asks about options drawn evenly, then none does.
            asks = at < config.updates // 10
            even = jax.random.categorical(other, 0 * theta, shape=(config.batch,))
            drawn = jnp.where(asks, even, drawn)
        rivals = drawn
        if method == 1:
            # Rivals of the last ten batches, as many as there are options here.
            pick = jax.random.uniform(other, (config.batch,)) * queue.size
            rivals = queue[pick.astype(jnp.int32)]
        both = jnp.concatenate([drawn, rivals]) if method == 1 else drawn
        first, second = jnp.meshgrid(both, both, indexing="ij")
        said = world.compare(preference, first.ravel(), second.ravel(), ask)
        said = jnp.triu(said.reshape(first.shape), 1)
        said = said + jnp.tril(1 - said.T, -1)
        if method == 1:
            # Only verdicts between the two halves, as many as of a batch in itself.
            half = jnp.arange(len(both)) < config.batch
            paid = win_rate(said, mask=(half[:, None] != half) * 1.0)[: config.batch]
        else:
            paid = win_rate(said)
        if method >= 2:
            pairs = jnp.triu(jnp.ones((config.batch, config.batch)), 1)
            won = jnp.zeros((count, count)).at[first, second].add(said * pairs)
            won = won.at[second, first].add((1 - said) * pairs)
            verdicts = verdicts + jnp.where(asks, won, 0.0)

            def misfit(reward):
                gaps = bradley_terry(jnp.repeat(reward, count), jnp.tile(reward, count))
                total = jnp.maximum(jnp.sum(verdicts), 1)
                off = verdicts * (1 - jnp.eye(count))
                return jnp.sum(gaps * off.ravel()) / total

            for _ in range(5):
                reward = reward - 4.0 * jax.grad(misfit)(reward)
            paid = reward[drawn]
        paid = paid - jnp.mean(paid)
        up = jnp.zeros(count).at[drawn].add(paid / config.batch)
        up = up - policy * jnp.sum(up)
        surprise = -jnp.log(jnp.maximum(policy, 1e-8))
        up = up + weight * policy * (surprise - jnp.sum(policy * surprise))
        if method == 3:
            up = jnp.where(asks, 0.0, up)
        theta = theta + rate * up
        policy = jax.nn.softmax(theta)
        mean = mean + (policy - mean) / (at + 1)
        queue = jnp.concatenate([drawn, queue[: -config.batch]])
        score = world.exploitability(preference, jnp.stack([policy, mean]))
        return (theta, mean, reward, verdicts, queue, at + 1), (score, policy)

    queue = jnp.arange(10 * config.batch) % count
    zeros = jnp.zeros(count)
    start = zeros, zeros, zeros, jnp.zeros((count, count)), queue, jnp.float32(0)
    _, out = jax.lax.scan(update, start, jax.random.split(key, config.updates))
    return out


def main(config: Config) -> dict:
    """Prints the table; returns exploitabilities by world, method."""
    settings = [(r, w) for r in config.rates for w in config.entropies]
    keys = jax.random.split(jax.random.key(0), config.seeds)
    others = jax.random.split(jax.random.key(100), config.search)
    both = jnp.concatenate([others, keys])
    found, paths, chosen = {}, {}, {}
    for name, preference in worlds().items():
        for number, method in enumerate(METHODS):
            each = partial(learn, config, number, jnp.asarray(preference, jnp.float32))
            run = jax.jit(jax.vmap(jax.vmap(each, (None, 0)), (0, None)))
            score, path = map(np.asarray, run(jnp.array(settings), both))
            tried = score[:, : config.search]
            last = tried[:, :, -config.updates // 10 :, 0].mean((1, 2))
            means = tried[:, :, -1, 1].mean(1)
            chosen[name, method] = int(last.argmin()), int(means.argmin())
            found[name, method] = score[:, config.search :]
            paths[name, method] = path[:, config.search :]
    print("| raters | method | rate, entropy | last policy (seeds) | mean policy |")
    print("|---|---|---|---|---|")
    for name, preference in worlds().items():
        winner = world.solve(preference)
        corner = min(
            float(world.exploitability(preference, e)) for e in np.eye(len(winner))
        )
        told = " ".join(f"{x:.2f}" for x in winner)
        print(f"| {name} | exact ({told}) | | 0.000 | 0.000 |")
        print(f"| | best single option | | {corner:.3f} | {corner:.3f} |")
        for method in METHODS:
            last = found[name, method][:, :, -config.updates // 10 :].mean(2)
            at, other = chosen[name, method]
            mean = found[name, method][other, :, -1, 1].mean()
            each = " ".join(f"{x:.3f}" for x in last[at, :, 0])
            rate, weight = settings[at]
            print(
                f"| | {method} | {rate:g}, {weight:g} | "
                f"**{last[at, :, 0].mean():.3f}** ({each}) | {mean:.3f} |"
            )
    if config.picture is not None:
        draw(config, paths, chosen)
    return found


def draw(config, paths, chosen):
    """Policies in the circle of three over updates, as shares of the three options."""
    name, preference = next(iter(worlds().items()))
    winner = world.solve(preference)
    with picture(config.picture, (9.6, 2.4)) as figure:
        axes = figure.subplots(1, 4)
        for axis, method in zip(axes, METHODS, strict=True):
            path = paths[name, method][chosen[name, method][0], 0]
            for option, letter in enumerate("ABC"):
                axis.plot(path[:, option], color=f"C{option}", label=letter)
                axis.axhline(winner[option], color=f"C{option}", linestyle="--")
            axis.set(title=method, xlabel="update", ylim=(0, 1))
        axes[0].set_ylabel("share of the policy")
        axes[0].legend()


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
