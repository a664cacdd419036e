"""Novelty in a space that is learned from pictures, and emitters on what pays: STAX.

    python benchmarks/behaviours.py                 # two minutes of one core
    python benchmarks/behaviours.py --generations 20
    python benchmarks/behaviours.py --picture behaviours.png

The world is `worlds.maze`: only a disc in the far room pays, and a run is known by a
picture of 16 by 16 of where it ended. Policies are kept by `policy.knn_novelty` among
all that were archived: in the code of an autoencoder that learns from the archive's
pictures, in the code of one that never learned, or in the true place. Half of the
generations after a first reward go to emitters, which climb from a policy that pays and
are dropped when `policy.emitter_gain` is 0. Beside them: novelty in the true place and
no emitters, and weights drawn at random.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import NamedTuple

import control_continuous as control
import jax
import jax.numpy as jnp
import numpy as np
import optax
from drawing import picture

from jaxlib_guidance.policy import emitter_gain, knn_novelty
from jaxlib_guidance.worlds import maze as world


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    generations: int = 200
    """Generations of 20 new policies."""
    seeds: int = 5
    """Runs of each method."""
    spreads: tuple[float, ...] = (0.3, 0.6)
    """Standard deviation of a mutation, each tried by each method."""
    picture: Path | None = None
    """File for the maze with the ends that were reached; None for none."""


METHODS = (
    "learned",
    "never learned",
    "true place",
    "true place, no emitters",
    "random weights",
)
PARENTS, YOUNG, ARCHIVED, PIXELS, CODE, CLIMB, RELEARN = 10, 20, 5, 16, 10, 6, 25
MAZE = world.default()


class Group(NamedTuple):
    """Policies, where they ended and what that paid, each with leading ``[N]``."""

    weights: jax.Array
    place: jax.Array
    reward: jax.Array


def try_out(weights):
    """Runs of a batch of policies."""
    place, reward = jax.vmap(partial(world.drive, MAZE))(weights)
    return Group(weights, place, reward)


def looks(place):
    """The end as a picture, ``[N, 256]``: a soft spot, no walls."""
    centre = (jnp.arange(PIXELS) + 0.5) / PIXELS
    x, y = (jnp.exp(-(((c[:, None] - centre) / 0.08) ** 2)) for c in place.T)
    return (y[:, :, None] * x[:, None]).reshape(len(place), -1)


def init_coder(key):
    """Encoder and decoder, 256-64-10-64-256."""
    sizes = (PIXELS**2, 64, CODE), (CODE, 64, PIXELS**2)
    return [
        control.init_mlp(k, s)
        for k, s in zip(jax.random.split(key), sizes, strict=True)
    ]


def train_coder(coder, pictures, mask, key, steps=100):
    """Reconstruction of the pictures that are there, afresh with Adam."""
    tx = optax.adam(3e-3)

    def loss(coder, rows, weight):
        back = control.mlp(coder[1], control.mlp(coder[0], rows))
        return jnp.mean(jnp.mean(jnp.square(back - rows), -1) * weight)

    def step(carry, key):
        coder, state = carry
        at = (jax.random.uniform(key, (64,)) * jnp.sum(mask)).astype(jnp.int32)
        grads = jax.grad(loss)(coder, pictures[at], mask[at])
        change, state = tx.update(grads, state)
        return (optax.apply_updates(coder, change), state), None

    keys = jax.random.split(key, steps)
    return jax.lax.scan(step, (coder, tx.init(coder)), keys)[0][0]


def search(config, method, spread, key):
    """Ends ``[generations, YOUNG, 2]`` and rewards of all that was tried."""
    make, code_key, key = jax.random.split(key, 3)
    fresh = lambda k, n: jax.random.normal(k, (n, world.WEIGHTS))  # noqa: E731
    size = ARCHIVED * config.generations
    empty = Group(
        jnp.zeros((size, world.WEIGHTS)), jnp.zeros((size, 2)), jnp.zeros(size)
    )
    slots = jnp.arange(size)

    def describe(coder, place):
        if method in (0, 1):
            return control.mlp(coder[0], looks(place))
        return place

    def generation(carry, inputs):
        parents, archive, coder, climber, gains = carry
        at, key = inputs
        change, draw, ancestor, learn = jax.random.split(key, 4)
        there = (slots < at * ARCHIVED).astype(jnp.float32)
        paying = there * (archive.reward > 0)
        climbs = (at % 2 == 1) & (jnp.sum(paying) > 0) & (method < 3)
        # A new emitter starts from any policy in the archive that pays.
        ended = (at // 2 % CLIMB == 0) & (emitter_gain(gains) == 0)
        chosen = jnp.argmax(jax.random.uniform(ancestor, (size,)) * paying)
        old = jax.tree.map(lambda x: x[chosen], archive)
        start = ended | (climber.reward == 0)
        climber = jax.tree.map(lambda a, b: jnp.where(start, a, b), old, climber)
        gains = jnp.where(start, old.reward, gains)

        from_ = jnp.where(climbs, climber.weights, jnp.repeat(parents.weights, 2, 0))
        sway = jnp.where(climbs, 0.2, 1.0) * spread * fresh(change, YOUNG)
        weights = jnp.clip(from_ + sway, -5.0, 5.0)
        if method == 4:
            weights = fresh(draw, YOUNG) * (2 * spread + 1)
        young = try_out(weights)

        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), parents, young)
        mine = describe(coder, both.place)
        others = jnp.concatenate([mine, describe(coder, archive.place)])
        mask = jnp.concatenate([jnp.ones(len(mine)), there])
        novelty = knn_novelty(mine, others, mask)
        kept = jax.lax.top_k(novelty, PARENTS)[1]
        survivors = jax.tree.map(lambda x: x[kept], both)
        parents = jax.tree.map(lambda a, b: jnp.where(climbs, a, b), parents, survivors)
        # Archived are the most novel, or of an emitter the best.
        rank = jnp.where(climbs, young.reward, novelty[PARENTS:])
        news = jax.lax.top_k(rank, ARCHIVED)[1]
        archive = jax.tree.map(
            lambda all_, new: jax.lax.dynamic_update_slice_in_dim(
                all_, new[news], at * ARCHIVED, 0
            ),
            archive,
            young,
        )
        top = jnp.argmax(young.reward)
        better = climbs & (young.reward[top] > climber.reward)
        climber = jax.tree.map(
            lambda a, b: jnp.where(better, a[top], b), young, climber
        )
        gains = jnp.where(climbs, jnp.append(gains[1:], climber.reward), gains)
        if method == 0:
            due = at % RELEARN == RELEARN - 1
            full = (slots < (at + 1) * ARCHIVED).astype(jnp.float32)
            coder = jax.lax.cond(
                due,
                lambda: train_coder(coder, looks(archive.place), full, learn),
                lambda: coder,
            )
        return (parents, archive, coder, climber, gains), (young.place, young.reward)

    first = try_out(fresh(make, PARENTS))
    none = jax.tree.map(lambda x: jnp.zeros_like(x[0]), first)
    start = first, empty, init_coder(code_key), none, jnp.zeros(CLIMB)
    steps = jnp.arange(config.generations), jax.random.split(key, config.generations)
    return jax.lax.scan(generation, start, steps)[1]


def coverage(places, cells=20):
    """Share of cells in which some run ended."""
    at = np.minimum((places.reshape(-1, 2) * cells).astype(int), cells - 1)
    return len(np.unique(at, axis=0)) / cells**2


def main(config: Config) -> dict:
    """Prints the table; returns ends and rewards by method."""
    keys = jax.random.split(jax.random.key(0), config.seeds)
    spreads = jnp.array(config.spreads)
    found = {}
    for number, method in enumerate(METHODS):
        each = jax.vmap(partial(search, config, number), (None, 0))
        place, reward = jax.jit(jax.vmap(each, (0, None)))(spreads, keys)
        found[method] = np.asarray(place), np.asarray(reward)
    print("| space | spread | covered | runs to a reward | best reward (seeds) |")
    print("|---|---|---|---|---|")
    for method, (places, rewards) in found.items():
        best = rewards.max((2, 3))
        at = int(best.mean(1).argmax())
        covered = np.mean([coverage(x) for x in places[at]])
        flat = rewards[at].reshape(config.seeds, -1) > 0
        first = [str(x.argmax() + 1) if x.any() else "never" for x in flat]
        runs, each = " ".join(first), " ".join(f"{x:.2f}" for x in best[at])
        print(
            f"| {method} | {config.spreads[at]:g} | {covered:.2f} | {runs} | "
            f"**{best[at].mean():.2f}** ({each}) |"
        )
    length = world.solve(MAZE)
    print(f"\nThe shortest way is {length:.2f} long, {length / 0.03:.0f} steps.")
    if config.picture is not None:
        draw(config, found)
    return found


def draw(config, found):
    """The maze, and the ends of all runs of the first seed by three methods."""
    frame = world.render(MAZE, jnp.array(world.START), size=160)
    names = "learned", "never learned", "true place", "random weights"
    with picture(config.picture, (9.6, 2.7)) as figure:
        axes = figure.subplots(1, 4)
        for axis, name in zip(axes, names, strict=True):
            places, rewards = found[name]
            at = int(rewards.max((2, 3)).mean(1).argmax())
            axis.imshow(frame, extent=(0, 1, 0, 1))
            axis.plot(*places[at, 0].reshape(-1, 2).T, ".", markersize=1.5, color="C1")
            axis.set(title=name, xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1))


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
