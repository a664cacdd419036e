"""The slalom: flights in closed form, what is touched, and who arrives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.worlds import slalom as world

KEY, CALM = jax.random.key(0), world.World(0.0)
CENTRES = jnp.array([0.1, -0.2, 0.0, 0.2], jnp.float32)


def at(y=0.0, velocity=0.0, steps=0):
    values = jnp.float32(y), jnp.float32(velocity), jnp.int32(steps)
    return world.State(*values, CENTRES, jnp.array(True))


def test_a_constant_push_is_a_geometric_series():
    state, keep = at(0.1, 0.02), world.DRAG
    for n in range(1, 6):
        state, seen, reward, over = world.step(CALM, state, jnp.array([0.5]), KEY)
        fast = keep**n * 0.02 + 0.5 * world.PUSH * (1 - keep**n) / (1 - keep)
        way = sum(
            keep**k * 0.02 + 0.5 * world.PUSH * (1 - keep**k) / (1 - keep)
            for k in range(1, n + 1)
        )
        np.testing.assert_allclose(state.velocity, fast, atol=1e-6)
        np.testing.assert_allclose(state.y, 0.1 + way, atol=1e-6)
        left = (world.SPACING - n) / world.SPACING
        want = 0.1 + way, 10 * fast, left, 0 - way, -0.3 - way
        np.testing.assert_allclose(seen, want, atol=1e-5)
        assert (float(reward), bool(over)) == (0, False)


@pytest.mark.parametrize(
    ("y", "steps", "whole"),
    [
        (0.1, world.SPACING - 1, False),
        (0.1 + world.HALF - 0.01, world.SPACING - 1, False),
        (0.1 + world.HALF + 0.01, world.SPACING - 1, True),
        (0.1 - world.HALF - 0.01, world.SPACING - 1, True),
        (0.1, world.SPACING - 2, True),
        (0.1, world.SPACING, True),
        (-0.2, 2 * world.SPACING - 1, False),
        (world.EDGE + 0.01, 3, False),
        (np.nan, 3, False),
        (-world.EDGE - 0.01, 3, False),
        (0.9, world.LENGTH - 1, True),
        (0.2, world.LENGTH - 1, False),
    ],
)
def test_what_is_touched(y, steps, whole):
    state, _, reward, over = world.step(CALM, at(y, 0, steps), jnp.zeros(1), KEY)
    assert bool(state.whole) == whole
    last = steps == world.LENGTH - 1
    assert bool(over) == (last or not whole)
    assert float(reward) == float(last and whole)
    # Nothing mends it.
    again, _, reward, over = world.step(CALM, state, jnp.zeros(1), KEY)
    assert not (again.whole and not whole)
    assert float(reward) == 0


def test_both_sides_are_as_good_and_their_mean_is_the_pillar():
    up, down = (world.expert(CALM, at(0.1), side) for side in (1.0, -1.0))
    np.testing.assert_allclose(up + down, 0, atol=1e-6)

    def flight(policy, key):
        state, _ = world.reset(world.default(), key)

        def step(state, key):
            action = policy(state, key)
            state, _, reward, _ = world.step(world.default(), state, action, key)
            return state, reward

        keys = jax.random.split(key, world.LENGTH)
        return jax.lax.scan(step, state, keys)[1].sum()

    keys = jax.random.split(KEY, 100)

    def arrive(policy):
        return float(jax.vmap(lambda key: flight(policy, key))(keys).mean())

    assert arrive(lambda state, key: world.expert(CALM, state, 1.0)) > 0.98
    assert arrive(lambda state, key: world.expert(CALM, state, -1.0)) > 0.98
    assert arrive(lambda state, key: world.expert(CALM, state, 0.0)) == 0
    push = lambda state, key: jax.random.uniform(key, (1,), minval=-1.0)  # noqa: E731
    assert arrive(push) < 0.2


def test_a_frame_shows_pillars_and_glider():
    frame = np.asarray(world.render(CALM, at(0.55, 0, world.LENGTH // 2), size=60))
    assert frame.shape == (60, 60, 3)
    blue = np.argwhere(np.abs(frame - [0.2, 0.3, 0.9]).max(-1) < 1e-3)
    np.testing.assert_allclose(blue.mean(0) / 60, [0.25, 0.5], atol=0.02)
    dark = np.abs(frame - 0.2).max(-1) < 1e-3
    last = np.argwhere(dark[:, 54:]).mean(0)[0] / 60
    np.testing.assert_allclose(last, 0.5 - 0.5 * 0.2 / world.EDGE, atol=0.02)
    out = world.render(CALM, at()._replace(whole=jnp.array(False)), size=60)
    assert (jnp.abs(out - jnp.array([0.8, 0.2, 0.16])).max(-1) < 1e-3).any()


def test_mistakes():
    with pytest.raises(ValueError, match="gust is -1"):
        world.reset(world.World(-1.0), KEY)
    with pytest.raises(ValueError, match=r"action has shape .2,.; expected .1,."):
        world.step(CALM, at(), jnp.zeros(2), KEY)
