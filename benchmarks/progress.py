"""A reward at the end, handed to the steps that made progress: SPA in the key grid.

    python benchmarks/progress.py               # the tables of docs/grids.md
    python benchmarks/progress.py --seeds 1 --tuning 1 --updates 40    # a trial

An episode in the key-and-door grid pays 1 at its end if the goal was reached in time.
An estimator, a table of states and actions, learns contributions that sum to that
outcome; the policy learns by REINFORCE, with a table of values as its baseline, from
contributions in place of the outcome. What is judged is the exact probability to reach
the goal in time. The rate, and the weight of whatever a row adds to the outcome, are
searched for each row alike, on other seeds. Episodes that an estimator was trained on
beforehand count: these rows start as much later.
"""

import dataclasses
import itertools
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from control_learners import play, reinforce_step, returns
from drawing import picture

from jaxlib_guidance.policy import (
    potential_shaping,
    progress_loss,
    progress_redistribution,
)
from jaxlib_guidance.worlds import key_door, tables


@dataclasses.dataclass(frozen=True)
class Config:
    """How much to measure, and where to draw."""

    side: int = 5
    """Cells of a side of the grid."""
    steps: int = 60
    """Most steps of an episode."""
    episodes: int = 16
    """Episodes of an update."""
    updates: int = 200
    skill: float = 0.06
    """Share of the optimal policy in the first one, the rest is chance."""
    explored: int = 800
    """Episodes of the first policy that the estimator is trained on beforehand."""
    fits: int = 400
    """Steps of the estimator on these; a tenth of it where it is stopped early."""
    seeds: int = 5
    """Seeds that are judged."""
    tuning: int = 2
    """Seeds that settings are chosen on."""
    out: Path = Path("out/progress.png")


class Row(NamedTuple):
    """What a step is paid; a weight of 1 is the setting's.

    Attributes:
      outcome: 1 if the outcome is paid, at the end.
      rescaled: 1 if contributions are, scaled to sum to the outcome.
      raw: 1 if contributions are, as the estimator gives them.
      grounded: Weight of actions that could be executed.
      counted: Weight of the potential "subgoals closed".
      optimal: Weight of the potential of the optimal values.
      later: 1 if the estimator goes on learning with the policy.
      early: 1 for the estimator that was stopped early.
    """

    outcome: float = 0.0
    rescaled: float = 0.0
    raw: float = 0.0
    grounded: float = 0.0
    counted: float = 0.0
    optimal: float = 0.0
    later: float = 0.0
    early: float = 0.0


ROWS = {
    "outcome at the end": Row(outcome=1),
    "outcome, executable actions": Row(outcome=1, grounded=1),
    "SPA, summing to the outcome": Row(rescaled=1),
    "SPA, as estimated": Row(raw=1),
    "SPA, as estimated, stopped early": Row(raw=1, early=1),
    "SPA, summing to the outcome, stopped early": Row(rescaled=1, early=1),
    "SPA, as estimated, executable actions": Row(raw=1, grounded=1),
    "SPA, as estimated, estimator kept learning": Row(raw=1, later=1),
    "outcome and SPA, as estimated": Row(outcome=1, raw=1),
    "potential, subgoals closed": Row(outcome=1, counted=1),
    "potential V*": Row(outcome=1, optimal=1),
}


def outcomes(table, seen):
    """1 for episodes that reached the goal, ``[E]``."""
    return jnp.any(seen.going & table.terminal[seen.after], -1).astype(jnp.float32)


def fit(tx, carry, seen, reward):
    """A step of the estimator on whole episodes."""
    c, moments = carry

    def loss(c):
        return jnp.mean(progress_loss(c[seen.state, seen.action], reward, seen.going))

    change, moments = tx.update(jax.grad(loss)(c), moments)
    return optax.apply_updates(c, change), moments


