"""The policy cliff: how far a small change of rewards moves an optimal policy.

    python benchmarks/policy_cliff.py           # the tables of docs/grids.md
    python benchmarks/policy_cliff.py --worlds 20    # a trial

Random tables with a discount of 0.9, solved exactly: greedily, and with a price `alpha`
on being predictable. Rewards are moved by 0.01 for each state and action: with random
signs, and with the signs that most change, for a policy held fixed, by how much the two
best actions differ where they differ least. The bound is `policy.sensitivity_bound`.
"""

import dataclasses
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from drawing import picture

from jaxlib_guidance.policy import (
    blend,
    sensitivity_bound,
    soft_policy,
    total_variation,
)
from jaxlib_guidance.worlds import tables

GAMMA = 0.9


@dataclasses.dataclass(frozen=True)
class Config:
    """How much to measure, and where to draw."""

    worlds: int = 100
    """Random tables."""
    states: int = 8
    actions: int = 3
    size: float = 0.01
    """Largest change of a reward; rewards are uniform in [0, 1]."""
    alphas: tuple[float, ...] = (0.0, 0.001, 0.01, 0.03, 0.1, 0.3, 1.0)
    """Temperatures; 0 is greedy."""
    out: Path = Path("out/policy_cliff.png")


def random_world(config, key):
    """Dirichlet transitions, uniform rewards, no end."""
    one, two = jax.random.split(key)
    n, a = config.states, config.actions
    return tables.Table(
        transitions=jax.random.dirichlet(one, jnp.full(n, 0.3), (n, a)),
        rewards=jax.random.uniform(two, (n, a)),
        start=jnp.full(n, 1 / n),
        terminal=jnp.zeros(n, bool),
        gamma=GAMMA,
    )


def tie(table):
    """The table with rewards such that two actions tie in state 0, both optimal."""
    found = tables.solve(table)
    best = jnp.argmax(found.q[0])
    other = jnp.argsort(found.q[0])[-2]
    lead = found.q[0, best] - found.q[0, other]
    raised = table.rewards.at[0, other].add(lead)
    return dataclasses.replace(table, rewards=raised), best, other


def answer(table, alpha, rewards):
    """The optimal policy; greedy for ``alpha`` 0, where equal actions share."""
    greedy = soft_policy(tables.solve(table, rewards).q, 0.0)
    soft = tables.solve_soft(table, jnp.where(alpha > 0, alpha, 1.0), rewards).policy
    return jnp.where(alpha > 0, soft, greedy)


def probe(config, key, alpha):
    """For one world: both distances, the return under the own rewards, and a tie's."""
    make, draw = jax.random.split(key)
    table = random_world(config, make)
    own = table.rewards
    policy = partial(answer, table, alpha)
    base = policy(own)
    signs = jax.random.rademacher(draw, own.shape, own.dtype)

    def moved(change):
        return jnp.max(total_variation(policy(own + config.size * change), base))

    # The worst change is a corner: more of the best action's successors, less of the
    # next one's. Advantages by policy evaluation give its signs.
    found = tables.solve(table)
    state = jnp.argmin(found.gap)
    order = jnp.argsort(found.q[state])
    lead = table.transitions[state, order[-1]] - table.transitions[state, order[-2]]
    chosen = jnp.where(alpha > 0, base, jax.nn.one_hot(found.policy, config.actions))
    step = jnp.einsum("sa,sat->st", chosen, table.transitions)
    later = jnp.linalg.solve((jnp.eye(config.states) - GAMMA * step).T, lead)
    corner = jnp.sign(later)[:, None] * jnp.ones_like(own)
    corner = corner.at[state].set(jnp.sign(later)[state])
    corner = corner.at[state, order[-1]].set(1.0).at[state, order[-2]].set(-1.0)
    worst = jnp.maximum(moved(corner), moved(-corner))
    random, worst = moved(signs), jnp.maximum(worst, moved(signs))
    tied, best, other = tie(table)

    def at_tie(size):
        off = jnp.zeros_like(own).at[0, best].set(size).at[0, other].set(-size)
        both = [answer(tied, alpha, tied.rewards + s * off) for s in (1, -1)]
        return total_variation(*both)[0]

    sizes = jnp.array([0.1, 0.01, 0.001, 0.0001])
    lost = tables.score(table, base) / (table.start @ found.values)
    return random, worst, lost, jax.vmap(at_tie)(sizes)


