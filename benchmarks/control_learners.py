"""Learners of tables as pure functions, for the benchmarks beside this file.

A learner sees rewards of one's choice and is judged by the table's own; ``jax.vmap``
over rewards, settings and keys makes a whole comparison one compiled call.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance.worlds import tables


def greedy(q):
    """Equal chances for all best actions, ``[S, A]``: no order of actions helps."""
    best = q == jnp.max(q, -1, keepdims=True)
    return best / jnp.sum(best, -1, keepdims=True)


def q_learning(key, table, rewards, first, alpha, epsilon, *, blocks, episodes, steps):
    """Tabular Q-learning; returns of the greedy policy after each block of episodes.

    Actions are epsilon-greedy, ties by chance; values start at ``first``, but 0 where
    the episode has ended.
    """
    ladder = jnp.cumsum(table.transitions, -1)
    actions = rewards.shape[1]

    def move(carry, u):
        q, state, going = carry
        chances = jnp.cumsum(greedy(q[state]))
        best = jnp.sum(u[0] * chances[-1] >= chances)
        action = jnp.where(u[1] < epsilon, (u[2] * actions).astype(best.dtype), best)
        row = ladder[state, action]
        after = jnp.sum(u[3] * row[-1] >= row)
        target = rewards[state, action] + table.gamma * jnp.max(q[after])
        step = jnp.where(going, alpha, 0.0)
        q = q.at[state, action].add(step * (target - q[state, action]))
        return (q, after, going & ~table.terminal[after]), None

    def episode(q, key):
        begin, rest = jax.random.split(key)
        state, _ = tables.reset(table, begin)
        chance = jax.random.uniform(rest, (steps, 4))
        (q, *_), _ = jax.lax.scan(move, (q, state, True), chance)
        return q, None

    def block(q, keys):
        q, _ = jax.lax.scan(episode, q, keys)
        return q, tables.score(table, greedy(q))

    q = jnp.where(table.terminal[:, None], 0.0, first) + jnp.zeros_like(rewards)
    keys = jax.random.split(key, (blocks, episodes))
    _, curve = jax.lax.scan(block, q, keys)
    return curve


class Episodes(NamedTuple):
    """States, actions, next states and whether the episode still goes, ``[E, T]``."""

    state: jax.Array
    action: jax.Array
    after: jax.Array
    going: jax.Array


def play(key, table, policy, *, episodes, steps):
    """Episodes of a policy ``[S, A]``."""
    ladder, chances = jnp.cumsum(table.transitions, -1), jnp.cumsum(policy, -1)

    def one(key):
        begin, rest = jax.random.split(key)
        state, _ = tables.reset(table, begin)

        def move(carry, u):
            state, going = carry
            odds = chances[state]
            action = jnp.sum(u[0] * odds[-1] >= odds)
            row = ladder[state, action]
            after = jnp.sum(u[1] * row[-1] >= row)
            seen = Episodes(state, action, after, going)
            return (after, going & ~table.terminal[after]), seen

        chance = jax.random.uniform(rest, (steps, 2))
        return jax.lax.scan(move, (state, True), chance)[1]

    return jax.vmap(one)(jax.random.split(key, episodes))


def returns(rewards, going, gamma):
    """Discounted returns to come, ``[E, T]``, 0 after the end."""

    def back(total, x):
        total = x + gamma * total
        return total, total

    paid = jnp.where(going, rewards, 0.0)
    return jax.lax.scan(back, jnp.zeros(len(paid)), paid.T, reverse=True)[1].T


def reinforce_step(theta, seen, gain, rate):
    """``theta += rate mean(G (onehot_a - pi))`` over the visits, ``[S, A]``."""
    pi = jax.nn.softmax(theta)
    gain = jnp.where(seen.going, gain, 0.0)
    up = jnp.zeros_like(theta).at[seen.state, seen.action].add(gain)
    total = jnp.zeros_like(theta[:, 0]).at[seen.state].add(gain)
    number = jnp.maximum(jnp.sum(seen.going), 1)
    return theta + rate * (up - total[:, None] * pi) / number


def reinforce(theta, key, table, rewards, rate, *, updates, episodes, steps):
    """``updates`` of REINFORCE on fresh episodes: ``(theta, return)``."""

    def update(theta, key):
        seen = play(key, table, jax.nn.softmax(theta), episodes=episodes, steps=steps)
        paid = rewards[seen.state, seen.action]
        gain = returns(paid, seen.going, table.gamma)
        return reinforce_step(theta, seen, gain, rate), None

    theta, _ = jax.lax.scan(update, theta, jax.random.split(key, updates))
    return theta, tables.score(table, jax.nn.softmax(theta))
