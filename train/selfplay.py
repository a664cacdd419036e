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
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from tyro.conf import OmitArgPrefixes, arg

from jaxlib_guidance import rng
from jaxlib_guidance.policy import entropy, init_role_ema, reinforce, role_ema
from jaxlib_guidance.reduce import masked_sum
from jaxlib_guidance.training import (
    Hosts,
    Log,
    Scale,
    TrainState,
    fit,
    init_state,
    open_run,
    require_effect,
    require_ranges,
    start,
    usage_errors,
)
from jaxlib_guidance.worlds import kuhn

Array = jax.Array
Baseline = Literal["role", "shared", "none"]


@dataclasses.dataclass(frozen=True)
class Config:
    """A run of self-play."""

    directory: Path = Path("runs/selfplay")
    """Folder of the run."""
    baseline: Baseline = "role"
    """Mean winnings of each seat, of both together, or 0, taken off the payoffs."""
    decay: float = 0.95
    """Decay of the baseline's running mean."""
    updates: Annotated[int, arg(aliases=["--steps"])] = 2000
    """Each plays games and learns from them."""
    games: Annotated[int, arg(aliases=["--batch"])] = 256
    """Games of an update."""
    entropy: float = 0.1
    """Weight of the bonus, in antes a nat. Without it play runs in circles."""
    learning_rate: float = 3e-3
    """At the start; it goes linearly to 0, or play would not settle."""
    width: int = 64
    """Features of the network's layers."""
    ema: float = 0.99
    """Decay of the average policy network, which is the one that is judged."""
    seed: int = 0
    """Of the weights and the games."""
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
    require_ranges(config)
    used = config.baseline != "none", 'baseline "none"'
    require_effect(config, {"decay": used})
    run, scale = open_run(config), config.scale
    player = Player(config.width, jnp.dtype(scale.precision), scale.remat)
    rate = optax.linear_schedule(config.learning_rate, 0.0, config.updates)
    tx = optax.adam(rate)
    init_key, train_key = jax.random.split(jax.random.key(config.seed))

    def make_state():
        state = init_state(player.init(init_key), tx, train_key)
        return State(jnp.zeros((), jnp.int32), state, init_role_ema(2))

    state, sharding = run.place(make_state)
    loss, parts = make_loss(player, config.entropy), sharding.train
    update = run.step(loss, tx, parts, ema_decay=config.ema, clip=1.0)
    judge = jax.jit(partial(boldness, player))

    def eval_fn(done, state):
        policy = run.gather(judge(state.train.ema))
        return {
            "exploitability": float(kuhn.exploitability(policy)),
            "value": float(kuhn.value(policy)),
        }

    state, finished = fit(
        make_update(config, player, update),
        state,
        lambda i: {"id": run.ids(i, config.games)},
        steps=config.updates,
        folder=run.folder,
        log=config.log,
        eval_fn=eval_fn,
        best_metric="exploitability",
    )
    if not finished:
        return {}
    result = eval_fn(config.updates, state)
    run.export(run.gather(state.train.ema), {"selfplay": run.settings})
    if run.chief:
        print("  ".join(f"{name} {value:.4f}" for name, value in result.items()))
    return result


def compare(config: Config) -> dict[str, list[float]]:
    """Exploitability by baseline, for seeds from ``config.seed`` on; prints a table.

    Stopped, it returns what it has and prints nothing.

    Raises:
      ValueError: A number of seeds below 1.
    """
    if config.compare < 1:
        raise ValueError(f"compare is {config.compare}; expected 1 seed or more, or 0")
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
    with usage_errors():
        config = tyro.cli(Config, description=__doc__)
        start(config.hosts)
        (compare if config.compare else train)(config)
