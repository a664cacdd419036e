"""Designed rewards in tables that are solved exactly: EXPRD, EXPADARD, ExploRS.

    python benchmarks/reward_design.py                # the tables of docs/control.md
    python benchmarks/reward_design.py --parts exprd
    python benchmarks/reward_design.py --seeds 2 --tuning 1 --scale 0.05    # a trial

A learner learns from a designed reward; what is judged is the exact return of its
policy under the task's own. All settings of the learner are searched for each reward
alike, by the mean of the curve, on other seeds than those that are judged.

exprd     Q-learning in four rooms, with rewards that have a budget of states
expadard  REINFORCE in four rooms, half the seeds, with rewards that adapt to it
explors   REINFORCE in a corridor with a distractor, with rewards of the learner's own
"""

import dataclasses
import itertools
import time
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from control_learners import (
    play,
    q_learning,
    reinforce,
    reinforce_step,
    returns,
)
from drawing import picture

from jaxlib_guidance.policy import (
    adapt_reward,
    count_bonus,
    design_reward,
    informativeness,
    select_states,
    self_design_step,
)
from jaxlib_guidance.worlds import grids, tables

Part = Literal["exprd", "expadard", "explors"]


@dataclasses.dataclass(frozen=True)
class Config:
    """How much to measure, and where to draw."""

    parts: tuple[Part, ...] = ("exprd", "expadard", "explors")
    seeds: int = 10
    """Seeds that are judged."""
    tuning: int = 5
    """Seeds that settings are chosen on."""
    scale: float = 1.0
    """Share of the episodes, for a trial."""
    corridor: int = 30
    """States of the corridor; the learner starts in state 10."""
    out: Path = Path("out/reward_design.png")


def goal_of(table):
    return int(np.argmax(np.asarray(table.rewards).max(1)))


def given(table, found):
    """Transitions, policy, and gaps in float64: the programs allow 1e-5 of rounding."""
    p, r = (np.asarray(x, float) for x in (table.transitions, table.rewards))
    policy, states = np.asarray(found.policy), np.arange(len(r))
    moves = float(table.gamma) * p
    values = np.linalg.solve(np.eye(len(r)) - moves[states, policy], r[states, policy])
    lead = values[:, None] - (r + moves @ values)
    gap = np.where(found.optimal, np.inf, lead).min(1)
    return p, policy, np.where(np.isinf(gap), 0, gap)


def report(names, curves, settings, marks, config, optimum):
    """Prints a table; ``curves [rows, settings, seeds, points]``. Returns the means."""
    tuned = curves[:, :, : config.tuning].mean((2, 3))
    best = np.argmax(tuned, 1)
    print(f"| reward | setting | {' | '.join(marks)} | mean of the curve |")
    print("|---" * (len(marks) + 3) + "|")
    kept = {}
    for name, curve, which in zip(names, curves, best, strict=True):
        judged = curve[which, config.tuning :]
        kept[name] = judged
        cells = []
        for at in marks.values():
            values = judged[:, at]
            cells.append(f"{values.mean():.2f} ± {values.std():.2f}")
        setting = ", ".join(f"{x:g}" for x in settings[which])
        print(f"| {name} | {setting} | {' | '.join(cells)} | {judged.mean():.2f} |")
    print(f"\noptimum {optimum:.3f}\n")
    return kept


