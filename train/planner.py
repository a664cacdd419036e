"""Trains a planner: a diffusion model of what a hand does and where that leads.

    python train/planner.py                      # minutes on two cores of a CPU
    python train/planner.py --goals 0.4 0.9 1.4 --directory runs/wide
    python train/planner.py --episodes mine.npz  # actions [N, T, A], states [N, T, S]

The data are episodes of a scripted hand, with noise, that opens a door to one angle
(`worlds.door`), or episodes of your own. The network learns windows of actions and
states together, given the first state; beside it two small networks learn where an
action leads and which action led there. docs/planning.md says how to plan with it.

A run lives in one folder: config.json, metrics.jsonl, checkpoints/, and, renewed at
every evaluation, ema.safetensors, which `planning.load_planner` reads. Stop it as you
like and start it again with the same arguments: it goes on with the same next batch.
"""

import dataclasses
import zlib
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from tyro.conf import OmitArgPrefixes, arg

from jaxlib_guidance import diffusion, planning, rng
from jaxlib_guidance.data import Loader
from jaxlib_guidance.files import export_weights
from jaxlib_guidance.planning import Layout, Planner, Trajectory
from jaxlib_guidance.training import (
    Hosts,
    Log,
    Scale,
    fit,
    init_state,
    open_run,
    require_effect,
    require_ranges,
    settings_of,
    start,
    usage_errors,
)
from jaxlib_guidance.worlds import door


@dataclasses.dataclass(frozen=True)
class Model:
    """The network."""

    width: int = 64
    """Channels."""
    blocks: int = 3
    """Blocks."""
    horizon: int = 32
    """Steps of a plan."""
    time_scale: float = 10.0
    """Factor of the level that the network is told, log(sigma / alpha) / 4, before its
    sinusoids; of large ones it learns single levels by heart."""


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """Adam: warm-up, and a cosine to 0."""

    steps: Annotated[int, arg(aliases=["--steps"])] = 3000
    """Steps of training."""
    batch: Annotated[int, arg(aliases=["--batch"])] = 64
    """Windows of a step."""
    learning_rate: Annotated[float, arg(aliases=["--learning-rate"])] = 2e-3
    """Largest rate."""
    clip: float = 1.0
    """Largest global norm of a gradient."""
    ema: float = 0.995
    """Decay of the average of parameters that is evaluated and kept."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A training run."""

    directory: Path = Path("runs/planner")
    """Folder of the run."""
    seed: int = 0
    """Of the episodes, the weights and the noise."""
    episodes: Path | None = None
    """File of numpy with your own episodes, arrays "actions" and "states"; None is the
    door's."""
    goals: tuple[float, ...] = (0.9,)
    """Angles that the hand of the door's episodes opens it to, in turn."""
    count: int = 2000
    """Number of the door's episodes."""
    length: int = 80
    """Steps of each."""
    noise: float = 0.4
    """Standard deviation of the noise of the hand's pushes."""
    persistence: float = 0.9
    """Correlation of that noise from one step to the next."""
    level_mean: float = -0.6
    """Mean of the logarithm of the noise level."""
    level_std: float = 1.4
    """Standard deviation of the logarithm of the noise level."""
    model: Model = Model()
    optimiser: Optimiser = Optimiser()
    log: Log = Log(eval_every=1000)
    scale: OmitArgPrefixes[Scale] = Scale()
    hosts: OmitArgPrefixes[Hosts] = Hosts()
    store: Literal["float32", "bfloat16", "float16"] = "float16"
    """Type in which weights are stored."""


def scripted(config: Config) -> Trajectory:
    """Episodes of the scripted hand, actions ``[N, T, 3]`` and states ``[N, T, 7]``.

    Raises:
      ValueError: No goals, or one that the door cannot have.
    """
    if not config.goals or not all(0 <= g <= door.WIDEST for g in config.goals):
        raise ValueError(f"goals is {config.goals}; expected 0 to {door.WIDEST}")
    if not 0 <= config.persistence < 1:
        raise ValueError(f"persistence is {config.persistence}; expected 0 to below 1")
    keep, fresh = config.persistence, (1 - config.persistence**2) ** 0.5

    def episode(key, goal):
        params = door.Door(goal)
        first, second, rest = jax.random.split(key, 3)

        def step(carry, key):
            state, noise = carry
            push = door.expert(params, state).at[:2].add(config.noise * noise)
            action = jnp.clip(push, -1, 1)
            after, *_ = door.step(params, state, action, key)
            noise = keep * noise + fresh * jax.random.normal(key, (2,))
            return (after, noise), (action, door.observe(state))

        carry = door.reset(params, first)[0], jax.random.normal(second, (2,))
        return jax.lax.scan(step, carry, jax.random.split(rest, config.length))[1]

    goals = jnp.resize(jnp.array(config.goals, jnp.float32), (config.count,))
    keys = jax.random.split(jax.random.key(config.seed), config.count)
    made: Any = jax.tree.map(np.asarray, jax.jit(jax.vmap(episode))(keys, goals))
    return Trajectory(*made)


def read(path: Path) -> Trajectory:
    """Episodes of a file.

    Raises:
      ValueError: Arrays that are missing or do not fit each other.
    """
    try:
        found: Any = np.load(path)
    except ValueError as error:
        raise ValueError(f"{path} is no file of numpy: {error}") from error
    names = getattr(found, "files", ["one array"])
    if not {"actions", "states"} <= set(names):
        raise ValueError(f"{path} has {list(names)}; expected actions and states")
    data = Trajectory(found["actions"], found["states"])
    shapes = [part.shape for part in data]
    if any(len(s) != 3 for s in shapes) or shapes[0][:2] != shapes[1][:2]:
        raise ValueError(
            f"{path} has actions {shapes[0]} and states {shapes[1]}; expected "
            "[N, T, A] and [N, T, S]"
        )
    if not all(part.size and np.isfinite(part).all() for part in data):
        raise ValueError(f"{path} has values that are not finite, or none")
    return data