def mixture(config, key, alpha, weights):
    """Largest change in a state between neighbouring weights of two rewards."""
    make, draw = jax.random.split(key)
    table = random_world(config, make)
    other = jax.random.uniform(draw, table.rewards.shape)
    both = jnp.stack([table.rewards, other], -1)

    def policy(w):
        return answer(table, alpha, blend(both, jnp.stack([1 - w, w])))

    every = jax.vmap(policy)(weights)
    return jnp.max(total_variation(every[1:], every[:-1]), -1)


def main(config: Config) -> dict:
    """Prints both tables and draws; returns what was measured."""
    begin, cpu = time.monotonic(), time.process_time()
    keys = jax.random.split(jax.random.key(0), config.worlds)
    alphas = jnp.array(config.alphas)
    run = jax.vmap(partial(probe, config), (0, None))
    run = jax.jit(jax.vmap(run, (None, 0)))
    random, worst, kept, ties = (np.asarray(x) for x in run(keys, alphas))
    print(
        f"changes of at most {config.size:g}, {config.worlds} worlds\n\n"
        "| alpha | bound | tanh of the bound | random change, mean | largest "
        "| adversary, mean | largest | over the bound | return kept |"
    )
    print("|---" * 9 + "|")
    limits = []
    for i, alpha in enumerate(config.alphas):
        bound = np.inf
        if alpha > 0:
            moved = config.size * np.ones(1)
            bound = float(sensitivity_bound(0 * moved, moved, alpha=alpha, gamma=GAMMA))
        limits.append(bound)
        over = int(np.sum(worst[i] > np.tanh(bound) + 1e-4))
        print(
            f"| {alpha:g} | {bound:.3f} | {np.tanh(bound):.3f} "
            f"| {random[i].mean():.4f} | {random[i].max():.4f} | {worst[i].mean():.4f} "
            f"| {worst[i].max():.4f} | {over} | {kept[i].mean():.3f} |"
        )
    print("\nat a tie, distance of the two policies, mean of the worlds\n")
    print("| alpha | +-0.1 | +-0.01 | +-0.001 | +-0.0001 |\n|---|---|---|---|---|")
    for alpha, row in zip(config.alphas, ties.mean(1), strict=True):
        print(f"| {alpha:g} | {' | '.join(f'{x:.4f}' for x in row)} |")
    weights = jnp.linspace(0, 1, 101)
    chosen = jnp.array([0.0, 0.01, 0.1])
    run = jax.vmap(partial(mixture, config), (0, None, None))
    jumps = jax.jit(jax.vmap(run, (None, 0, None)))(keys[:20], chosen, weights)
    jumps = np.asarray(jumps)
    print("\ntwo rewards in a hundred steps of their weights, 20 worlds\n")
    print("| alpha | largest step, mean | steps above 0.5 |\n|---|---|---|")
    for alpha, row in zip(chosen, jumps, strict=True):
        print(
            f"| {alpha:g} | {row.max(-1).mean():.3f} "
            f"| {(row > 0.5).sum(-1).mean():.1f} |"
        )
    spent = time.monotonic() - begin, time.process_time() - cpu
    print(f"\n{spent[0]:.0f} s, {spent[1]:.0f} of CPU", flush=True)
    draw(config, random, worst, limits, jumps, weights, chosen)
    return {"random": random, "worst": worst, "ties": ties, "bounds": limits}


def draw(config, random, worst, limits, jumps, weights, chosen):
    """Distances over the temperature, and along a mixture of rewards."""
    with picture(config.out, (9, 3.2)) as figure:
        (left, right) = figure.subplots(1, 2)
        x = np.array(config.alphas[1:])
        left.loglog(x, np.minimum(limits[1:], 1), "k", label="bound")
        for name, rows, color in (("random", random, "C0"), ("adversary", worst, "C3")):
            left.loglog(x, rows[1:].mean(1), color=color, label=f"{name}, mean")
            left.loglog(x, rows[1:].max(1), "--", color=color, label=f"{name}, largest")
        left.set(xlabel="alpha", ylabel="total variation", ylim=(1e-5, 1.5))
        left.legend(fontsize=7)
        for number, (alpha, row) in enumerate(zip(chosen, jumps[:, 0], strict=True)):
            right.plot(weights[1:], row, color=f"C{number}", label=f"alpha {alpha:g}")
        right.set(xlabel="weight of the second reward", ylabel="change in a step")
        right.legend(fontsize=7)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
