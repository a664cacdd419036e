"""Imitation from observation with a discount that grows with progress: ADS.

    python benchmarks/discounts.py                   # a minute of one core
    python benchmarks/discounts.py --rounds 4
    python benchmarks/discounts.py --picture discounts.png

The world is `worlds.errand`: touch A, then be at B. A learner sees the places of three
demonstrations, no actions and no reward, and is paid by optimal transport to them
(`policy.transport_rewards`). The discount is constant, grows on a ramp, or grows with
what has been mastered (`policy.advance_progress`, `policy.discount_schedule`).
"""

import dataclasses
from functools import partial
from pathlib import Path

import control_continuous as control
import jax
import jax.numpy as jnp
import numpy as np
from drawing import picture

from jaxlib_guidance.policy import (
    advance_progress,
    discount_schedule,
    sinkhorn,
    transport_rewards,
)
from jaxlib_guidance.worlds import errand as world


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    rounds: int = 40
    """Rounds of four episodes, each followed by updates."""
    updates: int = 160
    """Updates of a round, as many as its steps."""
    length: int = 40
    """Steps of an episode."""
    demonstrations: int = 3
    """Episodes of the expert, places alone."""
    seeds: int = 5
    """Runs of each cell."""
    rates: tuple[float, ...] = (3e-3,)
    """Step sizes of Adam, each tried by each method."""
    picture: Path | None = None
    """File for frames of the world and the discounts; None for none."""


METHODS = {
    "0.9": lambda config, k, at: 0.9,
    "0.95": lambda config, k, at: 0.95,
    "0.99": lambda config, k, at: 0.99,
    "ramp": lambda config, k, at: discount_schedule(
        jnp.maximum(config.length * (0.2 + 0.8 * at / config.rounds), 1)
    ),
    "ADS": lambda config, k, at: discount_schedule(k),
}
SHOWN = "0.9", "0.99", "ADS"
EPISODES, BATCH = 4, 128
PLACE = world.default()


def seen(states):
    """What is compared: the place, and whether A was touched, which shows."""
    return jnp.concatenate([states.position, 0.5 * states.touched[..., None]], -1)


def paid(demos, places):
    """Rewards of one episode by transport to the demonstration that is nearest."""

    def to(demo):
        cost = jnp.linalg.norm(places[:, None] - demo[None], axis=-1)
        plan = sinkhorn(cost, epsilon=0.02, steps=40)
        # A mean step of the same length far off costs about 1.
        return transport_rewards(plan.plan, cost, scale=float(len(places)))

    rewards = jax.vmap(to)(demos)
    return rewards[jnp.argmax(jnp.sum(rewards, 1))]


def play(actor, key, config, noise):
    """An episode of the learner, its places, and what the world would have paid."""

    def policy(obs, state, key):
        return control.draw(actor, obs, key)[0] if noise else control.act(actor, obs)

    reset, step = partial(world.reset, PLACE), partial(world.step, PLACE)
    return control.rollout(policy, reset, step, key, config.length)


