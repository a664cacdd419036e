"""Plans, by guided diffusion, how a hand opens a door to an angle, and opens it.

    python train/planner.py                           # minutes; learns one angle, .9
    python sample/plan.py                             # to .6 with what was learned
    python sample/plan.py --goal 1.1 --seeds 4
    python sample/plan.py --goal 0 --start 0.9        # closes it
    python sample/plan.py --candidates 1              # what it does by itself
    python sample/plan.py --guide goal --weights 0 3 10

Every few steps it draws plans again from what it sees, and carries out the one whose
actions lead nearest to the angle by the learned dynamics. An energy may guide the plans
as well, at several weights. The result is a GIF of the door and the hand (red while
free, green while it holds), a PNG of some frames, and the angle that each hand ends at.
docs/planning.md has the success by angle.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from outputs import require_writable
from PIL import Image

import jaxlib_guidance as jg
from jaxlib_guidance import planning
from jaxlib_guidance.planning import Episode, Planner, Trajectory
from jaxlib_guidance.types import Array, PyTree
from jaxlib_guidance.worlds import door


@dataclasses.dataclass(frozen=True)
class Config:
    """What to open, and how to plan."""

    goal: float = 0.6
    """Angle that the door is to have, in radians, 0 when closed."""
    start: float = 0.0
    """Angle that it has at first."""
    guide: Literal["none", "goal", "dynamics", "phases"] = "none"
    """Energies: the goal's; that states follow from actions too; that the hand comes to
    the handle first, as well."""
    weights: tuple[float, ...] = (0.0, 1.0, 3.0, 10.0)
    """Weights of the energies, which the candidates share in turn."""
    candidates: int = 16
    """Plans that are drawn each time, of which the best is carried out."""
    planner: Path = Path("runs/planner/ema.safetensors")
    """File that train/planner.py wrote."""
    plans: int = 24
    """Number of times that it plans."""
    execute: int = 4
    """Actions of each plan that are taken, and by which candidates are judged."""
    steps: int = 12
    """Steps of the solver."""
    seeds: int = 3
    """Number of hands, each at its own place."""
    seed: int = 0
    """Of their places and of the noise."""
    side: int = 128
    """Pixels of a picture."""
    out: Path = Path("out/plan.gif")


def goal_energy(made: Trajectory, goal: Array) -> Array:
    """How far the door is from its way to the goal, ``[B]``.

    Args:
      made: Trajectories ``[B, T, ...]``.
      goal: Angle ``[B]``.
    """
    errors = planning.goal_errors(made.states[..., 4], goal, steps=16)
    return jnp.mean(errors, axis=1)


def phases_energy(made: Trajectory, goal: Array) -> Array:
    """At the handle the door's way, before it the hand's, ``[B]``.

    Args:
      made: Trajectories ``[B, T, ...]``.
      goal: Angle ``[B]``.
    """
    hand, angle = made.states[..., :2], made.states[..., 4]
    act = planning.goal_errors(angle, goal, steps=16)
    reach = planning.alignment_errors(hand, door.handle(angle))
    far = jnp.sqrt(jnp.maximum(reach, 1e-12))
    return planning.phased(reach, act, planning.phase_blend(far, door.NEAR, 0.02))


def energy_of(guide: str, planner: Planner, params: PyTree, goal: Array) -> Any:
    """The energy ``trajectory -> [B]`` of a guide, or None.

    Args:
      guide: One of those of `Config`.
      planner: The planner, whose dynamics are asked.
      params: Its parameters.
      goal: Angle ``[B]``.
    """
    if guide == "none":
        return None

    def energy(made: Trajectory) -> Array:
        value = (phases_energy if guide == "phases" else goal_energy)(made, goal)
        if guide != "goal":
            led = lambda s, a: planner.dynamics(params, s, a)  # noqa: E731
            scale = planner.layout.state_std
            value += 0.1 * planning.dynamics_energy(made, led, scale)
        return value

    return energy


def make_planner(
    planner: Planner,
    params: PyTree,
    guide: str,
    candidates: int,
    execute: int,
    steps: int,
) -> Any:
    """A function ``(keys, state [B, S], goal [B], weights [W]) -> Trajectory``.

    Args:
      planner: The planner.
      params: Its parameters.
      guide: One of those of `Config`.
      candidates: Plans of which the best is chosen; 1 takes what is drawn.
      execute: Actions by which they are judged.
      steps: Steps of the solver.
    """
    grid = planner.model.grid(steps, jg.flow_grid)

    def draw(keys: Array, state: Array, goal: Array, weight: Array) -> Trajectory:
        energy, term = energy_of(guide, planner, params, goal), None
        if energy is not None:
            term = jg.energy(planner.layout.energy(energy), weight, through="network")
        return planning.plan(
            *(keys, planner.denoiser(params), jg.ddim(), grid, planner.layout, state),
            planner.horizon,
            conditioned=True,
            guidance=term,
        )

    def make(keys: Array, state: Array, goal: Array, weights: Array) -> Trajectory:
        batch, own = len(keys), jnp.resize(weights, (candidates,))
        fold = jax.vmap(jg.rng.fold, (None, 0), 1)
        each = fold(keys, jnp.arange(candidates)).reshape(-1)
        rows = lambda x: jnp.repeat(x, candidates, axis=0)  # noqa: E731
        made = draw(each, rows(state), rows(goal), jnp.tile(own, batch))
        split = lambda x: x.reshape(batch, candidates, *x.shape[1:])  # noqa: E731
        return planning.choose(
            jax.tree.map(split, made),
            lambda s, a: planner.dynamics(params, s, jnp.clip(a, -1, 1)),
            lambda made: goal_energy(made, goal),
            execute,
        )

    return make


def open_doors(
    make: Any,
    keys: Array,
    goal: Array,
    start: Array,
    weights: Array,
    plans: int,
    execute: int,
) -> Episode:
    """Carries plans out.

    Args:
      make: Function of `make_planner`.
      keys: Typed keys ``[B]``.
      goal: Angles that the doors are to have ``[B]``.
      start: Angles that they have at first ``[B]``.
      weights: Weights of the energies ``[W]``.
      plans: Number of times that it plans.
      execute: Actions of each plan that are taken.
    """
    doors = door.Door(goal, start)
    state, seen = jax.vmap(door.reset)(doors, jg.rng.fold(keys, 0))

    def step(state, action):
        state, seen, reward, _ = jax.vmap(door.step)(doors, state, action, keys)
        return state, seen, reward

    return planning.carry_out(
        *(jg.rng.fold(keys, 1), lambda k, seen: make(k, seen, goal, weights), step),
        *(state, seen),
        plans=plans,
        execute=execute,
    )


def run(config: Config) -> Episode:
    """The episodes of ``seeds`` hands.

    Raises:
      ValueError: Options out of their range, or a planner of another world.
    """
    for name in ("goal", "start"):
        if not 0 <= getattr(config, name) <= door.WIDEST:
            value = getattr(config, name)
            raise ValueError(f"{name} is {value}; expected 0 to {door.WIDEST} rad")
    for name in ("candidates", "plans", "execute", "steps", "seeds", "side"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}; expected at least 1")
    if config.guide == "none" and config.weights != Config.weights:
        raise ValueError(
            f"weights are {config.weights}, which do nothing without guide"
        )
    if not config.weights or not all(0 <= w < np.inf for w in config.weights):
        raise ValueError(f"weights are {config.weights}; expected some, at least 0")
    if config.candidates < len(config.weights) and config.guide != "none":
        raise ValueError(
            f"candidates is {config.candidates}; expected at least "
            f"{len(config.weights)}, the number of weights"
        )
    if not config.planner.exists():
        raise ValueError(f"no {config.planner}; train/planner.py writes it")
    planner, params = planning.load_planner(config.planner)
    if config.execute >= planner.horizon:
        raise ValueError(
            f"execute is {config.execute}; expected 1 to {planner.horizon - 1}, all of "
            "a plan but its last action"
        )
    if (planner.layout.actions, planner.layout.states) != (door.ACTIONS, door.STATES):
        raise ValueError(f"{config.planner} plans for another world")
    keys = jg.sample_keys(jax.random.key(config.seed), config.seeds)
    full = lambda x: jnp.full(config.seeds, x, jnp.float32)  # noqa: E731

    @jax.jit
    def all_of(params, goal, start, weights):
        make = make_planner(
            *(planner, params, config.guide, config.candidates),
            *(config.execute, config.steps),
        )
        options = config.plans, config.execute
        return open_doors(make, keys, goal, start, weights, *options)

    return all_of(
        params, full(config.goal), full(config.start), jnp.array(config.weights)
    )


def draw(config: Config, states: np.ndarray) -> list[Image.Image]:
    """Frames of all hands ``[B, T, 7]``, side by side."""
    what = door.Door(config.goal)
    rows = [door.render(what, each, config.side) for each in states]
    return [Image.fromarray(f) for f in np.concatenate(rows, axis=2)]


def main(config: Config) -> None:
    """Plans, opens and draws; a mistake is told in one line."""
    try:
        if config.out.suffix != ".gif":
            raise ValueError(f"out is {str(config.out)!r}; expected a name with .gif")
        require_writable(config.out)
        made = jax.tree.map(np.asarray, run(config))
    except (ValueError, OSError) as error:
        sys.exit(f"sample/plan.py: {error}")
    frames = draw(config, made.trajectory.states)
    frames[0].save(
        config.out, save_all=True, append_images=frames[1:], duration=70, loop=0
    )
    strip = config.out.with_suffix(".png")
    some = [np.asarray(f) for f in frames[:: max(1, len(frames) // 8)]]
    Image.fromarray(np.concatenate(some, axis=0)).save(strip)
    for i, angle in enumerate(made.state.angle):
        done = "reached" if made.rewards[i, -1] else "missed"
        print(f"hand {i}: the door ends at {angle:.2f}, {config.goal:g} {done}")
    print(f"{config.out}, {strip}: the hands beside each other")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
