"""Good trajectories, damaged, train a judge of outcomes: UI-Genie in a crafting grid.

    python benchmarks/trajectory_judges.py          # the tables of docs/grids.md
    python benchmarks/trajectory_judges.py --seeds 1 --tuning 1 --fits 40    # a trial

An agent attempts goals of one or two predicates and says itself that it is finished; an
attempt is right if the goal holds then. A rule can tell for goals of one item only. A
judge, a small recurrent network that sees at each step which of the asked predicates
hold and what was done, learns from attempts that the rule labelled, from an expert's
successes, and from those damaged by `policy.corrupt`. What is measured is the F1 of its
verdicts on the agent's own attempts at held-out goals, and the agent's success after it
was trained on the attempts that the judge accepted. Adam's rate of the judge is
searched for each row alike, on other seeds. All rows have as many damaged trajectories.
"""

import dataclasses
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from drawing import picture
from proposers import Attempts, logits, start, tasks, train

from jaxlib_guidance.policy import corrupt, verdict_scores
from jaxlib_guidance.worlds import craft

KINDS = ("truncate", "redundant", "swap", "wrong_end")
STEPS, FINISH = 26, 5


@dataclasses.dataclass(frozen=True)
class Config:
    """How much to measure, and where to draw."""

    number: int = 240
    """Trajectories of each source."""
    fits: int = 120
    """Training steps of a judge."""
    batch: int = 32
    width: int = 12
    """Units of the judge."""
    rates: tuple[float, ...] = (0.01, 0.03)
    """Adam's rates of the judge, searched."""
    seeds: int = 5
    """Seeds that are judged."""
    tuning: int = 1
    """Seeds that settings are chosen on."""
    out: Path = Path("out/trajectory_judges.png")


class Row(NamedTuple):
    """What a judge learns from, as weights: rule, expert, each kind, hard, truth."""

    rule: float = 1.0
    expert: float = 1.0
    truncate: float = 0.0
    redundant: float = 0.0
    swap: float = 0.0
    wrong_end: float = 0.0
    hard: float = 0.0
    truth: float = 0.0


ALL = dict.fromkeys(KINDS, 0.25)
ROWS = {
    "rule": Row(expert=0.0),
    "rule, successes": Row(),
    **{f"rule, successes, {kind}": Row(**{kind: 1.0}) for kind in KINDS},
    "rule, successes, all four": Row(**ALL),
    "truth of as many attempts": Row(expert=0.0, truth=2.0),
    "all four, hard negatives": Row(**ALL, hard=1.0),
}


def roll(params, world, goals, key):
    """Attempts, their lengths and whether they are right, ``[N]``."""
    begin, key = jax.random.split(key)
    number = len(goals)
    state = jax.random.randint(begin, (number,), 0, craft.SIDE**2)

    def move(carry, key):
        state, going = carry
        action = jax.random.categorical(key, logits(params, world.holds[state], goals))
        after = world.after[state, jnp.minimum(action, 4)]
        after = jnp.where(going & (action < FINISH), after, state)
        return (after, going & (action < FINISH)), (state, action, going)

    keys = jax.random.split(key, STEPS - 1)
    begun = state, jnp.ones(number, bool)
    (state, going), rolled = jax.lax.scan(move, begun, keys)
    right = ~going & jnp.all(world.holds[state] | ~goals, -1)
    return pack(*rolled, goals), right


def pack(state, action, counts, goals):
    """``[T, N]`` to attempts ``[N, STEPS]``."""
    room = lambda x: jnp.pad(x.swapaxes(0, 1), ((0, 0), (0, STEPS - len(x))))  # noqa: E731
    return Attempts(room(state), room(action), goals, room(counts))


def expert(world, away, sets, odds, number, key):
    """Shortest attempts of at least two moves, finished where the goal holds."""
    begin, which = jax.random.split(key)
    goal = jax.random.categorical(which, odds, shape=(number,))
    near = away[goal, : craft.SIDE**2]
    state = jax.random.categorical(begin, jnp.where(near >= 2, 0.0, -jnp.inf))

    def move(carry, _):
        state, going = carry
        there = away[goal, state] == 0
        action = jnp.argmin(away[goal[:, None], world.after[state]], -1)
        after = jnp.where(there, state, world.after[state, action])
        action = jnp.where(there, FINISH, action)
        return (after, going & ~there), (state, action, going)

    begun = state, jnp.ones(number, bool)
    _, rolled = jax.lax.scan(move, begun, length=STEPS - 1)
    return pack(*rolled, sets[goal])


