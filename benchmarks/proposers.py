"""Propose tasks, judge the attempts, clone what succeeded: PAE in a crafting grid.

    python benchmarks/proposers.py              # the table of docs/grids.md
    python benchmarks/proposers.py --seeds 1 --tuning 1 --rounds 2    # a trial

A small network sees which predicates hold and which a goal asks for. It starts from a
few optimal demonstrations of single predicates. In each round a proposer draws goals,
the policy attempts them, a judge calls each attempt a success or not, and is wrong with
some probability, and the policy is trained on all attempts so far that were called
successes. What is measured is the success on held-out conjunctions, which nobody
proposed. Adam's rate in the rounds is searched for each row alike, on other seeds.

every pair    any two predicates, which may exclude each other
context       predicates that held together in some state of the first policy's attempts
possible      any pair that can be reached in time
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

from jaxlib_guidance.policy import nll
from jaxlib_guidance.worlds import craft

STEPS = 24


@dataclasses.dataclass(frozen=True)
class Config:
    """How much to measure, and where to draw."""

    rounds: int = 6
    attempts: int = 512
    """Attempts of a round."""
    fits: int = 60
    """Training steps of a round; three times as many on the demonstrations."""
    batch: int = 48
    """Attempts of a training step."""
    width: int = 48
    """Units of the network's one hidden layer."""
    demonstrations: int = 60
    rates: tuple[float, ...] = (0.003, 0.01)
    """Adam's rates, searched."""
    seeds: int = 5
    """Seeds that are judged."""
    tuning: int = 1
    """Seeds that settings are chosen on."""
    out: Path = Path("out/proposers.png")


class Row(NamedTuple):
    """Who proposes, 0 to 2, how wrong the judge is; ``all`` 1 clones all, -1 none."""

    proposer: int
    error: float = 0.0
    all: float = 0.0


PROPOSERS = ("every pair", "context", "possible")
ROWS = {
    f"{name}, judge wrong {error:g}": Row(i, error)
    for i, name in enumerate(PROPOSERS)
    for error in (0.0, 0.1, 0.3)
} | {
    "context, everything cloned": Row(1, 0.0, 1.0),
    "demonstrations alone, as long": Row(1, 0.0, -1.0),
}


class Attempts(NamedTuple):
    """States, actions ``[N, T]``, goals ``[N, 40]``, steps that count ``[N, T]``."""

    state: jax.Array
    action: jax.Array
    goal: jax.Array
    counts: jax.Array


def start(key, width, actions=5):
    """Parameters of a network of one hidden layer."""
    one, two = jax.random.split(key)
    inputs = 2 * len(craft.PREDICATES)
    first = jax.random.normal(one, (inputs, width)) / np.sqrt(10)
    last = jax.random.normal(two, (width, actions)) / np.sqrt(width)
    return first, jnp.zeros(width), last


def logits(params, holds, goal):
    first, bias, last = params
    seen = jnp.concatenate([holds, goal], -1).astype(jnp.float32)
    return jax.nn.relu(seen @ first + bias) @ last


def attempt(params, world, goals, key):
    """Attempts of a policy, and which reached their goals ``[N]``."""
    begin, key = jax.random.split(key)
    number = len(goals)
    state = jax.random.randint(begin, (number,), 0, craft.SIDE**2)

    def move(carry, key):
        state, going = carry
        action = jax.random.categorical(key, logits(params, world.holds[state], goals))
        after = world.after[state, action]
        there = jnp.all(world.holds[after] | ~goals, -1)
        return (after, going & ~there), (state, action, going)

    going = ~jnp.all(world.holds[state] | ~goals, -1)
    keys = jax.random.split(key, STEPS)
    (_, going), rolled = jax.lax.scan(move, (state, going), keys)
    state, action, counts = (x.swapaxes(0, 1) for x in rolled)
    return Attempts(state, action, goals, counts), ~going


def train(params, moments, tx, world, data, weights, key, *, fits, batch):
    """Clones attempts, drawn by their weights ``[N]``; nothing if all are 0."""

    def loss(params, some):
        holds = world.holds[some.state]
        goal = jnp.broadcast_to(some.goal[:, None], holds.shape)
        logp = jax.nn.log_softmax(logits(params, holds, goal))
        taken = jnp.take_along_axis(logp, some.action[..., None], -1)[..., 0]
        each = nll(taken, some.counts)
        return jnp.sum(each) / jnp.maximum(jnp.sum(some.counts), 1)

    any_at_all = jnp.any(weights > 0)
    odds = jnp.where(any_at_all, jnp.log(weights), 0.0)

    def step(carry, key):
        params, moments = carry
        index = jax.random.categorical(key, odds, shape=(batch,))
        some = jax.tree.map(lambda x: x[index], data)
        change, moved = tx.update(jax.grad(loss)(params, some), moments)
        change = jax.tree.map(lambda x: jnp.where(any_at_all, x, 0.0), change)
        return (optax.apply_updates(params, change), moved), None

    return jax.lax.scan(step, (params, moments), jax.random.split(key, fits))[0]


