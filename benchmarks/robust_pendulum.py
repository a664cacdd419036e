"""A pendulum that learns to stand against pushes: H-infinity beside plain learning.

    python benchmarks/robust_pendulum.py                 # two minutes of one core
    python benchmarks/robust_pendulum.py --updates 10
    python benchmarks/robust_pendulum.py --picture robust_pendulum.png

In `worlds.pendulum` PPO learns to stay upright: alone; under random pushes; or in a
game in which a disturber learns to push by PPO too, and the actor follows its reward
and, times a multiplier, the slack of a bound on what a push may cost
(`policy.hinf_slack`).
Each is judged without pushes and under the worst ones, found by dynamic programming
against its own policy. Beside them stand linear controllers: without a disturber, with
a searched price of torque, and the saddle of the linear game with a searched bound.
"""

import dataclasses
from functools import partial
from pathlib import Path

import control_ppo as ppo
import jax
import jax.numpy as jnp
import numpy as np
from drawing import picture

from jaxlib_guidance.policy import aggregate_advantages, hinf_slack, multiplier_step
from jaxlib_guidance.worlds import pendulum as world


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    updates: int = 120
    """Updates of both players, each from one episode of every environment."""
    episodes: int = 32
    """Episodes of an update."""
    length: int = 60
    """Steps of an episode, 3 s."""
    caps: tuple[float, ...] = (0.5,)
    """Largest pushes; the controller's largest torque is 2."""
    seeds: int = 5
    """Runs of each row."""
    search: int = 1
    """Runs of each setting, on a seed that is not reported."""
    picture: Path | None = None
    """File for a frame and episodes under the worst pushes; None for none."""


METHODS = ("alone", "random pushes", "game")
SETTINGS = {
    "alone": "price of torque, times",
    "random pushes": "their size, times the cap",
    "game": "bound eta",
}
CHOICES = {
    "alone": (1.0, 0.1),
    "random pushes": (1.0, 2.0),
    "game": (0.3, 1.0),
}
RATES = (3e-3,)
PRICES = (1.0, 0.3, 0.1, 0.03, 0.01)
BOUNDS = (np.inf, 4.0, 2.0, 1.5, 1.2, 1.0)
SCALE = jnp.array([1.0, 0.25])
STARTS, _ = jax.vmap(partial(world.reset, None))(
    jax.random.split(jax.random.key(7), 32)
)


def torque(nets, state):
    """What an actor does without noise."""
    return 2 * ppo.mlp(nets["actor"], SCALE * state)[0]


def episode(method, size, cap, players, key, length):
    """One episode of both players: their steps, costs and pushes, ``[T]``."""
    place = world.make(cap=2 * cap)
    begin, run = jax.random.split(key)
    state, _ = world.reset(place, begin)

    def move(state, key):
        keys = jax.random.split(key, 3)
        obs = SCALE * state
        drawn = [ppo.draw(n, obs, k) for n, k in zip(players, keys[:2], strict=True)]
        logp = [ppo.log_density(n, obs, a) for n, a in zip(players, drawn, strict=True)]
        chance = size * jax.random.uniform(keys[2], (), minval=-1.0)
        push = jnp.stack([0.0, chance, jnp.clip(drawn[1][0], -1.0, 1.0)])[method]
        action = jnp.stack([2 * drawn[0][0], cap * push])
        after, _, reward, _ = world.step(place, state, action, None)
        steps = [
            ppo.Steps(obs, a, p, SCALE * after)
            for a, p in zip(drawn, logp, strict=True)
        ]
        # What the learner pays for torque may differ from what it is judged by.
        price = jnp.where(method == 0, size - 1, 0.0) * place.price
        own = reward - price * jnp.clip(action[0], -2, 2) ** 2
        return after, (steps, 0.1 * own, cap * push)

    return jax.lax.scan(move, state, jax.random.split(run, length))[1]


def learn(config, cap, method, setting, key):
    """The actor's networks after training."""
    size, rate = setting
    makes, key = jax.random.split(key)
    ours, its = jax.random.split(makes)
    actor = ppo.init_agent(ours, 2, 1, critics=2, width=16)
    disturber = ppo.init_agent(its, 2, 1, critics=1, width=16)
    settings = ppo.Settings(rate=rate)

    def one(carry, key):
        actor, disturber, multiplier = carry
        play_key, actor_key, disturber_key = jax.random.split(key, 3)
        players = actor.nets, disturber.nets
        each = partial(episode, method, size, cap, players, length=config.length)
        (mine, other), paid, pushes = jax.vmap(lambda k: each(key=k))(
            jax.random.split(play_key, config.episodes)
        )
        slack = hinf_slack(-paid, pushes[..., None], eta=0.1 * size)
        found = ppo.estimate(actor.nets, mine, jnp.stack([paid, slack]), settings)
        weights = jnp.stack([jnp.float32(1), multiplier])
        weights = weights / jnp.sum(weights)
        advantage = aggregate_advantages(found.advantage, weights)
        actor = ppo.update(actor, mine, advantage, found.target, actor_key, settings)
        lacks = ppo.estimate(disturber.nets, other, -slack[None], settings)
        advantage = aggregate_advantages(lacks.advantage, jnp.ones(1))
        disturber = ppo.update(
            disturber, other, advantage, lacks.target, disturber_key, settings
        )
        grown = multiplier_step(multiplier, jnp.mean(jnp.sum(slack, 1)), rate=0.1)
        multiplier = jnp.where(method == 2, grown, 0.0)
        return (actor, disturber, multiplier), None

    start = actor, disturber, jnp.zeros(())
    keys = jax.random.split(key, config.updates)
    (actor, *_), _ = jax.lax.scan(one, start, keys)
    return actor.nets


