"""Recorded flights of benchmarks/advantage.py, what is learned of them, and flying."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxlib_guidance as jg
from jaxlib_guidance import diffusion, guidance, planning, sampling
from jaxlib_guidance.worlds import slalom

HORIZON, EXECUTE, BATCH = 8, 4, 256
GAMMA, DROPPED, TIMES = 0.95, 0.1, 16


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure."""

    flights: int = 200
    """Flights of each seed and delay."""
    seeds: int = 5
    """Sets of recorded flights, each with its own critic and policies."""
    tuning: int = 2
    """Sets with which settings are chosen."""
    updates: int = 3000
    """Steps of training of each network."""
    width: int = 256
    """Units of each of the three layers of a policy."""
    data: int = 1000
    """Recorded flights."""
    mistakes: float = 0.6
    """Share of the pillars past which the script aims too near the middle."""
    noise: float = 0.3
    """Standard deviation of the noise on the script's pushes, which is recorded."""
    steps: int = 5
    """Steps of the solver."""
    particles: int = 8
    """Chunks that are drawn where one is chosen."""
    picture: Path | None = None
    """PNG to draw success in."""


class Flights(NamedTuple):
    """Chunks ``[M, 8, 1]``, what was seen ``[M, 5]``, returns and pillars ``[M]``."""

    chunks: Any
    seen: Any
    returns: Any
    passed: Any
    rows: Any
    """Rows in which nothing was touched yet, repeated to ``M``."""
    success: Any