def demonstrate(world, away, number, key):
    """Optimal attempts of single predicates; ``away [40, S]`` are their distances."""
    which, begin = jax.random.split(key)
    goal = jax.random.randint(which, (number,), 0, len(away))
    state = jax.random.randint(begin, (number,), 0, craft.SIDE**2)

    def move(state, _):
        action = jnp.argmin(away[goal[:, None], world.after[state]], -1)
        going = away[goal, state] > 0
        after = world.after[state, action]
        return jnp.where(going, after, state), (state, action, going)

    _, rolled = jax.lax.scan(move, state, length=STEPS)
    state, action, counts = (x.swapaxes(0, 1) for x in rolled)
    goals = jax.nn.one_hot(goal, len(away)).astype(bool)
    return Attempts(state, action, goals, counts)


def learn(config, world, away, sets, possible, held, row, rate, key):
    """Held-out success ``[rounds + 1]``, and shares ``[rounds, 3]`` of each round.

    The shares are of goals that were possible, of attempts that succeeded, and of
    successes among those that were cloned.
    """
    first, demo, warm, context, key = jax.random.split(key, 5)
    params = start(first, config.width)
    shown = demonstrate(world, away, config.demonstrations, demo)
    tx = optax.inject_hyperparams(optax.adam)(learning_rate=0.01)
    sizes = {"fits": config.fits, "batch": config.batch}
    params, moments = train(
        params, tx.init(params), tx, world, shown,
        jnp.ones(config.demonstrations), warm, fits=3 * config.fits, batch=config.batch,
    )  # fmt: skip
    moments = tx.init(params)._replace(hyperparams={"learning_rate": rate})
    # What holds together in the states that the first policy visits.
    singles = jnp.eye(len(away), dtype=bool)
    seen, _ = attempt(params, world, jnp.tile(singles, (8, 1)), context)
    visited = jnp.zeros(len(world.holds), bool).at[seen.state].set(True)
    holds = world.holds & visited[:, None]
    together = (sets.astype(jnp.float32) @ holds.T.astype(jnp.float32)) >= jnp.sum(
        sets, -1, keepdims=True
    )
    by = jnp.stack([jnp.ones(len(sets), bool), jnp.any(together, -1), possible])
    number = config.attempts
    total = config.demonstrations + config.rounds * number
    data = jax.tree.map(
        lambda x: jnp.zeros((total, *x.shape[1:]), x.dtype).at[: len(x)].set(x), shown
    )
    weights = jnp.zeros(total).at[: config.demonstrations].set(1.0)

    def score(params, key):
        return jnp.mean(attempt(params, world, jnp.tile(held, (4, 1)), key)[1])

    def once(carry, inputs):
        params, moments, data, weights = carry
        index, key = inputs
        propose, play, err, fit, test = jax.random.split(key, 5)
        odds = jnp.where(by[row.proposer], 0.0, -jnp.inf)
        chosen = jax.random.categorical(propose, odds, shape=(number,))
        tried, success = attempt(params, world, sets[chosen], play)
        wrong = jax.random.uniform(err, (number,)) < row.error
        accepted = jnp.where(row.all == 0, success ^ wrong, row.all > 0)
        at = config.demonstrations + index * number
        data = jax.tree.map(
            lambda x, new: jax.lax.dynamic_update_slice_in_dim(x, new, at, 0),
            data,
            tried,
        )
        weights = jax.lax.dynamic_update_slice_in_dim(
            weights, accepted.astype(jnp.float32), at, 0
        )
        params, moments = train(params, moments, tx, world, data, weights, fit, **sizes)
        shares = jnp.stack(
            [
                jnp.mean(possible[chosen]),
                jnp.mean(success),
                jnp.sum(success & accepted) / jnp.maximum(jnp.sum(accepted), 1),
            ]
        )
        return (params, moments, data, weights), (score(params, test), shares)

    test, key = jax.random.split(key)
    before = score(params, test)
    inputs = jnp.arange(config.rounds), jax.random.split(key, config.rounds)
    carry = params, moments, data, weights
    _, (scores, shares) = jax.lax.scan(once, carry, inputs)
    return jnp.concatenate([before[None], scores]), shares


