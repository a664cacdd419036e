"""A negotiator paid by the talk or by the utterance, for one dimension or for three.

    python benchmarks/negotiation.py                    # the table of docs/grids.md
    python benchmarks/negotiation.py --worth 0.45 0.35 0.2
    python benchmarks/negotiation.py --seeds 2 --tuning 1 --updates 40    # a trial

The world is `worlds.negotiation`: two split three items by six utterances. The policy
is a table over what `observe` tells; it learns against a partner of fixed habits, as
first and as second speaker, by REINFORCE with advantages normalised in groups of talks
between the same two. Rows differ in what each utterance is paid: the score of the whole
talk, or a share by what its absence would have changed (exact replays, on the scale of
Sotopia-RL's judge); the goal alone, or the mean of goal, relationship and knowledge, as
its released code puts them together. The step size and the weight of an entropy bonus
are searched for each row alike, by the goal score on other seeds.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from drawing import picture
from scipy.stats import t

from jaxlib_guidance.policy import (
    combine_dimensions,
    group_normalize,
    reinforce,
    utterance_attribution,
)
from jaxlib_guidance.reduce import divide, masked_mean
from jaxlib_guidance.worlds import negotiation as world
from jaxlib_guidance.worlds import negotiation_replays as replays


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    updates: int = 120
    """Updates of a run."""
    groups: int = 16
    """Pairs of speakers in an update."""
    group: int = 8
    """Talks of each pair."""
    seeds: int = 5
    """Runs of each row."""
    tuning: int = 3
    """Runs that choose the settings of each row, which are not reported."""
    rates: tuple[float, ...] = (0.1, 0.3, 1.0)
    """Step sizes of Adam, each tried by each row."""
    bonuses: tuple[float, ...] = (0.0, 0.03)
    """Weights of the entropy of the policy, each tried by each row."""
    worth: tuple[float, float, float] = (0.6, 0.3, 0.1)
    """Worth of the items to each, in its own order."""
    talks: int = 2048
    """Talks of an evaluation, half of them as first speaker."""
    picture: Path | None = None
    """File for goal scores over updates, and the dimensions; None for none."""


class Pay(NamedTuple):
    """What an utterance is paid for."""

    replays: int = 0
    """0 the score of the talk; 1 what it loses without the utterance where all others
    are said as they were, 2 where the learner goes on by its policy."""
    share: int = 0
    """0 as it is; 1 to 3 the score by marks, by shares of all marks, or by place."""
    dimensions: int = 0
    """0 the goal alone, 1 with knowledge, 2 with relationship too."""


DIMENSIONS = (0,), (0, 2), (0, 1, 2)
ROWS = {
    "talk, goal": Pay(),
    "talk, goal, later more": Pay(share=3),
    "talk, goal and knowledge": Pay(dimensions=1),
    "talk, 3 dimensions": Pay(dimensions=2),
    "utterance, goal": Pay(1, 1),
    "utterance, goal, shares": Pay(1, 2),
    "utterance, goal and knowledge": Pay(1, 1, 1),
    "utterance, 3 dimensions": Pay(1, 1, 2),
    "utterance, goal, adapted": Pay(2, 1),
    "utterance, 3 dimensions, adapted": Pay(2, 1, 2),
    "difference, goal": Pay(1),
    "difference, goal, adapted": Pay(2),
}
BOTH, NOBODY = 2, 3
COLUMNS = ("goal", "self-play", "relationship", "knowledge", "deals", "early")


def talk(talks, theta, orders, draws, key, player, left_out=-1):
    """Six utterances of a learner, of both or of nobody, and what was observed."""

    def utter(state, each):
        draw, key = each
        turn = state.turn % 2
        on = state.deal == world.NONE
        own = ((turn == player) | (player == BOTH)) & on
        seen = world.observe(state)
        word = jax.random.categorical(key, theta[tuple(seen)])
        said = jnp.asarray(world.BY_ITEM)[state.orders[turn], word]
        said = jnp.where(own, said, world.answer(talks, state, draw))
        said = jnp.where(on & (state.turn != left_out), said, world.SILENCE)
        return world.say(talks, state, said), (seen, word, said, own)

    keys = jax.random.split(key, world.LENGTH)
    return jax.lax.scan(utter, world.begin(orders), (draws, keys))


def attribute(differences):
    """A judge's marks by differences ``[6]``: 3 for the largest, -1 where negative."""
    best = jnp.maximum(jnp.max(differences), 0)
    marks = 3 * divide(jnp.maximum(differences, 0), best)
    return jnp.where(differences < -1e-6, -1.0, marks)