def learn(config, method, rate, key):
    """``[rounds, 4]``: A touched, steps paid, the discount and the progress."""
    make, show, key = jax.random.split(key, 3)
    agent = control.init_agent(make, 3, 2, critics=2)
    expert = lambda obs, state, key: world.guide(PLACE, state)  # noqa: E731
    reset, step = partial(world.reset, PLACE), partial(world.step, PLACE)
    demos = jax.vmap(
        lambda k: seen(control.rollout(expert, reset, step, k, config.length)[1])
    )(jax.random.split(show, config.demonstrations))
    replay = control.init_replay(config.rounds * EPISODES * config.length, 3, 2)

    def one_round(carry, inputs):
        agent, replay, progress = carry
        at, key = inputs
        play_key, learn_key, judge_key = jax.random.split(key, 3)
        actor = agent.nets["actor"]
        rows, states = jax.vmap(lambda k: play(actor, k, config, True))(
            jax.random.split(play_key, EPISODES)
        )
        rows = rows._replace(reward=jax.vmap(partial(paid, demos))(seen(states)))
        replay = control.add(replay, control.flat(rows))
        progress = advance_progress(progress, seen(states), demos)
        gammas = jnp.stack(
            [jnp.float32(f(config, progress, at)) for f in METHODS.values()]
        )
        settings = control.Settings(rate=rate, gamma=gammas[method])

        def step(agent, key):
            pick, learn = jax.random.split(key)
            batch = control.sample(replay, pick, BATCH)
            return control.update(agent, batch, learn, settings), None

        agent, _ = jax.lax.scan(
            step, agent, jax.random.split(learn_key, config.updates)
        )
        rows, after = jax.vmap(lambda k: play(agent.nets["actor"], k, config, False))(
            jax.random.split(judge_key, 16)
        )
        touched = jnp.mean(after.touched[:, -1])
        score = jnp.stack(
            [touched, jnp.mean(jnp.sum(rows.reward, 1)), gammas[method], progress * 1.0]
        )
        return (agent, replay, progress), score

    start = agent, replay, jnp.int32(max(config.length // 5, 1))
    steps = jnp.arange(config.rounds), jax.random.split(key, config.rounds)
    carry, curve = jax.lax.scan(one_round, start, steps)
    return curve, carry[0].nets["actor"]


def best(config):
    """Steps that the shortest way is paid in an episode, in the mean."""
    keys = jax.random.split(jax.random.key(1), 1000)
    starts, _ = jax.vmap(partial(world.reset, PLACE))(keys)
    return config.length - jnp.mean(jax.vmap(partial(world.solve, PLACE))(starts)) + 1


def main(config: Config) -> np.ndarray:
    """Prints the table; returns curves ``[method, rate, seed, round, 4]``."""
    keys = jax.random.split(jax.random.key(0), config.seeds)
    each = partial(learn, config)
    for axes in ((None, None, 0), (None, 0, None), (0, None, None)):
        each = jax.vmap(each, axes)
    methods, rates = jnp.arange(len(METHODS)), jnp.array(config.rates)
    curves, actors = jax.jit(each)(methods, rates, keys)
    curves = np.asarray(curves)
    print("| discount | rate | A touched | paid steps (seeds) | last discount |")
    print("|---|---|---|---|---|")
    last = curves[:, :, :, -max(config.rounds // 8, 1) :].mean(3)
    for name, rows in zip(METHODS, last, strict=True):
        at = int(rows[..., 1].mean(1).argmax())
        touched, steps, gamma, _ = rows[at].mean(0)
        each = " ".join(f"{x:.1f}" for x in rows[at, :, 1])
        print(
            f"| {name} | {config.rates[at]:g} | {touched:.2f} | **{steps:.1f}** "
            f"({each}) | {gamma:.3f} |"
        )
    print(f"\nThe shortest way is paid {float(best(config)):.1f} steps.")
    if config.picture is not None:
        draw(config, curves, actors)
    return curves


def draw(config, curves, actors):
    """The world before and after A, with walks of both extremes, and the discounts."""
    keys = jax.random.split(jax.random.key(5), 6)
    with picture(config.picture, (9.6, 2.5)) as figure:
        axes = figure.subplots(1, 4)
        names = list(METHODS)
        for axis, name, touched in zip(axes[:3], SHOWN, (0, 0, 1), strict=True):
            row = names.index(name)
            rate = int(curves[row, :, :, -1, 1].mean(1).argmax())
            actor = jax.tree.map(lambda x, row=row, rate=rate: x[row, rate, 0], actors)
            _, states = jax.vmap(lambda k, a=actor: play(a, k, config, False))(keys)
            here = world.State(jnp.array([0.6, 0.5]), jnp.float32(touched))
            frame = world.render(PLACE, here, size=160)
            axis.imshow(frame, extent=(0, 1, 0, 1))
            for walk in np.asarray(states.position):
                axis.plot(*walk.T, linewidth=0.9)
            axis.set(title=name, xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1))
        for name, rows in zip(names, curves, strict=True):
            axes[3].plot(rows[-1, :, :, 2].mean(0), label=name)
        axes[3].set(xlabel="round", title="discount")
        axes[3].legend(fontsize=6)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
