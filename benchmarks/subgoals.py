"""A bonus for subgoals that a labeller names, with errors, in the key-and-door grid.

    python benchmarks/subgoals.py               # the table of docs/grids.md
    python benchmarks/subgoals.py --side 9 --episodes 800
    python benchmarks/subgoals.py --seeds 1 --tuning 1 --episodes 40    # a trial

Q-learning from the rewards of whole episodes, last step first. A labeller says of each
transition whether it picks up the key and whether it opens the door, and is wrong with
some probability; it says the same of the same transition always. What is judged is the
exact return of the greedy policy under the task's own reward. Rate, exploration and the
weight of the bonus (of the plain learner: the scale of its reward; of the optimistic
one: its first values) are searched for each row alike, on other seeds.
"""

import dataclasses
import itertools
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from control_learners import greedy
from drawing import picture

from jaxlib_guidance.policy import potential_shaping, subgoal_bonus
from jaxlib_guidance.worlds import key_door, tables


@dataclasses.dataclass(frozen=True)
class Config:
    """How much to measure, and where to draw."""

    side: int = 7
    """Cells of a side of the grid."""
    steps: int = 100
    """Most steps of an episode."""
    episodes: int = 400
    seeds: int = 5
    """Seeds that are judged."""
    tuning: int = 2
    """Seeds that settings are chosen on."""
    out: Path = Path("out/subgoals.png")


class Row(NamedTuple):
    """Which weight each part of the reward gets: 1 is the setting's, and errors.

    Attributes:
      task: Of the task's reward beyond itself.
      first: Of the first values.
      once: Of a bonus paid the first time only.
      always: Of a bonus paid each time.
      counted: Of the potential "subgoals closed so far".
      optimal: Of the potential of the optimal values.
      false_alarm: Probability that a transition is labelled by mistake.
      missed: Probability that a label is missing.
    """

    task: float = 0.0
    first: float = 0.0
    once: float = 0.0
    always: float = 0.0
    counted: float = 0.0
    optimal: float = 0.0
    false_alarm: float = 0.0
    missed: float = 0.0


def rows():
    """All that are compared, by name."""
    found = {"task": Row(task=1.0), "task, optimistic values": Row(first=1.0)}
    labellers = {
        "right": {},
        "30 % missed": {"missed": 0.3},
        "0.3 % false": {"false_alarm": 0.003},
        "1 % false": {"false_alarm": 0.01},
        "10 % wrong": {"missed": 0.1, "false_alarm": 0.1},
        "30 % wrong": {"missed": 0.3, "false_alarm": 0.3},
    }
    kinds = {
        "bonus, once": "once",
        "bonus, each time": "always",
        "potential, number closed": "counted",
    }
    for (name, kind), (errors, rates) in itertools.product(
        kinds.items(), labellers.items()
    ):
        found[f"{name}; {errors}"] = Row(**{kind: 1.0}, **rates)
    found["potential V*"] = Row(optimal=1.0)
    return found


def labels(row, key, after, side):
    """What the labeller says of each state and action, bool ``[S, A, 2]``."""
    states = jnp.arange(len(after))
    truth = key_door.closed(states[:, None], after, side=side)
    u = jax.random.uniform(key, truth.shape)
    return jnp.where(truth, u >= row.missed, u < row.false_alarm)