def record(config: Config, mistakes: float, count: int, key: Any) -> Any:
    """Pushes, what was seen, and whether all is whole before and after each."""
    world, last = slalom.default(), slalom.PILLARS - 1

    def flight(key):
        begin, which, err, near, rest = jax.random.split(key, 5)
        state, _ = slalom.reset(world, begin)
        shape = (slalom.PILLARS,)
        side = jax.random.rademacher(which, shape).astype(jnp.float32)
        wrong = jax.random.uniform(err, shape) < mistakes
        # Half of a side is the edge of the pillar.
        side *= jnp.where(wrong, jax.random.uniform(near, shape, maxval=0.8), 1.0)

        def step(state, key):
            aim = side[jnp.minimum(state.steps // slalom.SPACING, last)]
            push = slalom.expert(world, state, aim)
            shake = jax.random.normal(jax.random.fold_in(key, 1), (1,))
            push = jnp.clip(push + config.noise * shake, -1, 1)
            after, *_ = slalom.step(world, state, push, key)
            return after, (push, slalom.observe(state), state.whole, after.whole)

        keys = jax.random.split(rest, slalom.LENGTH + HORIZON)
        return jax.lax.scan(step, state, keys)[1]

    return jax.vmap(flight)(jax.random.split(key, count))


def flights(config: Config, seed: int, mistakes: float | None = None) -> Flights:
    """Recorded flights, as chunks and their returns."""
    share = config.mistakes if mistakes is None else mistakes
    make = jax.jit(partial(record, config), static_argnums=1)
    parts = make(share, config.data, jax.random.key(seed))
    pushes, seen, whole, after = (np.asarray(x) for x in parts)
    length = slalom.LENGTH
    both = planning.Trajectory(pushes, pushes)
    chunks = planning.windows(both, HORIZON).actions[:, :length]
    seen, whole, after = seen[:, :length], whole[:, :length], after[:, :length]
    touched = whole & ~after
    over = touched | (np.arange(length) == length - 1)
    cost = -touched.astype(np.float32)
    returns = planning.chunk_returns(cost, over, gamma=GAMMA)
    passed = after[:, slalom.SPACING - 1 :: slalom.SPACING].sum(1)
    flat = lambda x: jnp.asarray(x.reshape(-1, *x.shape[2:]))  # noqa: E731
    rows = np.resize(np.flatnonzero(whole), whole.size)
    return Flights(
        *(flat(chunks), flat(seen), flat(returns)),
        *(jnp.repeat(jnp.asarray(passed), length), jnp.asarray(rows)),
        after[:, -1].mean(),
    )


def descend(config: Config, loss: Any, params: Any, key: Any) -> Any:
    """Adam, its rate a cosine to 0."""
    tx = optax.adam(optax.cosine_decay_schedule(1e-3, config.updates))

    def update(carry, key):
        params, state = carry
        change, state = tx.update(jax.grad(loss)(params, key), state)
        return (optax.apply_updates(params, change), state), None

    keys = jax.random.split(key, config.updates)
    return jax.lax.scan(update, (params, tx.init(params)), keys)[0][0]


def learn_critic(config: Config, horizon: int, layout: Any, data: Flights, key: Any):
    """Parameters of a critic, or with ``horizon`` 0 of a value."""

    def loss(params, key):
        i = data.rows[jax.random.randint(key, (BATCH,), 0, len(data.rows))]
        chunk = data.chunks[i] if horizon else None
        made = planning.apply_critic(params, layout, data.seen[i], chunk)
        return jnp.mean((made - data.returns[i]) ** 2)

    begin = planning.init_critic(key, layout, horizon)
    return descend(config, loss, begin, jax.random.fold_in(key, 1))


def learn_policy(config: Config, layout: Any, data: Flights, weights, told, key: Any):
    """Parameters of a policy, of weighted rows that are told something."""
    unit = layout.scale_actions(data.chunks)
    weights = weights / jnp.mean(weights[data.rows])

    def loss(params, key):
        which, noise, at, drop = jax.random.split(key, 4)
        i = data.rows[jax.random.randint(which, (BATCH,), 0, len(data.rows))]
        known = jax.random.uniform(drop, (BATCH,)) >= DROPPED
        seen = planning.tell_advantage(data.seen[i], known * told[i])
        each = diffusion.denoising_loss(
            planning.flow_policy(params),
            unit[i],
            jax.random.normal(noise, (BATCH, HORIZON, 1)),
            jax.random.uniform(at, (BATCH,), minval=1e-3),
            layout.scale(seen),
            weighting="velocity",
        )
        return jnp.mean(weights[i] * each)

    begin = planning.init_flow_policy(key, layout, HORIZON, 3 * (config.width,))
    return descend(config, loss, begin, jax.random.fold_in(key, 1))


def features(cond: Any, t: Any) -> Any:
    """What an energy of noisy chunks sees: an observation of unit scale and a time."""
    angles = t[:, None] * 100.0 ** jnp.linspace(0, 1, TIMES // 2)
    return jnp.concatenate([cond, jnp.sin(angles), jnp.cos(angles)], axis=1)


def energy_layout(layout: Any) -> Any:
    """The layout of `features`, and of chunks in unit scale."""
    size = layout.states + TIMES
    unit = jnp.zeros(layout.actions), jnp.ones(layout.actions)
    return planning.Layout(*unit, jnp.zeros(size), jnp.ones(size))


def learn_energy(config: Config, base, data: Flights, policy, critic, sharpness, key):
    """Parameters of an energy of noisy chunks, by contrast of 8 drawn for each row.

    ``f`` at noise is to say which of them the critic, times ``sharpness``, prefers:
    its softmax over the 8 is to be the critic's (QGPO, arXiv 2304.12824).
    """
    count, several, process = 4096, 8, jg.RectifiedFlow()
    layout, grid = planning.with_advantage(base), jg.flow_grid(process, config.steps)
    wide = energy_layout(layout)
    rows = jax.random.choice(jax.random.fold_in(key, 2), data.rows, (count,))
    plain = jnp.repeat(data.seen[rows], several, axis=0)
    seen = planning.tell_advantage(plain, 0.0)
    chunks = planning.draw_chunk(
        *(jg.sample_keys(jax.random.fold_in(key, 3), len(seen)),),
        *(planning.flow_policy(policy), jg.euler(), grid, layout, seen, HORIZON),
    )
    worth = planning.apply_critic(critic, base, plain, chunks)
    prefer = worth.reshape(count, several) * sharpness
    unit = layout.scale_actions(chunks).reshape(count, several, HORIZON, 1)
    cond = layout.scale(seen).reshape(count, several, -1)
    rows_at_once = BATCH // 4

    def loss(params, key):
        which, noise, at = jax.random.split(key, 3)
        i = jax.random.randint(which, (rows_at_once,), 0, count)
        x0 = unit[i].reshape(-1, HORIZON, 1)
        t = jnp.repeat(jax.random.uniform(at, (rows_at_once,)), several)
        x = diffusion.perturb(process, x0, jax.random.normal(noise, x0.shape), t)
        known = features(cond[i].reshape(len(t), -1), t)
        made = planning.apply_critic(params, wide, known, x).reshape(-1, several)
        target = jax.nn.softmax(prefer[i], axis=1)
        return -jnp.mean(jnp.sum(target * jax.nn.log_softmax(made, axis=1), axis=1))

    begin = planning.init_critic(key, wide, HORIZON)
    return descend(config, loss, begin, jax.random.fold_in(key, 1))


def fly(config: Config, steer: str, delay: int, base, params, keys, setting) -> Any:
    """Share of flights that arrive, with a policy that is steered."""
    grid, layout = (
        jg.flow_grid(jg.RectifiedFlow(), config.steps),
        planning.with_advantage(base),
    )
    policy, critic, noisy = params
    world = slalom.default()
    value = planning.chunk_value(
        lambda seen, chunk: planning.apply_critic(critic, base, seen[:, :-1], chunk),
        layout,
    )
    sampler, options = jg.ddpm() if "noisy" in steer else jg.euler(), {}
    if "energy" in steer:
        lead = lambda x0, ctx: -value(x0, ctx)  # noqa: E731
        options["guidance"] = jg.energy(lead, setting, through="denoised")
    if steer == "contrast":
        wide = energy_layout(layout)

        def energy(x, ctx):
            known = features(ctx.cond, ctx.t)
            return -planning.apply_critic(noisy, wide, known, x)

        options["guidance"] = jg.energy(energy, setting, through="noisy")
    if "best" in steer:
        options |= {"potential": sampling.best_of_n(value), "best": True}
    if steer in ("drawn", "particles"):
        sampler = jg.ddpm()
        options["potential"] = sampling.steering(value, setting)
        options["best"] = steer == "particles"
    if "potential" in options:
        options["particles"] = config.particles
    weights = guidance.chunk_weights(HORIZON, delay, HORIZON - EXECUTE, "zeros")

    def make(keys, seen, held):
        join = {}
        if delay and held is not None:
            join = {"held": held, "weights": weights}
        told = 1.0 if "cfg" in steer else 0.0
        if "cfg" in steer:
            null = planning.tell_advantage(seen, 0.0)
            join |= {"null": null, "null_weight": setting}
        return planning.draw_chunk(
            *(keys, planning.flow_policy(policy), sampler, grid, layout),
            *(planning.tell_advantage(seen, told), HORIZON),
            **join,
            **options,
        )

    def step(state, actions, keys):
        take = jax.vmap(partial(slalom.step, world))
        state, seen, reward, _ = take(state, actions, keys)
        return state, seen, reward

    start = jax.vmap(partial(slalom.reset, world))(jg.rng.fold(keys, 0))
    made = planning.carry_out_chunks(
        *(jg.rng.fold(keys, 1), make, step, *start),
        chunks=slalom.LENGTH // EXECUTE,
        execute=EXECUTE,
        delay=delay,
    )
    return jnp.mean(jnp.sum(made.rewards, axis=1))
