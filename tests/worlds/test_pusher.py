"""A pushed puck: a plain reference, where it rests, and the best eight places."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.worlds import pusher as world

PLACE = world.default()


def plain(state, action):
    """The same step in numpy, by the world's description."""
    reach, time, force, drag, keep, _ = (float(x) for x in PLACE)
    hand, speed, puck, glide = (np.array(x, np.float64) for x in state)
    speed = (1 - drag) * speed + force * np.clip(action, -1, 1)
    hand = hand + time * speed
    for i in range(2):
        if not -world.BEYOND <= hand[i] <= 1 + world.BEYOND:
            hand[i], speed[i] = np.clip(hand[i], -world.BEYOND, 1 + world.BEYOND), 0

    def touch():
        apart = puck - hand
        return np.linalg.norm(apart) < reach, apart / np.linalg.norm(apart)

    touched, way = touch()
    if touched and speed @ way > glide @ way:
        glide = glide + ((speed - glide) @ way) * way
    glide = keep * glide
    puck = puck + time * glide
    touched, way = touch()
    if touched:
        puck = hand + reach * way
    for i in range(2):
        if not 0 <= puck[i] <= 1:
            puck[i], glide[i] = np.clip(puck[i], 0, 1), 0
    return hand, speed, puck, glide


def test_steps_as_a_plain_reference():
    gen = np.random.default_rng(0)
    step = jax.jit(lambda s, a: world.step(PLACE, s, a, None))
    touched = 0
    for seed in range(4):
        state, seen = world.reset(PLACE, jax.random.key(seed))
        assert seen.shape == (10,)
        aim = gen.normal(scale=0.1, size=2)
        for _ in range(40):
            to = np.asarray(state.puck - state.hand) + aim
            action = np.float32(2 * to + 0.3 * gen.normal(size=2))
            want = plain(state, action)
            before = state.puck
            state, _, reward, over = step(state, action)
            for got, one in zip(state, want, strict=True):
                np.testing.assert_allclose(got, one, atol=2e-5)
            touched += bool((before != state.puck).any())
        assert not reward
        assert not over
    assert touched > 30


def test_a_puck_that_is_let_alone_comes_to_rest():
    far, none = jnp.array([0.05, 0.05]), jnp.zeros(2)
    state = world.State(far, none, jnp.array([0.5, 0.6]), jnp.array([0.4, -0.3]))
    want = world.rest(PLACE, state)
    np.testing.assert_allclose(want, [0.68, 0.465], rtol=1e-5)
    for _ in range(150):
        state, *_ = world.step(PLACE, state, none, None)
    np.testing.assert_allclose(state.puck, want, atol=1e-5)


def test_what_is_safe():
    none = jnp.zeros(2)
    for hand, speed, want in (
        ([0.5, 0.5], [0.8, 0.59], False),
        ([0.5, 0.5], [0.8, 0.61], True),
        ([-0.01, 0.5], [0, 0], True),
        ([1, 0], [0, 0], False),
    ):
        state = world.State(*jnp.float32([hand, speed]), none, none)
        assert bool(world.unsafe(PLACE, state)) is want
    # A full force leads beyond the limit: .3 / .2 = 1.5.
    assert float(PLACE.force / PLACE.drag) > float(PLACE.limit)


def test_the_best_places():
    """One: the middle, whose mean distance is known; of eight none can be moved."""
    line = (np.arange(40) + 0.5) / 40
    goals = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2).astype(np.float32)
    one = world.solve(1, side=20)
    np.testing.assert_allclose(one, [[0.5, 0.5]], atol=1e-3)
    # (sqrt 2 + asinh 1) / 6, of a unit square.
    np.testing.assert_allclose(world.spread(one, goals), 0.38260, atol=1e-3)
    eight = world.solve(8, side=20, sweeps=60)
    best = float(world.spread(eight.astype(np.float32), goals))
    # Hexagons of an eighth would have .3772 / sqrt 8.
    assert 0.1333 < best < 0.143
    gen = np.random.default_rng(0)
    moved = eight + 0.05 * gen.normal(size=(20, 8, 2))
    assert float(jnp.min(world.spread(moved.astype(np.float32), goals))) > best
