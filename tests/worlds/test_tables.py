"""Tables against numpy: value iteration, enumeration of policies, simulated moves."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.policy import sensitivity_bound, total_variation
from jaxlib_guidance.worlds import grids, tables

GEN = np.random.default_rng(0)
SOLVE = jax.jit(tables.solve)


def random_table(states=4, actions=2, gamma=0.9):
    p = GEN.dirichlet(np.ones(states), size=(states, actions))
    r = GEN.normal(size=(states, actions))
    # The last state ends it.
    p[-1], r[-1] = np.eye(states)[-1], 0
    return tables.Table(
        transitions=p.astype(np.float32),
        rewards=r.astype(np.float32),
        start=np.full(states, 1 / states, np.float32),
        terminal=np.arange(states) == states - 1,
        gamma=np.float32(gamma),
    )


def value_iteration(table, rewards=None):
    """In float64, to the end."""
    r = np.asarray(table.rewards if rewards is None else rewards, float)
    p, gamma, v = np.asarray(table.transitions, float), float(table.gamma), 0
    for _ in range(3000):
        q = r + gamma * p @ (np.zeros(len(r)) + v)
        v = q.max(1)
    return q


def test_the_optimum():
    """It is the best of all policies; values equal value iteration in float64."""
    table = random_table()
    found = SOLVE(table)
    q = value_iteration(table)
    np.testing.assert_allclose(found.q, q, atol=1e-5)
    np.testing.assert_allclose(found.values, q.max(1), atol=1e-5)
    every = np.array(list(itertools.product((0, 1), repeat=4)))
    scores = jax.vmap(lambda a: tables.score(table, jax.nn.one_hot(a, 2)))(every)
    best = np.mean(np.asarray(found.values))
    np.testing.assert_allclose(np.max(scores), best, rtol=1e-5)
    want = np.abs(q[:3, 0] - q[:3, 1])
    np.testing.assert_allclose(found.gap, [*want, 0], atol=1e-5)
    # The terminal state's actions tie.
    np.testing.assert_array_equal(found.optimal.sum(1), [1, 1, 1, 2])


def test_a_policy_s_values_and_visits():
    """The two sum the rewards alike: ``mu . r = (1 - gamma) start . V``."""
    table = random_table()
    policy = GEN.dirichlet(np.ones(2), size=4).astype(np.float32)
    other = GEN.normal(size=(4, 2)).astype(np.float32)
    mu = tables.visits(table, policy)
    np.testing.assert_allclose(np.sum(mu), 1, rtol=1e-5)
    want = 0.1 * tables.score(table, policy, other)
    np.testing.assert_allclose(mu @ (policy * other).sum(1), want, rtol=1e-4)


@pytest.mark.parametrize("make", [grids.four_rooms, grids.chain])
def test_grids(make):
    table = make()
    p = np.asarray(table.transitions)
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-6)
    np.testing.assert_array_equal(p[-1, :, -1], 1)
    q = value_iteration(table)
    np.testing.assert_allclose(SOLVE(table).q, q, atol=1e-4)


def test_the_rooms_are_mirrored_but_for_the_goal():
    """Up and right change places with x and y; the goal's move alone differs."""
    p = np.asarray(grids.four_rooms(slip=0.0).transitions)
    mirror = np.append(np.arange(49).reshape(7, 7).T.ravel(), 49)
    swap = [3, 2, 1, 0]
    np.testing.assert_array_equal(p[mirror][:, swap][:, :, mirror], p)
    # A wall, a door, both ways out.
    cell = lambda x, y: 7 * y + x  # noqa: E731
    assert p[cell(2, 2), 3, cell(2, 2)] == 1
    assert p[cell(2, 1), 3, cell(3, 1)] == 1
    assert p[cell(3, 0), 1, cell(3, 0)] == 1
    assert p[cell(6, 6), 3, 49] == p[cell(0, 0), 1, 49] == 1
    # As far as the goal is, the values of a world without slips say.
    values = SOLVE(grids.four_rooms(slip=0.0)).values
    np.testing.assert_allclose(values[cell(1, 1)], 10 * 0.95**10, rtol=1e-5)


def test_moves_have_the_table_s_probabilities():
    table = grids.chain(4, start=1, slip=0.4)
    keys = jax.random.split(jax.random.key(0), 2000)
    move = jax.vmap(lambda key: tables.step(table, 3, 1, key))
    after, seen, reward, ended = jax.jit(move)(keys)
    assert abs(float(jnp.mean(after == 4)) - 0.8) < 0.03
    np.testing.assert_array_equal(ended, after == 4)
    np.testing.assert_array_equal(seen, after)
    np.testing.assert_array_equal(reward, 1)
    assert tables.reset(table, keys[0]) == (1, 1)


