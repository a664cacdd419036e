"""Chunks of actions that are executed while the next is made, by what joins them.

    python benchmarks/flow_policy.py             # docs/planning.md, some minutes
    python benchmarks/flow_policy.py --seeds 1 --flights 40 --updates 500
    python benchmarks/flow_policy.py --sides above --seeds 3

A glider must pass four pillars on either side (`worlds.slalom`). A flow policy learns
chunks of 8 actions from flights of a script that chooses sides by chance, and is
carried out with a delay of 0 to 4 steps; max(delay, 1) actions are taken of a chunk.
Chunks are joined by nothing (naive), by the mean of all that say something of a step
(temporal averaging), or by inpainting with the weights of real-time chunking. Each
row's setting is the best of its list over all delays, with another policy and other
flights. "Without delay" has the naive policy's chunks at once and takes as many actions
of each: what the row would be if the world waited.
"""

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from drawing import picture

import jaxlib_guidance as jg
from jaxlib_guidance import diffusion, guidance, planning
from jaxlib_guidance.worlds import slalom

HORIZON, DELAYS, HELD_OUT = 8, (0, 1, 2, 3, 4), 100
# Of temporal averaging: above 0 the oldest chunk counts most, as ACT has it.
DECAYS = (-3.0, -1.0, -0.3, 0.0, 0.01, 0.3)
SOFT = tuple(
    (schedule, w_max)
    for schedule in ("exponential", "linear", "ones")
    for w_max in (2.0, 5.0, 20.0)
)
HARD = tuple(("zeros", w_max) for w_max in (2.0, 5.0, 20.0))
# How chunks are joined, and the settings that are tried.
ROWS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "naive": ("inpaint", (("zeros", 0.0),)),
    "temporal averaging": ("average", DECAYS),
    "inpainting, frozen actions alone": ("inpaint", HARD),
    "inpainting, soft weights": ("inpaint", SOFT),
    "naive, without delay": ("none", (("zeros", 0.0),)),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure."""

    flights: int = 100
    """Flights of each seed and delay."""
    seeds: int = 5
    """Policies, each trained and flown on its own."""
    updates: int = 3000
    """Steps of training."""
    data: int = 2000
    """Flights of the script to learn from."""
    noise: float = 0.3
    """Standard deviation of the noise on the script's pushes; what is learned is the
    push without it."""
    sides: Literal["chance", "above"] = "chance"
    """Sides that the script passes: with "above" there is one way alone, and what a
    delay costs is the delay and no change of mind."""
    gust: float = 0.004
    """Standard deviation of the air's push on the velocity in a step."""
    steps: int = 5
    """Steps of the solver."""
    picture: Path | None = None
    """PNG to draw success by delay in."""