def batch(config, talks, pay, theta, key):
    """Talks in groups: what was seen, said, whose turn, and rewards ``[B, 6, 3]``."""
    of_orders, of_draws, speak = jax.random.split(key, 3)
    number = config.groups, config.group
    pairs = jax.random.randint(of_orders, (config.groups, 1, 2), 0, 6)
    orders = jnp.broadcast_to(pairs, (*number, 2)).reshape(-1, 2)
    # Half of the pairs each way, so that the two seats are as many in each update.
    player = jnp.broadcast_to((jnp.arange(config.groups) % 2)[:, None], number).ravel()
    draws = jax.random.uniform(of_draws, (player.size, world.LENGTH))

    def one(orders, draws, key, player):
        end, (seen, word, said, own) = talk(talks, theta, orders, draws, key, player)
        total = world.scores(talks, end, player)

        def adapted():
            turns = jnp.arange(0, world.LENGTH, 2) + player

            def without(turn):
                end = talk(talks, theta, orders, draws, key, player, turn)[0]
                return world.scores(talks, end, player)

            rest = jax.vmap(without)(turns)
            return jnp.zeros((world.LENGTH, 3)).at[turns].set(total - rest)

        gain = jax.lax.switch(
            pay.replays,
            (
                lambda: jnp.broadcast_to(total, (world.LENGTH, 3)),
                lambda: replays.contributions(talks, orders, said, draws, player)[1],
                adapted,
            ),
        )

        def shared(gain, score):
            kinds = ("scaled", "normalized", "discounted")
            marks = attribute(gain)
            paid = [
                utterance_attribution(marks, 10 * score, own, kind=k) for k in kinds
            ]
            return jnp.stack([10 * gain, *paid])[pay.share]

        return seen, word, own, jax.vmap(shared, (1, 0), 1)(gain, total)

    return jax.vmap(one)(orders, draws, jax.random.split(speak, player.size), player)


def train(config, talks, pay, key):
    """Final and early tables of each rate and bonus, ``[rates, bonuses, ...]``."""
    first = jnp.zeros((*world.PLACES, world.WORDS))

    def run(rate, bonus):
        tx = optax.adam(rate)

        def update(carry, each):
            theta, state, early = carry
            key, now = each
            seen, word, own, paid = batch(config, talks, pay, theta, key)
            means = [combine_dimensions(paid[..., list(d)], own) for d in DIMENSIONS]
            reward = jnp.stack(means)[pay.dimensions]
            groups = config.groups, config.group, world.LENGTH
            # The same turn of the same two is compared.
            fold = lambda x: jnp.moveaxis(x.reshape(groups), 1, 2)  # noqa: E731
            gain = group_normalize(fold(reward), mask=fold(own))
            gain = jnp.moveaxis(gain, 2, 1).reshape(own.shape)

            def loss(theta):
                every = jax.nn.log_softmax(theta[tuple(jnp.moveaxis(seen, -1, 0))])
                logp = jnp.take_along_axis(every, word[..., None], -1)[..., 0]
                entropy = -jnp.sum(jnp.exp(every) * every, -1)
                return masked_mean(reinforce(logp, gain, own) - bonus * entropy, own)

            step, state = tx.update(jax.grad(loss)(theta), state)
            early = jnp.where(now, theta, early)
            return (optax.apply_updates(theta, step), state, early), None

        keys = jax.random.split(key, config.updates)
        now = jnp.arange(config.updates) == config.updates // 4
        late, _, early = jax.lax.scan(
            update, (first, tx.init(first), first), (keys, now)
        )[0]
        return late, early

    each = jax.vmap(jax.vmap(run, (None, 0)), (0, None))
    return each(jnp.array(config.rates), jnp.array(config.bonuses))


def measure(config, talks, theta, *, alone=False, seat=True):
    """Goal, goal in self-play, relationship, knowledge and deals of a table.

    With ``alone`` the goal only; without ``seat`` both speak by the partner's habits.
    """
    of_orders, of_draws, speak = jax.random.split(jax.random.key(77), 3)
    orders = jax.random.randint(of_orders, (config.talks, 2), 0, 6)
    draws = jax.random.uniform(of_draws, (config.talks, world.LENGTH))
    keys = jax.random.split(speak, config.talks)
    place = jnp.arange(config.talks) % 2

    def run(player):
        def one(orders, draws, key, player, place):
            end = talk(talks, theta, orders, draws, key, player)[0]
            return world.scores(talks, end, place), end.deal < world.NONE

        return jax.vmap(one)(orders, draws, keys, player, place)

    found, deals = run(place if seat else jnp.full_like(place, NOBODY))
    if alone:
        return jnp.mean(found[:, 0])
    own, _ = run(jnp.full_like(place, BOTH))
    goal, relation, knowledge = jnp.mean(found, 0)
    return jnp.stack([goal, jnp.mean(own[:, 0]), relation, knowledge, jnp.mean(deals)])


