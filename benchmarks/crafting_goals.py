"""Goals found in hindsight and composed, against given ones, in a crafting grid.

    python benchmarks/crafting_goals.py             # the table of docs/grids.md
    python benchmarks/crafting_goals.py --seeds 1 --episodes 1000    # a trial

A learner of goals: tables of action values, one a goal, learned from whole episodes,
last step first. 200 goals are judged, 40 predicates and 160 conjunctions of two that no
shorter way fulfils by the way: a goal is mastered if the greedy policy reaches it from
at least 80 % of 10 starts within the length of an episode. Rows differ in the goals
that a learner aims at, and in those that it learns from an episode for.
"""

import dataclasses
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from drawing import picture

from jaxlib_guidance.policy import hindsight_relabel, mastered
from jaxlib_guidance.worlds import craft


@dataclasses.dataclass(frozen=True)
class Config:
    """How much to measure, and where to draw."""

    steps: int = 60
    """Steps of an episode."""
    episodes: int = 2000
    told: float = 0.3
    """Share of what an episode achieved that the relabeller reports."""
    epsilons: tuple[float, ...] = (0.1, 0.3)
    """Shares of actions by chance, searched."""
    seeds: int = 5
    """Seeds that are judged."""
    tuning: int = 1
    """Seeds that settings are chosen on."""
    out: Path = Path("out/crafting_goals.png")


class Row(NamedTuple):
    """A learner.

    Attributes:
      given: 1 if goals are known from the start, 0 if they must be met first.
      composed: Goals beyond the predicates: 0 none, 1 once both parts were reached, 2
        given as well.
      told: Share of what an episode achieved that is learned from, as a multiple of
        the setting's; -1 reports all.
      everything: 1 if every episode teaches every goal, reached or not.
    """

    given: float
    composed: float
    told: float
    everything: float = 0.0


ROWS = {
    "40 given": Row(1, 0, 0),
    "200 given": Row(1, 2, 0),
    "40 given, hindsight": Row(1, 0, 1),
    "hindsight": Row(0, 0, 1),
    "hindsight, composed": Row(0, 1, 1),
    "hindsight, composed, all reported": Row(0, 1, -1),
    "200 given, hindsight": Row(1, 2, 1),
    "200 given, every goal from every episode": Row(1, 2, 0, 1),
}


def goals(world, steps, rng):
    """Sets of predicates ``[200, 40]``, the first 40 single, and parts ``[200, 2]``.

    Conjunctions are drawn among those that can be reached in time from every cell, and
    take longer than the harder part alone.
    """
    number = len(craft.PREDICATES)
    pairs = np.array([(i, j) for i in range(number) for j in range(i)])
    single = np.eye(number, dtype=bool)
    both = single[pairs[:, 0]] | single[pairs[:, 1]]
    away = jax.jit(jax.vmap(lambda goal: craft.solve(world, goal)[: craft.SIDE**2]))
    one, two = (np.asarray(away(jnp.asarray(x))) for x in (single, both))
    harder = np.maximum(one[pairs[:, 0]], one[pairs[:, 1]])
    right = (two.max(1) <= steps) & (two.mean(1) > harder.mean(1) + 0.5)
    drawn = rng.choice(np.flatnonzero(right), 160, replace=False)
    parts = np.concatenate([np.repeat(np.arange(number)[:, None], 2, 1), pairs[drawn]])
    return (
        np.concatenate([single, both[drawn]]),
        parts,
        np.concatenate([one, two[drawn]]),
    )


