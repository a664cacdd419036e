"""A model that adds is told which of its digits is wrong, ten times.

    python benchmarks/sums_friction.py               # a minute of one core

Nothing is trained. The first answer is greedy; each wrong one is followed by the place
of its leftmost wrong digit (`worlds.sums.follow_up`), and a new answer: greedy, from
another temperature, or with answers that were wrong before rejected, of several that
are drawn. A reader who uses each hint needs at most nine more tries a digit, and mostly
one: the target accuracy is 1.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from sums_runs import check_direct, draw, held_out, load, repeat

from jaxlib_guidance import policy
from jaxlib_guidance.worlds import sums


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    start: str = "sums_plain"
    """Model that answers."""
    problems: int = 128
    """Sums of each size."""
    rounds: int = 10
    """Answers after the first."""
    candidates: int = 4
    """Answers of a round, of which one is given."""
    seeds: int = 3
    """Repetitions."""
    hot: float = 1.0
    """Temperature of the last round; it rises from 0."""


METHODS = {
    "greedy": (0.0, False),
    "hot": (1.0, False),
    "rejecting": (0.5, True),
    "hot, rejecting": (1.0, True),
}
"""Temperature of the last round as a share of ``hot``, and whether to reject."""


def run(config, lm, params, world, method, key):
    """Whether the answer of each round is right, ``[rounds + 1, N]``."""
    heat, rejects = method
    count, many = len(world.a), config.candidates

    def choose(rows, seen):
        """Of each sum's candidates the first that was not rejected."""
        found = check_direct(repeat(world, many), rows).answer.reshape(count, many)
        again = jnp.any(found[..., None] == seen[:, None], -1) & rejects
        allowed = policy.reject_seen(jnp.zeros(found.shape), again)
        best = jnp.argmax(allowed, -1)
        return jnp.take_along_axis(found, best[:, None], 1)[:, 0]

    def ask(answer):
        after = jax.vmap(lambda p, x: sums.follow_up(p, x, judge=False))(world, answer)
        return repeat(after, many)

    def step(carry, index):
        answer, seen = carry
        share = index / config.rounds
        rows = draw(
            lm,
            params,
            jax.random.fold_in(key, index),
            ask(answer),
            temperature=config.hot * heat * share,
        )
        fresh = choose(rows, seen)
        # What was right is not asked about again.
        fresh = jnp.where(answer == sums.solve(world), answer, fresh)
        seen = jax.lax.dynamic_update_index_in_dim(seen, fresh, index, 1)
        return (fresh, seen), fresh

    first = repeat(jax.vmap(lambda p: sums.prompt(p, direct=True))(world), many)
    none = jnp.full((count, config.rounds + 1), -2, jnp.int32)
    answer = choose(draw(lm, params, key, first, temperature=0.0), none)
    seen = none.at[:, 0].set(answer)
    indices = jnp.arange(1, config.rounds + 1)
    _, later = jax.lax.scan(step, (answer, seen), indices)
    return jnp.concatenate([answer[None], later]) == sums.solve(world)


def main(config: Config) -> np.ndarray:
    """Prints the table; returns accuracies ``[method, seed, rounds + 1, size]``."""
    lm, params = load(config.start)
    worlds = [held_out(digits, config.problems) for digits in (2, 3)]
    world = jax.tree.map(lambda *x: jnp.concatenate(x), *worlds)
    methods = jax.tree.map(
        lambda *x: jnp.stack(x),
        *map(lambda m: (jnp.float32(m[0]), jnp.bool_(m[1])), METHODS.values()),
    )
    keys = jax.random.split(jax.random.key(0), config.seeds)

    @jax.jit
    def compare(methods, keys):
        each = jax.vmap(
            lambda m, key: run(config, lm, params, world, m, key), (None, 0)
        )
        return jax.vmap(each, (0, None))(methods, keys)

    right = np.asarray(compare(methods, keys), np.float32)
    right = right.reshape(*right.shape[:-1], 2, config.problems).mean(-1)
    shown = [0, 1, 2, 5, config.rounds]
    shown = sorted({i for i in shown if i <= config.rounds})
    heads = " | ".join(f"round {i}" for i in shown)
    print(f"| digits | method | {heads} | friction (seeds) |")
    print("|---|---|" + "---|" * (len(shown) + 1))
    for size, digits in enumerate((2, 3)):
        for name, rows in zip(METHODS, right[..., size], strict=True):
            cells = " | ".join(f"{rows[:, i].mean():.3f}" for i in shown)
            left = policy.friction(jnp.asarray(rows), 1.0).gap
            each = " ".join(f"{x:.3f}" for x in np.asarray(left))
            print(f"| {digits} | {name} | {cells} | {left.mean():.3f} ({each}) |")
    return right


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
