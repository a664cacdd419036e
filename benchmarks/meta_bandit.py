"""Who is paid for rewards alone explores, given structure, memory and a horizon.

    python benchmarks/meta_bandit.py            # the table of docs/grids.md
    python benchmarks/meta_bandit.py --seeds 1 --tuning 1 --updates 40    # a trial

A safe arm pays 0, the unknown one has a mean drawn from N(-0.25, 1). A recurrent policy
sees the last arm and what it paid, and learns by policy gradient from rewards, without
any bonus. Three things are taken away: structure (the mean is drawn again at each
pull), memory (the state is empty at each pull), and the horizon (a discount of 0.9 or
0). Beside each stands the best player, by dynamic programming. Adam's rate is searched
for each row alike, on other seeds.
"""

import dataclasses
import itertools
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from drawing import picture

from jaxlib_guidance.policy import gae, reinforce
from jaxlib_guidance.worlds import gaussian_bandit as world


@dataclasses.dataclass(frozen=True)
class Config:
    """How much to measure, and where to draw."""

    pulls: int = 20
    """Pulls of an episode."""
    episodes: int = 48
    """Episodes of an update."""
    updates: int = 300
    width: int = 12
    """Units of the recurrent layer."""
    prior_mean: float = -0.25
    gammas: tuple[float, ...] = (1.0, 0.9, 0.0)
    rates: tuple[float, ...] = (0.01, 0.03)
    """Adam's rates, searched."""
    seeds: int = 5
    """Seeds that are judged."""
    tuning: int = 1
    """Seeds that settings are chosen on."""
    out: Path = Path("out/meta_bandit.png")


def start(key, width):
    """Parameters of a gated recurrent layer, and of logits and a value upon it."""
    one, two, three = jax.random.split(key, 3)
    return (
        jax.random.normal(one, (3, 3 * width)) * 0.5,
        jax.random.normal(two, (width, 3 * width)) / np.sqrt(width),
        jnp.zeros(3 * width),
        jax.random.normal(three, (width, 2)) * 0.1 / np.sqrt(width),
        jnp.zeros(2),
    )


def recur(params, h, last):
    """The next state, the log-odds of the unknown arm, and the value, of a batch."""
    into, back, bias, head, level = params
    (r, z, n), (hr, hz, hn) = (
        jnp.split(x, 3, -1) for x in (last @ into + bias, h @ back)
    )
    z = jax.nn.sigmoid(z + hz)
    h = (1 - z) * jnp.tanh(n + jax.nn.sigmoid(r + hr) * hn) + z * h
    odds, value = jnp.moveaxis(h @ head + level, -1, 0)
    return h, odds, value


def play(config, bandit, params, memory, key, number):
    """Episodes: log-odds, values, arms and rewards, ``[T, N]``."""
    begin, key = jax.random.split(key)
    means, _ = jax.vmap(partial(world.reset, bandit))(jax.random.split(begin, number))

    def pull(carry, key):
        h, last, means = carry
        choose, pay = jax.random.split(key)
        h, odds, value = recur(params, h * memory, last * memory)
        arm = jax.random.bernoulli(choose, jax.nn.sigmoid(odds)).astype(jnp.int32)
        keys = jax.random.split(pay, number)
        means, _, reward, _ = jax.vmap(partial(world.step, bandit))(means, arm, keys)
        last = jnp.stack([arm == 0, arm == 1, reward], -1).astype(jnp.float32)
        return (h, last, means), (odds, value, arm, reward)

    first = jnp.zeros((number, config.width)), jnp.zeros((number, 3)), means
    return jax.lax.scan(pull, first, jax.random.split(key, config.pulls))[1]


