"""Designed rewards on random tables, and derivatives with closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.policy import (
    align_reward,
    count_bonus,
    explicable_step,
    implicit_hypergradient,
    informativeness,
    self_design_step,
)
from jaxlib_guidance.worlds import grids, tables

GEN = np.random.default_rng(0)
pytestmark = pytest.mark.usefixtures("one_program")


def test_advantages_are_the_most_informative_reward():
    """R + gamma P V* - V* tells right from wrong at once: informativeness 0."""
    p, r = GEN.dirichlet(np.ones(6), size=(6, 3)), GEN.normal(size=(6, 3))
    q = np.zeros((6, 3))
    for _ in range(2000):
        q = r + 0.95 * p @ q.max(1)
    v, policy = q.max(1), q.argmax(1)
    gap = v - np.sort(q, 1)[:, -2]
    designed = r + 0.95 * p @ v - v[:, None]
    got = informativeness(designed, p, policy, gap, gamma=0.95)
    np.testing.assert_allclose(got, 0, atol=1e-5)
    # The task's own reward tells it later; concave in between; a loop agrees.
    own = informativeness(r, p, policy, gap, gamma=0.95)
    half = informativeness((r + designed) / 2, p, policy, gap, gamma=0.95)
    assert float(own) < float(half) < 0
    assert float(half) >= float(own) / 2 - 1e-6
    total = []
    for horizon in (2, 5, 9, 17, 33):
        q = np.zeros((6, 3))
        for _ in range(horizon):
            q = r + 0.95 * p @ q[np.arange(6), policy]
        for s in range(6):
            lead = q[s, policy[s]] - np.delete(q[s], policy[s])
            total.append(max(0, (gap[s] - lead).max()))
    np.testing.assert_allclose(own, -np.mean(total), rtol=1e-4)


def test_self_design():
    """ExploRS, NeurIPS 2022: ``.5 * 1.7 (onehot - pi)``; ``1 / sqrt(1 + N)``."""
    pi = np.array([0.2, 0.5, 0.3])
    got = self_design_step(np.zeros((4, 3)), 2, 1, pi, 1.7, rate=1.0)
    np.testing.assert_allclose(got[2], [-0.17, 0.425, -0.255], rtol=1e-5)
    assert not np.any(np.delete(got, 2, 0))
    np.testing.assert_allclose(count_bonus(np.array([0, 3, 99])), [1, 0.5, 0.1])


def test_explicable_step():
    pi, a = np.array([0.2, 0.5, 0.3]), np.array([0.0, -1.0, -2.0])
    got = explicable_step(np.zeros((4, 3)), 1, pi, a, 0.7, rate=1.0)

    def objective(r):
        return 0.7 * jnp.sum(pi * (a - pi @ a) * (r - jnp.sum(pi * r)))

    np.testing.assert_allclose(got[1], jax.grad(objective)(np.zeros(3)), atol=1e-6)
    # The best action gains; a teacher indifferent between actions moves nothing.
    assert int(np.argmax(got[1])) == 0
    still = explicable_step(np.zeros((4, 3)), 1, pi, 0 * a, rate=1.0)
    np.testing.assert_array_equal(still, 0)


def test_hypergradient():
    """The implicit function theorem: theta* = phi / 1.5, and a 2 x 2 Hessian."""
    got = implicit_hypergradient(
        np.ones(1), lambda t, p: p - t, np.ones(1), np.ones(1), damping=0.5, terms=200
    )
    np.testing.assert_allclose(got, 2 / 3, rtol=1e-5)
    h = np.array([[2.0, 0.3], [0.3, 1.0]], np.float32)
    g = np.array([1.0, -2.0], np.float32)

    def update(t, p):
        return {"x": p["y"] - jnp.asarray(h) @ t["x"]}

    for terms, error in ((5, 0.7), (20, 1e-2), (100, 1e-5)):
        got = implicit_hypergradient(
            {"x": g}, update, {"x": g}, {"y": g}, step=0.3, terms=terms
        )
        off = np.abs(got["y"] - np.linalg.solve(h, g)).max()
        assert off < error
        # What is left of Neumann's series: so many terms, and not one more or less.
        rest = np.linalg.matrix_power(np.eye(2) - 0.3 * h, terms)
        left = np.abs(rest @ np.linalg.solve(h, g)).max()
        np.testing.assert_allclose(off, left, rtol=1e-2, atol=1e-6)


def trust(aux, lam=0.05):
    """``(J, update)`` of a softmax policy in a chain: ``R = phi_0 R_p + phi_1 aux``."""
    table = grids.chain(4, start=1)
    own = table.rewards

    def score(theta, rewards):
        return tables.score(table, jax.nn.softmax(theta), rewards)

    def update(theta, phi):
        rewards = phi[0] * own + phi[1] * aux
        return jax.grad(score)(theta, rewards) - lam * theta

    return lambda theta: score(theta, own), update


def test_hypergradient_equals_finite_differences_of_the_trained_policy():
    """Through softmax policies of a chain, which are trained again for each phi."""
    objective, update = trust(np.array([[0.3, 0]] * 2 + [[0, 0.1]] * 2 + [[0, 0]]))

    @jax.jit
    def trained(phi):
        move = lambda _, t: t + 2.0 * update(t, phi)  # noqa: E731
        return jax.lax.fori_loop(0, 400, move, jnp.zeros((5, 2)))

    phi = np.array([2.0, 0.5], np.float32)
    theta = trained(phi)
    got = jax.jit(
        lambda t, p: implicit_hypergradient(
            jax.grad(objective)(t), update, t, p, step=2.0, terms=300
        )
    )(theta, phi)
    eps = np.float32(0.01)
    value = jax.jit(lambda phi: objective(trained(phi)))
    for i, unit in enumerate(np.eye(2, dtype=np.float32)):
        want = (value(phi + eps * unit) - value(phi - eps * unit)) / (2 * eps)
        np.testing.assert_allclose(got[i], want, rtol=2e-2)


def test_alignment_trusts_what_helps_and_turns_what_harms():
    """The weight's sign is right in both cases, its norm kept; returns rise."""
    progress = np.array([[-0.1, 0.1]] * 4 + [[0, 0]])
    weights = []

    @jax.jit
    def run(aux):
        objective, update = trust(aux)
        phi = jnp.ones(2) / np.sqrt(2)
        return align_reward(
            objective,
            update,
            jnp.zeros((5, 2)),
            phi,
            outer_steps=15,
            inner_steps=100,
            inner_rate=2.0,
            terms=100,
        )

    for aux in (progress, -progress):
        found = run(jnp.asarray(aux, jnp.float32))
        np.testing.assert_allclose(np.linalg.norm(found.phi), 1, rtol=1e-5)
        assert found.objectives[-1] > found.objectives[0] + 1e-3
        weights.append(float(found.phi[1]))
    assert weights[0] > 0.1
    assert weights[1] < -0.1


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: informativeness(
                np.ones((2, 3)), np.ones((2, 3, 3)), np.ones(2), np.ones(2), gamma=0.9
            ),
            "transitions has shape",
        ),
        (
            lambda: self_design_step(np.ones((2, 3)), 0, 0, np.ones(2), 1.0),
            "policy has shape",
        ),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_halves_and_whole_numbers_are_promoted():
    def run(phi):
        return align_reward(
            lambda theta: -jnp.sum((theta - 1) ** 2),
            lambda theta, phi: phi - theta,
            jnp.zeros(2, phi.dtype),
            phi,
            outer_steps=1,
            inner_steps=2,
            inner_rate=0.5,
            terms=2,
        )

    want = run(jnp.array([1.0, 2.0]))
    for kind in (jnp.bfloat16, int):
        got = run(jnp.array([1, 2], kind))
        np.testing.assert_array_equal(got.phi, want.phi)
