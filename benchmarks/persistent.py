"""A robot that learns to do without its trusted cue: persistent self-supervision.

    python benchmarks/persistent.py                 # a minute of one core
    python benchmarks/persistent.py --train 500 --flight 300
    python benchmarks/persistent.py --picture persistent.png

In `worlds.room` a robot flies straight and turns where depth is short. Stereo depth
labels a ridge regression of depth on texture (`policy.update_ridge`), while the robot
flies by stereo all along; or by texture as soon as that is good enough
(`policy.handover`), stereo overriding it next to an obstacle; or by a mixture that
falls to texture (DAgger). Then stereo is cut.
"""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from drawing import picture

from jaxlib_guidance.policy import handover, init_ridge, update_ridge
from jaxlib_guidance.worlds import room as world


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    train: int = 8000
    """Steps with stereo; 5 steps are a second."""
    flight: int = 4000
    """Steps after stereo was cut."""
    seeds: int = 10
    """Rooms, each with pillars, textures and starts of its own."""
    search: int = 5
    """Rooms in which settings are chosen, which are not reported."""
    ridges: tuple[float, ...] = (0.1, 1.0)
    """Strength of the regression's prior, each tried by each strategy."""
    allowed: tuple[float, ...] = (0.3, 0.5)
    """Largest share of false alarms and of misses at the hand-over, each tried."""
    picture: Path | None = None
    """File for a frame of the room and flights; None for none."""


STRATEGIES = ("stereo all along", "hand-over", "DAgger mixture", "texture at once")
NEAR, DANGER, WINDOW, RANDOM = 0.7, 0.4, 200, 100
TRUTH = len(STRATEGIES)


def steer(depth, turning):
    """Turn on the spot while the depth is short, and a little longer."""
    turning = depth < jnp.where(turning, NEAR + 0.3, NEAR)
    action = jnp.where(turning, jnp.array([0.35, 0.0]), jnp.array([0.0, 1.0]))
    return turning, action


def fly(room, strategy, config, allowed, ridge, key, train):
    """Trains or, with a ridge that is given, flies on texture or on the truth."""
    begin, run = jax.random.split(key)
    inner = jax.random.normal(jax.random.key(7), (world.FEATURES + 1, RANDOM))

    def basis(seen):
        return jnp.tanh(jnp.append(seen[1:], 1.0) @ inner)

    def move(carry, inputs):
        state, seen, turning, ridge, pairs, handed = carry
        at, key = inputs
        mix_key, step_key = jax.random.split(key)
        x = basis(seen)
        learned, stereo = x @ ridge.weights, seen[0]
        ready = handover(pairs[0], pairs[1], near=NEAR, allowed=allowed).ready
        ready = handed | (ready & (at >= WINDOW))  # Once handed over, it stays so.
        mixed = jax.random.uniform(mix_key) < at / config.train
        by = jnp.stack([False, ready, mixed, True])[jnp.minimum(strategy, TRUTH - 1)]
        if train:
            by &= ~((strategy == 1) & (stereo < DANGER))
            used = jnp.where(by, learned, stereo)
            ridge = update_ridge(ridge, x, stereo)
            pairs = jnp.roll(pairs, 1, 1).at[:, 0].set(jnp.stack([stereo, learned]))
        else:
            true = world.depth(room, state)
            used = jnp.where(strategy == TRUTH, true, learned)
        error = jnp.square(learned - world.depth(room, state))
        turning, action = steer(used, turning)
        state, seen, reward, _ = world.step(room, state, action, step_key)
        row = jnp.stack([-reward, by * 1.0, error])
        return (state, seen, turning, ridge, pairs, ready), (row, state.position)

    state, seen = world.reset(room, begin)
    pairs = jnp.zeros((2, WINDOW))
    start = state, seen, jnp.bool_(False), ridge, pairs, jnp.bool_(False)
    length = config.train if train else config.flight
    steps = jnp.arange(length), jax.random.split(run, length)
    carry, (rows, places) = jax.lax.scan(move, start, steps)
    return carry[3], rows, places


def run(config, strategy, setting, key):
    """Rows of training and of the flight after it."""
    room_key, train_key, flight_key = jax.random.split(key, 3)
    room = world.make(room_key)
    ridge = init_ridge(RANDOM, ridge=setting[0])
    ridge, before, _ = fly(room, strategy, config, setting[1], ridge, train_key, True)
    _, after, places = fly(room, strategy, config, setting[1], ridge, flight_key, False)
    return before.mean(0), after.mean(0), places


def main(config: Config) -> np.ndarray:
    """Prints the table; returns means ``[strategy, setting, seed, phase, 3]``."""
    keys = jax.random.split(jax.random.key(0), config.seeds)
    others = jax.random.split(jax.random.key(100), config.search)
    each = partial(run, config)
    for axes in ((None, None, 0), (None, 0, None), (0, None, None)):
        each = jax.vmap(each, axes)
    strategies = jnp.arange(TRUTH + 1)
    settings = [(r, a) for r in config.ridges for a in config.allowed]
    both = jnp.concatenate([others, keys])
    before, after, places = jax.jit(each)(strategies, jnp.array(settings), both)
    found, places = np.stack([before, after], -2), places[:, :, config.search :]
    chosen = found[:, :, : config.search, 1, 0].mean(2).argmin(1)
    found = found[:, :, config.search :]
    print(
        "| strategy | setting | hits a minute, learning | by texture | error then | "
        "hits a minute, cut off (rooms) | error cut off |"
    )
    print("|---|---|---|---|---|---|---|")
    names = *STRATEGIES, "true depth"
    for name, rows, at in zip(names, found, chosen, strict=True):
        learn, cut = rows[at].mean(0)
        each = " ".join(f"{300 * x:.1f}" for x in rows[at, :, 1, 0])
        said = f"{300 * learn[0]:.2f} | {learn[1]:.2f} | {learn[2] ** 0.5:.2f} m"
        prior = f"{settings[at][0]:g}"
        if name == "hand-over":
            prior += f", {settings[at][1]:g}"
        if name == "true depth":
            prior, said = "", " | | "
        print(
            f"| {name} | {prior} | {said} | **{300 * cut[0]:.2f}** ({each}) | "
            f"{cut[2] ** 0.5:.2f} m |"
        )
    if config.picture is not None:
        draw(config, keys, np.asarray(places))
    return found


def draw(config, keys, places):
    """One room and 400 steps of each flight."""
    room = world.make(jax.random.split(keys[0], 3)[0])
    here = world.State(jnp.array([1.0, 1.0]), jnp.float32(0.6))
    frame = world.render(room, here, size=200)
    names = (*STRATEGIES[:3], "true depth")
    with picture(config.picture, (9.6, 2.6)) as figure:
        axes = figure.subplots(1, 4)
        for axis, name, row in zip(axes, names, (0, 1, 2, TRUTH), strict=True):
            axis.imshow(frame, extent=(0, world.SIDE, 0, world.SIDE))
            axis.plot(*places[row, 1, 0, :400].T, linewidth=0.6)
            axis.set(title=name, xticks=[], yticks=[])


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
