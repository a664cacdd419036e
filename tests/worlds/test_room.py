"""Rays against marching, and a pilot with true depth that hits nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.worlds import room as world

ROOM = world.make(jax.random.key(0))


def march(position, angle, step=1e-3):
    """Depth by small steps, in numpy."""
    way = np.array([np.cos(angle), np.sin(angle)])
    at = position + np.arange(0, 8, step)[:, None] * way
    apart = np.linalg.norm(at[:, None] - np.asarray(ROOM.pillars), axis=-1)
    inside = (apart < float(ROOM.radius)).any(1)
    return step * (inside | ((at < 0) | (at > world.SIDE)).any(1)).argmax()


def test_rays_end_where_marching_ends():
    gen = np.random.default_rng(0)
    places, angles = gen.uniform(0.1, 4.9, (60, 2)), gen.uniform(0, 2 * np.pi, 60)
    free = np.linalg.norm(places[:, None] - np.asarray(ROOM.pillars), axis=-1).min(1)
    places, angles = places[free > 0.31], angles[free > 0.31]
    one = lambda p, a: world.cast(ROOM, world.State(p, a), jnp.float32(0))  # noqa: E731
    depth, patch, facing = jax.jit(jax.vmap(one))(
        jnp.float32(places), jnp.float32(angles)
    )
    want = [march(p, a) for p, a in zip(places, angles, strict=True)]
    np.testing.assert_allclose(depth, want, atol=3e-3)
    assert len(places) > 40
    pillars = np.asarray(patch) >= 4 * world.PATCHES
    assert 0.05 < pillars.mean() < 0.6
    hit = places + np.asarray(depth)[:, None] * np.stack(
        [np.cos(angles), np.sin(angles)], -1
    )
    apart = np.linalg.norm(hit[:, None] - np.asarray(ROOM.pillars), axis=-1).min(1)
    np.testing.assert_array_equal(pillars, np.abs(apart - 0.3) < 1e-3)
    assert (np.asarray(facing) >= 0).all()
    assert (np.asarray(facing) <= 1 + 1e-5).all()
    # The right wall's patches are numbered from below.
    right = ~pillars & (hit[:, 0] > world.SIDE - 1e-3)
    assert right.any()
    np.testing.assert_array_equal(
        np.asarray(patch)[right], 5 + hit[right, 1].astype(int)
    )


@pytest.mark.slow
def test_a_pilot_that_sees_the_truth_hits_nothing():
    def fly(key, near):
        state, _ = world.reset(ROOM, key)

        def move(carry, key):
            state, turning = carry
            turning = world.depth(ROOM, state) < jnp.where(turning, near + 0.3, near)
            action = jnp.where(turning, jnp.array([0.35, 0.0]), jnp.array([0.0, 1.0]))
            state, seen, reward, _ = world.step(ROOM, state, action, key)
            return (state, turning), (reward, seen[0] - world.depth(ROOM, state))

        _, out = jax.lax.scan(
            move, (state, jnp.bool_(False)), jax.random.split(key, 300)
        )
        return out

    keys = jax.random.split(jax.random.key(1), 8)
    reward, noise = jax.jit(jax.vmap(fly, (0, None)))(keys, 0.7)
    assert not reward.any()
    np.testing.assert_allclose(noise.std(), 0.1, rtol=0.1)
    reward, _ = jax.jit(jax.vmap(fly, (0, None)))(keys, -1.0)
    assert (reward.sum(1) < 0).all()  # And one that never turns, something.


def test_a_collision_leaves_it_where_it_was():
    wall = world.State(jnp.array([4.8, 0.5]), jnp.float32(0.0))
    after, _, reward, over = world.step(
        ROOM, wall, jnp.array([0.0, 1.0]), jax.random.key(0)
    )
    np.testing.assert_allclose(after.position, wall.position)
    assert (float(reward), bool(over)) == (-1, False)
    turned = jnp.array([jnp.pi, 0.5])
    after, _, reward, _ = world.step(ROOM, wall, turned, jax.random.key(0))
    np.testing.assert_allclose(after.position, [4.75, 0.5], atol=1e-5)
    assert reward == 0


def test_a_picture_and_errors():
    state = world.State(jnp.array([0.5, 0.5]), jnp.float32(0.0))
    picture = np.asarray(world.render(ROOM, state, size=50))
    np.testing.assert_allclose(picture[44, 5], [0.2, 0.3, 0.9])
    x, y = (np.asarray(ROOM.pillars[0]) * 10).astype(int)
    np.testing.assert_allclose(picture[49 - y, x], [0.5, 0.4, 0.3])
    with pytest.raises(ValueError, match="noise is -1"):
        world.make(jax.random.key(0), noise=-1)
    with pytest.raises(ValueError, match="action has shape"):
        world.step(ROOM, state, jnp.zeros(3), jax.random.key(0))
