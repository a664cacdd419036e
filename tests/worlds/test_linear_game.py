"""The game's closed forms against iteration, simulation and a search."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.worlds import linear_game as world


@pytest.mark.parametrize("attenuation", [np.inf, 2.0, 1.5])
def test_the_saddle_is_the_fixed_point_of_value_iteration(attenuation):
    value, c = 0.0, 1 - attenuation**-2.0
    for _ in range(200):
        value = 1 + value / (1 + c * value)
    saddle = world.solve(attenuation)
    assert saddle.value == pytest.approx(value, rel=1e-6)
    closed = 1 - saddle.actor + saddle.disturber
    assert closed == pytest.approx(1 / (1 + c * value), rel=1e-6)


@pytest.mark.parametrize(
    ("attenuation", "actor", "gain", "cost"),
    [
        (np.inf, 0.618, 1.902, 1.618),
        (2.0, 0.758, 1.655, 1.673),
        (1.5, 0.932, 1.467, 1.877),
    ],
)
def test_numbers(attenuation, actor, gain, cost):
    """Golden ratio and its like, from the formulas on paper."""
    found = world.solve(attenuation).actor
    got = [found, world.gain(found), world.nominal_cost(found)]
    np.testing.assert_allclose(got, [actor, gain, cost], atol=6e-4)
    assert world.gain(found) < attenuation


def test_gain_is_the_peak_of_the_frequency_response():
    actor = np.array([0.3, 0.618, 1.0, 1.4], np.float32)
    z = np.exp(1j * np.linspace(0, np.pi, 2001))[:, None]
    peak = (np.sqrt(1 + actor**2) / np.abs(z - (1 - actor))).max(0)
    np.testing.assert_allclose(world.gain(actor), peak, rtol=1e-5)
    assert np.isinf(world.gain(np.array([0.0, 2.0, 2.5]))).all()
    assert float(world.gain(1.0)) == pytest.approx(world.LIMIT)


def test_worst_value_equals_the_best_of_all_linear_disturbers():
    """And neither player gains at the saddle."""
    pushes = np.linspace(-1.2, 1.2, 8001)

    def value(actor, push):
        loop = 1 - actor + push
        paid = 1 + actor**2 - 4 * push**2
        return np.where(
            np.abs(loop) < 1, paid / (1 - np.minimum(loop**2, 0.999)), -np.inf
        )

    for actor in (0.618, 0.7583, 1.1):
        best = value(actor, pushes).max()
        got = world.worst_value(np.float32(actor), 2.0)
        np.testing.assert_allclose(got, best, rtol=1e-3)
    actors = np.linspace(0.55, 1.2, 131).astype(np.float32)
    worst = world.worst_value(actors, 2.0)
    saddle = world.solve(2.0)
    assert abs(float(actors[worst.argmin()]) - saddle.actor) < 0.01
    np.testing.assert_allclose(worst.min(), saddle.value, rtol=1e-4)
    assert np.isinf(world.worst_value(np.float32(0.6), 1.5))


def test_steps_sum_to_the_closed_forms():
    game, saddle = world.Game(jnp.float32(10)), world.solve(2.0)

    @jax.jit
    def play(actor, disturber):
        def step(state, key):
            action = jnp.stack([-actor * state, disturber * state])
            state, seen, reward, over = world.step(game, state, action, key)
            return state, (reward - 0 * seen, action[1], over)

        return jax.lax.scan(
            step, jnp.float32(1), jax.random.split(jax.random.key(0), 99)
        )

    _, (reward, _, over) = play(saddle.actor, 0.0)
    np.testing.assert_allclose(
        -reward.sum(), world.nominal_cost(saddle.actor), rtol=1e-5
    )
    _, (reward, push, _) = play(saddle.actor, saddle.disturber)
    np.testing.assert_allclose(jnp.sum(-reward - 4 * push**2), saddle.value, rtol=1e-5)
    assert not over.any()
    pushed = world.step(world.Game(jnp.float32(1)), 0.0, jnp.array([0.0, 5.0]), None)[0]
    assert float(pushed) == 1


@pytest.mark.parametrize("actor", [0.3, 0.7583, 1.0])
def test_a_price_of_control_gives_any_gain(actor):
    """Riccati iteration for ``x^2 + r u^2`` ends at the gain asked for."""
    r, value = world.control_weight(actor), 1.0
    for _ in range(500):
        value = 1 + value - value**2 / (r + value)
    assert value / (r + value) == pytest.approx(actor, rel=1e-6)


def test_ranges_are_refused():
    with pytest.raises(
        ValueError, match="attenuation is 1.4; expected more than sqrt 2"
    ):
        world.solve(1.4)
    with pytest.raises(ValueError, match="actor is 1.2"):
        world.control_weight(1.2)


def test_far_from_the_limit_the_worst_value_is_the_cost_alone():
    actor = np.array([0.3, 0.618, 1.0, 1.4], np.float32)
    want = world.nominal_cost(actor)
    for attenuation in (1e4, np.inf):
        np.testing.assert_allclose(
            world.worst_value(actor, attenuation), want, rtol=1e-5
        )
    with pytest.raises(ValueError, match="action has shape .1,.; expected .2,."):
        world.step(world.Game(jnp.float32(1)), 0.0, jnp.ones(1), jax.random.key(0))
