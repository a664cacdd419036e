"""The door: what a step does in closed form, and who opens it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.worlds import door as world

KEY = jax.random.key(0)


def at_handle(angle=0.0, latch=0.0, turning=0.0):
    hand = world.handle(jnp.float32(angle))
    values = jnp.zeros(2), jnp.float32(angle), jnp.float32(turning), jnp.float32(latch)
    return world.State(hand, *values)


def roll_out(policy, door, count=64, length=80):
    def one(key):
        state, _ = world.reset(door, key)

        def step(state, key):
            action = policy(state, key)
            seen = world.observe(state)
            after, _, reward, _ = world.step(door, state, action, key)
            return after, (seen, reward)

        return jax.lax.scan(step, state, jax.random.split(key, length))[1]

    return jax.jit(jax.vmap(one))(jax.random.split(KEY, count))


def test_a_free_hand_moves_and_the_door_does_not():
    """Positions of a constant push: the sums of a geometric series."""
    first = jnp.array([-0.4, 0.2])
    state = at_handle(0.5)._replace(hand=first)
    push = jnp.array([0.3, -0.2, 1.0])
    for n in range(1, 6):
        state, seen, reward, over = world.step(world.Door(0.9), state, push, KEY)
        speed = 0.2 * (1 - 0.8**n) / 0.2
        way = 0.1 * sum(0.2 * (1 - 0.8**k) / 0.2 for k in range(1, n + 1))
        np.testing.assert_allclose(state.velocity, speed * push[:2], atol=1e-6)
        np.testing.assert_allclose(state.hand, first + way * push[:2], atol=1e-6)
        assert (float(state.angle), float(reward), bool(over)) == (0.5, 0, False)
        np.testing.assert_array_equal(seen[:4], [*state.hand, *state.velocity])


def test_the_latch_opens_in_five_held_steps_and_then_the_door_turns():
    state, pull = at_handle(), jnp.array([0.0, 1.0, 1.0])
    for n in range(1, 6):
        state, *_ = world.step(world.Door(0.9), state, pull, KEY)
        assert float(state.angle) == 0
        assert float(state.latch) == pytest.approx(0.2 * n)
    state, *_ = world.step(world.Door(0.9), state, pull, KEY)
    assert float(state.angle) == pytest.approx(0.1 * 0.2)
    np.testing.assert_allclose(state.hand, world.handle(state.angle), atol=1e-6)
    let_go, *_ = world.step(world.Door(0.9), state, -pull, KEY)
    assert float(let_go.angle) == float(state.angle)
    assert float(let_go.turning) == 0
    assert float(let_go.latch) == pytest.approx(0.8)


def test_only_the_tangential_part_of_a_push_turns_it():
    state = at_handle(np.pi / 2, latch=1.0)
    across, *_ = world.step(world.Door(0.0), state, jnp.array([0.0, 1.0, 1.0]), KEY)
    along, *_ = world.step(world.Door(0.0), state, jnp.array([1.0, 0.0, 1.0]), KEY)
    assert float(across.angle) == pytest.approx(np.pi / 2)
    assert float(along.angle) == pytest.approx(np.pi / 2 - 0.02, abs=1e-6)


@pytest.mark.parametrize(("goal", "start"), [(0.9, 0.0), (1.4, 0.0), (0.0, 0.9)])
def test_the_script_always_succeeds_and_chance_does_not(goal, start):
    door = world.Door(goal, start)
    seen, reward = roll_out(lambda state, key: world.expert(door, state), door)
    assert reward[:, -1].all()
    assert not world.ghosts(seen).any()

    def blind(state, key):
        return jax.random.uniform(key, (3,), minval=-1, maxval=1)

    seen, reward = roll_out(blind, door)
    assert reward[:, -1].mean() < 0.05
    assert not world.ghosts(seen).any()


def test_a_door_that_moves_alone_is_a_ghost():
    rows = jnp.zeros((4, 7)).at[:, 4].set(jnp.array([0.0, 0.0, 0.1, 0.2]))
    near = rows.at[:, :2].set(world.handle(rows[:, 4]))
    np.testing.assert_array_equal(world.ghosts(rows), [False, True, True])
    assert not world.ghosts(near).any()


def test_pictures():
    """The hand is green where it holds, red elsewhere; the goal is grey."""
    near = world.observe(at_handle(0.3))
    far = near.at[:2].set(jnp.array([-0.4, 0.3]))
    frames = world.render(world.Door(1.2), jnp.stack([near, far]), 64)
    assert frames.shape == (2, 64, 64, 3)
    found = [{tuple(map(int, c)) for c in f.reshape(-1, 3)} for f in frames]
    assert (30, 140, 60) in found[0]
    assert (190, 50, 40) in found[1]
    assert (205, 205, 205) in found[0] & found[1]


def test_what_is_refused():
    state = at_handle()
    with pytest.raises(ValueError, match=r"action has shape \(2,\); expected \(3,\)"):
        world.step(world.Door(0.9), state, jnp.zeros(2), KEY)
    with pytest.raises(ValueError, match="states have shape"):
        world.ghosts(jnp.zeros((4, 6)))
    with pytest.raises(ValueError, match="states have shape"):
        world.render(world.Door(0.9), jnp.zeros((2, 2, 7)))
    with pytest.raises(ValueError, match="size is 0"):
        world.render(world.Door(0.9), jnp.zeros((2, 7)), 0)
