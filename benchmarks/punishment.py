"""Cooperation of tabular learners by who may punish, and whether partners are chosen.

    python benchmarks/punishment.py                # half a minute of one core
    python benchmarks/punishment.py --episodes 200
    python benchmarks/punishment.py --picture punishment.png

Five agents play the iterated dilemma of `worlds.social_dilemma`. In an episode each one
plays ten rounds with a partner, whom it picks by reputation or gets by chance; then the
other player (direct), somebody drawn from the rest (third party), or both may punish
each action. Punishing a defection is paid, as in the authors' main setting, or costly.
Each agent has a table of values for picking, playing and punishing and learns all of
them by Q-learning, where the authors have networks; reputations enter by their sign.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from drawing import picture

from jaxlib_guidance.policy import punishment, reputation_change
from jaxlib_guidance.worlds import social_dilemma as world

AGENTS, ROUNDS = 5, 10


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    episodes: int = 1000
    """Episodes of a run."""
    seeds: int = 5
    """Runs of each cell."""
    rates: tuple[float, ...] = (0.03, 0.1, 0.3)
    """Learning rates; the first table shows the second of three, or the middle one."""
    explore: float = 0.5
    """Share of the run in which exploration falls. The authors' falls in four steps."""
    gamma: float = 0.9
    """Discount."""
    just: float = 2.0
    """Pay of who punishes a defection, where it is paid."""
    costly: float = -3.0
    """The same where it is costly."""
    unjust: float = -10.0
    """Pay of who punishes a cooperation."""
    picture: Path | None = None
    """File for the learning curves; None for none."""


class Cell(NamedTuple):
    """What a population may do: flags, and the pay of a just punishment."""

    direct: float
    third: float
    select: float
    just: float


class Tables(NamedTuple):
    """Values of each agent, and what all agents know of each other."""

    select: jax.Array  # [N, 3^N, N - 1]
    play: jax.Array  # [N, 3, 3, 3, 3, 2]: other's and own last action, reputations
    punish: jax.Array  # [N, 2, 2, 2]: victim's and its partner's action
    reputation: jax.Array  # [N]
    last: jax.Array  # [N]


MECHANISMS = {
    "none": (0, 0),
    "direct": (1, 0),
    "third party": (0, 1),
    "both": (1, 1),
}


def choose(key, values, epsilon):
    """Greedy with equal values drawn by lot, or anything with chance ``epsilon``."""
    chance, lot, which = jax.random.split(key, 3)
    ties = 1e-6 * jax.random.uniform(lot, values.shape)
    greedy = jnp.argmax(values + ties, -1)
    shape = greedy.shape
    random = jax.random.randint(which, shape, 0, values.shape[-1])
    return jnp.where(jax.random.uniform(chance, shape) < epsilon, random, greedy)


def learned(table, index, action, reward, after, rate, gamma, on=1.0):
    """Q-learning at the rows ``index`` of a table; nothing ends."""
    here = (*index, action)
    error = reward + gamma * jnp.max(table[after], -1) - table[here]
    return table.at[here].add(rate * on * error)


def signs(reputation):
    return jnp.sign(reputation).astype(jnp.int32) + 1


