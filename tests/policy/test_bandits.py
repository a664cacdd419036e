"""Linear bandits: the regression, blocks and radius by definition, and a whole run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.policy import (
    dynlin_block,
    dynlin_radius,
    dynlin_step,
    init_dynlin,
    init_ridge,
    update_ridge,
    upper_bounds,
)

pytestmark = pytest.mark.usefixtures("one_program")
GEN = np.random.default_rng(0)
KNOWN = {"horizon": 1000, "size": 3, "noise": 0.1, "action_norm": 1.1, "ridge": 2.0}


def test_recursive_equals_solved():
    actions, rewards = GEN.normal(size=(300, 3)), GEN.normal(size=300)

    @jax.jit
    def learn(actions, rewards):
        def step(state, row):
            return update_ridge(state, *row), None

        return jax.lax.scan(step, init_ridge(3, ridge=2.0), (actions, rewards))[0]

    state = learn(actions.astype(np.float32), rewards.astype(np.float32))
    inverse = np.linalg.inv(2 * np.eye(3) + actions.T @ actions)
    np.testing.assert_allclose(state.weights, inverse @ actions.T @ rewards, atol=1e-5)
    np.testing.assert_allclose(state.inverse, inverse, atol=1e-6)
    want = actions[:5] @ inverse @ actions.T @ rewards
    width = np.sqrt(np.einsum("kd,de,ke->k", actions[:5], inverse, actions[:5]))
    got = upper_bounds(state, actions[:5].astype(np.float32), 3.0)
    np.testing.assert_allclose(got, want + 3 * width, atol=1e-5)
    np.testing.assert_allclose(
        upper_bounds(state, actions[:5].astype(np.float32), 0.0), want, atol=1e-5
    )


def test_blocks_are_whole_at_powers():
    """arXiv 2211.08997, algorithm 1: 1 + floor(log m / log(1 / rho))."""
    got = dynlin_block(np.array([1, 4, 5, 24, 25, 124, 125, 78125]), decay=0.2)
    assert list(got) == [1, 1, 2, 2, 3, 3, 4, 8]
    assert list(dynlin_block(np.array([1, 2, 5, 10, 100]), decay=0.9)) == [
        1, 7, 16, 22, 44,
    ]  # fmt: skip
    assert list(dynlin_block(np.array([1, 2, 100]), decay=0.0)) == [1, 1, 1]


def test_radius():
    """``LinearAgent._beta_t`` of github.com/marcomussi/DLB, written out."""
    t, d, u, lam, rho, omega, theta, b = 50, 3, 1.1, 2.0, 0.2, 0.7, 0.5, 0.4
    c1 = theta + omega * b / (1 - rho)
    c2 = u * omega * (u * b / (1 - rho) + u / (1 - rho))
    spread = 0.01 * (1 + omega**2 / (1 - rho**2))
    volume = d / 2 * np.log(1 + t * u**2 / (d * lam))
    chance = np.sqrt(2 * spread * (np.log(1000) + volume))
    held = c2 / np.sqrt(lam) * np.log(np.e * (t + 1))
    hidden = {"omega_norm": omega, "input_norm": b, "decay": rho, "theta_norm": theta}
    got = dynlin_radius(t, **KNOWN, **hidden)
    assert float(got) == pytest.approx(c1 * np.sqrt(lam) + held + chance, rel=1e-5)
    got = dynlin_radius(t, **KNOWN, **hidden, hold=False)
    assert float(got) == pytest.approx(c1 * np.sqrt(lam) + chance, rel=1e-5)


def test_it_learns_in_the_last_step_of_a_block_alone():
    arms = np.eye(3, dtype=np.float32)
    state, held, learned = init_dynlin(3, 2), [], []
    for _ in range(7):
        before = state
        state = dynlin_step(before, np.float32(1), arms, radius=1.0, decay=0.5)
        held.append(int(before.arm))
        learned.append(not np.array_equal(before.ridge.weights, state.ridge.weights))
    # Blocks of 1, 2, 2, 3: arms change, and rewards count, at their ends.
    assert learned == [True, False, True, False, True, False, False]
    assert (held[1], held[3], held[5]) == (held[2], held[4], held[6])
    assert [int(x) for x in (state.steps, state.block, state.left)] == [7, 4, 1]


def test_without_decay_it_is_linucb_and_finds_the_best_arm():
    arms = np.array([[1, 0], [0, 1], [0.8, 0.8]], np.float32)

    @jax.jit
    def run(key):
        def step(state, key):
            reward = jnp.asarray(arms)[state.arm] @ jnp.array([1, 0.2])
            reward += 0.1 * jax.random.normal(key)
            after = dynlin_step(state, reward, jnp.asarray(arms), radius=1.0, decay=0.0)
            return after, state.arm

        return jax.lax.scan(step, init_dynlin(2, 1), jax.random.split(key, 400))[1]

    played = run(jax.random.key(0))
    assert int(played[0]) == 1
    assert (np.asarray(played[-50:]) == 0).mean() > 0.9


def test_ranges_are_refused():
    with pytest.raises(ValueError, match=r"decay is 1\.0; expected a number in"):
        dynlin_block(1, decay=1.0)
    with pytest.raises(ValueError, match="radius is -1"):
        upper_bounds(init_ridge(2), np.eye(2, dtype=np.float32), -1.0)
    with pytest.raises(ValueError, match=r"action has shape \(3,\); expected \(2,\)"):
        update_ridge(init_ridge(2), np.ones(3), np.float32(0))


def test_arms_and_bounds_that_cannot_be_are_told():
    with pytest.raises(ValueError, match="arm is 1.7; expected an integer"):
        init_dynlin(3, 1.7)
    for wrong in ({"horizon": 0}, {"size": 0}, {"noise": -0.1}, {"omega_norm": -1.0}):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"{name} is {wrong[name]}"):
            dynlin_radius(1, **KNOWN | {"theta_norm": 1.0} | wrong)