def reach(talks, player):
    """The best goal score of who speaks first, or second, by exact planning."""
    start = world.begin(jnp.zeros(2, jnp.int32))
    return jax.jit(lambda talks: replays.solve(talks, start, player))(talks)


def main(config: Config) -> dict:
    """Prints the table; returns the columns of each row, ``[seeds, 6]``."""
    talks = world.build(config.worth)

    keys = jax.random.split(jax.random.key(0), config.tuning + config.seeds)
    grid = [(r, b) for r in config.rates for b in config.bonuses]
    shape = -1, *world.PLACES, world.WORDS

    def seed(pay, key):
        late, early = (x.reshape(shape) for x in train(config, talks, pay, key))
        found = jax.vmap(lambda x: measure(config, talks, x))(late)
        soon = jax.vmap(lambda x: measure(config, talks, x, alone=True))(early)
        return jnp.concatenate([found, soon[:, None]], 1)

    every = Pay(*(jnp.array(x) for x in zip(*ROWS.values(), strict=True)))
    row = jax.vmap(seed, (None, 0))
    found = jax.jit(lambda every: jax.lax.map(lambda pay: row(pay, keys), every))
    kept, settings = {}, {}
    for name, cells in zip(ROWS, np.asarray(found(every)), strict=True):
        best = cells[: config.tuning, :, 0].mean(0).argmax()
        kept[name] = cells[config.tuning :, best]
        settings[name] = grid[best]
    habits = jax.jit(lambda: measure(config, talks, jnp.zeros(shape[1:]), seat=False))
    optimum = [float(reach(talks, player)) for player in (0, 1)]
    report(kept, settings, np.asarray(habits()), optimum)
    if config.picture is not None:
        draw(config, kept, sum(optimum) / 2)
    return kept


def report(kept, settings, habits, optimum):
    """The table of the docs, with 95 % intervals of the mean over seeds."""
    print(
        "| paid by | rate, bonus | goal | seeds | self-play | relationship | knowledge "
        "| deals | goal, early |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    first, second = optimum
    both = (first + second) / 2
    print(f"| optimum, {first:.3f} and {second:.3f} | – | {both:.3f} |" + " – |" * 6)
    goal, _, relation, knowledge, deals = habits
    print(
        f"| the partner's habits | – | {goal:.3f} | – | – | {relation:.3f} | "
        f"{knowledge:.3f} | {deals:.3f} | – |"
    )
    for name, cells in kept.items():
        number = len(cells)
        spread = cells.std(0, ddof=1) if number > 1 else np.full(len(COLUMNS), np.nan)
        half = t.ppf(0.975, max(number - 1, 1)) * spread / number**0.5
        text = [f"{m:.3f} ± {h:.3f}" for m, h in zip(cells.mean(0), half, strict=True)]
        each = " ".join(f"{x:.2f}" for x in cells[:, 0])
        rate, bonus = settings[name]
        print(
            f"| {name} | {rate:g}, {bonus:g} | {text[0]} | {each} | {text[1]} | "
            f"{text[2]} | {text[3]} | {cells[:, 4].mean():.3f} | "
            f"{cells[:, 5].mean():.3f} |"
        )


def draw(config, kept, optimum):
    """Goal against the partner and in self-play, and the two other dimensions."""
    place = np.arange(len(kept))[::-1]
    with picture(config.picture, (9, 3.6)) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        for panel, columns in zip(panels, ((0, 1), (2, 3)), strict=True):
            for column, color in zip(columns, ("C0", "C1"), strict=True):
                cells = np.stack([x[:, column] for x in kept.values()])
                for seed in cells.T:
                    panel.plot(seed, place, ".", color=color, alpha=0.5, ms=4)
                name = COLUMNS[column]
                panel.plot(cells.mean(1), place, "|", color=color, ms=12, label=name)
            panel.set(yticks=place, yticklabels=list(kept), xlim=(0, 1))
            panel.set_xlabel("score")
            panel.grid(alpha=0.3)
        panels[0].axvline(optimum, color="k", lw=0.8, ls="--", label="best goal")
        for panel in panels:
            panel.legend(fontsize=7, loc="upper left")


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
