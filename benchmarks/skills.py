"""Skills of a pusher, with one critic for each reward or one for their sum: SLIM.

    python benchmarks/skills.py                 # three minutes of one core
    python benchmarks/skills.py --updates 20
    python benchmarks/skills.py --picture skills.png

In `worlds.pusher` a policy is given one of eight skills at each episode. Three rewards:
to be near the puck; to move it where a network tells from the puck's way which skill it
was; to stay in the square and below a speed. Three critics learn one reward each, and
the actor follows a weighted sum of whitened advantages; or one critic learns the
weighted sum of rewards. The same weights are tried for both, on a seed of its own.
"""

import dataclasses
from functools import partial
from pathlib import Path

import control_ppo as ppo
import jax
import jax.numpy as jnp
import numpy as np
import optax
from control_continuous import init_mlp
from drawing import picture

from jaxlib_guidance.policy import aggregate_advantages, skill_reward
from jaxlib_guidance.worlds import pusher as world


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    updates: int = 150
    """Updates of a learner, each from one episode of every environment."""
    episodes: int = 32
    """Episodes of an update."""
    length: int = 40
    """Steps of an episode."""
    seeds: int = 5
    """Runs of each row."""
    search: int = 1
    """Runs of each setting, on a seed that is not reported."""
    skills: tuple[float, ...] = (1.0, 3.0)
    """Weights of the skill's reward that are tried, where being near has 1."""
    safeties: tuple[float, ...] = (0.3, 1.0, 3.0)
    """Weights of safety that are tried."""
    picture: Path | None = None
    """File for the ways of the puck by skill; None for none."""


PLACE = world.default()
SKILLS = 8
ALLOWED = 0.02
"""Largest share of steps that are not safe with which a setting can be chosen."""
METHODS = ("three critics", "one critic")
MEASURES = ("goals", "told apart", "moved", "unsafe")


def episode(nets, skill, key, length, noise=1.0):
    """One episode of a skill: what PPO needs, and the states, ``[T]``."""
    begin, run = jax.random.split(key)
    state, seen = world.reset(PLACE, begin)
    which = jax.nn.one_hot(skill, SKILLS)

    def move(carry, key):
        state, seen = carry
        obs = jnp.append(seen, which)
        quiet = nets | {"log_std": nets["log_std"] + jnp.log(noise)}
        action = ppo.draw(quiet, obs, key)
        logp = ppo.log_density(nets, obs, action)
        state, seen, *_ = world.step(PLACE, state, action, None)
        return (state, seen), (obs, action, logp, jnp.append(seen, which), state)

    *steps, states = jax.lax.scan(move, (state, seen), jax.random.split(run, length))[1]
    return ppo.Steps(*steps), states


def moved(states):
    """How far the puck is from where it began."""
    return states.puck - 0.5


def rewards_of(judge, states, skills):
    """Near the puck, telling the skill, safe: ``[3, N, T]``."""
    near = -jnp.linalg.norm(states.hand - states.puck, axis=-1)
    logits = ppo.mlp(judge, 4 * moved(states))
    told = skill_reward(logits, jnp.broadcast_to(skills[:, None], near.shape))
    safe = -jax.vmap(jax.vmap(partial(world.unsafe, PLACE)))(states).astype(near.dtype)
    return jnp.stack([near, told, safe])


def learn(config, critics, weights, key):
    """Networks of a learner after its updates."""
    make, judge_key, key = jax.random.split(key, 3)
    agent = ppo.init_agent(make, 10 + SKILLS, 2, critics=critics, width=16)
    judge = init_mlp(judge_key, (2, 32, SKILLS), last=0.1)
    tx = optax.adam(3e-3)
    settings = ppo.Settings(rate=3e-3)
    skills = jnp.arange(config.episodes) % SKILLS

    def teach(carry, _):
        judge, moments, states = carry

        def loss(judge):
            logits = ppo.mlp(judge, 4 * moved(states))
            told = skill_reward(logits, jnp.broadcast_to(skills[:, None], shape))
            return -jnp.mean(told)

        shape = states.puck.shape[:2]
        change, moments = tx.update(jax.grad(loss)(judge), moments)
        return (optax.apply_updates(judge, change), moments, states), None

    def one(carry, key):
        agent, judge, moments = carry
        play_key, learn_key = jax.random.split(key)
        each = jax.vmap(lambda s, k: episode(agent.nets, s, k, config.length))
        steps, states = each(skills, jax.random.split(play_key, config.episodes))
        paid = rewards_of(judge, states, skills)
        shares = weights / jnp.linalg.norm(weights)
        if critics == 1:
            paid, shares = jnp.tensordot(weights, paid, 1)[None], jnp.ones(1)
        found = ppo.estimate(agent.nets, steps, paid, settings)
        advantage = aggregate_advantages(found.advantage, shares)
        agent = ppo.update(
            agent, steps, advantage, found.target, learn_key, settings, epochs=2
        )
        (judge, moments, _), _ = jax.lax.scan(
            teach, (judge, moments, states), length=10
        )
        return (agent, judge, moments), None

    start = agent, judge, tx.init(judge)
    (agent, *_), _ = jax.lax.scan(one, start, jax.random.split(key, config.updates))
    return agent.nets