def explore(config, table, policy, key):
    """An estimator of a policy's episodes, and what it found in them."""
    first, key = jax.random.split(key)
    seen = play(first, table, policy, episodes=config.explored, steps=config.steps)
    reward = outcomes(table, seen)
    tx = optax.adam(0.01)
    c = jnp.zeros_like(table.rewards)

    def step(carry, key):
        some = jax.random.choice(key, config.explored, (64,))
        batch = jax.tree.map(lambda x: x[some], seen)
        return fit(tx, carry, batch, reward[some]), None

    keys = jax.random.split(key, config.fits)
    cut = max(config.fits // 10, 1)
    early, _ = jax.lax.scan(step, (c, tx.init(c)), keys[:cut])
    late, _ = jax.lax.scan(step, early, keys[cut:])
    closed = key_door.closed(seen.state, seen.after, side=config.side)
    goal = table.terminal[seen.after][..., None]
    events = jnp.concatenate([closed, goal], -1) & seen.going[..., None]
    won = reward > 0
    both = jnp.stack([early[0], late[0]])

    def report(c):
        credit = jnp.where(seen.going, c[seen.state, seen.action], 0.0)
        at = jnp.sum(credit[..., None] * events, (0, 1)) / jnp.sum(events, (0, 1))
        total = jnp.sum(credit, -1)
        sums = [jnp.sum(total * x) / jnp.sum(x) for x in (won, ~won)]
        return jnp.stack([*at, *sums])

    return both, jax.vmap(report)(both), jnp.mean(won)


def success(table, policy, steps):
    """Exact probability to have reached the goal in time."""
    moves = jnp.einsum("sa,sat->st", policy, table.transitions)
    there = jax.lax.fori_loop(0, steps, lambda _, x: x @ moves, table.start)
    return jnp.sum(jnp.where(table.terminal, there, 0.0))


def learn(config, table, found, first, row, setting, c, key):
    """Success after every twentieth of the updates."""
    rate, weight = setting
    c = jnp.where(row.early > 0, c[0], c[1])
    optimum = found.values
    tx = optax.adam(0.01)

    def update(carry, key):
        theta, values, (c, moments) = carry
        pi = jax.nn.softmax(theta)
        seen = play(key, table, pi, episodes=config.episodes, steps=config.steps)
        reward = outcomes(table, seen)
        kept = fit(tx, (c, moments), seen, reward)
        c, moments = jax.tree.map(
            lambda new, old: jnp.where(row.later > 0, new, old), kept, (c, moments)
        )
        ended = table.terminal[seen.after]
        moved = seen.state != seen.after
        given = c[seen.state, seen.action]

        def attribute(rescale, beta):
            each = lambda c, r, g, m: progress_redistribution(  # noqa: E731
                c, r, g, m, beta=beta, rescale=rescale
            )
            return jax.vmap(each)(given, reward, moved, seen.going)

        paid = row.outcome * ended
        paid += row.rescaled * attribute(True, 0.0)
        # Beside the outcome contributions have a weight; alone their scale is the rate.
        share = jnp.where(row.outcome > 0, weight, 1.0)
        paid += row.raw * share * attribute(False, 0.0)
        paid += row.grounded * weight * moved
        for scale, phi in (
            (row.counted, key_door.phase(jnp.arange(len(optimum)), side=config.side)),
            (row.optimal, optimum),
        ):
            shaped = potential_shaping(
                phi[seen.state], phi[seen.after], ended, gamma=table.gamma
            )
            paid += scale * weight * shaped
        gain = returns(paid, seen.going, table.gamma)
        ahead = jnp.where(seen.going, gain - values[seen.state], 0.0)
        visits = jnp.zeros_like(values).at[seen.state].add(seen.going)
        off = jnp.zeros_like(values).at[seen.state].add(ahead)
        theta = reinforce_step(theta, seen, ahead, rate)
        values = values + 0.3 * off / jnp.maximum(visits, 1)
        return (theta, values, (c, moments)), None

    def block(carry, keys):
        carry, _ = jax.lax.scan(update, carry, keys)
        pi = jax.nn.softmax(carry[0])
        return carry, success(table, pi, config.steps)

    values = tables.evaluate(table, first)
    carry = jnp.log(first), values, (c, tx.init(c))
    keys = jax.random.split(key, (20, config.updates // 20))
    return jax.lax.scan(block, carry, keys)[1]


def main(config: Config) -> dict:
    """Prints what the estimator found and the table; returns curves by row."""
    begin, cpu = time.monotonic(), time.process_time()
    table = key_door.build(config.side)
    solution = jax.jit(tables.solve)(table)
    shared = solution.optimal / jnp.sum(solution.optimal, -1, keepdims=True)
    actions = table.rewards.shape[1]
    first = config.skill * shared + (1 - config.skill) / actions
    keys = jax.random.split(jax.random.key(0), (config.tuning + config.seeds, 2))
    explored = jax.jit(jax.vmap(lambda key: explore(config, table, first, key)))
    c, report, won = explored(keys[:, 0])
    print(
        f"won of the first policy's episodes: {won.mean():.3f}\n\n"
        "| contribution of | key picked up | door opened | goal | won | lost |"
        "\n|---|---|---|---|---|---|"
    )
    for name, cells in zip(
        ("estimator stopped early", "estimator"),
        np.asarray(report)[config.tuning :].transpose(1, 2, 0),
        strict=True,
    ):
        print(f"| {name} | {' | '.join(f'{x.mean():.2f}' for x in cells)} |")
    print()
    stacked = jax.tree.map(lambda *x: jnp.array(x, jnp.float32), *ROWS.values())
    settings = list(itertools.product((10.0, 30.0, 100.0, 300.0), (0.01, 0.1, 1.0)))

    def run(row, setting, c, key):
        return learn(config, table, solution, first, row, setting, c, key)

    for axes in ((None, None, 0, 0), (None, 0, None, None), (0, None, None, None)):
        run = jax.vmap(run, axes)
    curves = np.array(jax.jit(run)(stacked, jnp.array(settings), c, keys[:, 1]))
    # Episodes that an estimator was trained on count.
    each = config.updates // 20 * config.episodes
    late = min(round(config.explored / each), 20)
    chance = float(success(table, first, config.steps))
    for i, row in enumerate(ROWS.values()):
        if row.raw or row.rescaled:
            curves[i] = np.roll(curves[i], late, -1)
            curves[i, ..., :late] = chance
    best = np.argmax(curves[:, :, : config.tuning].mean((2, 3)), 1)
    marks = {4: "25 %", 9: "50 %", 14: "75 %", 19: "100 %"}
    print(f"| reward | setting | {' | '.join(marks.values())} | mean of the curve |")
    print("|---" * (len(marks) + 3) + "|")
    kept = {}
    for name, curve, which in zip(ROWS, curves, best, strict=True):
        judged = kept[name] = curve[which, config.tuning :]
        cells = [
            f"{judged[:, at].mean():.3f} ± {judged[:, at].std():.3f}" for at in marks
        ]
        setting = ", ".join(f"{x:g}" for x in settings[which])
        print(f"| {name} | {setting} | {' | '.join(cells)} | {judged.mean():.3f} |")
    print(f"\nfirst policy {chance:.3f}; share of {20 * each} episodes")
    spent = time.monotonic() - begin, time.process_time() - cpu
    print(f"{spent[0]:.0f} s, {spent[1]:.0f} of CPU", flush=True)
    draw(kept, each, config.out)
    return kept


def draw(kept, each, out):
    """Success over episodes, the mean of the seeds and their range."""
    with picture(out, (8, 3.4)) as figure:
        axis = figure.subplots()
        x = each * np.arange(1, 21)
        for number, (name, rows) in enumerate(kept.items()):
            style = "--" if "SPA" in name else ":" if "potential" in name else "-"
            axis.plot(x, rows.mean(0), style, color=f"C{number}", label=name)
            axis.fill_between(
                x, rows.min(0), rows.max(0), color=f"C{number}", alpha=0.06
            )
        axis.set(xlabel="episodes", ylabel="probability to reach the goal")
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