def tasks(world):
    """All goals ``[820, 40]``, which are possible, held-out ones, and distances."""
    number = len(craft.PREDICATES)
    single = np.eye(number, dtype=bool)
    pairs = np.array([(i, j) for i in range(number) for j in range(i)])
    sets = np.concatenate([single, single[pairs[:, 0]] | single[pairs[:, 1]]])
    away = jax.jit(jax.vmap(lambda goal: craft.solve(world, goal)))(jnp.asarray(sets))
    away = np.asarray(away)
    possible = away[:, : craft.SIDE**2].max(1) <= STEPS
    rng = np.random.default_rng(0)
    far = possible & (away[:, : craft.SIDE**2].mean(1) > 3)
    held = rng.choice(np.flatnonzero(far[number:]) + number, 80, replace=False)
    kept = np.setdiff1d(np.arange(len(sets)), held)
    return sets[kept], possible[kept], sets[held], away[:number]


def main(config: Config) -> dict:
    """Trains all rows in one call, prints and draws; returns curves by row."""
    begin, cpu = time.monotonic(), time.process_time()
    world = craft.build()
    sets, possible, held, away = (jnp.asarray(x) for x in tasks(world))
    print(f"{int(possible.sum())} of {len(sets)} goals are possible in {STEPS} steps\n")
    keys = jax.random.split(jax.random.key(0), config.tuning + config.seeds)
    stacked = jax.tree.map(lambda *x: jnp.array(x), *ROWS.values())

    def run(row, rate, key):
        return learn(config, world, away, sets, possible, held, row, rate, key)

    for axes in ((None, None, 0), (None, 0, None), (0, None, None)):
        run = jax.vmap(run, axes)
    scores, shares = jax.jit(run)(stacked, jnp.array(config.rates), keys)
    scores, shares = np.asarray(scores), np.asarray(shares)
    best = np.argmax(scores[:, :, : config.tuning, -1].mean(2), 1)
    print(
        "| proposer, judge | rate | possible | succeed | right of the cloned "
        "| half | end | gain | gain of seeds |"
    )
    print("|---" * 9 + "|")
    kept = {}
    half = (config.rounds + 1) // 2
    for i, name in enumerate(ROWS):
        judged = kept[name] = scores[i, best[i], config.tuning :]
        share = shares[i, best[i], config.tuning :].mean((0, 1))
        told = " | ".join(f"{x:.2f}" for x in share)
        ends = " | ".join(
            f"{judged[:, at].mean():.3f} ± {judged[:, at].std():.3f}"
            for at in (half, -1)
        )
        gain = judged[:, -1] - judged[:, 0]
        each = " ".join(f"{x:.2f}" for x in gain)
        print(
            f"| {name} | {config.rates[best[i]]:g} | {told} | {ends} "
            f"| {gain.mean():.3f} ± {gain.std():.3f} | {each} |"
        )
    begun = scores[0, 0, config.tuning :, 0]
    print(f"\nthe first policy: {begun.mean():.3f} ± {begun.std():.3f}")
    spent = time.monotonic() - begin, time.process_time() - cpu
    print(f"\n{spent[0]:.0f} s, {spent[1]:.0f} of CPU", flush=True)
    draw(kept, config.out)
    return kept


def draw(kept, out):
    """Gains of held-out success over rounds, a panel for each judge."""
    errors = ("0", "0.1", "0.3")
    with picture(out, (9, 3)) as figure:
        panels = figure.subplots(1, 3, sharey=True)
        for panel, error in zip(panels, errors, strict=True):
            for number, name in enumerate(PROPOSERS):
                rows = kept[f"{name}, judge wrong {error}"]
                rows = rows - rows[:, :1]
                panel.plot(rows.mean(0), color=f"C{number}", label=name)
                x = np.arange(rows.shape[1])
                panel.fill_between(
                    x, rows.min(0), rows.max(0), color=f"C{number}", alpha=0.1
                )
            rows = kept["context, everything cloned"]
            panel.plot((rows - rows[:, :1]).mean(0), "k:", label="all cloned")
            panel.set(title=f"judge wrong {error}", xlabel="rounds")
        panels[0].set_ylabel("gain on held-out goals")
        panels[0].legend(fontsize=7)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
