"""Regret of bandits whose arms pay later, beside LinUCB with a searched radius.

    python benchmarks/bandits.py                       # a minute on one core
    python benchmarks/bandits.py --horizon 2000        # seconds
    python benchmarks/bandits.py --picture bandits.png

Two systems of `worlds.dynamical_bandit`: the one of the authors' code, where the
state forgets four fifths a step, and one where delay decides. Both methods know the
bounds that the theory asks for, and both get their radius times each of ``scales``.
Regret is what the best arm, held for ever, pays more in the mean over all noise; the
best arm itself has some, since the state starts at rest.
"""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from drawing import picture

from jaxlib_guidance.policy import dynlin_radius, dynlin_step, init_dynlin
from jaxlib_guidance.worlds import dynamical_bandit as world


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    horizon: int = 20_000
    """Steps of a run."""
    seeds: int = 5
    """Runs of each cell."""
    scales: tuple[float, ...] = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03)
    """Factors of the confidence radius, for both methods."""
    noise: float = 0.1
    """Standard deviation of the noise of states and outputs."""
    picture: Path | None = None
    """File for the curves of the delayed system; None for none."""


def bounds(system):
    """What the theory supposes known, here exact: A is diagonal in both systems."""
    norm = jnp.linalg.norm
    return {
        "noise": system.state_noise,
        "action_norm": norm(system.arms, axis=1).max(),
        "theta_norm": norm(system.theta),
        "omega_norm": norm(system.omega),
        "input_norm": norm(system.b, ord=2),
        "decay": jnp.abs(jnp.diag(system.a)).max(),
    }


def play(system, horizon, scale, hold, key):
    """Regret after every step, ``[T]``, and whether the last arm is the best one."""
    best, size = world.solve(system), system.arms.shape[1]
    known, ridge = bounds(system), float(np.log(horizon))
    decay = jnp.where(hold, known["decay"], 0.0)
    first_key, key = jax.random.split(key)
    first = jax.random.randint(first_key, (), 0, len(system.arms))

    def step(carry, key):
        agent, state, mean = carry
        arm = agent.arm
        state, _, reward, _ = world.step(system, state, arm, key)
        regret = best.values[best.best] - world.expected_reward(system, mean, arm)
        radius = scale * dynlin_radius(
            agent.steps + 1, horizon=horizon, size=size, ridge=ridge, hold=hold, **known
        )
        agent = dynlin_step(agent, reward, system.arms, radius=radius, decay=decay)
        return (agent, state, world.advance(system, mean, arm)), (regret, arm)

    rest, _ = world.reset(system, key)
    start = init_dynlin(size, first, ridge=ridge), rest, rest
    _, (regret, arm) = jax.lax.scan(step, start, jax.random.split(key, horizon))
    return jnp.cumsum(regret), arm[-1] == best.best


def oracle(system, horizon):
    """Regret of the best arm itself: the state's start from rest, ``[T]``."""
    best = world.solve(system)

    def step(mean, _):
        reward = world.expected_reward(system, mean, best.best)
        regret = best.values[best.best] - reward
        return world.advance(system, mean, best.best), regret

    _, regret = jax.lax.scan(step, jnp.zeros_like(system.omega), None, length=horizon)
    return jnp.cumsum(regret)


@partial(jax.jit, static_argnums=1)
def compare(system, horizon, scales, keys):
    """Regrets ``[method, scale, seed, T]`` and final arms, one program for all."""
    run = partial(play, system, horizon)
    for axes in ((None, None, 0), (0, None, None), (None, 0, None)):
        run = jax.vmap(run, in_axes=axes)
    return run(scales, jnp.array([False, True]), keys), oracle(system, horizon)


def main(config: Config) -> dict:
    """Prints a table for each system; returns the curves by system."""
    horizon = config.horizon
    keys = jax.random.split(jax.random.key(0), config.seeds)
    at = np.array([horizon // 100, horizon // 10, horizon]) - 1
    curves = {}
    for name in ("released", "delayed"):
        system = getattr(world, name)(config.noise)
        (regret, right), best = compare(system, horizon, jnp.array(config.scales), keys)
        regret, right, best = (np.asarray(x) for x in (regret, right, best))
        curves[name] = regret, best
        print(f"\n{name}: {horizon} steps, {config.seeds} seeds\n")
        print("| method | radius | T/100 | T/10 | T | seeds at T | right |")
        print("|---|---|---|---|---|---|---|")
        for method, rows, hits in zip(("LinUCB", "DynLin"), regret, right, strict=True):
            for scale, row, hit in zip(config.scales, rows, hits, strict=True):
                means = " | ".join(f"{x:.0f}" for x in row[:, at].mean(0))
                each = " ".join(f"{x:.0f}" for x in row[:, -1])
                of = f"{hit.sum()} of {len(hit)}"
                print(f"| {method} | x {scale:g} | {means} | {each} | {of} |")
        print(f"| best arm | | {' | '.join(f'{x:.0f}' for x in best[at])} | | |")
    if config.picture is not None:
        draw(config, *curves["delayed"])
    return curves


def draw(config, regret, best):
    """Curves of both methods, at the theory's radius and at the best one."""
    time = np.unique(np.geomspace(1, config.horizon, 200).astype(int))
    with picture(config.picture, (6, 3.6), dpi=110) as figure:
        axis = figure.subplots()
        own = int(np.abs(np.log(config.scales)).argmin())
        methods = zip(("LinUCB", "DynLin"), ("C3", "C0"), regret, strict=True)
        for method, color, rows in methods:
            chosen = int(rows[:, :, -1].mean(1).argmin())
            for index, style in {own: "--", chosen: "-"}.items():
                label = f"{method}, radius x {config.scales[index]:g}"
                for seed, row in enumerate(rows[index]):
                    told = label if seed == 0 else None
                    axis.loglog(time, row[time - 1], style, color=color, label=told)
        axis.loglog(time, best[time - 1], color="0.5", label="best arm, from rest")
        axis.set(xlabel="step", ylabel="regret", ylim=(1, None))
        axis.legend(fontsize=8)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
