"""How far to trust a heuristic: BARFI in a chain whose every return is exact.

    python benchmarks/reward_trust.py              # the table of docs/control.md
    python benchmarks/reward_trust.py --seeds 1 --tuning 1 --outer-steps 2   # a trial

A softmax policy is trained, to the fixed point of its exact gradient less a weight
decay of 0.01, on a mixture of the task's reward and a heuristic; what is judged is its
return under the task's reward alone. Under the decay a larger reward is worth something
by itself, so every row has the norm of its mixture, "scale", searched on other seeds,
and BARFI keeps it. Seeds are of the noise and of the first policy. All rows train alike
long.

progress  +-0.1 for a step toward, or away from, the goal
noise     0.1 times a normal number for each state and action
harmful   0.3 in the three states that are farthest from the goal
"""

import dataclasses
import itertools
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from drawing import picture

from jaxlib_guidance.policy import align_reward, implicit_hypergradient
from jaxlib_guidance.worlds import grids, tables

HEURISTICS = ("progress", "noise", "harmful")
DECAY, RATE = 0.01, 2.0


@dataclasses.dataclass(frozen=True)
class Config:
    """How much to measure, and where to draw."""

    seeds: int = 5
    """Seeds that are judged."""
    tuning: int = 2
    """Seeds that scales are chosen on."""
    scales: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0)
    outer_steps: int = 25
    inner_steps: int = 200
    terms: int = 200
    out: Path = Path("out/reward_trust.png")


def heuristics(table, key):
    """``[heuristic, S, A]``."""
    alive = ~table.terminal[:, None]
    states = jnp.arange(len(table.terminal))[:, None]
    zeros = jnp.zeros_like(table.rewards)
    return jnp.where(
        alive,
        jnp.stack(
            [
                zeros + jnp.array([-0.1, 0.1]),
                0.1 * jax.random.normal(key, zeros.shape),
                zeros + jnp.where(states < 3, 0.3, 0.0),
            ]
        ),
        0.0,
    )


def problem(table, aux):
    """``(J, update)`` of logits: the primary return, and training on a mixture."""

    def score(theta, rewards):
        return tables.score(table, jax.nn.softmax(theta), rewards)

    def update(theta, phi):
        mixed = phi[0] * table.rewards + phi[1] * aux
        return jax.grad(score)(theta, mixed) - DECAY * theta

    return lambda theta: score(theta, table.rewards), update


def differences(table, config):
    """The hypergradient beside finite differences of the trained policy's return."""
    print("| heuristic | implicit | finite differences |\n|---|---|---|")
    aux = heuristics(table, jax.random.key(0))
    eps, phi = 0.05, jnp.ones(2)

    @jax.jit
    def compare(aux):
        objective, update = problem(table, aux)

        def trained(phi):
            move = lambda _, t: t + RATE * update(t, phi)  # noqa: E731
            first = jnp.zeros_like(table.rewards)
            return jax.lax.fori_loop(0, 1000, move, first)

        theta = trained(phi)
        got = implicit_hypergradient(
            jax.grad(objective)(theta), update, theta, phi, step=RATE, terms=600
        )
        near = [[s * eps * e for s in (1, -1)] for e in jnp.eye(2)]
        near = phi + jnp.array(near)
        values = jax.vmap(jax.vmap(lambda p: objective(trained(p))))(near)
        return got, (values[:, 0] - values[:, 1]) / (2 * eps)

    for name, row in zip(HEURISTICS, aux, strict=True):
        cells = (", ".join(f"{float(x):.2e}" for x in each) for each in compare(row))
        print(f"| {name} | {' | '.join(cells)} |")
    print()