def judged(config, cap, policy):
    """Cost without pushes, under the worst, and share that fall under these."""
    free, _ = world.worst(world.make(), policy, STARTS, steps=config.length, points=3)
    place = world.make(cap=cap)
    costs, pushes = world.worst(place, policy, STARTS, steps=config.length)

    def follow(state, push):
        after, *_ = world.step(place, state, jnp.stack([policy(state), push]), None)
        return after, after[0]

    angles = jax.vmap(lambda s, d: jax.lax.scan(follow, s, d)[1])(STARTS, pushes)
    fallen = jnp.mean(jnp.max(jnp.abs(angles), 1) > 1)
    return jnp.stack([jnp.mean(free), jnp.mean(costs), fallen]), angles


def main(config: Config) -> dict:
    """Prints a table for each cap; returns measures ``[seed, 3]`` of each row."""
    others = jax.random.split(jax.random.key(100), config.search)
    keys = jax.random.split(jax.random.key(0), config.seeds)

    def one(cap, method, setting, key):
        nets = learn(config, cap, method, setting, key)
        return judged(config, cap, partial(torque, nets))

    both = jnp.concatenate([others, keys])
    each = one
    for axes in ((None, None, None, 0), (None, None, 0, None), (None, 0, 0, None)):
        each = jax.vmap(each, axes)
    each = jax.jit(each)
    linear = jax.jit(
        jax.vmap(lambda cap, k: judged(config, cap, lambda x: -k @ x), (None, 0))
    )
    settings = np.array([[(c, r) for c in CHOICES[m] for r in RATES] for m in METHODS])
    numbers, rows, shown = jnp.arange(len(METHODS)), {}, {}
    print("| cap | controller | setting | no pushes | worst pushes (seeds) | fall |")
    print("|---|---|---|---|---|---|")
    for cap in config.caps:
        found, angles = map(np.asarray, each(cap, numbers, settings, both))
        tried, found = found[:, :, : config.search], found[:, :, config.search :]
        best = tried[..., 1].mean(-1).argmin(1)
        for number, (name, at) in enumerate(zip(METHODS, best, strict=True)):
            rows[cap, name] = found[number, at]
            shown[cap, name] = angles[number, at, config.search]
            said = f"{SETTINGS[name]} {settings[number, at, 0]:g}"
            tell(cap, name, said, rows[cap, name])
        gains = [world.solve(world.make(price=0.1 * p), np.inf)[0] for p in PRICES]
        tabled = {"linear, price searched": (PRICES, gains)}
        gains = [world.solve(world.make(), g)[0] for g in BOUNDS]
        tabled["linear game, bound searched"] = BOUNDS, gains
        for name, (choices, gains) in tabled.items():
            found, angles = linear(cap, jnp.asarray(np.array(gains), jnp.float32))
            at = int(np.asarray(found)[:, 1].argmin())
            rows[cap, name] = np.asarray(found)[at : at + 1]
            shown[cap, name] = angles[at]
            tell(cap, name, f"{choices[at]:g}", rows[cap, name])
            if name.startswith("linear game"):
                # Its bound is infinite: nobody pushes.
                rows[cap, "linear"] = np.asarray(found)[:1]
                tell(cap, "linear, no disturber", "", rows[cap, "linear"])
    if config.picture is not None:
        draw(config, shown)
    return rows


def tell(cap, name, setting, row):
    """A line of the table."""
    free, worst, fallen = row.mean(0)
    each = " ".join(f"{x:.2f}" for x in row[:, 1])
    print(
        f"| {cap:g} | {name} | {setting} | {free:.2f} | **{worst:.2f}** ({each}) | "
        f"{fallen:.2f} |"
    )


def draw(config, shown):
    """A frame, and angles over time under the worst pushes of the largest cap."""
    cap = config.caps[-1]
    with picture(config.picture, (9.6, 2.5)) as figure:
        axes = figure.subplots(1, 4)
        axes[0].imshow(world.render(world.make(), jnp.array([0.3, 0.0]), size=160))
        axes[0].set(title="pendulum", xticks=[], yticks=[])
        for axis, name in zip(axes[1:], METHODS, strict=True):
            axis.plot(
                0.05 * np.arange(config.length), shown[cap, name][:12].T, linewidth=0.7
            )
            axis.set(title=name, xlabel="s", ylim=(-np.pi, np.pi))
        axes[1].set_ylabel("angle")


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
