"""Adroit's door opened to angles that the planner was not trained on, in MuJoCo.

    pip install -e '.[adroit]'
    python train/adroit_data.py --policy door-v0.pickle
    python train/planner.py --episodes runs/adroit_door.npz --directory runs/adroit
    python benchmarks/adroit.py                  # the table of docs/planning.md
    python benchmarks/adroit.py --hands 4 --rows unguided

The planner has seen a hand that opens a door to its stop, at 90 degrees. Each row plans
every few steps for as long as an episode of the data. A success is a hinge within 8.6
degrees (.15) of what was asked for, at the end. Each row's weight, or set of weights,
is the one with the most successes at 60 degrees, which no column has, with doors at
other places. "Best of 16" carries out the plan whose actions lead nearest to the angle
by the learned dynamics, once the door has begun to turn; until then the first plan. For
110 degrees, which the door of the environment cannot have, its stop is moved. Ghosts
are steps in which the door turns with no hand at it, in what was planned and in what
came of it: a door that swings on is one.
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
from jaxlib_guidance.planning import Trajectory

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
import adroit_data as world

# Degrees asked for, and those of the hinge at first.
GOALS = ((30, 0), (50, 0), (70, 0), (90, 0), (110, 0), (0, 90))
HELD_OUT = ((60, 0),)
WITHIN, NEAR, AJAR = 0.15, 0.1, 0.1
STOP, FAR_STOP = 1.57, 2.2
SINGLE = ((3.0,), (10.0,), (30.0,), (100.0,))
# The first candidate is what is done until the door is ajar.
SEVERAL = ((0.0, 3.0, 10.0, 30.0), (0.0, 10.0, 30.0, 100.0))
# Guide, candidates, and the sets of weights that are tried.
ROWS: dict[str, tuple[str, int, tuple[tuple[float, ...], ...]]] = {
    "unguided": ("none", 1, ()),
    "goal": ("goal", 1, SINGLE),
    "goal, dynamics": ("dynamics", 1, SINGLE),
    "goal, dynamics, once ajar": ("ajar", 1, SINGLE),
    "phases, dynamics, rate": ("phases", 1, SINGLE),
    "unguided, best of 16": ("none", 16, ()),
    "goal, dynamics, best of 16": ("dynamics", 16, SEVERAL),
    "phases, dynamics, rate, best of 16": ("phases", 16, SEVERAL),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure."""

    planner: Path = Path("runs/adroit/ema.safetensors")
    """File that train/planner.py wrote."""
    hands: int = 20
    """Episodes of an angle, each with the door at another place."""
    length: int = 144
    """Steps of an episode."""
    execute: int = 4
    """Actions of each plan that are taken."""
    judged: int = 12
    """Actions of a plan by which candidates are judged."""
    steps: int = 8
    """Steps of the solver."""
    rows: tuple[str, ...] = tuple(ROWS)
    """Rows."""
    picture: Path | None = None
    """PNG to draw success by angle in."""


def goal_errors(made: Trajectory, goal: Any) -> Any:
    """Of each step, how far the hinge is from its way, ``[B, T]``."""
    return planning.goal_errors(made.states[..., world.HINGE], goal, steps=16)


def ajar(made: Trajectory) -> Any:
    """Whether the door has begun to turn when a plan is made, ``[B]``."""
    return made.states[:, 0, world.HINGE] > AJAR


def choice_energy(made: Trajectory, goal: Any) -> Any:
    """What candidates are judged by, ``[B]``: nothing until the door is ajar."""
    return jnp.where(ajar(made), jnp.mean(goal_errors(made, goal), axis=1), 0.0)


