"""Two players of a linear system learn the controller that attenuates a disturber.

    python benchmarks/robust_game.py             # a minute on one core
    python benchmarks/robust_game.py --updates 300
    python benchmarks/robust_game.py --picture robust_game.png

The world is `worlds.linear_game`, where each answer has a closed form. The actor learns
by REINFORCE from the whitened advantages of its reward and, times a multiplier, of the
slack of the bound; the disturber learns from what the slack lacks. Beside the game
stand the same learner alone, and with random pushes of three amplitudes, each with the
same updates. A second table asks for the bound up to an allowed value, and shows what
the multiplier does above and below the least attenuation that exists.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from drawing import picture

from jaxlib_guidance.policy import (
    aggregate_advantages,
    discounted_returns,
    hinf_slack,
    multiplier_step,
    reinforce,
)
from jaxlib_guidance.worlds import linear_game as world


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    updates: int = 2000
    """Steps of both players."""
    games: int = 256
    """Games of an update."""
    length: int = 16
    """Steps of a game."""
    seeds: int = 5
    """Runs of each row."""
    rate: float = 0.01
    """Adam's rate at the start, it falls to 0; twice it for the disturber."""
    noise: float = 0.1
    """Standard deviation of both players' exploration."""
    multiplier_rate: float = 0.1
    """Step size of the multiplier."""
    cap: float = 3.0
    """Largest push."""
    picture: Path | None = None
    """File for the actors' gains over updates; None for none."""


class Row(NamedTuple):
    """What is trained for.

    Attributes:
      attenuation: The bound ``sqrt(eta)``; the slack counts only in a game.
      game: Whether the disturber learns, or else pushes at random.
      amplitude: Of random pushes, uniform in either direction.
      margin: Value that the disturber is allowed; 0 asks for more than any controller
        has from a state that is not at rest, so that the multiplier grows for ever.
    """

    attenuation: float
    game: bool = True
    amplitude: float = 0.0
    margin: float = 0.0


TRAINED = {
    "no disturbance": Row(2.0, game=False),
    "random pushes, 0.5": Row(2.0, game=False, amplitude=0.5),
    "random pushes, 1": Row(2.0, game=False, amplitude=1.0),
    "random pushes, 2": Row(2.0, game=False, amplitude=2.0),
    "game, sqrt(eta) = 2": Row(2.0),
    "game, sqrt(eta) = 1.5": Row(1.5),
}
BOUNDED = {
    f"{attenuation:g}": Row(attenuation, margin=2.05)
    for attenuation in (2.0, 1.5, 1.45, 1.3)
}


def roll(config, row, gains, key, noise):
    """``[T, B]`` each: state, both actions' noise, reward, slack."""
    game, batch = world.Game(jnp.float32(config.cap)), config.games
    reset_key, u_key, w_key = jax.random.split(key, 3)
    start, _ = jax.vmap(partial(world.reset, game))(jax.random.split(reset_key, batch))
    shape = (config.length, batch)
    explore = noise * jax.random.normal(u_key, shape)
    learned = noise * jax.random.normal(w_key, shape)
    pushes = jax.random.uniform(w_key, shape, minval=-1.0) * row.amplitude

    def step(state, drawn):
        explore, learned, push = drawn
        push = jnp.where(row.game, gains[1] * state + learned, push)
        action = jnp.stack([-gains[0] * state + explore, push], -1)
        play = jax.vmap(partial(world.step, game), (0, 0, None))
        after, _, reward, _ = play(state, action, key)
        done = jnp.clip(push, -game.cap, game.cap)
        slack = hinf_slack(-reward, done[:, None], eta=row.attenuation**2)
        return after, (state, reward, slack)

    _, (states, rewards, slacks) = jax.lax.scan(step, start, (explore, learned, pushes))
    return states, explore, learned, rewards, slacks


def advantages(states, rewards):
    """Sum of what follows, less a critic ``p_t x^2 + c_t`` fitted to this batch."""
    none = jnp.zeros(len(rewards), bool)
    total = jax.vmap(
        lambda r: discounted_returns(r, 0 * r, none, none, gamma=1.0), 1, 1
    )(rewards)
    square = states**2 - jnp.mean(states**2, 1, keepdims=True)
    centred = total - jnp.mean(total, 1, keepdims=True)
    slope = jnp.mean(square * centred, 1) / (jnp.mean(square**2, 1) + 1e-8)
    return centred - slope[:, None] * square


