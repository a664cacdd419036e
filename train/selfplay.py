"""Learns Kuhn poker against itself, with a baseline for each seat.

    python train/selfplay.py                       # under a minute on a CPU
    python train/selfplay.py --baseline none
    python train/selfplay.py --compare 8           # all baselines, 8 seeds each
    python train/selfplay.py --help

One network plays both seats. It learns by REINFORCE from the payoffs of its own games,
less a baseline, with an entropy bonus. How far it is from unbeatable is computed
exactly: "exploitability" is what the best opponent wins a game, in antes, 0 for an
equilibrium and 0.458 for uniform play. docs/policy.md has the table.

A run lives in one folder and goes on where it was stopped; see train/images.py.
"""

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from tyro.conf import OmitArgPrefixes

from jaxlib_guidance import rng
from jaxlib_guidance.files import export_weights
from jaxlib_guidance.policy import entropy, init_role_ema, reinforce, role_ema
from jaxlib_guidance.reduce import masked_sum
from jaxlib_guidance.training import (
    FREE,
    Hosts,
    Log,
    Scale,
    TrainState,
    claim,
    data_mesh,
    fit,
    init_state,
    local_rows,
    make_train_step,
    replicate,
    require_effect,
    shard_batch,
    start,
    state_sharding,
)
from jaxlib_guidance.worlds import kuhn

Array = jax.Array
Baseline = Literal["role", "shared", "none"]


@dataclasses.dataclass(frozen=True)
class Config:
    """A run of self-play."""

    directory: Path = Path("runs/selfplay")
    baseline: Baseline = "role"
    """Mean winnings of each seat, of both together, or 0, taken off the payoffs."""
    decay: float = 0.95
    """Of the baseline's running mean."""
    updates: int = 2000
    games: int = 256
    """Games of an update."""
    entropy: float = 0.1
    """Weight of the bonus, in antes a nat. Without it play runs in circles."""
    learning_rate: float = 3e-3
    """At the start; it goes linearly to 0, or play would not settle."""
    width: int = 64
    ema: float = 0.99
    """Decay of the average policy network, which is the one that is judged."""
    seed: int = 0
    compare: int = 0
    """If not 0, runs each baseline with this many seeds and prints a table."""
    log: Log = Log(every=50, save_every=500, eval_every=250)
    scale: OmitArgPrefixes[Scale] = Scale()
    hosts: OmitArgPrefixes[Hosts] = Hosts()


class State(NamedTuple):
    """A run between two updates."""

    step: Array
    train: TrainState
    baseline: Array


class Player(nn.Module):
    """``-> [12]``: log-odds of the bold action in each information set."""

    width: int
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self) -> Array:
        card, seen = np.tile(np.eye(3), (4, 1)), np.repeat(np.eye(4), 3, axis=0)
        x = jnp.asarray(np.concatenate([card, seen], axis=1), self.dtype)
        layer = nn.remat(nn.Dense) if self.remat else nn.Dense
        for _ in range(2):
            x = nn.tanh(layer(self.width, dtype=self.dtype)(x))
        # From uniform play on.
        zeros = nn.initializers.zeros
        out = nn.Dense(1, kernel_init=zeros, dtype=self.dtype)(x)[:, 0]
        return out.astype(jnp.float32)


def boldness(player: Player, params: Any) -> Array:
    """Probability of the bold action in each information set, ``[12]``."""
    return jax.nn.sigmoid(jnp.asarray(player.apply(params)))


def make_loss(player: Player, bonus: float) -> Any:
    """``(params, games, keys [B]) -> (loss [B], metrics)``."""

    def loss(params, rows, keys):
        logits = player.apply(params)[rows["sets"]]
        # The two actions' logits; softmax of (0, z) is the probability of the bold.
        pair = jnp.stack([jnp.zeros_like(logits), logits], axis=-1)
        logp = jnp.where(
            rows["bold"], jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
        )
        mask = rows["mask"]
        each = reinforce(logp, rows["advantage"], mask)
        each -= bonus * entropy(pair, mask)
        return masked_sum(each, mask, axis=1), {}

    return loss