def learn(config, table, after, optimum, row, setting, key):
    """Exact returns of the greedy policy after each twentieth of the episodes."""
    alpha, epsilon, weight = setting
    label_key, key = jax.random.split(key)
    marked = labels(row, label_key, after, config.side)
    actions = table.rewards.shape[1]

    def episode(q, key):
        chances = jnp.cumsum(greedy(q), -1)

        def move(carry, u):
            state, going = carry
            odds = chances[state]
            best = jnp.sum(u[0] * odds[-1] >= odds)
            drawn = (u[2] * actions).astype(best.dtype)
            action = jnp.where(u[1] < epsilon, drawn, best)
            there = after[state, action]
            seen = state, action, there, going
            return (there, going & ~table.terminal[there]), seen

        u = jax.random.uniform(key, (config.steps, 3))
        _, (state, action, there, going) = jax.lax.scan(move, (0, True), u)
        reached = marked[state, action] & going[:, None]
        closed = jnp.minimum(jnp.cumsum(reached, 0), 1).sum(-1)
        before = jnp.concatenate([jnp.zeros(1), closed[:-1]])
        ended = table.terminal[there]
        paid = table.rewards[state, action] * (1 + row.task * (weight - 1))
        paid += weight * row.once * subgoal_bonus(reached)
        paid += weight * row.always * subgoal_bonus(reached, once=False)
        for scale, now, then in (
            (row.counted, before, closed),
            (row.optimal, optimum[state], optimum[there]),
        ):
            shaped = potential_shaping(now, then, ended, gamma=table.gamma)
            paid += weight * scale * shaped

        def sweep(q, now):
            state, action, there, going, paid = now
            target = paid + table.gamma * jnp.max(q[there])
            step = jnp.where(going, alpha, 0.0)
            return q.at[state, action].add(step * (target - q[state, action])), None

        moves = state, action, there, going, paid
        return jax.lax.scan(sweep, q, moves, reverse=True)[0], None

    def block(q, keys):
        q, _ = jax.lax.scan(episode, q, keys)
        return q, tables.score(table, greedy(q))

    first = jnp.where(table.terminal[:, None], 0.0, row.first * weight)
    q = first + jnp.zeros_like(table.rewards)
    keys = jax.random.split(key, (20, max(config.episodes // 20, 1)))
    return jax.lax.scan(block, q, keys)[1]


def main(config: Config) -> dict:
    """Trains all rows in one call, prints and draws; returns curves by row."""
    begin, cpu = time.monotonic(), time.process_time()
    table = key_door.build(config.side)
    found = jax.jit(tables.solve)(table)
    optimum = float(found.values @ table.start)
    after = jnp.asarray(np.argmax(np.asarray(table.transitions), -1))
    named = rows()
    stacked = jax.tree.map(lambda *x: jnp.array(x), *named.values())
    settings = list(itertools.product((0.3, 1.0), (0.05, 0.2), (0.1, 1.0, 3.0)))
    keys = jax.random.split(jax.random.key(0), config.tuning + config.seeds)

    def run(row, setting, key):
        return learn(config, table, after, found.values, row, setting, key)

    for axes in ((None, None, 0), (None, 0, None), (0, None, None)):
        run = jax.vmap(run, axes)
    curves = np.asarray(jax.jit(run)(stacked, jnp.array(settings), keys))
    curves = np.maximum(curves, 0)  # Nothing costs: below 0 there is rounding alone.
    best = np.argmax(curves[:, :, : config.tuning].mean((2, 3)), 1)
    marks = {1: "5 %", 4: "20 %", 9: "50 %", 19: "100 %"}
    print(f"| reward | setting | {' | '.join(marks.values())} | mean of the curve |")
    print("|---" * (len(marks) + 3) + "|")
    kept = {}
    for name, curve, which in zip(named, curves, best, strict=True):
        judged = kept[name] = curve[which, config.tuning :]
        cells = [
            f"{judged[:, at].mean():.3f} ± {judged[:, at].std():.3f}" for at in marks
        ]
        setting = ", ".join(f"{x:g}" for x in settings[which])
        print(f"| {name} | {setting} | {' | '.join(cells)} | {judged.mean():.3f} |")
    print(f"\noptimum {optimum:.3f}; share of {config.episodes} episodes")
    spent = time.monotonic() - begin, time.process_time() - cpu
    print(f"{spent[0]:.0f} s, {spent[1]:.0f} of CPU", flush=True)
    draw(config, kept, optimum)
    return kept


def draw(config, kept, optimum):
    """A frame of each phase, and the curves."""
    with picture(config.out, (9, 3.4)) as figure:
        frames, panel = figure.subfigures(1, 2, width_ratios=(1, 2))
        cells = config.side**2
        for axis, state in zip(
            frames.subplots(2, 1),
            (config.side, cells + config.side * (config.side - 1) + 1),
            strict=True,
        ):
            axis.imshow(key_door.render(state, side=config.side))
            axis.set_axis_off()
        axis = panel.subplots()
        x = config.episodes / 20 * np.arange(1, 21)
        shown = {
            name: rows.mean(0) for name, rows in kept.items() if rows.mean() > 0.01
        }
        for number, (name, curve) in enumerate(shown.items()):
            style = "--" if "each" in name else ":" if "potential" in name else "-"
            axis.plot(x, curve, style, color=f"C{number % 10}", lw=1.4, label=name)
        axis.plot(x, 0 * x, color="k", lw=1.4, label="all others")
        axis.axhline(optimum, color="k", lw=0.6)
        axis.set(xlabel="episodes", ylabel="return of the greedy policy")
        axis.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