def describe(config: Config, layout: Layout) -> dict[str, Any]:
    """The model's configuration, as it is stored with the weights."""
    model = config.model
    fields = dataclasses.fields(layout)
    planner = {
        "network": {
            "kind": "tsdiff",
            "width": model.width,
            "blocks": model.blocks,
            "state": 16,
            "features": layout.states,
            "time_scale": model.time_scale,
            "dtype": config.scale.precision,
            "remat": config.scale.remat,
        },
        "process": {"kind": "cosine"},
        "parametrize": {"predicts": "x0", "precondition": True, "sigma_data": 1.0},
        "shape": [model.horizon, layout.actions + layout.states],
    }
    lists = {f.name: np.asarray(getattr(layout, f.name)).tolist() for f in fields}
    return {"planner": planner, "layout": lists}


def make_loss(planner: Planner, config: Config) -> Any:
    """``(params, batch, keys [B]) -> (loss [B], metrics)``, of all three networks."""
    model, layout = planner.model, planner.layout
    levels = {"mean": config.level_mean, "std": config.level_std}
    horizon = config.model.horizon

    def loss(params, batch, keys):
        last = batch["x"].shape[1] - horizon
        at = jnp.floor(rng.uniform(rng.fold(keys, 0)) * (last + 1)).astype(jnp.int32)
        x = jax.vmap(lambda a, i: jax.lax.dynamic_slice_in_dim(a, i, horizon))(
            batch["x"], jnp.minimum(at, last)
        )
        actions, states = layout.unpack(x)
        each = diffusion.denoising_loss(
            planner.denoiser(params),
            x,
            rng.normal(rng.fold(keys, 1), x.shape[1:]),
            diffusion.log_normal_t(model.process, batch["u"], **levels),
            planning.first_state(layout, states[:, 0], horizon),
            weighting=partial(diffusion.edm_weight, sigma_data=1.0),
        )
        before, after, action = states[:, :-1], states[:, 1:], actions[:, :-1]
        led = planner.dynamics(params, before, action)
        done = planner.inverse(params, before, after)
        forward = jnp.mean(((led - after) / layout.state_std) ** 2, axis=(1, 2))
        inverse = jnp.mean(((done - action) / layout.action_std) ** 2, axis=(1, 2))
        metrics = {"planner": each, "dynamics": forward, "inverse": inverse}
        return each + 10 * forward + inverse, metrics

    return loss


def train(config: Config) -> bool:
    """Runs, or goes on with, a training run.

    Returns:
      Whether it is at its end.
    """
    require_ranges(config)
    own = config.episodes is not None, "episodes of your own"
    named = ("goals", "count", "length", "noise", "persistence")
    require_effect(config, dict.fromkeys(named, (not own[0], own[1])))
    data = scripted(config) if config.episodes is None else read(config.episodes)
    horizon, length = config.model.horizon, data.states.shape[1]
    if not 2 <= horizon <= length:
        raise ValueError(f"model.horizon is {horizon}; expected 2 to {length}")
    settings = settings_of(config)
    if config.episodes is not None:
        settings["episodes_file"] = f"{zlib.crc32(config.episodes.read_bytes()):08x}"
    layout = planning.fit_layout(data)
    rows = {"x": np.asarray(layout.pack(data))}
    run = open_run(config, settings, free=("directory", "log", "store", "episodes"))
    about = describe(config, layout)
    planner = planning.planner_from_config(about)
    optim = config.optimiser
    rate = optax.warmup_cosine_decay_schedule(
        0.0, optim.learning_rate, min(100, optim.steps // 2), optim.steps
    )
    tx = optax.adam(rate)
    keys = jax.random.split(jax.random.key(config.seed), 5)

    def make_state():
        params = {
            "planner": planner.model.init(keys[0]),
            "dynamics": planning.init_dynamics(keys[1], layout),
            "inverse": planning.init_inverse(keys[2], layout),
        }
        return init_state(params, tx, keys[3])

    state, sharding = run.place(make_state)
    loss = make_loss(planner, config)
    step = run.step(loss, tx, sharding, ema_decay=optim.ema, clip=optim.clip)
    mine = run.rows(optim.batch)
    batches = Loader(rows, optim.batch, config.seed, part=mine)
    spread = jax.jit(
        lambda i: diffusion.stratified(
            jax.random.fold_in(keys[4], i), jnp.arange(optim.batch), optim.batch
        )
    )

    def batch_at(i):
        return run.shard({**batches(i), "u": np.asarray(spread(i))[mine]})

    def eval_fn(done, state):
        ema = run.gather(state.ema)
        if run.chief:
            kind = jnp.dtype(config.store)
            stored = about | {"training": run.settings}
            export_weights(run.folder / "ema.safetensors", ema, stored, dtype=kind)

    if run.chief:
        count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        print(f"{count:,} parameters, {batches.total:,} episodes of {length} steps")
    _, finished = fit(
        step,
        state,
        batch_at,
        steps=optim.steps,
        folder=run.folder,
        log=config.log,
        eval_fn=eval_fn,
    )
    if finished and run.chief:
        print(f"weights in {run.folder / 'ema.safetensors'}")
    return finished


if __name__ == "__main__":
    with usage_errors():
        config = tyro.cli(Config, description=__doc__)
        start(config.hosts)
        train(config)