def scripted(config: Config, key: Any, noise: float) -> tuple[Any, Any, Any]:
    """Pushes ``[N, T, 1]`` of the script, what it saw, and the rewards at the end."""
    world = slalom.World(config.gust)

    def flight(key):
        first, second, rest = jax.random.split(key, 3)
        state, _ = slalom.reset(world, first)
        sides = jax.random.rademacher(second, (slalom.PILLARS,)).astype(jnp.float32)
        sides = sides if config.sides == "chance" else jnp.ones(slalom.PILLARS)

        def step(state, key):
            push = slalom.expert(world, state, sides[state.steps // slalom.SPACING])
            shaken = push + noise * jax.random.normal(jax.random.fold_in(key, 1), (1,))
            after, _, reward, _ = slalom.step(world, state, shaken, key)
            return after, (push, slalom.observe(state), reward)

        return jax.lax.scan(step, state, jax.random.split(rest, slalom.LENGTH))[1]

    pushes, seen, rewards = jax.vmap(flight)(jax.random.split(key, config.data))
    return pushes, seen, rewards[:, -1]


def chunks_of(pushes: Any, seen: Any, rewards: Any) -> planning.Trajectory:
    """Chunks ``[M, 8, 1]`` and observations ``[M, 5]``, of flights that arrived."""
    arrived = np.asarray(rewards) > 0
    pushes, seen = (np.asarray(x)[arrived] for x in (pushes, seen))
    # After the last pillar nothing is to be done.
    pushes = np.pad(pushes, ((0, 0), (0, HORIZON - 1), (0, 0)))
    cut = planning.windows(planning.Trajectory(pushes, pushes), HORIZON).actions
    return planning.Trajectory(cut.reshape(-1, HORIZON, 1), seen.reshape(-1, 5))


def train(config: Config, data: planning.Trajectory, layout: Any, key: Any) -> Any:
    """Parameters of a policy."""
    rate = optax.cosine_decay_schedule(1e-3, config.updates)
    tx, batch = optax.adam(rate), 256
    chunks = layout.scale_actions(data.actions)
    seen = layout.scale(data.states)

    def loss(params, key):
        which, noise, at = jax.random.split(key, 3)
        i = jax.random.randint(which, (batch,), 0, len(chunks))
        each = diffusion.denoising_loss(
            planning.flow_policy(params),
            chunks[i],
            jax.random.normal(noise, (batch, *chunks.shape[1:])),
            jax.random.uniform(at, (batch,), minval=1e-3),
            seen[i],
            weighting="velocity",
        )
        return jnp.mean(each)

    def update(carry, key):
        params, state = carry
        change, state = tx.update(jax.grad(loss)(params, key), state)
        return (optax.apply_updates(params, change), state), None

    first, rest = jax.random.split(key)
    params = planning.init_flow_policy(first, layout, HORIZON)
    keys = jax.random.split(rest, config.updates)
    return jax.lax.scan(update, (params, tx.init(params)), keys)[0][0]


class Bench:
    """Policies, and flights of all seeds and settings in one program a row's kind."""

    def __init__(self, config: Config):
        for name in ("flights", "seeds", "updates", "data", "steps"):
            if getattr(config, name) < 1:
                value = getattr(config, name)
                raise ValueError(f"{name} is {value}; expected at least 1")
        self.config, self.world = config, slalom.World(config.gust)
        make = jax.jit(partial(scripted, config), static_argnums=1)
        self.script = float(make(jax.random.key(1), 0.0)[2].mean())
        data = chunks_of(*make(jax.random.key(0), config.noise))
        self.layout = planning.fit_layout(data)
        # The last seed is the one that settings are chosen with.
        self.seeds = [*range(config.seeds), HELD_OUT]
        learn = jax.jit(partial(train, config, jax.tree.map(jnp.asarray, data)))
        self.params = [learn(self.layout, jax.random.key(seed)) for seed in self.seeds]
        self.programs: dict[Any, Any] = {}

    def solved(self, kind: str, delay: int, setting: Any, which: int) -> float:
        """Share of flights that arrive, of the policy ``which`` of `seeds`."""
        if (kind, delay) not in self.programs:
            self.programs[kind, delay] = jax.jit(self.program(kind, delay))
        keys = jg.sample_keys(jax.random.key(self.seeds[which]), self.config.flights)
        if kind == "average":
            return float(self.programs[kind, delay](self.params[which], keys, setting))
        schedule, w_max = setting
        weights = guidance.chunk_weights(
            HORIZON, delay, HORIZON - max(delay, 1), schedule
        )
        run = self.programs[kind, delay]
        return float(run(self.params[which], keys, (jnp.asarray(weights), w_max)))

    def program(self, kind: str, delay: int) -> Any:
        """A function ``(params, keys, setting) -> share of flights that arrive``."""
        execute, world, layout = max(delay, 1), self.world, self.layout
        grid = jg.flow_grid(jg.RectifiedFlow(), self.config.steps)

        def fly(params, keys, setting):
            def make(keys, seen, held):
                inpaint = {}
                if kind == "inpaint" and held is not None:
                    weights, w_max = setting
                    inpaint = {"held": held, "weights": weights, "w_max": w_max}
                return planning.draw_chunk(
                    *(keys, planning.flow_policy(params), jg.euler(), grid, layout),
                    *(seen, HORIZON),
                    **inpaint,
                )

            def step(state, actions, keys):
                take = jax.vmap(partial(slalom.step, world))
                state, seen, reward, _ = take(state, actions, keys)
                return state, seen, reward

            reset = jax.vmap(partial(slalom.reset, world))
            made = planning.carry_out_chunks(
                *(jg.rng.fold(keys, 1), make, step, *reset(jg.rng.fold(keys, 0))),
                chunks=-(-slalom.LENGTH // execute),
                execute=execute,
                delay=0 if kind == "none" else delay,
                decay=setting if kind == "average" else None,
            )
            return jnp.mean(jnp.sum(made.rewards, axis=1))

        return fly


def measure(config: Config) -> tuple[float, dict[str, dict[str, Any]]]:
    """The script's success, and every row at its best setting."""
    begin = time.perf_counter()
    bench, found = Bench(config), {}
    print(f"trained in {time.perf_counter() - begin:.0f} s", flush=True)
    for row, (kind, settings) in ROWS.items():
        begin, tried = time.perf_counter(), {}
        for each in settings if len(settings) > 1 else ():
            parts = [bench.solved(kind, d, each, config.seeds) for d in DELAYS]
            tried[each] = float(np.mean(parts))
        best = max(tried, key=lambda each: tried[each]) if tried else settings[0]
        done = [
            [bench.solved(kind, d, best, i) for d in DELAYS]
            for i in range(config.seeds)
        ]
        name = "–"
        if tried:
            name = f"{best[0]}, {best[1]:g}" if kind == "inpaint" else f"{best:g}"
        found[row] = {"setting": name, "done": np.array(done), "tried": tried}
        seconds = time.perf_counter() - begin
        print(line(row, found[row]), f"{seconds:.0f} s", tried, flush=True)
    return bench.script, found


def line(row: str, found: dict[str, Any]) -> str:
    """A row of the table."""
    done = found["done"]
    spread = done.std(0, ddof=1) if len(done) > 1 else np.zeros(len(DELAYS))
    cells = [f"{m:.2f} ± {s:.2f}" for m, s in zip(done.mean(0), spread, strict=True)]
    return f"| {row} | {found['setting']} | {' | '.join(cells)} |"


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown: success by delay."""
    lines = [f"| | setting | {' | '.join(f'delay {d}' for d in DELAYS)} |"]
    lines.append("|---|---|" + "---:|" * len(DELAYS))
    return "\n".join([*lines, *(line(row, each) for row, each in found.items())])


def draw(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Success over delays, a line a row."""
    with picture(path, (6.4, 3.2), dpi=110) as fig:
        axis = fig.subplots()
        for row, each in found.items():
            style = "--" if "without" in row else "-"
            axis.errorbar(
                *(DELAYS, each["done"].mean(0), each["done"].std(0)),
                fmt=f"o{style}",
                label=row,
                ms=3,
                lw=1,
                capsize=2,
            )
        axis.set(xlabel="delay in steps", ylabel="flights that arrive", ylim=(0, 1.02))
        axis.set_xticks(DELAYS)
        axis.legend(fontsize=7)


def main(config: Config) -> str:
    """Measures, prints and draws."""
    script, found = measure(config)
    text = f"{table(found)}\n\nThe script arrives in {script:.3f} of its flights."
    print(text)
    if config.picture is not None:
        draw(found, config.picture)
    return text


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