def learn(config, row, key):
    """Both gains and the multiplier after every update."""
    rate = optax.linear_schedule(1.0, 0.0, config.updates)
    tx = optax.adam(config.rate)

    def logp(gain, states, explore):
        """Of the actions that were taken, whose noise is ``explore``."""
        off = explore - (gain - jax.lax.stop_gradient(gain)) * states
        return -0.5 * (off / config.noise) ** 2

    def update(carry, inputs):
        gains, moments, multiplier = carry
        index, key = inputs
        states, *noises, rewards, slacks = roll(config, row, gains, key, config.noise)
        task, slack = (advantages(states, x) for x in (rewards, slacks))
        weights = jnp.stack([jnp.float32(1), multiplier])
        actor = aggregate_advantages(jnp.stack([task, slack]), weights)
        disturber = aggregate_advantages(-slack[None], jnp.ones(1))

        def loss(gains):
            mine = reinforce(logp(-gains[0], states, noises[0]), actor)
            its = reinforce(logp(gains[1], states, noises[1]), disturber)
            return jnp.mean(mine) + jnp.where(row.game, jnp.mean(its), 0.0)

        change, moments = tx.update(jax.grad(loss)(gains), moments)
        change *= rate(index) * jnp.array([1.0, 2.0])
        # Far outside of these the loop explodes within a game.
        low, high = jnp.array([0.0, 0.0]), jnp.array([1.6, 2.0])
        gains = jnp.clip(gains + change, low, high)
        *_, slacks = roll(config, row, gains, key, 0.0)
        grown = multiplier_step(
            multiplier,
            jnp.mean(jnp.sum(slacks, 0)),
            rate=config.multiplier_rate,
            margin=row.margin,
        )
        multiplier = jnp.where(row.game, grown, 0.0)
        return (gains, moments, multiplier), (gains, multiplier)

    gains = jnp.array([0.4, 0.0])
    carry = gains, tx.init(gains), jnp.zeros(())
    steps = jnp.arange(config.updates), jax.random.split(key, config.updates)
    return jax.lax.scan(update, carry, steps)[1]


def run(config, rows):
    """Gains ``[row, seed, updates, 2]`` and multipliers ``[row, seed, updates]``."""
    stacked = jax.tree.map(lambda *x: jnp.array(x), *rows.values())
    keys = jax.random.split(jax.random.key(0), config.seeds)
    each = jax.vmap(partial(learn, config), (None, 0))
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(each, (0, None)))(stacked, keys))


def main(config: Config) -> tuple:
    """Prints both tables; returns the actors' gains and the multipliers."""
    first, second = TRAINED, BOUNDED
    gains, multipliers = run(config, first | second)
    # The last tenth, in which the rate is small.
    actors = gains[:, :, -max(config.updates // 10, 1) :, 0].mean(-1)
    at = np.array([config.updates // 2, config.updates]) - 1
    print("| trained for | K learned, mean (seeds) | K exact | gain | nominal cost |")
    print("|---|---|---|---|---|")
    for (name, row), found in zip(first.items(), actors[: len(first)], strict=True):
        exact = world.solve(row.attenuation if row.game else np.inf).actor
        each = " ".join(f"{x:.3f}" for x in found)
        gain, cost = world.gain(found).mean(), world.nominal_cost(found).mean()
        print(
            f"| {name} | {found.mean():.3f} ({each}) | {exact:.3f} | {gain:.3f} "
            f"(exact {float(world.gain(exact)):.3f}) | {cost:.3f} "
            f"({float(world.nominal_cost(exact)):.3f}) |"
        )
    for attenuation in (2.0, 1.5):
        exact = world.solve(attenuation).actor
        print(
            f"| alone, cost x^2 + {world.control_weight(exact):.3f} u^2, searched | "
            f"closed form | {exact:.3f} | {float(world.gain(exact)):.3f} | "
            f"{float(world.nominal_cost(exact)):.3f} |"
        )
    print(
        "\n| sqrt(eta), value allowed | K | its worst value | multiplier, half | all |"
    )
    print("|---|---|---|---|---|")
    for (name, row), found, multiplier in zip(
        second.items(),
        actors[len(first) :],
        multipliers[len(first) :, :, at],
        strict=True,
    ):
        worst = world.worst_value(found, row.attenuation).mean()
        half, end = (" ".join(f"{x:.3g}" for x in m) for m in multiplier.T)
        print(
            f"| {name}, {row.margin:g} | {found.mean():.3f} | {worst:.3f} | "
            f"{half} | {end} |"
        )
    if config.picture is not None:
        draw(config, gains[: len(first), :, :, 0])
    return actors, multipliers


def draw(config, gains):
    """The actors' gains over updates, every seed, and the closed forms."""
    with picture(config.picture, (6, 3.2), dpi=110) as figure:
        axis = figure.subplots()
        for color, (name, rows) in enumerate(zip(TRAINED, gains, strict=True)):
            for seed, row in enumerate(rows):
                told = None if seed else name
                axis.plot(row, color=f"C{color}", linewidth=0.8, label=told)
        for attenuation in (np.inf, 2.0, 1.5):
            exact = world.solve(attenuation).actor
            axis.axhline(exact, color="0.3", linestyle="--", linewidth=0.8)
        axis.set(xlabel="update", ylabel="gain of the actor, K")
        axis.legend(fontsize=7, loc="lower right")


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