def judged(config, nets, key, starts=32):
    """The four measures, and the places of the puck ``[starts, Z, T, 2]``."""
    keys = jax.random.split(key, starts)
    play = jax.vmap(
        lambda s, k: episode(nets, s, k, config.length, noise=1e-3), (0, None)
    )
    _, states = jax.vmap(play, (None, 0))(jnp.arange(SKILLS), keys)
    ends = jax.vmap(jax.vmap(partial(world.rest, PLACE)))(
        jax.tree.map(lambda x: x[:, :, -1], states)
    )
    line = (jnp.arange(20) + 0.5) / 20
    goals = jnp.stack(jnp.meshgrid(line, line), -1).reshape(-1, 2)
    # A fresh judge: the nearest of the skills' mean places in the other half.
    half = starts // 2
    centres = jnp.mean(ends[:half], 0)
    nearest = jnp.argmin(jnp.linalg.norm(ends[half:, :, None] - centres, axis=-1), -1)
    wrong = jax.vmap(jax.vmap(jax.vmap(partial(world.unsafe, PLACE))))(states)
    return jnp.stack(
        [
            jnp.mean(world.spread(ends, goals)),
            jnp.mean((nearest == jnp.arange(SKILLS)).astype(jnp.float32)),
            jnp.mean((jnp.linalg.norm(ends - 0.5, axis=-1) > 0.02).astype(jnp.float32)),
            jnp.mean(wrong.astype(jnp.float32)),
        ]
    ), states.puck


def run(config, critics, weights, keys):
    """Measures ``[setting, seed, 4]`` and places of learners."""

    def one(weights, key):
        learn_key, judge_key = jax.random.split(key)
        return judged(config, learn(config, critics, weights, learn_key), judge_key)

    each = jax.vmap(jax.vmap(one, (None, 0)), (0, None))
    return jax.tree.map(np.asarray, jax.jit(each)(weights, keys))


def choose(found):
    """Number of the setting with the nearest goals of those that are safe enough."""
    goals, unsafe = found[..., 0].mean(1), found[..., 3].mean(1)
    return int(np.where(unsafe <= max(ALLOWED, unsafe.min()), goals, np.inf).argmin())


def main(config: Config) -> dict[str, np.ndarray]:
    """Prints the tables; returns measures ``[seed, 4]`` of each row."""
    tried = [(1.0, a, b) for a in config.skills for b in config.safeties]
    # Without the skill's reward, and with nothing else.
    without = [(1.0, 0.0, 1.0)]
    wanted = np.array([*tried, *without, (0.0, 1.0, 0.0)])
    others = jax.random.split(jax.random.key(100), config.search)
    keys = jax.random.split(jax.random.key(0), config.seeds)
    both = jnp.concatenate([others, keys])
    rows, searched, places = {}, {}, {}
    for method, critics in zip(METHODS, (3, 1), strict=True):
        found, ways = run(config, critics, wanted, both)
        searched[method] = found[:, : config.search]
        ends = len(tried), len(wanted) - 1
        picks = {
            method: choose(searched[method][: ends[0]]),
            f"{method}, no skills": ends[0] + choose(searched[method][slice(*ends)]),
            f"{method}, skills alone": ends[1],
        }
        for name, at in picks.items():
            weight = " ".join(f"{x:g}" for x in wanted[at])
            rows[f"{name} | {weight}"] = found[at, config.search :]
            places[name] = ways[at, config.search :]
    print("| learner | weights | goals (seeds) | told apart | moved | unsafe |")
    print("|---|---|---|---|---|---|")
    for name, row in rows.items():
        goals, *rest = row.mean(0)
        each = " ".join(f"{x:.3f}" for x in row[:, 0])
        said = " | ".join(f"{x:.3f}" for x in rest)
        print(f"| {name} | {goals:.3f} ({each}) | {said} |")
    line = (jnp.arange(20) + 0.5) / 20
    goals = jnp.stack(jnp.meshgrid(line, line), -1).reshape(-1, 2)
    best = float(world.spread(jnp.asarray(world.solve(SKILLS), jnp.float32), goals))
    still = float(world.spread(jnp.full((1, 2), 0.5), goals))
    print(f"\nEight places chosen best: {best:.3f}; a puck that stays: {still:.3f}.\n")
    print("| weights (near, skill, safe) | " + " | ".join(METHODS) + " |")
    print("|---|---|---|")
    for number, weight in enumerate(tried):
        cells = (searched[method][number].mean(0) for method in METHODS)
        said = " | ".join(f"{x[0]:.3f}, {x[1]:.2f}, {x[3]:.3f}" for x in cells)
        print(f"| {' '.join(f'{x:g}' for x in weight)} | {said} |")
    if config.picture is not None:
        draw(config, places)
    return rows


def draw(config, places):
    """A frame of the world, and the ways of the puck, a color a skill."""
    names = [*METHODS, f"{METHODS[0]}, skills alone"]
    with picture(config.picture, (9.6, 2.7)) as figure:
        axes = figure.subplots(1, 4)
        state, _ = world.reset(PLACE, jax.random.key(1))
        axes[0].imshow(world.render(PLACE, state, size=160), extent=(0, 1, 0, 1))
        axes[0].set(title="hand and puck", xticks=[], yticks=[])
        for axis, name in zip(axes[1:], names, strict=True):
            for skill in range(SKILLS):
                for way in places[name][0, :8, skill]:
                    axis.plot(*way.T, color=f"C{skill}", linewidth=0.7)
            axis.set(title=name, xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[])
            axis.set_aspect("equal")


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
