"""A soft actor-critic as pure functions, for the benchmarks beside this file.

An agent is a tree of arrays, so ``jax.vmap`` over keys and settings makes a comparison
one compiled call. Actions lie in [-1, 1]; critics are an ensemble of which a random two
form the target; the temperature is learned unless a fixed one is given.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxlib_guidance.policy import ensemble_min, sac_target


def init_mlp(key, sizes, last=1.0):
    """Weights of a network with layers of these sizes, the last scaled."""
    keys = jax.random.split(key, len(sizes) - 1)
    scales = [1.0] * (len(keys) - 1) + [last]
    shapes = zip(keys, sizes[:-1], sizes[1:], scales, strict=True)
    return [
        {"w": s * jax.random.normal(k, (n, m)) / n**0.5, "b": jnp.zeros(m)}
        for k, n, m, s in shapes
    ]


def mlp(layers, x):
    """ReLU between layers, none after the last."""
    for layer in layers[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ layers[-1]["w"] + layers[-1]["b"]


class Batch(NamedTuple):
    """Transitions, each with leading ``[N]``; ``weight`` 0 where it does not count."""

    obs: Any
    action: Any
    reward: Any
    after: Any
    terminated: Any
    weight: Any


class Agent(NamedTuple):
    """Networks, their slow copy, and the state of Adam."""

    nets: dict
    slow: Any
    moments: Any


class Settings(NamedTuple):
    """Numbers of a learner; each may be traced, so that a sweep is one program."""

    rate: Any = 1e-3
    gamma: Any = 0.97
    tau: Any = 0.01
    entropy: Any = -1.0
    """Entropy aimed at, per dimension of the action."""
    backup: Any = 1.0
    """1 for entropy in the target, 0 for none."""


def init_agent(key, obs, act, *, width=32, critics=5, log_alpha=-5.0):
    """A fresh agent for observations and actions of these sizes."""
    actor_key, critic_key = jax.random.split(key)
    sizes = (obs + act, width, width, 1)
    critic = jax.vmap(partial(init_mlp, sizes=sizes))(
        jax.random.split(critic_key, critics)
    )
    actor = init_mlp(actor_key, (obs, width, width, 2 * act))
    nets = {
        "actor": actor,
        "critic": critic,
        "log_alpha": jnp.asarray(log_alpha, jnp.float32),
    }
    return Agent(nets, critic, optax.scale_by_adam().init(nets))


def head(actor, obs, net=mlp):
    """Mean and log standard deviation before the squashing."""
    mean, log_std = jnp.split(net(actor, obs), 2, -1)
    return mean, -1.5 + 2.0 * jnp.tanh(log_std)


def draw(actor, obs, key, net=mlp):
    """Actions and their log-probability."""
    mean, log_std = head(actor, obs, net)
    noise = jax.random.normal(key, mean.shape)
    raw = mean + jnp.exp(log_std) * noise
    logp = -0.5 * noise**2 - log_std - 0.5 * jnp.log(2 * jnp.pi)
    squash = 2 * (jnp.log(2.0) - raw - jax.nn.softplus(-2 * raw))
    return jnp.tanh(raw), jnp.sum(logp - squash, -1)


def act(actor, obs, net=mlp):
    """The action without noise."""
    return jnp.tanh(head(actor, obs, net)[0])


def values(critic, obs, action):
    """``[E, N]``."""
    x = jnp.concatenate([obs, action], -1)
    return jax.vmap(lambda c: mlp(c, x)[..., 0])(critic)


def update(agent, batch, key, settings, *, net=mlp, extra=None, take=2):
    """One step of critics, actor and temperature; ``extra`` is a loss of the actor."""
    next_key, actor_key, pick_key = jax.random.split(key, 3)
    size = batch.action.shape[-1]
    alpha = jnp.exp(agent.nets["log_alpha"])
    following, logp = draw(agent.nets["actor"], batch.after, next_key, net)
    target = sac_target(
        batch.reward,
        ensemble_min(values(agent.slow, batch.after, following), pick_key, take=take),
        logp,
        batch.terminated,
        gamma=settings.gamma,
        alpha=settings.backup * alpha,
    )
    count = jnp.maximum(jnp.sum(batch.weight), 1)

    def loss(nets):
        error = jnp.square(values(nets["critic"], batch.obs, batch.action) - target)
        critic = jnp.sum(jnp.sum(error, 0) * batch.weight) / count
        action, logp = draw(nets["actor"], batch.obs, actor_key, net)
        q = jnp.mean(
            values(jax.lax.stop_gradient(nets["critic"]), batch.obs, action), 0
        )
        actor = jnp.mean(jax.lax.stop_gradient(alpha) * logp - q)
        wanted = settings.entropy * size + jax.lax.stop_gradient(logp)
        heat = -nets["log_alpha"] * jnp.mean(wanted)
        if extra is not None:
            actor = actor + extra(nets["actor"])
        return critic + actor + heat

    step, moments = optax.scale_by_adam().update(
        jax.grad(loss)(agent.nets), agent.moments
    )
    nets = jax.tree.map(lambda p, s: p - settings.rate * s, agent.nets, step)
    slow = optax.incremental_update(nets["critic"], agent.slow, settings.tau)
    return Agent(nets, slow, moments)


def imitate(agent, batch, settings, *, net=mlp):
    """One step of the actor towards the actions of a batch, by squared error."""

    def loss(actor):
        error = jnp.sum(jnp.square(act(actor, batch.obs, net) - batch.action), -1)
        return jnp.sum(error * batch.weight) / jnp.maximum(jnp.sum(batch.weight), 1)

    grads = jax.tree.map(jnp.zeros_like, agent.nets)
    grads["actor"] = jax.grad(loss)(agent.nets["actor"])
    step, moments = optax.scale_by_adam().update(grads, agent.moments)
    nets = jax.tree.map(lambda p, s: p - settings.rate * s, agent.nets, step)
    return Agent(nets, agent.slow, moments)


class Replay(NamedTuple):
    """A ring of transitions and how many were written."""

    data: Batch
    written: jax.Array


def init_replay(size, obs, act):
    """An empty ring."""
    zeros = jnp.zeros(size)
    rows = Batch(
        jnp.zeros((size, obs)), jnp.zeros((size, act)), zeros, jnp.zeros((size, obs)),
        zeros, zeros,
    )  # fmt: skip
    return Replay(rows, jnp.zeros((), jnp.int32))


def add(replay, batch):
    """Writes a batch over the oldest rows."""
    size, count = len(replay.data.reward), len(batch.reward)
    at = (replay.written + jnp.arange(count)) % size
    data = jax.tree.map(lambda old, new: old.at[at].set(new), replay.data, batch)
    return Replay(data, replay.written + count)


def sample(replay, key, count):
    """Rows drawn with replacement."""
    filled = jnp.minimum(replay.written, len(replay.data.reward))
    at = (jax.random.uniform(key, (count,)) * filled).astype(jnp.int32)
    at = jnp.clip(at, 0, jnp.maximum(filled - 1, 0))
    return jax.tree.map(lambda x: x[at], replay.data)


def rollout(policy, reset, step, key, length):
    """An episode of ``policy(obs, state, key) -> action``: rows ``[T]`` and states.

    ``weight`` is 0 after the end. The states are those that the actions led to.
    """
    begin, run = jax.random.split(key)
    state, obs = reset(begin)

    def move(carry, key):
        state, obs, going = carry
        act_key, step_key = jax.random.split(key)
        action = policy(obs, state, act_key)
        state, after, reward, over = step(state, action, step_key)
        row = Batch(obs, action, reward, after, over * 1.0, going * 1.0)
        return (state, after, going & ~over), (row, state)

    start = state, obs, jnp.bool_(True)
    return jax.lax.scan(move, start, jax.random.split(run, length))[1]


def flat(tree):
    """Episodes ``[E, T, ...]`` as one row of transitions."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)