def main(config: Config) -> None:
    """Compares gradients, trains all rows in one call, prints and draws."""
    begin, cpu = time.monotonic(), time.process_time()
    table = grids.chain()
    optimum = float(jax.jit(tables.solve)(table).values @ table.start)
    differences(table, config)
    place = jnp.arange(13.0)
    shaping = {
        f"potential, {name}": tables.potential_rewards(table, 0.1 * sign * place)
        for name, sign in (("right", 1.0), ("wrong", -1.0))
    }
    both, alone = np.array([1, 1]) / np.sqrt(2), np.array([1, 0])
    # Which heuristic (3 and 4 are the shapings), the mixture, whether it is learned.
    rows = {("task", "–"): (0, alone, 0.0)}
    for i, name in enumerate(HEURISTICS):
        rows["naive sum", name] = i, both, 0.0
        rows["BARFI", name] = i, both, 0.3
    for i, name in enumerate(shaping):
        rows[name, "–"] = 3 + i, both, 0.0
    which, mixtures, rates = (
        jnp.asarray(np.array(x)) for x in zip(*rows.values(), strict=True)
    )
    total = config.tuning + config.seeds
    keys = jax.random.split(jax.random.key(1), total)

    def run(index, mixture, rate, scale, key):
        noise, start = jax.random.split(key)
        aux = jnp.concatenate(
            [heuristics(table, noise), jnp.stack([*shaping.values()])]
        )
        objective, update = problem(table, aux[index])
        found = align_reward(
            objective,
            update,
            0.1 * jax.random.normal(start, table.rewards.shape),
            scale * mixture.astype(jnp.float32),
            outer_steps=config.outer_steps,
            outer_rate=rate.astype(jnp.float32),
            inner_steps=config.inner_steps,
            inner_rate=RATE,
            terms=config.terms,
        )
        return found.objectives, found.phi / scale

    run = jax.vmap(run, (None, None, None, None, 0))
    run = jax.vmap(run, (None, None, None, 0, None))
    run = jax.vmap(run, (0, 0, 0, None, None))
    curves, phi = jax.jit(run)(which, mixtures, rates, jnp.array(config.scales), keys)
    curves, phi = np.asarray(curves), np.asarray(phi)
    best = np.argmax(curves[:, :, : config.tuning, -1].mean(2), 1)
    print("| reward | heuristic | scale | return | seeds | weights |")
    print("|---|---|---|---|---|---|")
    kept = {}
    for i, (name, heuristic) in enumerate(rows):
        judged = curves[i, best[i], config.tuning :]
        kept[name, heuristic] = judged
        last = judged[:, -1]
        weights = phi[i, best[i], config.tuning :].mean(0)
        print(
            f"| {name} | {heuristic} | {config.scales[best[i]]:g} | {last.mean():.3f} "
            f"| {', '.join(f'{x:.3f}' for x in last)} "
            f"| {weights[0]:.2f}, {weights[1]:.2f} |"
        )
    print(f"\noptimum {optimum:.3f}\n\nat each scale, mean of the judged seeds:\n")
    print(f"| reward | heuristic | {' | '.join(f'{c:g}' for c in config.scales)} |")
    print("|---" * (2 + len(config.scales)) + "|")
    for i, names in enumerate(rows):
        means = curves[i, :, config.tuning :, -1].mean(1)
        print(f"| {' | '.join(names)} | {' | '.join(f'{x:.3f}' for x in means)} |")
    spent = time.monotonic() - begin, time.process_time() - cpu
    print(f"\n{spent[0]:.0f} s, {spent[1]:.0f} of CPU", flush=True)
    draw(kept, optimum, config.out)


def draw(kept, optimum, out):
    with picture(out, (12, 3.4)) as figure:
        panels = figure.subplots(1, 3, sharey=True)
        for panel, heuristic in zip(panels, HEURISTICS, strict=True):
            shown = [n for n in kept if n[1] in (heuristic, "–")]
            for (name, _), colour in zip(shown, itertools.count()):
                judged = kept[next(n for n in shown if n[0] == name)]
                x = np.arange(judged.shape[1])
                panel.plot(x, judged.mean(0), color=f"C{colour}", label=name)
                panel.fill_between(
                    x, judged.min(0), judged.max(0), color=f"C{colour}", alpha=0.1
                )
            panel.axhline(optimum, color="k", lw=0.8, ls=":")
            panel.set(title=heuristic, xlabel="steps of the reward")
        panels[0].set_ylabel("return under the task's reward")
        panels[0].legend(fontsize=7)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
