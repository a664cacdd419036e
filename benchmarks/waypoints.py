"""A dense reward along waypoints until there is a sparse one: KAGI's switch.

    python benchmarks/waypoints.py                 # two minutes of one core
    python benchmarks/waypoints.py --rounds 5
    python benchmarks/waypoints.py --picture waypoints.png

The world is `worlds.carry`: grip an object, bring it to a goal, let go. A seer names
two waypoints of the hand, the object and the goal, with noise. One learner is paid for
success alone; one for being near along the waypoints (`policy.waypoint_rewards`); one
by that until there is a success to be paid for. Each has demonstrations, many or few,
and two scales of its reward were tried for each.
"""

import dataclasses
from functools import partial
from pathlib import Path

import control_continuous as control
import jax
import jax.numpy as jnp
import numpy as np
from drawing import picture

from jaxlib_guidance.policy import waypoint_index, waypoint_rewards
from jaxlib_guidance.worlds import carry as world


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    rounds: int = 40
    """Rounds of four episodes, each followed by updates."""
    updates: int = 160
    """Updates of a round, as many as its steps."""
    length: int = 40
    """Steps of an episode."""
    demonstrations: tuple[int, ...] = (20, 4)
    """Episodes of a clumsy expert, as one of two halves of each batch."""
    noise: float = 0.05
    """Standard deviation of the seer's waypoints."""
    seeds: int = 5
    """Runs of each cell."""
    picture: Path | None = None
    """File for frames of the world and success over rounds; None for none."""


METHODS = ("sparse", "waypoints alone", "KAGI")
SCALES = {"sparse": (1.0, 10.0), "waypoints alone": (0.1, 1.0), "KAGI": (0.1, 1.0)}
EPISODES, BATCH, CLUMSY = 4, 128, 0.7
PLACE = world.default()


def play(policy, key, config):
    """An episode: rows, and the object and the hand after each step."""
    reset, step = partial(world.reset, PLACE), partial(world.step, PLACE)
    rows, states = control.rollout(policy, reset, step, key, config.length)
    start, _ = reset(jax.random.split(key)[0])
    return rows, states.hand, start.thing


def pay(method, scale, noise, rows, hand, thing, key):
    """Rewards of an episode by one of three methods."""
    way = jnp.stack([thing, PLACE.goal])
    way += noise * jax.random.normal(key, way.shape)
    index = waypoint_index(hand, way, radius=0.1)
    sparse = rows.reward
    dense = waypoint_rewards(hand, way, index, 0 * sparse)
    both = waypoint_rewards(hand, way, index, sparse / scale)
    return scale * jnp.stack([sparse, dense, both])[method]