def energy_of(guide: str, planner: Any, params: Any, goal: Any) -> Any:
    """The energy ``trajectory -> [B]`` of a guide, or None."""
    if guide == "none":
        return None

    def energy(made: Trajectory) -> Any:
        act, states = goal_errors(made, goal), made.states
        value = jnp.mean(act, axis=1)
        if guide == "phases":
            places = states[..., world.PALM], states[..., world.HANDLE]
            reach = planning.alignment_errors(*places)
            far = jnp.sqrt(jnp.maximum(reach, 1e-12))
            blend = planning.phase_blend(far, NEAR, 0.02)
            # A hand begins .3 m away, a door 1.57 rad.
            value = planning.phased(10 * reach, act, blend)
            value += planning.rate_energy(states[..., world.HINGE], 0.1)
        if guide != "goal":
            led = lambda s, a: planner.dynamics(params, s, a)  # noqa: E731
            scale = planner.layout.state_std
            value += 0.1 * planning.dynamics_energy(made, led, scale)
        return jnp.where(ajar(made), value, 0.0) if guide == "ajar" else value

    return energy


def ghosts(states: Any) -> Any:
    """Whether the door turns with no hand at it, ``[..., T - 1]``."""
    apart = jnp.linalg.norm(states[..., :-1, world.APART], axis=-1)
    return (jnp.abs(jnp.diff(states[..., world.HINGE])) > 0.03) & (apart > 0.2)


