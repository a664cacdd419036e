"""Doors opened to angles that the planner was not trained on, by what guides it.

    python train/planner.py
    python benchmarks/planning.py                # the table of docs/planning.md
    python benchmarks/planning.py --hands 4 --picture out/planning.png

The planner has seen one angle, .9, with noise on the hand. Each row plans every 4 steps
for 96, by sample/plan.py; its weight, or set of weights, is the one with the most
successes on two angles that no column has, with hands of another seed. A success is a
door within .1 of its goal at the end. "Best of 16" carries out the plan whose first 4
actions lead nearest by the learned dynamics. "Shooting" has no diffusion model: the
cross-entropy method on the two-phase energy and the same learned dynamics. The script,
which knows the world, always succeeds. Ghosts are planned steps in which the door moves
with no hand at it.
"""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from drawing import picture

import jaxlib_guidance as jg
from jaxlib_guidance import planning
from jaxlib_guidance.worlds import door

sys.path.insert(0, str(Path(__file__).parents[1] / "sample"))
import plan as recipe

GOALS = (
    (0.4, 0.0),
    (0.6, 0.0),
    (0.8, 0.0),
    (0.9, 0.0),
    (1.1, 0.0),
    (1.4, 0.0),
    (0.0, 0.9),
)
HELD_OUT = ((0.7, 0.0), (1.25, 0.0))
EXECUTE = 4
SINGLE = ((1.0,), (10.0,), (100.0,), (1000.0,))
SEVERAL = ((1.0,), (10.0,), (0.0, 1.0, 3.0, 10.0))
# Guide, candidates, and the sets of weights that are tried.
ROWS: dict[str, tuple[str, int, tuple[tuple[float, ...], ...]]] = {
    "unguided": ("none", 1, ()),
    "goal": ("goal", 1, SINGLE),
    "goal, dynamics": ("dynamics", 1, SINGLE),
    "phases, dynamics": ("phases", 1, SINGLE),
    "unguided, best of 16": ("none", 16, ()),
    "goal, dynamics, best of 16": ("dynamics", 16, SEVERAL),
    "shooting": ("none", 1, ()),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure."""

    planner: Path = Path("runs/planner/ema.safetensors")
    """File that train/planner.py wrote."""
    hands: int = 6
    """Hands of each seed."""
    seeds: int = 5
    """Seeds."""
    steps: int = 12
    """Steps of the solver."""
    rows: tuple[str, ...] = tuple(ROWS)
    """Rows."""
    picture: Path | None = None
    """PNG to draw success by angle in."""


def shooting(planner: Any, params: Any) -> Any:
    """The cross-entropy method, as a function like those of `make_planner`."""
    count, best, rounds, horizon = 64, 8, 4, planner.horizon
    size = door.ACTIONS

    def make(keys, state, goal, weights):
        del weights

        def led(state, actions):
            dynamics = lambda s, a: planner.dynamics(params, s, a)  # noqa: E731
            return planning.roll_out(dynamics, state, actions).states

        def single(key, state, goal):
            goals = jnp.full(count, goal)

            def improve(carry, key):
                mean, std = carry
                noise = jax.random.normal(key, (count, horizon, size))
                tried = jnp.clip(mean + std * noise, -1, 1)
                states = led(jnp.tile(state, (count, 1)), tried)
                made = planning.Trajectory(tried, states)
                cost = recipe.phases_energy(made, goals)
                kept = tried[jnp.argsort(cost)[:best]]
                return (kept.mean(0), kept.std(0) + 0.05), None

            first = jnp.zeros((horizon, size)), jnp.ones((horizon, size))
            (mean, _), _ = jax.lax.scan(improve, first, jax.random.split(key, rounds))
            return planning.Trajectory(mean, led(state, mean))

        return jax.vmap(single)(keys, state, goal)

    return make


class Bench:
    """The planner, and episodes of all goals in one program a row."""

    def __init__(self, config: Config):
        self.config = config
        if not config.planner.exists():
            raise SystemExit(f"no {config.planner}; train/planner.py writes it")
        self.planner, self.params = planning.load_planner(config.planner)
        self.programs: dict[Any, Any] = {}

    def open(self, row: str, weights: Any, goals: Any, seed: int) -> Any:
        """Successes ``[goals, hands]`` and the share of ghosts ``[goals]``."""
        hands, kind = self.config.hands, (row, len(goals), len(weights))
        if kind not in self.programs:
            guide, candidates, _ = ROWS[row]

            @jax.jit
            def program(params, keys, goal, start, weights):
                if row == "shooting":
                    make = shooting(self.planner, params)
                else:
                    steps = self.config.steps
                    make = recipe.make_planner(
                        self.planner, params, guide, candidates, EXECUTE, steps
                    )
                made = recipe.open_doors(
                    *(make, keys, goal, start, weights),
                    *(96 // EXECUTE, EXECUTE),
                )
                return made.rewards[:, -1], door.ghosts(made.planned).mean((1, 2))

            self.programs[kind] = program
        # The same hands for every goal.
        keys = jnp.tile(jg.sample_keys(jax.random.key(seed), hands), len(goals))
        pairs = np.repeat(np.array(goals, np.float32), hands, axis=0)
        done, ghosts = self.programs[kind](
            self.params, keys, *map(jnp.asarray, pairs.T), jnp.array(weights)
        )
        shape = len(goals), hands
        return np.reshape(done, shape), np.reshape(ghosts, shape).mean(1)


def measure(config: Config) -> dict[str, dict[str, Any]]:
    """Every row at its best weights."""
    unknown = set(config.rows) - set(ROWS)
    if unknown:
        raise SystemExit(f"--rows has {sorted(unknown)}; expected some of {list(ROWS)}")
    bench, found = Bench(config), {}
    for row in config.rows:
        begin, weights, tried = time.perf_counter(), (0.0,), {}
        for each in ROWS[row][2]:
            done, _ = bench.open(row, each, HELD_OUT, 100)
            tried[each] = float(done.mean())
        if tried:
            weights = max(tried, key=lambda each: tried[each])
        seeds = range(config.seeds)
        parts = [bench.open(row, weights, GOALS, seed) for seed in seeds]
        found[row] = {
            "weights": " ".join(f"{w:g}" for w in weights) if tried else "–",
            "done": np.stack([each for each, _ in parts]).mean(2),
            "ghosts": float(np.mean([g for _, g in parts])),
        }
        seconds = time.perf_counter() - begin
        print(line(row, found[row]), tried, f"{seconds:.0f} s", flush=True)
    return found


def line(row: str, found: dict[str, Any]) -> str:
    """A row of the table."""
    done = found["done"]
    away = [i for i, (goal, _) in enumerate(GOALS) if goal != 0.9]
    means = done[:, away].mean(1)
    cells = [f"{x:.2f}" for x in done.mean(0)]
    cells += [f"{means.mean():.2f} ± {means.std(ddof=1):.2f}", f"{found['ghosts']:.3f}"]
    return f"| {row} | {found['weights']} | {' | '.join(cells)} |"


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown: success by angle, off the trained one, and ghosts."""
    names = ["closing" if goal == 0 else f"{goal:g}" for goal, _ in GOALS]
    head = f"| | weights | {' | '.join(names)} | all but .9 | ghosts |"
    lines = [head, "|---|" + "---:|" * (len(names) + 3)]
    return "\n".join([*lines, *(line(row, each) for row, each in found.items())])


def draw(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Success over angles, a line a row."""
    with picture(path, (6.4, 3.2), dpi=110) as fig:
        axis = fig.subplots()
        angles = [goal for goal, start in GOALS if start == 0]
        for row, each in found.items():
            axis.plot(
                angles, each["done"].mean(0)[: len(angles)], "o-", label=row, ms=3
            )
        axis.axvline(0.9, color="0.7", lw=1)
        axis.set(xlabel="angle asked for; .9 was trained on", ylabel="success")
        fig.legend(loc="outside right center", fontsize=6)


def main(config: Config) -> str:
    """Measures, prints and draws."""
    found = measure(config)
    text = table(found)
    print(text)
    if config.picture is not None:
        draw(found, config.picture)
    return text


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
