"""PPO with a critic for each reward, as pure functions for the benchmarks beside it.

Episodes are cut at their length and never end before; all begin anew at each update. An
agent is a tree of arrays, so ``jax.vmap`` over keys and settings is one compiled call.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from control_continuous import init_mlp

from jaxlib_guidance.policy import gae, ppo_clip


def mlp(layers, x):
    """Tanh between layers, none after the last."""
    for layer in layers[:-1]:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return x @ layers[-1]["w"] + layers[-1]["b"]


class Agent(NamedTuple):
    """Networks of an actor and its critics, and the state of Adam."""

    nets: dict
    moments: Any


class Settings(NamedTuple):
    """Numbers of a learner; each may be traced."""

    rate: Any = 1e-3
    gamma: Any = 0.97
    lam: Any = 0.95


class Steps(NamedTuple):
    """What was seen and done, ``[N, T, ...]``; ``after`` is seen next."""

    obs: Any
    action: Any
    logp: Any
    after: Any


def init_agent(key, obs, act, *, critics=1, width=32, std=0.6):
    """A fresh agent for observations and actions of these sizes."""
    actor_key, critic_key = jax.random.split(key)
    make = partial(init_mlp, sizes=(obs, width, width, 1))
    nets = {
        "actor": init_mlp(actor_key, (obs, width, width, act), last=0.1),
        "log_std": jnp.full(act, jnp.log(std)),
        "critics": jax.vmap(make)(jax.random.split(critic_key, critics)),
    }
    return Agent(nets, optax.scale_by_adam().init(nets))


def log_density(nets, obs, action):
    """Of actions, which a world cuts to its range, ``[...]``."""
    off = (action - mlp(nets["actor"], obs)) / jnp.exp(nets["log_std"])
    return jnp.sum(-0.5 * off**2 - nets["log_std"] - 0.919, -1)


def draw(nets, obs, key):
    """An action with noise, ``[A]``."""
    mean = mlp(nets["actor"], obs)
    return mean + jnp.exp(nets["log_std"]) * jax.random.normal(key, mean.shape)


def values(nets, obs):
    """What each critic says, ``[C, ...]``."""
    return jax.vmap(lambda critic: mlp(critic, obs)[..., 0])(nets["critics"])


def estimate(nets, steps, rewards, settings):
    """Advantages and targets of each critic from its own reward, ``[C, N, T]``."""
    now, after = values(nets, steps.obs), values(nets, steps.after)
    cut = jnp.arange(now.shape[-1]) == now.shape[-1] - 1
    one = partial(
        gae,
        terminated=jnp.zeros_like(cut),
        truncated=cut,
        gamma=settings.gamma,
        lam=settings.lam,
    )
    return jax.vmap(jax.vmap(one))(rewards, now, after)


def update(agent, steps, advantages, targets, key, settings, *, epochs=3, batches=4):
    """Epochs of the clipped objective: advantages ``[N, T]``, targets ``[C, N, T]``."""
    flat = lambda x: x.reshape(-1, *x.shape[2:])  # noqa: E731
    rows = jax.tree.map(flat, (steps, advantages, jnp.moveaxis(targets, 0, -1)))
    count = len(rows[1])

    def loss(nets, batch):
        steps, advantage, target = batch
        logp = log_density(nets, steps.obs, steps.action)
        actor = jnp.mean(ppo_clip(logp, steps.logp, advantage))
        wrong = values(nets, steps.obs).T - target
        return actor + jnp.mean(jnp.sum(wrong**2, -1))

    def step(agent, at):
        grads = jax.grad(loss)(agent.nets, jax.tree.map(lambda x: x[at], rows))
        change, moments = optax.scale_by_adam().update(grads, agent.moments)
        nets = jax.tree.map(lambda p, s: p - settings.rate * s, agent.nets, change)
        nets["log_std"] = jnp.clip(nets["log_std"], -3.0, 0.0)
        return Agent(nets, moments), None

    orders = jax.vmap(lambda k: jax.random.permutation(k, count))(
        jax.random.split(key, epochs)
    )
    return jax.lax.scan(step, agent, orders.reshape(epochs * batches, -1))[0]