def make_update(config: Config, player: Player, update: Any) -> Any:
    """``(state, {"id": [B]}) -> (state, metrics)``: play, judge, learn."""
    root = jax.random.key(config.seed + 1)

    @jax.jit
    def collect(params, baseline, ids):
        keys = rng.sample_keys(root, ids)
        games = kuhn.play(keys, boldness(player, params))
        won = games.payoff
        if config.baseline != "none":
            seat = np.arange(2) if config.baseline == "role" else np.zeros(2, np.int32)
            roles = jnp.tile(jnp.asarray(seat, jnp.int32), len(won))
            baseline, gain = role_ema(
                baseline, won.reshape(-1), roles, decay=config.decay
            )
            won = gain.reshape(won.shape)
        rows = {
            "sets": games.sets,
            "bold": games.bold,
            "mask": games.mask,
            "advantage": won[:, jnp.asarray(kuhn.SEATS)],
        }
        return rows, baseline

    def take(state, batch):
        rows, baseline = collect(state.train.params, state.baseline, batch["id"])
        trained, metrics = update(state.train, rows)
        return State(state.step + 1, trained, baseline), metrics

    return take


def train(config: Config) -> dict[str, float]:
    """Runs, or goes on with, a run of self-play.

    Returns:
      Exploitability and value of the averaged policy; empty if it was stopped.
    """
    used = config.baseline != "none", 'baseline "none"'
    require_effect(config, {"decay": used})
    settings = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    folder = claim(config.directory, settings, free=("directory", "log", *FREE))
    scale = config.scale
    player = Player(config.width, jnp.dtype(scale.precision), scale.remat)
    rate = optax.linear_schedule(config.learning_rate, 0.0, config.updates)
    tx = optax.adam(rate)
    init_key, train_key = jax.random.split(jax.random.key(config.seed))

    def make_state():
        state = init_state(player.init(init_key), tx, train_key)
        return State(jnp.zeros((), jnp.int32), state, init_role_ema(2))

    mesh = data_mesh()
    sharding = state_sharding(mesh, make_state, scale.mesh)
    update = make_train_step(
        make_loss(player, config.entropy),
        tx,
        ema_decay=config.ema,
        accumulate=scale.accumulate,
        clip=1.0,
        mesh=mesh,
        sharding=sharding.train,
    )
    mine = local_rows(mesh, config.games)
    judge = jax.jit(partial(boldness, player))

    def batch_at(i):
        ids = np.arange(i * config.games, (i + 1) * config.games, dtype=np.uint32)
        return shard_batch(mesh, {"id": ids[mine]})

    def eval_fn(done, state):
        policy = replicate(mesh, judge(state.train.ema))
        return {
            "exploitability": float(kuhn.exploitability(policy)),
            "value": float(kuhn.value(policy)),
        }

    state, finished = fit(
        make_update(config, player, update),
        jax.jit(make_state, out_shardings=sharding)(),
        batch_at,
        steps=config.updates,
        folder=folder,
        log=config.log,
        eval_fn=eval_fn,
        best_metric="exploitability",
    )
    if not finished:
        return {}
    ema = jax.tree.map(np.asarray, replicate(mesh, state.train.ema))
    result = eval_fn(config.updates, state)
    if jax.process_index() == 0:
        export_weights(folder / "ema.safetensors", ema, {"selfplay": settings})
        print("  ".join(f"{name} {value:.4f}" for name, value in result.items()))
    return result


def compare(config: Config) -> dict[str, list[float]]:
    """Exploitability by baseline, for seeds from ``config.seed`` on; prints a table.

    Stopped, it returns what it has and prints nothing.
    """
    table: dict[str, list[float]] = {}
    for name in get_args(Baseline):
        table[name] = []
        for seed in range(config.seed, config.seed + config.compare):
            run = dataclasses.replace(
                config,
                baseline=name,
                decay=Config.decay if name == "none" else config.decay,
                seed=seed,
                directory=config.directory / f"{name}{seed}",
                compare=0,
            )
            result = train(run)
            if not result:
                return table
            table[name].append(result["exploitability"])
    print("| baseline | median | worst | under 0.05 |\n|---|---|---|---|")
    for name, found in table.items():
        good = sum(value < 0.05 for value in found)
        middle, worst = np.median(found), max(found)
        print(f"| {name} | {middle:.3f} | {worst:.3f} | {good} of {len(found)} |")
    return table


if __name__ == "__main__":
    config = tyro.cli(Config, description=__doc__)
    start(config.hosts)
    if config.compare:
        compare(config)
    else:
        train(config)