def by_distance():
    """A potential that knows where the goal is and nothing of walls."""
    cell = np.arange(49)
    return np.append(-(6 - cell % 7) - (6 - cell // 7), 0).astype(np.float32)


def exprd(config):
    table = grids.four_rooms()
    found = jax.jit(tables.solve)(table)
    optimum = float(found.values @ table.start)
    goal, gamma = goal_of(table), float(table.gamma)
    every = {"gamma": gamma, "optimal": np.asarray(found.optimal)}
    own = np.asarray(table.rewards)
    rewards, firsts = {"task": own, "task x 10": 10 * own}, {}
    rewards["task, values start at 10"] = own
    firsts["task, values start at 10"] = 10.0
    begin = time.monotonic()
    states, five = select_states(
        *given(table, found), budget=5, chosen=[goal], candidates=range(49), **every
    )
    programs = time.monotonic() - begin
    active = np.isin(np.arange(50), states[:4])
    three = design_reward(*given(table, found), active=active, **every)
    begin = time.monotonic()
    whole = design_reward(*given(table, found), active=np.arange(50) < 49, **every)
    one = time.monotonic() - begin
    print(f"states chosen after the goal {goal}: {states[1:]}; {programs:.0f} s")
    print(f"the program of all states: {one:.2f} s\n")
    rewards["EXPRD, 3 states"] = three.rewards
    rewards["EXPRD, 5 states"] = five.rewards
    rewards["EXPRD, all states"] = whole.rewards
    value = tables.potential_rewards(table, found.values)
    rewards["potential V*"] = own + np.asarray(value)
    for scale in (0.1, 0.3, 1.0):
        near = tables.potential_rewards(table, scale * by_distance())
        rewards[f"potential, {scale:g} x distance"] = own + np.asarray(near)
    score = jax.jit(
        lambda r: informativeness(
            r, table.transitions, found.policy, found.gap, **every
        )
    )
    print("| reward | informativeness | states with a reward |\n|---|---|---|")
    for name, r in rewards.items():
        paid = int(np.sum(np.abs(r).max(1) > 1e-6))
        print(f"| {name} | {float(score(r.astype(np.float32))):.4f} | {paid} |")
    print()
    settings = list(itertools.product((0.2, 0.5, 1.0), (0.02, 0.1, 0.3)))
    blocks = max(2, int(100 * config.scale))
    keys = jax.random.split(jax.random.key(0), config.tuning + config.seeds)

    panels = {}
    for each, steps in ((10, 50), (2, 500)):

        def run(r, first, setting, key, each=each, steps=steps):
            lengths = {"blocks": blocks, "episodes": each, "steps": steps}
            return q_learning(key, table, r, first, *setting, **lengths)

        for axes in ((None, None, None, 0), (None, None, 0, None), (0, 0, None, None)):
            run = jax.vmap(run, axes)
        curves = jax.jit(run)(
            jnp.asarray(np.stack(list(rewards.values())), jnp.float32),
            jnp.array([firsts.get(name, 0.0) for name in rewards]),
            jnp.array(settings),
            keys,
        )
        print(f"at most {steps} steps an episode\n")
        at = [
            n for n in (10, 20, 50, 100, 200, 500, 1000) if each <= n <= each * blocks
        ]
        marks = {f"{n} episodes": n // each - 1 for n in at[-5:]}
        kept = report(rewards, np.asarray(curves), settings, marks, config, optimum)
        panels[f"Q-learning, {steps} steps"] = kept, each, optimum
    return panels


def squares():
    """Nine overlapping 3 by 3 squares and the goal, each with each action."""
    corners = [(0, 0), (3, 0), (4, 0), (0, 3), (0, 4), (3, 3), (3, 4), (4, 3), (4, 4)]
    cell = np.arange(50)
    x, y = cell % 7, cell // 7
    inside = [
        (x >= a) & (x < a + 3) & (y >= b) & (y < b + 3) & (cell < 49)
        for a, b in corners
    ]
    shape = np.stack([*inside, cell == 48], 1).astype(float)
    return np.einsum("sd,ab->sadb", shape, np.eye(4)).reshape(50, 4, -1)


def expadard(config):
    table = grids.four_rooms(slip=0.05)
    found = jax.jit(tables.solve)(table)
    optimum = float(found.values @ table.start)
    every = {"gamma": float(table.gamma), "optimal": np.asarray(found.optimal)}
    own, features = np.asarray(table.rewards), squares()
    teacher = 0.6 * jax.nn.one_hot(found.policy, 4) + 0.1
    mu = np.asarray(tables.visits(table, teacher))
    advantage = np.asarray(found.q - found.values[:, None])
    fixed = {
        "task": own,
        "EXPRD, 40 features": design_reward(
            *given(table, found), features=features, **every
        ).rewards,
        "potential V*": own + np.asarray(tables.potential_rewards(table, found.values)),
        "EXPADARD, once": adapt_reward(
            *given(table, found),
            np.full((50, 4), 0.25),
            advantage,
            mu,
            np.asarray(tables.visits(table, jnp.full((50, 4), 0.25))),
            features=features,
            **every,
        ).rewards,
    }
    names = [*fixed, "EXPADARD"]
    rates = [(0.1,), (1.0,), (10.0,)]
    seeds = config.tuning // 2 + 1 + (config.seeds + 1) // 2
    stages = max(2, int(25 * config.scale))

    @jax.jit
    def stage(theta, key, rewards):
        keys = jax.random.split(key, seeds)
        rate = jnp.array(rates)[:, 0]

        def run(theta, key, r, rate):
            return reinforce(
                theta, key, table, r, rate, updates=20, episodes=5, steps=30
            )

        run = jax.vmap(run, (0, 0, 0, None))
        run = jax.vmap(run, (0, None, 0, 0))
        run = jax.vmap(run, (0, None, 0, None))
        return run(theta, keys, rewards, rate)

    lanes = (len(names), len(rates), seeds)
    rewards = np.zeros((*lanes, 50, 4), np.float32)
    for i, r in enumerate(fixed.values()):
        rewards[i] = r
    theta, curves = jnp.zeros((*lanes, 50, 4)), []
    share = jax.jit(jax.vmap(jax.vmap(lambda t: tables.visits(table, t))))
    begin = time.monotonic()
    for i in range(stages):
        pi = jax.nn.softmax(theta[-1])
        there = np.asarray(share(pi))
        learner = np.asarray(pi)
        for a, b in np.ndindex(lanes[1:]):
            rewards[-1, a, b] = adapt_reward(
                *given(table, found),
                learner[a, b],
                advantage,
                mu,
                there[a, b],
                features=features,
                **every,
            ).rewards
        theta, now = stage(theta, jax.random.key(i), rewards)
        curves.append(np.asarray(now))
    print(
        f"{stages * lanes[1] * lanes[2]} programs, {time.monotonic() - begin:.0f} s\n"
    )
    smaller = dataclasses.replace(config, tuning=config.tuning // 2 + 1)
    at = [n for n in (300, 1000, 2500) if n <= 100 * stages]
    marks = {f"{n} episodes": n // 100 - 1 for n in at or [100 * stages]}
    curves = np.stack(curves, -1)
    kept = report(names, curves, rates, marks, smaller, optimum)
    return {"expadard": (kept, 100, optimum)}


def explors(config):
    table = grids.chain(
        config.corridor, start=10, slip=0.05, gamma=0.99, distractor=0.01, at=4
    )
    found = jax.jit(tables.solve)(table)
    optimum = float(found.values @ table.start)
    own = table.rewards
    names = {
        "task": (0.0, 0.0),
        "bonus for new states": (0.0, 1.0),
        "self-designed": (1.0, 0.0),
        "ExploRS": (1.0, 1.0),
    }
    # Rates of the learner, and of the reward and its values.
    settings = list(itertools.product((0.1, 1.0, 10.0), (0.01, 0.1)))
    keys = jax.random.split(jax.random.key(0), config.tuning + config.seeds)
    blocks = max(2, int(40 * config.scale))

    def update(carry, key):
        theta, phi, values, visits, (design, bonus), (rate, slow) = carry
        pi = jax.nn.softmax(theta)
        seen = play(key, table, pi, episodes=5, steps=40)
        task = own[seen.state, seen.action]
        gain = returns(task, seen.going, table.gamma)
        new = jnp.where(table.terminal, 0.0, count_bonus(visits))
        shaped = design * phi[seen.state, seen.action] + bonus * new[seen.after]
        learned = returns(task + shaped, seen.going, table.gamma)
        theta = reinforce_step(theta, seen, learned, rate)
        ahead = jnp.where(seen.going, gain - values[seen.state], 0.0)

        def one(state, action, ahead):
            zero = jnp.zeros_like(phi)
            return self_design_step(zero, state, action, pi[state], ahead, rate=slow)

        flat = (x.reshape(-1) for x in (seen.state, seen.action, ahead))
        phi = phi + jnp.sum(jax.vmap(one)(*flat), 0)
        number = jnp.maximum(jnp.sum(seen.going), 1)
        values = values.at[seen.state].add(slow * ahead / number)
        visits = visits.at[seen.state].add(jnp.where(seen.going, 1.0, 0.0))
        return (theta, phi, values, visits, (design, bonus), (rate, slow)), None

    def run(which, setting, key):
        zeros = jnp.zeros_like(own)
        first = (zeros, zeros, zeros[:, 0], zeros[:, 0], which, setting)

        def block(carry, keys):
            carry, _ = jax.lax.scan(update, carry, keys)
            return carry, tables.score(table, jax.nn.softmax(carry[0]))

        return jax.lax.scan(block, first, jax.random.split(key, (blocks, 20)))[1]

    pair = lambda rows: tuple(jnp.array(rows).T)  # noqa: E731
    run = jax.vmap(run, (None, None, 0))
    run = jax.vmap(run, (None, 0, None))
    run = jax.vmap(run, (0, None, None))
    curves = np.asarray(jax.jit(run)(pair(list(names.values())), pair(settings), keys))
    at = [n for n in (500, 1000, 2000, 4000) if n <= 100 * blocks]
    marks = {f"{n} episodes": n // 100 - 1 for n in at or [100 * blocks]}
    kept = report(names, curves, settings, marks, config, optimum)
    for name, rows in kept.items():
        reached = np.sum(rows[:, -1] > 0.5)
        print(f"{name}: {reached} of {len(rows)} seeds go to the goal")
    return {"explors": (kept, 100, optimum)}


def draw(found, out):
    with picture(out, (5 * len(found), 3.8)) as figure:
        panels = figure.subplots(1, len(found), squeeze=False)
        for panel, (part, (kept, each, optimum)) in zip(
            panels[0], found.items(), strict=True
        ):
            for name, rows in kept.items():
                x = each * (1 + np.arange(rows.shape[1]))
                panel.plot(x, rows.mean(0), lw=1.2, label=name)
                low, high = rows.min(0), rows.max(0)
                panel.fill_between(x, low, high, alpha=0.07)
            panel.axhline(optimum, color="k", lw=0.8, ls=":")
            panel.set(
                title=part, xlabel="episodes", ylabel="return under the task's reward"
            )
            panel.legend(fontsize=6)


def main(config: Config) -> None:
    """Runs the parts, prints a table each, and draws the curves."""
    found = {}
    for part in config.parts:
        begin, cpu = time.monotonic(), time.process_time()
        print(f"## {part}\n")
        found |= globals()[part](config)
        spent = time.monotonic() - begin, time.process_time() - cpu
        print(f"\n{spent[0]:.0f} s, {spent[1]:.0f} of CPU\n", flush=True)
    draw(found, config.out)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
