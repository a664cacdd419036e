"""Worlds as environments of gymnax and back: the same steps, cuts and fresh starts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.worlds import doorway, hosts, pusher

PLACE = doorway.default()


class Counter:
    """gymnax' interface by hand: counts to a number, and is cut at its own limit."""

    def reset_env(self, key, params):
        del key, params
        return jnp.zeros(1), jnp.int32(0)

    def step_env(self, key, state, action, params):
        del key
        state = state + action
        return jnp.float32(state)[None], state, jnp.float32(action), state >= params, {}


def test_there_and_back_is_the_same_world():
    env = hosts.to_gymnax(doorway, PLACE, length=50, actions=(2,))
    back = hosts.from_gymnax(env)
    key = jax.random.key(0)
    state, obs = doorway.reset(PLACE, key)
    timed, same = back.reset(PLACE, key)
    for count in range(3):
        np.testing.assert_array_equal(obs, same)
        np.testing.assert_array_equal(state, timed.world)
        assert timed.time == count
        action = jnp.array([1.0, 0.5])
        state, obs, *_ = doorway.step(PLACE, state, action, key)
        timed, same, reward, over = back.step(PLACE, timed, action, key)
        assert not reward
        assert not over


def test_an_episode_is_cut_and_begins_anew():
    env = hosts.to_gymnax(doorway, PLACE, length=3, actions=(2,))
    step = jax.jit(env.step)
    obs, state = env.reset(jax.random.key(0))
    for key in jax.random.split(jax.random.key(1), 3):
        walked, _ = 2 * state.world + 0.1 * np.array([0, 1.0]) - 1, None
        obs, state, _, terminated, truncated, info = step(
            key, state, jnp.array([0, 1.0])
        )
    assert truncated
    assert not terminated
    assert state.time == 0
    np.testing.assert_allclose(
        info["final_observation"], np.clip(walked, -1, 1), atol=1e-6
    )
    np.testing.assert_allclose(obs, 2 * state.world - 1, atol=1e-6)
    # At the goal it ends by itself, and the new start is one of the world's.
    there = hosts.Timed(PLACE.goal, jnp.int32(0))
    _, state, reward, terminated, truncated, _ = step(key, there, jnp.zeros(2))
    assert (float(reward), bool(terminated), bool(truncated)) == (1, True, False)
    assert state.world[0] < 0.45


def test_a_learner_may_ask_for_spaces():
    env = hosts.to_gymnax(pusher, pusher.default(), length=9, actions=(2,))
    assert env.name == "pusher"
    assert env.num_actions == 2
    space = env.observation_space(env.default_params)
    assert (space.shape, space.dtype) == ((10,), jnp.float32)
    drawn = jax.vmap(env.action_space().sample)(jax.random.split(jax.random.key(0), 50))
    assert drawn.shape == (50, 2)
    assert float(jnp.max(jnp.abs(drawn))) <= 1
    env = hosts.to_gymnax(hosts.from_gymnax(Counter()), 3, length=9, actions=2)
    assert (env.num_actions, env.name) == (2, "World")
    drawn = jax.vmap(env.action_space().sample)(jax.random.split(jax.random.key(0), 50))
    assert set(np.asarray(drawn)) == {0, 1}


def test_an_environment_of_theirs_is_a_world():
    world = hosts.from_gymnax(Counter())
    step = partial(world.step, jnp.int32(2))
    state, obs = world.reset(2, None)
    for want in (0, 1, 2):
        assert (int(state), float(obs[0])) == (want, want)
        state, obs, reward, over = step(state, jnp.int32(1), None)
    assert (float(reward), bool(over)) == (1, True)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: hosts.from_gymnax(doorway), "without reset_env"),
        (
            lambda: hosts.to_gymnax(Counter(), 3, length=9, actions=2),
            "without reset; expected a world",
        ),
        (
            lambda: hosts.to_gymnax(doorway, PLACE, length=0, actions=2),
            "length is 0",
        ),
        (
            lambda: hosts.to_gymnax(doorway, PLACE, length=1, actions=0),
            "actions is 0",
        ),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.filterwarnings("ignore")
def test_with_the_package():
    """A world in gymnax' own wrapper, and its cart-pole as a world."""
    gymnax = pytest.importorskip("gymnax")
    from gymnax.wrappers import LogWrapper

    env = LogWrapper(hosts.to_gymnax(doorway, PLACE, length=4, actions=(2,)))
    with jax.numpy_dtype_promotion("standard"):
        obs, state = env.reset(jax.random.key(0), PLACE)
        for key in jax.random.split(jax.random.key(1), 4):
            obs, state, *_ = env.step(key, state, jnp.zeros(2), PLACE)
        assert obs.shape == (2,)
        assert int(state.returned_episode_lengths) == 4
        theirs, params = gymnax.make("CartPole-v1")
        world = hosts.from_gymnax(theirs)
        state, obs = world.reset(params, jax.random.key(0))
        key = jax.random.key(2)
        _, seen, reward, over = world.step(params, state, 1, key)
        want, _, paid, ended, _ = theirs.step_env(key, state, 1, params)
    np.testing.assert_array_equal(seen, want)
    assert (reward, over) == (paid, ended)


def test_a_world_whose_step_is_not_as_its_reset_is_told_of():
    reset = lambda params, key: (jnp.zeros(2), jnp.zeros(2))  # noqa: E731
    key = jax.random.key(0)
    for returned, message in (
        ((jnp.zeros((2, 1)), jnp.zeros(2), 0.0, False), r"expected .*as its reset"),
        ((jnp.zeros(2), jnp.zeros(2), 0.0, jnp.zeros(2)), "terminated, one boolean"),
        ((jnp.zeros(2), 0.0, False), "expected state, observation, reward"),
    ):
        world = hosts.World(reset, lambda *_, seen=returned: seen)
        env = hosts.to_gymnax(world, None, length=3, actions=np.int64(4))
        _, state = env.reset(key)
        with pytest.raises(ValueError, match=message):
            env.step(key, state, 0)
    fine = hosts.World(reset, lambda *_: (jnp.zeros(2), jnp.zeros(2), 0.0, 1.0))
    env = hosts.to_gymnax(fine, None, length=3, actions=4)
    assert env.step(key, env.reset(key)[1], 0)[3]
