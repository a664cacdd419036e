"""The world's optimum against long plays, and its numbers from the authors' code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.worlds import dynamical_bandit as world


def test_the_released_system():
    """github.com/marcomussi/DLB: Markov parameter and best action of its config."""
    solution = world.solve(world.released())
    np.testing.assert_allclose(solution.weights, [0.5625, 0.5, 1 / 9], rtol=1e-6)
    system = world.released()
    np.testing.assert_allclose(system.arms[solution.best], [1, 0.5, 0])
    np.testing.assert_allclose(system.arms.sum(1), 1.5)
    # The best arm at once is another one.
    assert int(jnp.argmax(system.arms @ system.theta)) != int(solution.best)


@pytest.mark.parametrize("make", [world.released, world.delayed])
def test_an_arm_held_pays_its_steady_value(make):
    system = make(0.0)
    states, _ = world.reset(system, jax.random.key(0))

    @jax.jit
    def hold(action):
        def step(state, key):
            state, _, reward, over = world.step(system, state, action, key)
            return state, (reward, over)

        return jax.lax.scan(step, states, jax.random.split(jax.random.key(0), 200))[1]

    reward, over = jax.vmap(hold)(jnp.arange(len(system.arms)))
    np.testing.assert_allclose(reward[:, -1], world.solve(system).values, atol=1e-5)
    np.testing.assert_allclose(reward[:, 0], system.arms @ system.theta, atol=1e-6)
    assert not over.any()


def test_delay_decides():
    system = world.delayed()
    np.testing.assert_allclose(world.solve(system).values, [1, 0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(system.arms @ system.theta, [0, 0.6, 0.3])


def test_noise_has_its_size_and_mean():
    system = world.released(0.1)
    state = jnp.array([0.5, 0.0, 0.2])
    keys = jax.random.split(jax.random.key(1), 4000)
    step = jax.vmap(lambda key: world.step(system, state, jnp.int32(1), key))
    after, _, reward, _ = jax.jit(step)(keys)
    np.testing.assert_allclose(
        reward.mean(), world.expected_reward(system, state, 1), atol=0.01
    )
    np.testing.assert_allclose(reward.std(), 0.1 * 3**0.5, rtol=0.05)
    np.testing.assert_allclose(
        after.mean(0), world.advance(system, state, 1), atol=0.006
    )
    np.testing.assert_allclose(after.std(0), 0.1, rtol=0.05)


def test_shapes_are_refused():
    with pytest.raises(ValueError, match=r"omega has shape \(2,\); expected \(3,\)"):
        world.solve(world.released()._replace(omega=jnp.zeros(2)))