class Bench:
    """The planner, the doors, and one program a row."""

    def __init__(self, config: Config):
        self.config = config
        if not config.planner.exists():
            raise ValueError(f"no {config.planner}; train/planner.py writes it")
        self.planner, self.params = planning.load_planner(config.planner)
        layout = self.planner.layout
        if (layout.actions, layout.states) != (world.ACTIONS, world.STATES):
            raise ValueError(f"{config.planner} plans for another world")
        self.doors = [world.Door() for _ in range(config.hands)]
        self.programs: dict[str, Any] = {}

    def program(self, row: str) -> Any:
        """``(params, keys, state [B, S], goal [B], weights [W]) -> Trajectory``."""
        guide, candidates, _ = ROWS[row]
        planner, config = self.planner, self.config
        grid = planner.model.grid(config.steps, jg.flow_grid)

        def make(params, keys, state, goal, weights):
            fold = jax.vmap(jg.rng.fold, (None, 0), 1)
            each = fold(keys, jnp.arange(candidates)).reshape(-1)
            own = jnp.tile(jnp.resize(weights, (candidates,)), len(keys))
            rows = lambda x: jnp.repeat(x, candidates, axis=0)  # noqa: E731
            energy, term = energy_of(guide, planner, params, rows(goal)), None
            if energy is not None:
                term = jg.energy(planner.layout.energy(energy), own, through="network")
            made = planning.plan(
                *(each, planner.denoiser(params), jg.ddim(), grid, planner.layout),
                *(rows(state), planner.horizon),
                conditioned=True,
                guidance=term,
            )
            split = lambda x: x.reshape(len(keys), candidates, *x.shape[1:])  # noqa: E731
            return planning.choose(
                jax.tree.map(split, made),
                lambda s, a: planner.dynamics(params, s, jnp.clip(a, -1, 1)),
                lambda made: choice_energy(made, goal),
                config.judged,
            )

        return jax.jit(make)

    def open(self, row: str, weights: Any, goal: int, start: int, seed: int) -> Any:
        """States met ``[hands, length + 1, S]``, and the share of ghosts planned."""
        config, doors = self.config, self.doors
        if row not in self.programs:
            self.programs[row] = self.program(row)
        stop = STOP if goal <= 90 else FAR_STOP
        angle = min(np.radians(start), stop)
        seen = np.stack([d.reset(seed + i, angle, stop) for i, d in enumerate(doors)])
        keys = jg.sample_keys(jax.random.key(seed), config.hands)
        goals, own = jnp.full(config.hands, np.radians(goal)), jnp.array(weights)
        met, planned = [seen], []
        for i in range(config.length // config.execute):
            state = jnp.asarray(seen, jnp.float32)
            made = self.programs[row](
                self.params, jg.rng.fold(keys, i), state, goals, own
            )
            planned.append(np.mean(ghosts(made.states)))
            for actions in np.moveaxis(np.asarray(made.actions), 1, 0)[
                : config.execute
            ]:
                pairs = zip(doors, actions, strict=True)
                seen = np.stack([door.step(action) for door, action in pairs])
                met.append(seen)
        return np.stack(met, axis=1), float(np.mean(planned))

    def row(self, row: str, weights: Any, goals: Any, seed: int) -> dict[str, Any]:
        """Successes ``[goals, hands]`` and the shares of ghosts."""
        done, planned, real = [], [], []
        for goal, start in goals:
            states, share = self.open(row, weights, goal, start, seed)
            ends = states[:, -1, world.HINGE]
            done.append(np.abs(ends - np.radians(goal)) < WITHIN)
            planned.append(share)
            real.append(np.mean(ghosts(states)))
        return {
            "done": np.array(done),
            "ghosts": float(np.mean(planned)),
            "swung": float(np.mean(real)),
        }


def measure(config: Config) -> dict[str, dict[str, Any]]:
    """Every row at its best weights.

    Raises:
      ValueError: Options out of their range, no planner, or one of another world.
    """
    unknown = set(config.rows) - set(ROWS)
    if unknown:
        raise ValueError(f"rows has {sorted(unknown)}; expected some of {list(ROWS)}")
    for name in ("hands", "length", "execute", "judged", "steps"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}; expected at least 1")
    bench, found = Bench(config), {}
    for row in config.rows:
        begin, weights, tried = time.perf_counter(), (0.0,), {}
        for each in ROWS[row][2]:
            tried[each] = float(bench.row(row, each, HELD_OUT, 5000)["done"].mean())
        if tried:
            weights = max(tried, key=lambda each: tried[each])
        found[row] = bench.row(row, weights, GOALS, 0)
        found[row]["weights"] = " ".join(f"{w:g}" for w in weights) if tried else "–"
        seconds = time.perf_counter() - begin
        print(line(row, found[row]), tried, f"{seconds:.0f} s", flush=True)
    return found


def line(row: str, found: dict[str, Any]) -> str:
    """A row of the table."""
    done = found["done"]
    away = done[[goal != 90 for goal, _ in GOALS]].mean(0)
    error = away.std(ddof=1) / len(away) ** 0.5 if len(away) > 1 else np.nan
    cells = [found["weights"], *(f"{x:.2f}" for x in done.mean(1))]
    cells += [f"{away.mean():.2f} ± {error:.2f}"]
    cells += [f"{found[name]:.3f}" for name in ("ghosts", "swung")]
    return f"| {row} | {' | '.join(cells)} |"


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown: success by angle, off the trained one, and ghosts."""
    names = ["closing" if not goal else f"{goal}°" for goal, _ in GOALS]
    names = ["weights", *names, "all but 90°", "ghosts planned", "met"]
    lines = [f"| | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    return "\n".join([*lines, *(line(row, each) for row, each in found.items())])


def draw(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Success over angles, a line a row."""
    with picture(path, (7.4, 3.2), dpi=110) as fig:
        axis = fig.subplots()
        angles = [goal for goal, start in GOALS if start == 0]
        for row, each in found.items():
            style = "o-" if "best of" in row else "o:"
            axis.plot(
                angles, each["done"].mean(1)[: len(angles)], style, label=row, ms=3
            )
        axis.axvline(90, color="0.7", lw=1)
        axis.set(xlabel="degrees asked for; 90 was trained on", ylabel="success")
        axis.set_ylim(-0.02, 1.02)
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))


def main(config: Config) -> str:
    """Measures, prints and draws; a mistake is told in one line."""
    try:
        found = measure(config)
    except (ImportError, ValueError) as error:
        sys.exit(f"benchmarks/adroit.py: {error}")
    text = table(found)
    print(text)
    if config.picture is not None:
        draw(found, config.picture)
    return text


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