def play_round(config, cell, rate, epsilons, pair, seen, tables, key):
    """One round of a pair, its punishments, and what everyone learns from them."""
    game = world.prisoners()
    a, b = pair
    both = jnp.stack([a, b])
    keys = jax.random.split(key, 4)
    # Reputations are seen unless only the other player may punish, as in the code.
    shown = jnp.where((cell.third + cell.select * (1 - cell.direct)) > 0, 1, 0)

    def seat(tables):
        known = jnp.where(shown, signs(tables.reputation[both]), 1)
        views = world.views(tables.last[both])
        return both, views[:, 0], views[:, 1], known[::-1], known

    before = seat(tables)
    acts = choose(keys[0], tables.play[before], epsilons[1])
    last, _, reward, _ = world.step(game, tables.last[both], acts, keys[1])
    # Each is punished by the other, and by someone drawn from the other three.
    others = jnp.argsort(jnp.isin(jnp.arange(AGENTS), both), stable=True)[: AGENTS - 2]
    thirds = others[jax.random.randint(keys[2], (2,), 0, AGENTS - 2)]
    punishers = jnp.concatenate([both[::-1], thirds])
    victims = jnp.tile(acts, 2)
    index = punishers, victims, jnp.tile(acts[::-1], 2)
    may = jnp.repeat(jnp.stack([cell.direct, cell.third]), 2)
    strikes = choose(keys[3], tables.punish[index], epsilons[2])
    punished = jnp.where(may > 0, strikes, 0)
    pay = punishment(punished, victims, just=cell.just, unjust=config.unjust)
    reward += pay.victim.reshape(2, 2).sum(0)
    reputation = tables.reputation.at[both].add(reputation_change(acts))
    reputation = reputation.at[punishers].add(reputation_change(victims, punished))
    tables = tables._replace(reputation=reputation, last=tables.last.at[both].set(last))

    state, picked = seen
    weights = 3 ** jnp.arange(AGENTS)
    select = learned(
        tables.select,
        (a, state),
        picked,
        reward[0],
        (a, signs(reputation) @ weights),
        rate,
        config.gamma,
        cell.select,
    )
    q = partial(learned, rate=rate, gamma=config.gamma)
    play = q(tables.play, before, acts, reward, seat(tables))
    punish = q(tables.punish, index, strikes, pay.punisher, index, on=may)
    tables = tables._replace(select=select, play=play, punish=punish)
    report = {
        "cooperation": 1 - jnp.mean(acts),
        "play": jnp.mean(reward),
        "all": jnp.mean(reward) + jnp.sum(pay.punisher) / 2,
    }
    return tables, report


def run(config, cell, rate, key):
    """Reports of every episode, ``[episodes]`` each."""
    weights = 3 ** jnp.arange(AGENTS)

    def episode(tables, inputs):
        index, key = inputs
        left = 1 - jnp.minimum(index / (config.explore * config.episodes), 1)
        low = jnp.array([0.0001, 0.01, 0.2])
        epsilons = low + (0.8889 - low) * left
        key, pick = jax.random.split(key)
        state = signs(tables.reputation) @ weights
        values = tables.select[:, state]
        chance = jnp.where(cell.select > 0, epsilons[0], 1.0)
        picked = choose(pick, values, chance)
        partners = picked + (picked >= jnp.arange(AGENTS))

        def turn(tables, inputs):
            a, b, picked, key = inputs

            def once(tables, key):
                seen = state, picked
                return play_round(
                    config, cell, rate, epsilons, (a, b), seen, tables, key
                )

            return jax.lax.scan(once, tables, jax.random.split(key, ROUNDS))

        turns = jnp.arange(AGENTS), partners, picked, jax.random.split(key, AGENTS)
        tables, report = jax.lax.scan(turn, tables, turns)
        return tables, jax.tree.map(jnp.mean, report)

    start = Tables(
        jnp.zeros((AGENTS, 3**AGENTS, AGENTS - 1)),
        jnp.zeros((AGENTS, 3, 3, 3, 3, 2)),
        jnp.zeros((AGENTS, 2, 2, 2)),
        jnp.zeros(AGENTS),
        jnp.full(AGENTS, world.UNKNOWN, jnp.int32),
    )
    steps = jnp.arange(config.episodes), jax.random.split(key, config.episodes)
    return jax.lax.scan(episode, start, steps)[1]


