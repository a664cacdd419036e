"""Learning from an expert's interventions, beside cloning the expert: RLIF.

    python benchmarks/interventions.py                     # six minutes of one core
    python benchmarks/interventions.py --rounds 5          # seconds
    python benchmarks/interventions.py --picture interventions.png

The world is `worlds.doorway`, whose shortest way is known. Three experts: one that
takes it, one with noise, and one that always turns off by an angle. An expert takes
over for some steps where the learner's step would be worth less than the expert's,
judged by the world's exact value. RLIF learns from `policy.intervention_rewards` alone;
cloning (BC) from twenty episodes of the expert; DAgger from these and from what the
expert did when it took over; and the same actor-critic from the reward of the goal.
Each gets the same networks, steps, updates and choice of rates.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import NamedTuple

import control_continuous as control
import jax
import jax.numpy as jnp
import numpy as np
from drawing import picture

from jaxlib_guidance.policy import intervention_rewards
from jaxlib_guidance.worlds import doorway as world


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    rounds: int = 25
    """Rounds of four episodes, each followed by updates."""
    updates: int = 240
    """Updates of a round, as many as its steps."""
    length: int = 60
    """Steps of an episode."""
    demonstrations: int = 20
    """Episodes of the expert that every method but the last gets."""
    seeds: int = 5
    """Runs of each cell."""
    rates: tuple[float, ...] = (1e-3, 3e-3)
    """Step sizes of Adam, each tried by each method."""
    picture: Path | None = None
    """File for a frame of the world and the learned walks; None for none."""


class Expert(NamedTuple):
    """Noise of the actions, and the angle by which the expert turns off."""

    noise: float
    turn: float


EXPERTS = {
    "exact": Expert(0.0, 0.0),
    "noisy": Expert(1.5, 0.0),
    "turned by 60 degrees": Expert(0.3, jnp.pi / 3),
}
METHODS = ("BC", "DAgger", "RLIF", "reward of the goal")
EPISODES, BATCH, HOLD, SLACK, VALUE_GAMMA = 4, 128, 4, 0.95, 0.9
PLACE = world.default()


def expert_action(expert, position, key):
    """What an expert does."""
    way = world.guide(PLACE, position)
    cos, sin = jnp.cos(expert.turn), jnp.sin(expert.turn)
    way = jnp.stack([cos * way[0] - sin * way[1], sin * way[0] + cos * way[1]])
    action = way + expert.noise * jax.random.normal(key, (2,))
    return action / jnp.maximum(jnp.linalg.norm(action), 1.0)


def worth(position, action):
    """Exact value of the place where an action leads."""
    after = world.step(PLACE, position, action, None)[0]
    return VALUE_GAMMA ** (world.distance(PLACE, after) / PLACE.speed)


def episode(actor, expert, key, config, *, noise=True, chance=0.95):
    """One episode; at ``chance`` 0 the learner alone, at 1 the expert alone."""
    begin, run = jax.random.split(key)
    position, obs = world.reset(PLACE, begin)

    def move(carry, key):
        position, obs, hold, going = carry
        mine_key, its_key, take_key = jax.random.split(key, 3)
        drawn, _ = control.draw(actor, obs, mine_key)
        mine = drawn if noise else control.act(actor, obs)
        its = expert_action(expert, position, its_key)
        bad = worth(position, mine) < SLACK * worth(position, its)
        odds = jnp.where(bad, chance, 0.05 * (chance > 0))
        odds = jnp.where(chance >= 1, 1.0, odds)
        taken = (hold == 0) & (jax.random.uniform(take_key) < odds)
        hold = jnp.where(taken, HOLD, hold)
        action = jnp.where(hold > 0, its, mine)
        to, after, reward, over = world.step(PLACE, position, action, key)
        row = control.Batch(
            obs, action, reward, after, over.astype(jnp.float32), going * 1.0
        )
        carry = to, after, jnp.maximum(hold - 1, 0), going & ~over
        return carry, (row, hold > 0, position)

    start = position, obs, jnp.int32(0), jnp.bool_(True)
    _, out = jax.lax.scan(move, start, jax.random.split(run, config.length))
    return out


def judge(actor, expert, key, config, chance):
    """Share of 64 walks that arrive, and their mean number of steps, cut off."""
    play = partial(episode, actor, expert, config=config, noise=False, chance=chance)
    rows, _, place = jax.vmap(play)(jax.random.split(key, 64))
    best = jnp.mean(jax.vmap(partial(world.solve, PLACE))(place[:, 0]))
    arrived = jnp.mean(jnp.max(rows.terminated * rows.weight, 1))
    return jnp.stack([arrived, jnp.mean(jnp.sum(rows.weight, 1)), best])


def learn(config, expert, method, rate, key):
    """``[rounds, 3]``: arrivals, steps and the share of steps that the expert took."""
    make, demo, key = jax.random.split(key, 3)
    settings = control.Settings(rate=rate, gamma=0.95, backup=0.0)
    agent = control.init_agent(make, 2, 2, critics=4)
    shown = jax.vmap(
        lambda k: episode(agent.nets["actor"], expert, k, config, chance=1.0)[0]
    )(jax.random.split(demo, config.demonstrations))
    shown = control.flat(shown)
    taught = method == 3
    shown = shown._replace(reward=shown.reward * taught)
    demos = control.add(control.init_replay(len(shown.reward), 2, 2), shown)
    online = control.init_replay(config.rounds * EPISODES * config.length, 2, 2)
    clones = method < 2

    def one_round(carry, key):
        agent, online = carry
        play_key, learn_key, judge_key = jax.random.split(key, 3)
        chance = 0.0 if taught else 0.95
        play = partial(
            episode, agent.nets["actor"], expert, config=config, chance=chance
        )
        rows, took, _ = jax.vmap(play)(jax.random.split(play_key, EPISODES))
        paid = jax.vmap(intervention_rewards)(took & (rows.weight > 0))
        # A clone learns from the expert's steps, a learner by reward from its own.
        keep = (took if clones else ~took) * rows.weight
        rows = rows._replace(reward=rows.reward if taught else paid, weight=keep)
        online = control.add(online, control.flat(rows))

        def step(agent, key):
            first, second, third = jax.random.split(key, 3)
            old = control.sample(demos, first, BATCH // 2)
            new = control.sample(online, second, BATCH // 2)
            new = new._replace(weight=new.weight * (method != 0))
            batch = jax.tree.map(lambda *x: jnp.concatenate(x), old, new)
            if clones:
                return control.imitate(agent, batch, settings), None
            return control.update(agent, batch, third, settings), None

        agent, _ = jax.lax.scan(
            step, agent, jax.random.split(learn_key, config.updates)
        )
        score = judge(agent.nets["actor"], expert, judge_key, config, 0.0)[:2]
        share = jnp.mean(took)
        return (agent, online), jnp.append(score, share)

    carry, curve = jax.lax.scan(
        one_round, (agent, online), jax.random.split(key, config.rounds)
    )
    return curve, carry[0].nets["actor"]


def main(config: Config) -> dict:
    """Prints the table; returns curves ``[expert, rate, seed, round, 3]``."""
    keys = jax.random.split(jax.random.key(0), config.seeds)
    rates = jnp.array(config.rates)
    experts = jax.tree.map(lambda *x: jnp.array(x), *EXPERTS.values())
    unused = control.init_agent(keys[0], 2, 2).nets["actor"]
    alone = jax.jit(
        jax.vmap(partial(judge, config=config, chance=1.0), (None, 0, None))
    )
    own = np.asarray(alone(unused, experts, keys[0]))
    curves, actors = {}, {}
    for number, method in enumerate(METHODS):
        # Of experts, rates and seeds; one program for each method.
        each = partial(learn, config)
        for axes in (
            (None, None, None, 0),
            (None, None, 0, None),
            (0, None, None, None),
        ):
            each = jax.vmap(each, axes)
        run = jax.jit(each, static_argnums=1)
        curve, actors[method] = run(experts, number, rates, keys)
        curves[method] = np.asarray(curve)
    print("| expert | method | rate | arrive | steps (seeds) | half of the rounds |")
    print("|---|---|---|---|---|---|")
    for row, (name, (arrive, steps, _)) in enumerate(zip(EXPERTS, own, strict=True)):
        print(f"| {name} | the expert itself | | {arrive:.2f} | {steps:.1f} | |")
        for method, curve in curves.items():
            last = curve[row, :, :, -max(config.rounds // 8, 1) :].mean(2)
            at = int(last[..., 1].mean(1).argmin())
            half = curve[row, at, :, config.rounds // 2 - 1, 1].mean()
            each = " ".join(f"{x:.1f}" for x in last[at, :, 1])
            print(
                f"| | {method} | {config.rates[at]:g} | {last[at, :, 0].mean():.2f} | "
                f"**{last[at, :, 1].mean():.1f}** ({each}) | {half:.1f} |"
            )
    print(f"\nThe shortest ways take {own[0, 2]:.1f} steps.")
    if config.picture is not None:
        draw(config, actors)
    return curves


def draw(config, actors):
    """The world, and twelve walks of the last expert and of its learners."""
    expert = Expert(*map(jnp.float32, list(EXPERTS.values())[-1]))
    keys = jax.random.split(jax.random.key(5), 12)

    def walks(actor, chance):
        play = partial(
            episode, actor, expert, config=config, noise=False, chance=chance
        )
        rows, _, places = jax.vmap(play)(keys)
        return np.where(rows.weight[..., None] > 0, places, np.nan)

    names = "the expert", "BC", "DAgger", "RLIF"
    frame = world.render(PLACE, jnp.array([0.2, 0.3]), size=160)
    with picture(config.picture, (9.6, 2.6)) as figure:
        axes = figure.subplots(1, 4)
        for axis, name in zip(axes, names, strict=True):
            method = "RLIF" if name == names[0] else name
            actor = jax.tree.map(lambda x: x[-1, -1, 0], actors[method])
            axis.imshow(frame, extent=(0, 1, 0, 1))
            for walk in walks(actor, 1.0 if name == names[0] else 0.0):
                axis.plot(*walk.T, linewidth=0.9)
            axis.set(title=name, xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1))


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