def test_shaping_by_a_potential_keeps_the_order_of_actions():
    """Ng, Harada and Russell (1999): ``Q' = Q - Phi``, for any potential."""
    table = grids.chain()
    potential = GEN.normal(size=13)
    shaped = tables.potential_rewards(table, potential) + table.rewards
    q = SOLVE(table, shaped).q[:-1]
    want = SOLVE(table, table.rewards).q[:-1] - potential[:-1, None]
    np.testing.assert_allclose(q, want, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: grids.four_rooms(slip=2.0), "slip is 2"),
        (lambda: grids.chain(5, start=5), "start is 5; expected 0 to 4"),
        (lambda: grids.chain(gamma=1.0), "gamma is 1"),
        (lambda: tables.solve(grids.chain(), np.ones(3)), "rewards has shape"),
        (lambda: tables.visits(grids.chain(), np.ones(3)), "policy has shape"),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_tables_of_other_types_are_tables():
    """Whole numbers do not round a designed reward; numpy has no traced index."""
    table = grids.chain(4, start=1)
    whole = dataclasses.replace(table, rewards=table.rewards.astype(int))
    designed = jnp.full((5, 2), 0.7)
    policy = jnp.full((5, 2), 0.5)
    np.testing.assert_allclose(
        tables.evaluate(whole, policy, designed),
        tables.evaluate(table, policy, designed),
    )
    half = dataclasses.replace(table, rewards=table.rewards.astype(jnp.bfloat16))
    solve = jax.jit(lambda each: tables.solve(each).values)
    np.testing.assert_allclose(solve(half), solve(table))
    own = jax.tree.map(np.asarray, table)
    run = jax.jit(lambda state: tables.step(own, state, 1, jax.random.key(0))[1])
    assert run(1) == tables.step(table, 1, 1, jax.random.key(0))[1]
    with pytest.raises(ValueError, match="start is 1.5; expected 0 to 3"):
        grids.chain(4, start=1.5)


def test_the_soft_optimum():
    """Against float64; it is the best trade of return for entropy of all policies."""
    table, alpha = random_table(5, 3), 0.3
    found = jax.jit(tables.solve_soft)(table, alpha)
    r, p = (np.asarray(x, float) for x in (table.rewards, table.transitions))
    v = np.zeros(5)
    for _ in range(500):
        q = r + 0.9 * p @ v
        v = alpha * np.log(np.exp(q / alpha).sum(1))
        v[-1] = 0
    np.testing.assert_allclose(found.q, q, atol=1e-4)
    np.testing.assert_allclose(found.values, v, atol=1e-4)

    @jax.jit
    def worth(policy):
        paid = -alpha * jnp.where(policy > 0, policy * jnp.log(policy), 0).sum(1)
        paid = jnp.where(table.terminal, 0, paid)[:, None] + table.rewards
        return tables.evaluate(table, policy, paid)

    np.testing.assert_allclose(worth(found.policy)[:-1], v[:-1], atol=1e-4)
    others = GEN.dirichlet(np.ones(3), size=(50, 5)).astype(np.float32)
    assert float(jnp.max(jax.vmap(worth)(others) - v)) < 1e-4
    with pytest.raises(ValueError, match="alpha is 0"):
        tables.solve_soft(table, 0)


def test_a_change_of_rewards_moves_the_soft_policy_by_no_more_than_its_bound():
    """At discount 0.9; and in the table of two endless actions by as much, nearly."""
    table, alpha, size = random_table(5, 3), 0.5, 0.01
    off = size * np.sign(GEN.normal(size=(20, 5, 3))).astype(np.float32)
    bound = sensitivity_bound(
        table.rewards, table.rewards + off[0], alpha=alpha, gamma=0.9
    )
    policy = jax.jit(lambda r: tables.solve_soft(table, alpha, r).policy)
    own = policy(table.rewards)
    moved = jax.vmap(lambda r: total_variation(policy(r), own))(table.rewards + off)
    assert 0 < float(moved.max()) < float(bound)
    np.testing.assert_allclose(bound, 0.1, rtol=1e-5)
    # State 0 chooses once between two states that are never left.
    p = np.zeros((3, 2, 3), np.float32)
    p[0, [0, 1], [1, 2]] = p[1, :, 1] = p[2, :, 2] = 1
    fork = tables.Table(
        p, np.zeros((3, 2), np.float32), np.eye(3)[0], np.zeros(3, bool), 0.9
    )
    sign = np.array([[1, -1], [1, 1], [-1, -1]], np.float32) * size
    one, two = (tables.solve_soft(fork, alpha, s * sign / 2).policy[0] for s in (-1, 1))
    want = np.tanh(
        float(sensitivity_bound(-sign / 2, sign / 2, alpha=alpha, gamma=0.9))
    )
    np.testing.assert_allclose(total_variation(one, two), want, rtol=1e-3)