def learn(config, structured, memory, gamma, rate, key):
    """Return, chance of the unknown arm at the first and the last pull, by block."""
    bandit = world.Bandit(prior_mean=config.prior_mean, structured=structured)
    first, key = jax.random.split(key)
    params = start(first, config.width)
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.inject_hyperparams(optax.adam)(learning_rate=rate),
    )
    over = jnp.arange(config.pulls) == config.pulls - 1
    never = jnp.zeros(config.pulls, bool)

    def loss(params, key):
        odds, value, arm, reward = play(
            config, bandit, params, memory, key, config.episodes
        )
        ahead = jnp.concatenate([value[1:], jnp.zeros_like(value[:1])])
        fixed = jax.lax.stop_gradient

        def estimate(reward, value, ahead):
            return gae(reward, value, ahead, over, never, gamma=gamma, lam=1.0)

        found = jax.vmap(estimate, 1, 1)(reward, fixed(value), fixed(ahead))
        logp = -jax.nn.softplus(jnp.where(arm == 1, -odds, odds))
        actor = jnp.mean(reinforce(logp, found.advantage))
        critic = 0.5 * jnp.mean((value - found.target) ** 2)
        return actor + critic

    def update(carry, key):
        params, moments = carry
        change, moments = tx.update(jax.grad(loss)(params, key), moments)
        return (optax.apply_updates(params, change), moments), None

    def block(carry, keys):
        carry, _ = jax.lax.scan(update, carry, keys[1:])
        odds, _, _, reward = play(config, bandit, carry[0], memory, keys[0], 1000)
        chance = jax.nn.sigmoid(odds).mean(1)
        return carry, jnp.stack([reward.sum(0).mean(), chance[0], chance[-1]])

    keys = jax.random.split(key, (10, config.updates // 10 + 1))
    return jax.lax.scan(block, (params, tx.init(params)), keys)[1]


def main(config: Config) -> dict:
    """Trains all rows in one call, prints and draws; returns curves by row."""
    begin, cpu = time.monotonic(), time.process_time()
    rows = list(itertools.product((True, False), (1.0, 0.0), config.gammas))
    keys = jax.random.split(jax.random.key(0), config.tuning + config.seeds)
    run = partial(learn, config)
    for axes in (
        (None, None, None, None, 0),
        (None, None, None, 0, None),
        (0, 0, 0, None, None),
    ):
        run = jax.vmap(run, axes)
    structured, memory, gamma = (jnp.array(x) for x in zip(*rows, strict=True))
    rates = jnp.array(config.rates)
    curves = np.asarray(jax.jit(run)(structured, memory, gamma, rates, keys))
    # By what each is trained for would be unfair to none, but only returns compare.
    best = np.argmax(curves[:, :, : config.tuning, -1, 0].mean(2), 1)
    print(
        "| structure | memory | gamma | return | seeds | best player | first pull "
        "| last pull | seeks |\n" + "|---" * 9 + "|"
    )
    kept = {}
    for i, (held, memory, gamma) in enumerate(rows):
        judged = kept[held, bool(memory), gamma] = curves[i, best[i], config.tuning :]
        bandit = world.Bandit(prior_mean=config.prior_mean, structured=held)
        player = world.solve(bandit, config.pulls, gamma=gamma)
        # Without memory one arm is as good as its mean, for ever.
        total = float(player.total) if memory else max(0.0, config.prior_mean)
        end = judged[:, -1]
        each = " ".join(f"{x:.2f}" for x in end[:, 0])
        print(
            f"| {'yes' if held else 'no'} | {'yes' if memory else 'no'} | {gamma:g} "
            f"| {end[:, 0].mean():.2f} ± {end[:, 0].std():.2f} | {each} | {total:.2f} "
            f"| {end[:, 1].mean():.2f} | {end[:, 2].mean():.2f} "
            f"| {(end[:, 1] - end[:, 2]).mean():.2f} |"
        )
    spent = time.monotonic() - begin, time.process_time() - cpu
    print(f"\n{spent[0]:.0f} s, {spent[1]:.0f} of CPU", flush=True)
    draw(config, kept)
    return kept


def draw(config, kept):
    """Returns over updates, with structure, and the best player's."""
    with picture(config.out, (7, 3.2)) as figure:
        axis = figure.subplots()
        x = config.updates / 10 * np.arange(1, 11)
        chosen = [row for row in kept if row[0]]
        for number, (held, memory, gamma) in enumerate(chosen):
            rows = kept[held, memory, gamma][..., 0]
            name = f"{'memory' if memory else 'no memory'}, gamma {gamma:g}"
            axis.plot(
                x, rows.mean(0), "-" if memory else ":", color=f"C{number}", label=name
            )
            axis.fill_between(
                x, rows.min(0), rows.max(0), color=f"C{number}", alpha=0.1
            )
        best = world.solve(
            world.Bandit(prior_mean=config.prior_mean), config.pulls
        ).total
        axis.axhline(float(best), color="k", lw=0.8, label="best player")
        axis.set(xlabel="updates", ylabel="return of an episode")
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