def damage(key, data, kind):
    """Each attempt of an expert, damaged; the one before it lends a step."""
    length = jnp.sum(data.counts, -1)
    steps = data.state, data.action
    keys = jax.random.split(key, len(length))
    if kind == "swap":
        one = lambda *x: corrupt(*x, kind="swap")  # noqa: E731
        lent = jax.tree.map(lambda x: jnp.roll(x, 1, 0), (steps, length))
        found = jax.vmap(one)(keys, steps, length, *lent)
    else:
        one = lambda *x: corrupt(*x, kind=kind)  # noqa: E731
        found = jax.vmap(one)(keys, steps, length)
    state, action = found.steps
    counts = jnp.arange(STEPS) < found.length[:, None]
    return Attempts(state, action, data.goal, counts)


def judge_start(key, width):
    """Parameters of a gated recurrent network and its head."""
    one, two, three = jax.random.split(key, 3)
    inputs = 2 * len(craft.PREDICATES) + 6
    return (
        jax.random.normal(one, (inputs, 3 * width)) / np.sqrt(8),
        jax.random.normal(two, (width, 3 * width)) / np.sqrt(width),
        jnp.zeros(3 * width),
        jax.random.normal(three, (width,)) / np.sqrt(width),
        jnp.zeros(()),
    )


def judge(params, world, data):
    """Logits that attempts are right, ``[N]``."""
    into, back, bias, head, level = params
    holds, asked = world.holds[data.state], data.goal[:, None]
    done = jax.nn.one_hot(data.action, 6)
    seen = jnp.concatenate([holds & asked, ~holds & asked, done], -1)

    def step(h, now):
        x, counts = now
        a, b = x @ into + bias, h @ back
        (r, z, n), (hr, hz, hn) = jnp.split(a, 3, -1), jnp.split(b, 3, -1)
        z = jax.nn.sigmoid(z + hz)
        new = (1 - z) * jnp.tanh(n + jax.nn.sigmoid(r + hr) * hn) + z * h
        return jnp.where(counts[:, None], new, h), None

    h = jnp.zeros((len(data.goal), len(head)))
    h, _ = jax.lax.scan(step, h, (seen.swapaxes(0, 1), data.counts.swapaxes(0, 1)))
    return h @ head + level


def fit(config, world, data, labels, weights, rate, key):
    """A judge of the labelled attempts, drawn by their weights."""
    first, key = jax.random.split(key)
    params = judge_start(first, config.width)
    tx = optax.inject_hyperparams(optax.adam)(learning_rate=rate)

    def loss(params, some, label):
        out = judge(params, world, some)
        return jnp.mean(optax.sigmoid_binary_cross_entropy(out, label))

    def step(carry, key):
        params, moments = carry
        index = jax.random.categorical(key, jnp.log(weights), shape=(config.batch,))
        some = jax.tree.map(lambda x: x[index], data)
        slope = jax.grad(loss)(params, some, labels[index].astype(jnp.float32))
        change, moments = tx.update(slope, moments)
        return (optax.apply_updates(params, change), moments), None

    keys = jax.random.split(key, config.fits)
    return jax.lax.scan(step, (params, tx.init(params)), keys)[0][0]


def prepare(config, world, sets, possible, held, away, key):
    """The agent, and all attempts that judges learn from and are measured on."""
    keys = iter(jax.random.split(key, 16))
    number = config.number
    open_odds = jnp.where(possible, 0.0, -jnp.inf)
    shown = expert(world, away, sets, open_odds, 80, next(keys))
    params = start(next(keys), 48, 6)
    tx = optax.adam(0.01)
    params, moments = train(
        params, tx.init(params), tx, world, shown, jnp.ones(80), next(keys),
        fits=150, batch=48,
    )  # fmt: skip
    items = possible & (jnp.sum(sets, -1) == 1) & jnp.any(sets[:, :14], -1)
    told = jnp.where(items, 0.0, -jnp.inf)

    def attempts(odds, number):
        goal = jax.random.categorical(next(keys), odds, shape=(number,))
        return roll(params, world, sets[goal], next(keys))

    ruled, ruled_right = attempts(told, number)
    free, free_right = attempts(open_odds, 4 * number)
    good = expert(world, away, sets, open_odds, number, next(keys))
    bad = [damage(next(keys), good, kind) for kind in KINDS]
    data = jax.tree.map(lambda *x: jnp.concatenate(x), ruled, good, *bad, free)
    labels = jnp.concatenate(
        [ruled_right, jnp.ones(number, bool), jnp.zeros(4 * number, bool), free_right]
    )
    test = roll(params, world, jnp.tile(held, (6, 1)), next(keys))
    return (params, moments), data, labels, test