def learn(config, world, holds, parts, row, epsilon, key):
    """Mastered goals and mastered predicates after each tenth of the episodes."""
    number = len(parts)
    single = jnp.arange(number) < len(craft.PREDICATES)
    known = (row.given > 0) & (single | (row.composed == 2))
    q = jnp.zeros((*world.after.shape, number))

    def roll(q, goal, epsilon, key):
        """States, actions, next states ``[T]`` of a goal's policy."""
        begin, key = jax.random.split(key)
        state, _ = craft.reset(world, begin)
        own = q[..., goal]

        def move(state, u):
            values = own[state]
            best = values == jnp.max(values)
            chances = jnp.cumsum(best / jnp.sum(best))
            greedy = jnp.sum(u[0] * chances[-1] >= chances)
            action = jnp.where(u[1] < epsilon, (u[2] * 5).astype(greedy.dtype), greedy)
            after = world.after[state, action]
            return after, (state, action, after)

        return jax.lax.scan(move, state, jax.random.uniform(key, (config.steps, 3)))[1]

    def episode(carry, key):
        q, known = carry
        aim, play, tell = jax.random.split(key, 3)
        # Before any goal is known the agent acts by chance.
        odds = jnp.where(known, 0.0, -jnp.inf)
        odds = jnp.where(jnp.any(known), odds, 0.0)
        goal = jax.random.categorical(aim, odds)
        explore = jnp.where(jnp.any(known), epsilon, 1.0)
        state, action, after = roll(q, goal, explore, play)
        achieved = holds[after]
        found = hindsight_relabel(achieved)
        share = jnp.where(row.told < 0, 1.0, row.told * config.told)
        told = (found.reached > 0) & (jax.random.uniform(tell, (number,)) < share)
        may = single | (row.composed > 0)
        known |= told & may
        # What was invented is known to the relabeller from then on.
        reached = known[parts].all(-1) & (row.composed == 1)
        known |= reached
        own = jnp.arange(number) == goal
        taught = (own & jnp.any(carry[1])) | (told & known) | (row.everything > 0)
        # A goal's episode ends when it is reached.
        before = jnp.cumsum(found.reward, 0) - found.reward
        before = jnp.where(row.everything > 0, 0.0, before)

        def sweep(q, now):
            state, action, after, hit, over = now
            target = jnp.where(hit, 1.0, 0.97 * jnp.max(q[after], 0))
            value = jnp.where(taught & (over == 0), target, q[state, action])
            return q.at[state, action].set(value), None

        moves = state, action, after, achieved, before
        q, _ = jax.lax.scan(sweep, q, moves, reverse=True)
        return (q, known), None

    def judge(q, key):
        def one(goal, key):
            _, _, after = roll(q, goal, 0.0, key)
            return jnp.any(holds[after, goal])

        keys = jax.random.split(key, (10, number))
        return jax.vmap(jax.vmap(one), (None, 0))(jnp.arange(number), keys)

    def block(carry, keys):
        carry, _ = jax.lax.scan(episode, carry, keys[1:])
        success = judge(carry[0], keys[0])
        first = len(craft.PREDICATES)
        counts = [mastered(x, threshold=0.8) for x in (success, success[:, :first])]
        return carry, jnp.stack(counts)

    keys = jax.random.split(key, (10, config.episodes // 10 + 1))
    return jax.lax.scan(block, (q, known), keys)[1]


def main(config: Config) -> dict:
    """Trains all rows, prints the table and draws; returns counts by row."""
    begin, cpu = time.monotonic(), time.process_time()
    world = craft.build()
    sets, parts, away = goals(world, config.steps, np.random.default_rng(0))
    within = int((away.mean(1) <= config.steps).sum())
    holds = jax.vmap(lambda goal: craft.fulfilled(world, goal), out_axes=1)(
        jnp.asarray(sets)
    )
    keys = jax.random.split(jax.random.key(0), config.tuning + config.seeds)
    stacked = jax.tree.map(lambda *x: jnp.array(x, jnp.float32), *ROWS.values())

    def run(row, epsilon, key):
        return learn(config, world, holds, jnp.asarray(parts), row, epsilon, key)

    for axes in ((None, None, 0), (None, 0, None)):
        run = jax.vmap(run, axes)
    run = jax.jit(run)
    marks = {0: "10 %", 2: "30 %", 4: "50 %", 9: "100 %"}
    print(
        f"{within} of {len(sets)} goals can be reached in time from the mean cell\n\n"
        f"| goals | chance | {' | '.join(marks.values())} | of these predicates |"
    )
    print("|---" * (len(marks) + 3) + "|")
    kept = {}
    for i, name in enumerate(ROWS):
        # Row by row: the tables of all of them are large.
        row = jax.tree.map(lambda x, i=i: x[i], stacked)
        curve = np.asarray(run(row, jnp.array(config.epsilons), keys))
        best = int(np.argmax(curve[:, : config.tuning, :, 0].mean((1, 2))))
        judged = kept[name] = curve[best, config.tuning :]
        cells = [
            f"{judged[:, at, 0].mean():.0f} ± {judged[:, at, 0].std():.0f}"
            for at in marks
        ]
        print(
            f"| {name} | {config.epsilons[best]:g} | {' | '.join(cells)} "
            f"| {judged[:, -1, 1].mean():.0f} |",
            flush=True,
        )
    print(f"\nshare of {config.episodes * config.steps} steps")
    spent = time.monotonic() - begin, time.process_time() - cpu
    print(f"{spent[0]:.0f} s, {spent[1]:.0f} of CPU", flush=True)
    draw(config, world, kept)
    return kept


def draw(config, world, kept):
    """A frame, and goals mastered over steps."""
    with picture(config.out, (9, 3.6)) as figure:
        (frame, axis) = figure.subplots(1, 2, width_ratios=(1, 2.4))
        # The inventory with wood, stone, plank, stick and pickaxe.
        has = np.asarray(world.has)
        some = int(np.argmax(has[:, craft.ITEMS.index("pickaxe")]))
        frame.imshow(craft.render(world, craft.SIDE**2 * some + 24, scale=20))
        frame.set_axis_off()
        x = config.episodes * config.steps / 10 * np.arange(1, 11)
        for number, (name, rows) in enumerate(kept.items()):
            axis.plot(x, rows[..., 0].mean(0), color=f"C{number}", label=name)
            low, high = rows[..., 0].min(0), rows[..., 0].max(0)
            axis.fill_between(x, low, high, color=f"C{number}", alpha=0.08)
        axis.set(xlabel="steps", ylabel="goals mastered, of 200")
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
