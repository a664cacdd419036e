"""Who mates with whom: an ideal that evolves, chance, or the fittest.

    python benchmarks/mates.py                  # 72 s of one core
    python benchmarks/mates.py --generations 10 --seeds 4
    python benchmarks/mates.py --picture mates.png

Linear programs of `worlds.programs` look for three targets. The first parent is a
tournament's winner; the second the candidate nearest to the first's ideal mate
(`policy.choose_mate`), a candidate by chance, or another tournament's winner. The ideal
is a second program that each individual inherits and that mutates as the solution does;
every method carries it, so that all draw the same random numbers.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from drawing import picture

from jaxlib_guidance.policy import choose_mate, tournament
from jaxlib_guidance.worlds import programs as world


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    generations: int = 100
    """Generations of a run."""
    population: int = 100
    """Individuals."""
    seeds: int = 20
    """Runs of each cell."""
    mutations: tuple[float, ...] = (0.02, 0.05)
    """Chance of each number of a program to be drawn anew."""
    size: int = 5
    """Candidates of a tournament, and of a choice."""
    crossover: float = 0.9
    """Chance that a child has two parents."""
    close: float = 0.01
    """Largest error that counts as success."""
    picture: Path | None = None
    """File for diversity over generations; None for none."""


KINDS = ("ideal", "random", "tournament")


class Found(NamedTuple):
    """Least error and mean distance of programs after each generation, and the end."""

    error: jax.Array
    apart: jax.Array
    unique: jax.Array
    best: jax.Array


def evolve(config, kind, target, mutation, key):
    """One run."""
    make, key = jax.random.split(key)
    keys = jax.random.split(make, (config.population, 2))
    genes = jax.vmap(jax.vmap(world.reset))(keys)

    def child(key, fitness, genes):
        # Solution and ideal are bred alike, each with cuts and changes of its own.
        keys = jax.random.split(key, 7)
        one = tournament(keys[0], fitness, size=config.size)
        liked = None
        if kind == "ideal":
            liked = world.distance(genes[one, 1], genes[:, 0])
        two = choose_mate(keys[1], fitness, liked, size=config.size, kind=kind)
        both = jax.random.uniform(keys[2]) < config.crossover
        mixed = jax.vmap(world.cross)(keys[3:5], genes[one], genes[two])
        young = jnp.where(both, mixed, genes[one])
        return jax.vmap(world.mutate, (0, 0, None))(keys[5:], young, mutation)

    def generation(genes, key):
        solution = genes[:, 0]
        error = jax.vmap(partial(world.error, target))(solution)
        keys = jax.random.split(key, config.population)
        young = jax.vmap(child, (0, None, None))(keys, -error, genes)
        best = jnp.argmin(error)
        pairs = jnp.mean(world.distance(solution, jnp.roll(solution, 1, 0)))
        return young.at[0].set(genes[best]), (error[best], pairs)

    genes, (error, apart) = jax.lax.scan(
        generation, genes, jax.random.split(key, config.generations)
    )
    solution = genes[:, 0]
    last = jax.vmap(partial(world.error, target))(solution)
    flat = solution.reshape(config.population, -1)
    same = jnp.all(flat[:, None] == flat[None], -1)
    unique = jnp.sum(~jnp.any(jnp.tril(same, -1), -1))
    return Found(
        jnp.append(error, last.min())[1:], apart, unique, solution[last.argmin()]
    )


def main(config: Config) -> Found:
    """Prints the table; returns arrays ``[kind, target, mutation, seed, ...]``."""
    from scipy.stats import mannwhitneyu

    keys = jax.random.split(jax.random.key(0), config.seeds)
    targets = jax.tree.map(lambda *x: jnp.stack(x), *map(world.make, world.TARGETS))
    found = []
    for kind in KINDS:
        each = partial(evolve, config, kind)
        for axes in ((None, None, 0), (None, 0, None), (0, None, None)):
            each = jax.vmap(each, axes)
        found.append(jax.jit(each)(targets, jnp.array(config.mutations), keys))
    found = Found(*(np.stack(x) for x in zip(*found, strict=True)))
    error, apart = found.error, found.apart[..., -10:].mean(-1)
    print(
        "| target | mutation | mates | solved | median error | distance | unique | "
        "p distance | p error |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for t, target in enumerate(world.TARGETS):
        for m, mutation in enumerate(config.mutations):
            for k, kind in enumerate(KINDS):
                solved = (error[k, t, m, :, -1] < config.close).sum()
                odds = " | "
                if k:
                    odds = " | ".join(
                        f"{mannwhitneyu(x[0, t, m], x[k, t, m]).pvalue:.2g}"
                        for x in (apart, error[..., -1])
                    )
                middle = np.median(error[k, t, m, :, -1])
                unique = found.unique[k, t, m].mean()
                print(
                    f"| {target} | {mutation:g} | {kind} | {solved} of {config.seeds} "
                    f"| {middle:.3f} | {apart[k, t, m].mean():.3f} | {unique:.1f} | "
                    f"{odds} |"
                )
    if config.picture is not None:
        draw(config, found)
    return found


def draw(config, found):
    """Distance over generations at the first rate, and the best programs' curves."""
    with picture(config.picture, (8.4, 4.6)) as figure:
        axes = figure.subplots(2, len(world.TARGETS))
        for t, target in enumerate(world.TARGETS):
            for k, kind in enumerate(KINDS):
                axes[0, t].plot(found.apart[k, t, 0].mean(0), label=kind)
            best = found.error[0, t, 0, :, -1].argmin()
            frame = world.render(world.make(target), found.best[0, t, 0, best], size=96)
            axes[0, t].set(title=target, xlabel="generation", ylim=(0, 1))
            axes[1, t].imshow(frame, extent=(-1, 1, -2, 4), aspect="auto")
        axes[0, 0].set_ylabel("mean distance of programs")
        axes[0, 0].legend()
        axes[1, 0].set_ylabel("target green, found blue")


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
