"""Carrying and errands: the guide takes the fewest steps, and no shortcut pays."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.worlds import carry, errand

KEYS = jax.random.split(jax.random.key(0), 64)


@pytest.mark.parametrize("world", [carry, errand])
def test_the_guide_takes_the_fewest_steps(world):
    made = world.default()

    @jax.jit
    @jax.vmap
    def walk(key):
        state, seen = world.reset(made, key)
        fewest = world.solve(made, state)

        def move(carried, _):
            state, total = carried
            state, _, reward, _ = world.step(made, state, world.guide(made, state), key)
            return (state, total + reward), total

        _, before = jax.lax.scan(move, (state, jnp.zeros(())), None, length=60)
        return seen, fewest, jnp.sum((before == 0).astype(jnp.float32))

    seen, fewest, steps = (np.asarray(x) for x in walk(KEYS))
    assert np.isfinite(seen).all()
    extra = steps - fewest
    assert extra.min() >= 0
    assert extra.max() <= 1
    assert extra.mean() < 0.5


def test_a_thing_moves_only_while_it_is_held():
    made = carry.default()
    far = carry.State(jnp.array([0.9, 0.1]), jnp.array([0.3, 0.3]), jnp.zeros(()))
    after, _, reward, over = carry.step(made, far, jnp.array([-1.0, 0, 1]), None)
    np.testing.assert_allclose(after.thing, far.thing)
    assert after.held == 0
    near = far._replace(hand=jnp.array([0.3, 0.25]))
    after, *_ = carry.step(made, near, jnp.array([1.0, 0.0, 1.0]), None)
    np.testing.assert_allclose(after.thing, [0.38, 0.3], rtol=1e-6)
    assert after.held == 1
    opened, *_ = carry.step(made, after, jnp.array([1.0, 0.0, -1.0]), None)
    np.testing.assert_allclose(opened.thing, after.thing)
    # At the goal it counts once it is let go.
    there = carry.State(made.goal, made.goal, jnp.ones(()))
    for grip, want in ((1.0, 0), (-1.0, 1)):
        _, _, reward, over = carry.step(made, there, jnp.array([0.0, 0, grip]), None)
        assert (int(reward), int(over)) == (want, want)
    assert float(carry.solve(made, there)) == 1


def test_b_pays_after_a_alone():
    made = errand.default()
    at_b = errand.State(made.second, jnp.zeros(()))
    rest = partial(errand.step, made, action=jnp.zeros(2), key=None)
    assert float(rest(at_b)[2]) == 0
    assert float(rest(at_b._replace(touched=jnp.ones(())))[2]) == 1
    after, seen, reward, over = rest(errand.State(made.first, jnp.zeros(())))
    assert float(after.touched) == 1
    np.testing.assert_allclose(seen, [*(2 * made.first - 1), 1])
    assert not reward
    assert not over


def test_pictures_and_shapes():
    made = carry.default()
    state, _ = carry.reset(made, KEYS[0])
    there = state._replace(hand=jnp.array([0.1, 0.9]), thing=jnp.array([0.9, 0.1]))
    picture = np.asarray(carry.render(made, there, size=40))
    np.testing.assert_allclose(picture[4, 4], [0.2, 0.3, 0.9])
    np.testing.assert_allclose(picture[36, 36], [0.9, 0.3, 0.2])
    made = errand.default()
    for touched, color in ((0.0, [0.95, 0.6, 0.1]), (1.0, [0.7, 0.7, 0.7])):
        state = errand.State(jnp.array([0.5, 0.9]), jnp.float32(touched))
        picture = np.asarray(errand.render(made, state, size=40))
        np.testing.assert_allclose(picture[20, 4], color)
    with pytest.raises(ValueError, match="action has shape .2,.; expected .3,."):
        carry.step(carry.default(), there, jnp.zeros(2), None)
    with pytest.raises(ValueError, match="action has shape .3,.; expected .2,."):
        errand.step(made, state, jnp.zeros(3), None)
