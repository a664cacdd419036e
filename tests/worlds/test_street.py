"""The street: what each action leads to, the chain, and who is taken away."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.worlds import crowd
from jaxlib_guidance.worlds import street as world

KEY, PLACE = jax.random.key(0), world.default()
CALM = PLACE._replace(crowd=PLACE.crowd._replace(noise=jnp.float32(0)))
STEP, WALK = jax.jit(world.step), jax.jit(world.walk, static_argnames="steps")
RESET = jax.jit(world.reset, static_argnames="people")


def start(spread=1.0):
    """Four people who do one thing each, in a place ``spread`` times as large."""
    state, seen = RESET(PLACE, KEY, people=4)
    assert seen.shape == (16,)
    moving = state.crowd._replace(people=spread * state.crowd.people)
    return state._replace(crowd=moving, actions=jnp.arange(4, dtype=jnp.int32))


def test_where_each_wants_to_go():
    state = start()
    at, heads = np.asarray(state.crowd.people), np.asarray(state.headings)
    want = world.goals(state)
    np.testing.assert_allclose(want[world.WALK], at[0] + 5 * heads[0], rtol=1e-5)
    np.testing.assert_array_equal(want[world.STOP], at[1])
    left = 5 * np.array([-heads[2, 1], heads[2, 0]])
    np.testing.assert_allclose(want[world.CROSS], at[2] + left, rtol=1e-5)
    far = np.linalg.norm(at[:3] - at[3], axis=1)
    np.testing.assert_array_equal(want[world.GREET], at[far.argmin()])


def test_people_far_apart_do_what_they_are_told():
    state = start(spread=50.0)
    begin = np.asarray(state.crowd.people)
    act, after = jnp.arange(4), state
    for _ in range(9):
        after, seen, reward, over = STEP(CALM, after, act, KEY)
    moves, paces = np.asarray(after.crowd.moves), np.asarray(state.crowd.paces)
    walks = paces[0] * np.asarray(state.headings)[0]
    np.testing.assert_allclose(moves[0], walks, atol=1e-3)
    np.testing.assert_allclose(moves[1], 0, atol=2e-2)
    x, y = paces[2] * np.asarray(state.headings)[2]
    np.testing.assert_allclose(moves[2], [-y, x], atol=2e-2)
    # Who greets goes to where the other is.
    far = np.linalg.norm(begin[:3] - begin[3], axis=1)
    assert np.linalg.norm(moves[3]) > 0.9 * paces[3]
    to = after.crowd.people[far.argmin()] - after.crowd.people[3]
    np.testing.assert_allclose(
        moves[3] @ to / np.linalg.norm(moves[3]) / np.linalg.norm(to), 1, atol=2e-2
    )
    assert (float(reward), bool(over)) == (0, False)
    np.testing.assert_allclose(
        seen.reshape(4, 4)[:, :2], after.crowd.people - after.crowd.people[0], atol=1e-4
    )


def test_moves_are_those_of_the_crowd():
    state = start()
    got, *_ = STEP(PLACE, state, state.actions, KEY)
    told = crowd.alone(state.crowd)._replace(goals=world.goals(state))
    want = jax.jit(crowd.step)(PLACE.crowd, told, jnp.ones(2), KEY)[0]
    np.testing.assert_allclose(got.crowd.people, want.people, atol=1e-6)


def test_the_chain_keeps_and_changes():
    actions = jnp.tile(jnp.arange(4, dtype=jnp.int32), 5000)
    after = np.asarray(world.switch(PLACE._replace(stay=0.7), actions, KEY))
    counts = np.zeros((4, 4))
    np.add.at(counts, (np.asarray(actions), after), 1 / 5000)
    np.testing.assert_allclose(
        counts, np.full((4, 4), 0.1) + 0.6 * np.eye(4), atol=0.02
    )
    np.testing.assert_array_equal(
        world.switch(PLACE._replace(stay=1.0), actions, KEY), actions
    )


def test_who_is_gone_moves_nobody_and_the_rest_goes_on():
    state, key = start(), jax.random.key(2)
    _, tracks = WALK(PLACE, state, key, steps=12)
    _, again = WALK(PLACE, world.without(state, 3), key, steps=12)
    np.testing.assert_array_equal(again.actions, tracks.actions)
    off = jnp.linalg.norm(again.people - tracks.people, axis=-1).max(0)
    assert off[:3].max() > 1e-2
    # Three people by themselves, wherever the fourth is.
    gone = world.without(state, 3)
    moved = gone._replace(
        crowd=gone.crowd._replace(people=gone.crowd.people.at[3].mul(2.0))
    )
    _, still = WALK(PLACE, moved, key, steps=12)
    np.testing.assert_allclose(still.people[:, :3], again.people[:, :3], atol=1e-5)
    # Nor does anybody greet who is gone.
    greets = world.without(state._replace(actions=jnp.full(4, world.GREET)), 3)
    assert np.abs(np.asarray(world.goals(greets))[:3]).max() < 10


def test_a_frame():
    frame = np.asarray(world.render(PLACE, start(), size=60))
    assert frame.shape == (60, 60, 3)
    state = start()
    for i, color in enumerate(
        [[0.2, 0.3, 0.9], [0.5] * 3, [0.30, 0.62, 0.36], [0.8, 0.2, 0.16]]
    ):
        at = np.argwhere(np.abs(frame - color).max(-1) < 1e-3).mean(0)
        x, y = 0.5 + np.asarray(state.crowd.people)[i] / 12
        np.testing.assert_allclose(at, [60 * (1 - y) - 0.5, 60 * x - 0.5], atol=1)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: world.reset(PLACE, KEY, people=1), "people is 1; expected at least 2"),
        (
            lambda: world.reset(PLACE._replace(stay=1.5), KEY),
            "stay is 1.5; expected 0 to 1",
        ),
        (
            lambda: world.step(PLACE, start(), jnp.zeros(3, int), KEY),
            r"action has shape \(3,\); expected \(4,\)",
        ),
        (
            lambda: world.step(PLACE, start(), jnp.full(4, 4), KEY),
            "action is 4; expected 0 to 3",
        ),
        (lambda: world.walk(PLACE, start(), KEY, steps=0), "steps is 0; expected at"),
        (lambda: world.without(start(), 4), "person is 4; expected 0 to 3"),
    ],
)
def test_mistakes(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_who_has_nobody_to_greet_stays():
    state = world.reset(world.default(), jax.random.key(0), people=2)[0]
    state = world.without(state._replace(actions=jnp.array([3, 3], jnp.int32)), 0)
    np.testing.assert_array_equal(world.goals(state)[1], state.crowd.people[1])
