"""Forecasts of where people go, with and without what they do, and who matters to them.

    python benchmarks/action_forecast.py         # docs/planning.md, some minutes
    python benchmarks/action_forecast.py --seeds 1 --updates 500

In `worlds.street` six people walk, stop, cross or greet. A network with a gated
recurrent unit for each sees 8 steps of everybody's places, and what is known of their
actions, and forecasts the next 12 of one of them: "true" are the actions themselves,
"one in five wrong" these as an imperfect eye has them, "told from places" the
probabilities that another network gives, which saw no more than the places. Each row's
rate is the best of three by the error on scenes of another seed.

Who matters is known: the world goes on again from the same state, with the same actions
and noise, without each of the others in turn. The gates of the network, what its own
forecast loses without somebody, and plain distances are compared with that by rank.
"""

import dataclasses
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from scipy import stats
from street_networks import (
    AHEAD,
    PEOPLE,
    SEEN,
    forecast,
    recognise,
    train,
    train_recogniser,
)

from jaxlib_guidance import planning
from jaxlib_guidance.worlds import street

RATES, HELD_OUT, FUTURES, MATTERS = (5e-3, 1e-2, 2e-2), 100, 16, 0.05
# What is known of actions, and whether the others are looked at.
ROWS = {
    "places, alone": ("nothing", 0.0),
    "places": ("nothing", 1.0),
    "+ actions told from places": ("told", 1.0),
    "+ actions, one in five wrong": ("wrong", 1.0),
    "+ true actions": ("true", 1.0),
    "+ true actions, alone": ("true", 0.0),
}
BEST = "+ true actions"


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure."""

    seeds: int = 5
    """Sets of scenes and networks; the rates have one more."""
    scenes: int = 8000
    """Scenes to learn from."""
    tests: int = 1000
    """Scenes to forecast, of each seed."""
    updates: int = 2000
    """Steps of training of a forecaster."""
    stay: float = 0.95
    """Probability that an action goes on in a step."""


class Bench:
    """Scenes, and what happens in them without each of the others."""

    def __init__(self, config: Config):
        for name in ("seeds", "scenes", "tests", "updates"):
            value = getattr(config, name)
            if value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        self.config = config
        self.world = street.default()._replace(stay=jnp.float32(config.stay))
        self.draw = jax.jit(jax.vmap(self.scene))
        self.train = jax.jit(partial(train, updates=config.updates))
        self.recogniser = jax.jit(partial(train_recogniser, updates=config.updates))
        self.tell = jax.jit(
            jax.vmap(lambda p, x: recognise(p, x[:SEEN]), in_axes=(None, 0))
        )
        self.run = jax.jit(
            jax.vmap(lambda p, x, a, t: forecast(p, x[:SEEN], a, t), (None, 0, 0, None))
        )
        self.importance = jax.jit(
            jax.vmap(
                lambda p, x, a: planning.agent_importance(
                    lambda there: forecast(p, x[:SEEN], a, there)[0], PEOPLE - 1
                ),
                (None, 0, 0),
            )
        )

    def scene(self, key: Any) -> Any:
        """Places and actions of a scene, and the state when it is to be forecast."""
        start, past, future = jax.random.split(key, 3)
        state, _ = street.reset(self.world, start)
        state, seen = street.walk(self.world, state, past, steps=SEEN)
        _, after = street.walk(self.world, state, future, steps=AHEAD)
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), seen, after), state

    def effects(self, key: Any, state: Any) -> Any:
        """How far each of the others moves the first: in this future, and expected."""

        def path(state, key):
            return street.walk(self.world, state, key, steps=AHEAD)[1].people[:, 0]

        def off(key):
            gone = lambda i: path(street.without(state, i), key)  # noqa: E731
            others = jax.lax.map(gone, jnp.arange(1, PEOPLE))
            return jnp.linalg.norm(others - path(state, key), axis=-1).mean(1)

        _, _, future = jax.random.split(key, 3)
        keys = jax.random.split(jax.random.fold_in(key, 1), FUTURES)
        likely = jax.vmap(lambda k: path(state, k))(keys).mean(0)
        return off(future), jax.vmap(off)(keys).mean(0), likely

    def known(self, kind: str, key: Any, tracks: Any, params: Any) -> Any:
        """What a row sees of the actions ``[M, 7, 6, 4]``."""
        actions = tracks.actions[:, 1:SEEN]
        if kind == "told":
            return jax.nn.softmax(self.tell(params, tracks.people))
        if kind == "wrong":
            one, two = jax.random.split(key)
            off = jax.random.randint(two, actions.shape, 1, street.ACTIONS)
            wrong = jax.random.bernoulli(one, 0.2, actions.shape)
            actions = jnp.where(wrong, (actions + off) % street.ACTIONS, actions)
        return (kind != "nothing") * jax.nn.one_hot(actions, street.ACTIONS)


def errors(path: Any, truth: Any) -> np.ndarray:
    """Distances ``[M, 12]``."""
    return np.linalg.norm(np.asarray(path) - np.asarray(truth), axis=-1)


def ranks(found: Any, effect: np.ndarray) -> np.ndarray:
    """Mean rank correlation, and how often the one who matters most is found."""
    some = effect.max(1) > MATTERS
    found, effect = np.asarray(found)[some], effect[some]
    each = [
        stats.spearmanr(a, b).statistic if np.ptp(a) > 0 else 0.0
        for a, b in zip(found, effect, strict=True)
    ]
    # Of equals each is found as often.
    first = found == found.max(1, keepdims=True)
    right = first[np.arange(len(found)), effect.argmax(1)] / first.sum(1)
    return np.array([np.mean(each), right.mean()])


def measure(config: Config) -> tuple[Any, Any, dict[str, float]]:
    """Errors by row, rank correlations by row, and the rates."""
    begin, bench = time.perf_counter(), Bench(config)
    rates: dict[str, float] = {}
    found: dict[str, list[Any]] = {}
    matter: dict[str, list[Any]] = {}
    right = []
    for seed in (HELD_OUT, *range(config.seeds)):
        keys = jax.random.split(jax.random.key(seed), 6)
        lessons, _ = bench.draw(jax.random.split(keys[0], config.scenes))
        test_keys = jax.random.split(keys[1], config.tests)
        tests, states = bench.draw(test_keys)
        teller = bench.recogniser(keys[2], lessons.people, lessons.actions[:, 1:SEEN])
        truth, places = tests.people[:, SEEN:, 0], tests.people[:, :SEEN]
        made = {}
        for row, (kind, looked) in ROWS.items():
            there = jnp.full(PEOPLE - 1, looked)
            acts = bench.known(kind, keys[3], lessons, teller)
            seen = bench.known(kind, keys[4], tests, teller)
            tried = {}
            for rate in RATES if seed == HELD_OUT else (rates[row],):
                given = lessons.people, acts, there, jnp.float32(rate)
                params = bench.train(keys[5], *given)
                path, gates = bench.run(params, tests.people, seen, there)
                tried[rate] = errors(path, truth)
            if seed == HELD_OUT:
                rates[row] = min(RATES, key=lambda r: tried[r].mean())
                print(row, {r: round(float(e.mean()), 4) for r, e in tried.items()})
            made[row] = path
            if row == BEST:
                gated = gates, bench.importance(params, tests.people, seen)
        if seed == HELD_OUT:
            print(f"rates in {time.perf_counter() - begin:.0f} s", flush=True)
            continue
        steps = jnp.arange(1, AHEAD + 1)[:, None]
        moves = places[:, -1] - places[:, -2]
        straight = places[:, -1, None] + steps[..., None] * moves[:, None]
        effect, likely, mean = jax.jit(jax.vmap(bench.effects))(test_keys, states)
        made = {
            "constant velocity": straight[:, :, 0],
            **made,
            "the world's mean": mean,
        }
        told = jnp.argmax(bench.tell(teller, tests.people), -1)
        right.append(float(jnp.mean(told[:, -1] == tests.actions[:, SEEN - 1])))
        # The action is of the last two steps.
        turned = np.asarray(
            tests.actions[:, SEEN - 1, 0] != tests.actions[:, SEEN - 3, 0]
        )
        for row, path in made.items():
            off = errors(path, truth)
            one = [off.mean(), off[:, -1].mean(), off[turned, -1].mean()]
            found.setdefault(row, []).append(one)
        apart = jnp.linalg.norm(straight[:, :, 1:] - straight[:, :, :1], axis=-1)
        now = jnp.linalg.norm(places[:, -1, 1:] - places[:, -1, :1], axis=-1)
        guesses = {
            "chance": jnp.zeros_like(now),
            "nearness now": -now,
            "nearness at constant velocity": -apart.min(1),
            "gates": gated[0],
            "`planning.agent_importance`": gated[1],
            "the world's, over other futures": likely,
        }
        for row, guess in guesses.items():
            matter.setdefault(row, []).append(ranks(guess, np.asarray(effect)))
        print(f"seed {seed}: {time.perf_counter() - begin:.0f} s", flush=True)
    print(f"actions told from places: {np.mean(right):.3f} right", flush=True)
    return found, matter, rates


def cell(values: Any, digits: int = 3) -> str:
    """Mean ± standard deviation over seeds."""
    spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f"{np.mean(values):.{digits}f} ± {spread:.{digits}f}"


def table(found: Any, matter: Any, rates: dict[str, float]) -> str:
    """Markdown: errors of forecasts, and who matters."""
    lines = ["| sees | rate | ADE, m | FDE, m | FDE after a switch, m |"]
    lines.append("|---|---:|---:|---:|---:|")
    for row, seeds in found.items():
        rate = f"{rates[row]:g}" if row in rates else "–"
        cells = [cell([one[i] for one in seeds]) for i in range(3)]
        lines.append(f"| {row} | {rate} | {' | '.join(cells)} |")
    lines += ["", "| who matters, by | rank correlation | the first found |"]
    lines.append("|---|---:|---:|")
    for row, seeds in matter.items():
        cells = [cell([one[i] for one in seeds]) for i in range(2)]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    if len(found["places"]) < 2:
        return "\n".join(lines)
    lines.append("")
    for row, other in (
        (BEST, "places"),
        ("+ actions, one in five wrong", "places"),
        ("+ actions told from places", "places"),
        ("places", "places, alone"),
        (BEST, "+ true actions, alone"),
    ):
        ends = np.subtract(found[row], found[other])
        half = stats.t.ppf(0.975, len(ends) - 1) * ends.std(0, ddof=1)
        half /= len(ends) ** 0.5
        parts = [f"{m:+.3f} ± {h:.3f}" for m, h in zip(ends.mean(0), half, strict=True)]
        lines.append(f"{row} less {other}: {', '.join(parts)} (95 %)")
    return "\n".join(lines)


def main(config: Config) -> str:
    """Measures and prints."""
    text = table(*measure(config))
    print(text)
    return text


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