def compare(config):
    """Reports ``[pay, mechanism, select, rate, seed, episodes]`` by name."""
    cells = [
        Cell(*flags, select, just)
        for just in (config.just, config.costly)
        for flags in MECHANISMS.values()
        for select in (0, 1)
    ]
    stacked = jax.tree.map(lambda *x: jnp.array(x, jnp.float32), *cells)
    keys = jax.random.split(jax.random.key(0), config.seeds)
    each = partial(run, config)
    for axes in ((None, None, 0), (None, 0, None), (0, None, None)):
        each = jax.vmap(each, axes)
    found = jax.jit(each)(stacked, jnp.array(config.rates), keys)
    shape = 2, len(MECHANISMS), 2, len(config.rates), config.seeds, config.episodes
    return jax.tree.map(lambda x: np.asarray(x).reshape(shape), found)


def main(config: Config) -> dict:
    """Prints the tables; returns the reports."""
    found = compare(config)
    last = config.episodes // 5
    middle = len(config.rates) // 2
    smooth = np.ones(20) / 20
    game, kinds = world.prisoners(), ("paid", "costly")
    need = float(world.deterrence(game, 3.0))
    print(f"A defection must meet {need:.3f} punishments for cooperating to pay.\n")
    print(
        "| punishing | who | partners | cooperation (seeds) | play | with punishers "
        "| first fifth | episode of 0.9 |\n|---|---|---|---|---|---|---|---|"
    )
    for i, kind in enumerate(kinds):
        for j, who in enumerate(MECHANISMS):
            if kind == "costly" and who == "none":
                continue
            for k, partners in enumerate(("by chance", "chosen")):
                report = {name: x[i, j, k, middle] for name, x in found.items()}
                share = report["cooperation"][:, -last:].mean(1)
                early = report["cooperation"][:, :last].mean()
                each = " ".join(f"{x:.2f}" for x in share)
                rewards = (report[n][:, -last:].mean() for n in ("play", "all"))
                told = " | ".join(f"{x:.2f}" for x in rewards)
                runs = (
                    np.convolve(x, smooth, "valid") > 0.9 for x in report["cooperation"]
                )
                first = [int(x.argmax()) + 20 for x in runs if x.any()]
                when = f"{np.median(first):.0f}" if first else "never"
                if len(first) < config.seeds and first:
                    when += f" ({len(first)} of {config.seeds})"
                print(
                    f"| {kind if who != 'none' else '–'} | {who} | {partners} | "
                    f"{share.mean():.2f} ({each}) | {told} | "
                    f"{early:.2f} | {when} |"
                )
    heads = " | ".join(f"rate {x:g}" for x in config.rates)
    print(
        f"\nCooperation by learning rate:\n\n| punishing | who | partners | {heads} |"
    )
    print("|---" * (3 + len(config.rates)) + "|")
    share = found["cooperation"][..., -last:].mean((-2, -1))
    for i, kind in enumerate(kinds):
        for j, who in enumerate(MECHANISMS):
            for k, partners in enumerate(("by chance", "chosen")):
                if who == "none" and kind == "costly":
                    continue
                cells = " | ".join(f"{x:.2f}" for x in share[i, j, k])
                paid = kind if who != "none" else "–"
                print(f"| {paid} | {who} | {partners} | {cells} |")
    if config.picture is not None:
        draw(config, found["cooperation"][:, :, :, middle])
    return found


def draw(config, cooperation):
    """Cooperation over episodes with chosen partners: each seed and their mean."""
    with picture(config.picture, (8, 3), dpi=110) as figure:
        axes = figure.subplots(1, 2, sharey=True)
        smooth = np.ones(20) / 20
        for axis, kind, rows in zip(axes, ("paid", "costly"), cooperation, strict=True):
            for color, (who, row) in enumerate(
                zip(MECHANISMS, rows[:, 1], strict=True)
            ):
                curves = [np.convolve(x, smooth, "valid") for x in row]
                for curve in curves:
                    axis.plot(curve, color=f"C{color}", alpha=0.25, linewidth=0.7)
                axis.plot(np.mean(curves, 0), color=f"C{color}", label=who)
            axis.set(title=f"punishing is {kind}", xlabel="episode", ylim=(0, 1))
        axes[0].set_ylabel("cooperation")
        axes[1].legend(fontsize=8)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