def learn(config, few, method, scale, key):
    """Success and steps of 32 episodes after each round, ``[rounds, 2]``."""
    make, show, pay_key, key = jax.random.split(key, 4)
    agent = control.init_agent(make, 7, 3, critics=2)
    settings = control.Settings(rate=3e-3, gamma=0.95)

    def clumsy(obs, state, key):
        action = world.guide(PLACE, state)
        return jnp.clip(action + CLUMSY * jax.random.normal(key, (3,)), -1.0, 1.0)

    def gather(policy, keys, key):
        rows, hand, thing = jax.vmap(lambda k: play(policy, k, config))(keys)
        paid = jax.vmap(partial(pay, method, scale, config.noise))
        reward = paid(rows, hand, thing, jax.random.split(key, len(keys)))
        return control.flat(rows._replace(reward=reward))

    most = max(config.demonstrations)
    shown = gather(clumsy, jax.random.split(show, most), pay_key)
    count = jnp.where(few, min(config.demonstrations), most) * config.length
    demos = control.Replay(shown, count)
    online = control.init_replay(config.rounds * EPISODES * config.length, 7, 3)

    def one_round(carry, key):
        agent, online = carry
        play_key, see_key, learn_key, judge_key = jax.random.split(key, 4)
        actor = agent.nets["actor"]
        rows = gather(
            lambda obs, state, key: control.draw(actor, obs, key)[0],
            jax.random.split(play_key, EPISODES),
            see_key,
        )
        online = control.add(online, rows)

        def step(agent, key):
            keys = jax.random.split(key, 3)
            old = control.sample(demos, keys[0], BATCH // 2)
            new = control.sample(online, keys[1], BATCH // 2)
            batch = jax.tree.map(lambda *x: jnp.concatenate(x), old, new)
            return control.update(agent, batch, keys[2], settings), None

        agent, _ = jax.lax.scan(
            step, agent, jax.random.split(learn_key, config.updates)
        )

        def best(obs, state, key):
            return control.act(agent.nets["actor"], obs)

        keys = jax.random.split(judge_key, 32)
        seen, *_ = jax.vmap(lambda k: play(best, k, config))(keys)
        success = jnp.mean(jnp.max(seen.terminated * seen.weight, 1))
        return (agent, online), jnp.stack([success, jnp.mean(jnp.sum(seen.weight, 1))])

    _, curve = jax.lax.scan(
        one_round, (agent, online), jax.random.split(key, config.rounds)
    )
    return curve


def main(config: Config) -> np.ndarray:
    """Prints the table; returns curves ``[few, method, scale, seed, round, 2]``."""
    keys = jax.random.split(jax.random.key(0), config.seeds)
    each = partial(learn, config)
    axes = ((None, None, None, 0), (None, None, 0, None), (None, 0, 0, None))
    for axis in (*axes, (0, None, None, None)):
        each = jax.vmap(each, axis)
    scales = jnp.array([SCALES[name] for name in METHODS])
    curves = jax.jit(each)(jnp.arange(2) > 0, jnp.arange(len(METHODS)), scales, keys)
    curves = np.asarray(curves)
    starts, _ = jax.vmap(partial(world.reset, PLACE))(
        jax.random.split(jax.random.key(1), 1000)
    )
    best = float(jnp.mean(jax.vmap(partial(world.solve, PLACE))(starts)))
    print("| demonstrations | reward | scale | episodes to 80 % | success | steps |")
    print("|---|---|---|---|---|---|")
    reached = curves[..., 0] >= 0.8
    first = np.where(reached.any(-1), reached.argmax(-1) + 1, config.rounds + 1)
    for row, shown in enumerate(config.demonstrations):
        for number, name in enumerate(METHODS):
            at = int(first[row, number].mean(1).argmin())
            episodes = EPISODES * first[row, number, at]
            each = " ".join(
                str(x) if x <= EPISODES * config.rounds else "never" for x in episodes
            )
            success, steps = curves[row, number, at, :, -5:].mean((0, 1))
            print(
                f"| {shown} | {name} | {SCALES[name][at]:g} | "
                f"**{episodes.mean():.0f}** "
                f"({each}) | {success:.2f} | {steps:.1f} |"
            )
    print(f"\nThe fewest steps are {best:.1f}; *never* counts as one round more.")
    if config.picture is not None:
        draw(config, curves, first)
    return curves


def draw(config, curves, first):
    """Three moments of the best way, and success over episodes."""
    state, _ = world.reset(PLACE, jax.random.key(3))
    with picture(config.picture, (9.6, 2.6)) as figure:
        axes = figure.subplots(1, 4)
        wanted = (0, 6, 12)
        for step in range(max(wanted) + 1):
            if step in wanted:
                axis = axes[wanted.index(step)]
                axis.imshow(world.render(PLACE, state, size=120))
                axis.set(title=f"step {step}", xticks=[], yticks=[])
            state, *_ = world.step(PLACE, state, world.guide(PLACE, state), None)
        for number, name in enumerate(METHODS):
            for row, line in enumerate(("-", "--")):
                at = int(first[row, number].mean(1).argmin())
                y = curves[row, number, at, :, :, 0].mean(0)
                x = EPISODES * np.arange(1, len(y) + 1)
                told = None if row else name
                axes[3].plot(x, y, line, color=f"C{number}", label=told)
        axes[3].set(xlabel="episodes", title="success, few dashed", ylim=(0, 1))
        axes[3].legend(fontsize=7)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