def measure(config, world, held, made, row, rate, key, *, hard):
    """Precision, recall, F1 on own attempts, and the agent's success before, after."""
    (params, moments), data, labels, (test, right) = made
    number = config.number
    fit_key, again, clone_key, play = jax.random.split(key, 4)
    shares = jnp.array([row.rule, row.expert, *(getattr(row, k) for k in KINDS)])
    weights = jnp.concatenate(
        [
            jnp.repeat(shares, number),
            jnp.full(2 * number, row.truth / 2),
            jnp.zeros(2 * number),
        ]
    )
    found = fit(config, world, data, labels, weights, rate, fit_key)
    free = jnp.arange(len(labels)) >= 6 * number
    if hard:  # Attempts that failed and were accepted train a second judge.
        fooled = free & (judge(found, world, data) > 0) & ~labels
        weights += fooled * row.hard * number / jnp.maximum(jnp.sum(fooled), 1)
        found = fit(config, world, data, labels, weights, rate, again)
    verdicts = verdict_scores(judge(found, world, test) > 0, right)
    tx = optax.adam(0.003)
    kept = (free & (judge(found, world, data) > 0)).astype(jnp.float32)
    params, _ = train(
        params, moments, tx, world, data, kept, clone_key, fits=80, batch=48
    )
    _, after = roll(params, world, jnp.tile(held, (6, 1)), play)
    return jnp.stack([*verdicts, jnp.mean(right), jnp.mean(after)])


def main(config: Config) -> dict:
    """Trains all judges, prints and draws; returns the measures by row."""
    begin, cpu = time.monotonic(), time.process_time()
    world = craft.build()
    sets, possible, held, _ = tasks(world)
    # Attempts must be finished in time, and need a move to be damaged.
    away = jax.jit(jax.vmap(lambda goal: craft.solve(world, goal)))(jnp.asarray(sets))
    far = np.asarray(away)[:, : craft.SIDE**2].max(1)
    possible = jnp.asarray(possible & (far <= STEPS - 3))
    sets, held = jnp.asarray(sets), jnp.asarray(held)
    keys = jax.random.split(jax.random.key(0), (config.tuning + config.seeds, 2))
    made = jax.jit(
        jax.vmap(lambda key: prepare(config, world, sets, possible, held, away, key))
    )(keys[:, 0])
    rates = jnp.array(config.rates)
    parts = []
    for hard in (False, True):

        def run(row, rate, made, key, hard=hard):
            return measure(config, world, held, made, row, rate, key, hard=hard)

        for axes in ((None, None, 0, 0), (None, 0, None, None), (0, None, None, None)):
            run = jax.vmap(run, axes)
        rows = [row for row in ROWS.values() if (row.hard > 0) == hard]
        stacked = jax.tree.map(lambda *x: jnp.array(x), *rows)
        parts.append(np.asarray(jax.jit(run)(stacked, rates, made, keys[:, 1])))
    found = np.concatenate(parts)
    best = np.argmax(found[:, :, : config.tuning, 2].mean(2), 1)
    print(
        "| judge learns from | rate | precision | recall | F1 | F1 of seeds | agent |"
    )
    print("|---|---|---|---|---|---|---|")
    kept = {}
    for i, name in enumerate(ROWS):
        judged = kept[name] = found[i, best[i], config.tuning :]
        mean, spread = judged.mean(0), judged.std(0)
        each = " ".join(f"{x:.2f}" for x in judged[:, 2])
        print(
            f"| {name} | {config.rates[best[i]]:g} | {mean[0]:.2f} | {mean[1]:.2f} "
            f"| {mean[2]:.3f} ± {spread[2]:.3f} | {each} "
            f"| {mean[4]:.3f} ± {spread[4]:.3f} |"
        )
    base = found[0, 0, config.tuning :, 3]
    yes = 2 * base / (1 + base)
    print(
        f"\nthe agent before: {base.mean():.3f} ± {base.std():.3f}; "
        f"F1 of accepting all: {yes.mean():.3f}"
    )
    spent = time.monotonic() - begin, time.process_time() - cpu
    print(f"{spent[0]:.0f} s, {spent[1]:.0f} of CPU", flush=True)
    draw(kept, config.out)
    return kept


def draw(kept, out):
    """F1 of every seed, by what a judge learned from."""
    with picture(out, (7, 3)) as figure:
        axis = figure.subplots()
        for i, rows in enumerate(kept.values()):
            axis.barh(i, rows[:, 2].mean(), color="C0", alpha=0.4)
            axis.plot(rows[:, 2], np.full(len(rows), i), "o", color="C0", ms=3)
        axis.set_yticks(range(len(kept)), list(kept), fontsize=8)
        axis.invert_yaxis()
        axis.set(xlabel="F1 of verdicts on the agent's own attempts", xlim=(0, 1))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
