"""The crowd: steps of a plain reference, the exact counterfactual, and a frame."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.worlds import crowd as world

KEY, PLACE = jax.random.key(0), world.default()
CALM = PLACE._replace(noise=jnp.float32(0))
STEP, RESET = jax.jit(world.step), jax.jit(world.reset)


def start(key=KEY):
    """People near the robot's way."""
    state, _ = RESET(PLACE, key)
    return state._replace(people=state.people * 0.3, moves=state.moves)


def plain(state, action, shaken):
    """The same step in numpy, a body and a pair at a time, by the description."""
    relax, strength, reach, behind, body, robot, speed, _ = (float(x) for x in PLACE)
    at, moves, goals, paces, bot, _, present = (np.array(x, np.float64) for x in state)
    moves = moves + np.asarray(shaken, np.float64)
    velocity = speed * action / max(np.linalg.norm(action), 1)
    for _ in range(world.PARTS):
        pull = np.zeros_like(at)
        for i in range(len(at)):
            left = np.linalg.norm(goals[i] - at[i])
            ahead = (goals[i] - at[i]) / left
            pull[i] = (paces[i] * ahead * min(left, 1) - moves[i]) / relax
            bodies = [(at[j], 2 * body) for j in range(len(at)) if j != i]
            bodies += [(bot, body + robot)] * int(present)
            for place, contact in bodies:
                apart = np.linalg.norm(at[i] - place)
                normal = (at[i] - place) / apart
                share = behind + (1 - behind) * (1 + -normal @ ahead) / 2
                push = share * strength * np.exp((contact - apart) / reach)
                pull[i] += push * normal
        moves = moves + pull * world.TIME / world.PARTS
        for i in range(len(at)):
            fast = np.linalg.norm(moves[i])
            moves[i] *= min(1, world.HURRY * paces[i] / fast)
        at = at + moves * world.TIME / world.PARTS
        bot = bot + velocity * world.TIME / world.PARTS
    return at, moves, bot


def test_steps_as_a_plain_reference():
    gen = np.random.default_rng(0)
    for present in (1, 0):
        state = start()._replace(present=jnp.float32(present))
        for i in range(6):
            action = np.float32(gen.normal(size=2))
            key = jax.random.fold_in(KEY, i)
            noise = PLACE.noise * jax.random.normal(key, state.moves.shape)
            at, moves, bot = plain(state, action, noise)
            left = np.linalg.norm(state.goal - state.robot)
            state, seen, reward, over = STEP(PLACE, state, action, key)
            np.testing.assert_allclose(state.people, at, atol=2e-5)
            np.testing.assert_allclose(state.moves, moves, atol=5e-5)
            np.testing.assert_allclose(state.robot, bot, atol=1e-5)
            still = np.linalg.norm(np.asarray(state.goal) - bot)
            np.testing.assert_allclose(reward, left - still, atol=1e-5)
            assert not over
            want = [state.goal - bot, *np.hstack([at - bot, moves])]
            np.testing.assert_allclose(seen, np.concatenate(want), atol=1e-4)


def test_without_the_robot_no_plan_moves_anybody():
    state, key = start(), jax.random.key(3)
    plans = jnp.stack([jnp.tile(jnp.eye(2)[1], (6, 1)), jnp.zeros((6, 2))])
    run = jax.jit(jax.vmap(world.follow, (None, None, 0, None)))
    _, would = run(PLACE, world.alone(state), plans, key)
    np.testing.assert_array_equal(would.people[0], would.people[1])
    assert (would.robot[0] != would.robot[1]).any()
    _, made = run(PLACE, state, plans, key)
    off = jnp.sum((made.people - would.people) ** 2, -1).mean((1, 2))
    # Who goes among them moves them more than who stands where nobody passes.
    assert off[0] > 1e-4 > off[1] > 0
    # A robot that is far is none.
    far = state._replace(robot=jnp.array([0.0, -500.0]))
    _, away = run(PLACE, far, plans, key)
    np.testing.assert_allclose(away.people, would.people, atol=1e-6)


def test_a_walk_alone_is_straight_and_ends_at_its_goal():
    # So far from each other that nobody feels anybody.
    apart = jnp.outer(jnp.arange(4.0), jnp.array([100.0, 0]))
    state = start()
    state = state._replace(
        people=state.people * 2 + apart, goals=state.goals + apart, moves=0 * apart
    )
    way = np.asarray(state.goals - state.people)
    far = np.linalg.norm(way, axis=1)
    after, places = world.alone(state), []
    for _ in range(90):
        after = STEP(CALM, after, jnp.zeros(2), KEY)[0]
        places.append(np.asarray(after.people - state.people))
    np.testing.assert_allclose(after.people, state.goals, atol=0.02)
    walked = np.array(places)
    off = way[:, 0] * walked[..., 1] - way[:, 1] * walked[..., 0]
    np.testing.assert_allclose(off / far, 0, atol=2e-3)
    # Its velocity comes to its pace by (1 - dt / relax) a part, while it is far.
    for steps in (1, 3, 6):
        parts = np.arange(1, 1 + world.PARTS * steps)
        part = world.TIME / world.PARTS
        speed = 1 - (1 - part / 0.5) ** parts
        want = np.asarray(state.paces) * part * speed.sum()
        got = np.linalg.norm(walked[steps - 1], axis=1)
        np.testing.assert_allclose(got, want, rtol=1e-3)


def test_who_is_ahead_is_felt_more():
    state = start()
    at, goal = jnp.zeros((1, 2)), jnp.array([[5.0, 0.0]])
    one = state._replace(people=at, goals=goal, moves=at, paces=jnp.ones(1))
    feel = jax.jit(world.forces)
    pulls = [
        feel(PLACE, one._replace(robot=jnp.array([x, 0.0])))[0]
        - feel(PLACE, world.alone(one))[0]
        for x in (1.0, -1.0)
    ]
    whole = PLACE.strength * np.exp((0.7 - 1.0) / 0.3)
    np.testing.assert_allclose(pulls[0], [-whole, 0], rtol=1e-5)
    np.testing.assert_allclose(pulls[1], [0.25 * whole, 0], rtol=1e-5)


def test_starts_touches_and_the_goal():
    draw = jax.jit(jax.vmap(world.reset, (None, 0)))
    states, seen = draw(PLACE, jax.random.split(KEY, 50))
    assert seen.shape == (50, 18)
    far = jnp.linalg.norm(states.people, axis=-1)
    assert 5 <= far.min() < 6 < 8 < far.max() <= 9
    fast = jnp.linalg.norm(states.moves, axis=-1)
    np.testing.assert_allclose(fast, states.paces, rtol=1e-5)
    people = jnp.array([[[0.69, 0.0], [3, 3]], [[0.71, 0.0], [3, 3]]])
    tracks = world.Tracks(people, jnp.zeros((2, 2)))
    np.testing.assert_array_equal(world.touches(PLACE, tracks), [True, False])
    state = start()._replace(robot=jnp.array([0.0, 2.5]))
    _, _, reward, over = STEP(PLACE, state, jnp.array([0.0, 9.0]), KEY)
    assert over
    np.testing.assert_allclose(reward, 1 / 3, atol=1e-6)


def test_a_frame():
    state = start()._replace(people=jnp.array([[3.0, 0.0]]))
    frame = np.asarray(world.render(PLACE, state, size=60))
    assert frame.shape == (60, 60, 3)

    def painted(color):
        return np.argwhere(np.abs(frame - color).max(-1) < 1e-3)

    np.testing.assert_allclose(painted([0.2, 0.3, 0.9]).mean(0), [29.5, 44.5], atol=1)
    np.testing.assert_allclose(painted([0.8, 0.2, 0.16]).mean(0), [44.5, 29.5], atol=1)
    frame = np.asarray(world.render(PLACE, world.alone(state), size=60))
    assert not len(painted([0.8, 0.2, 0.16]))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: world.reset(PLACE, KEY, people=0), "people is 0; expected at least 1"),
        (
            lambda: world.reset(PLACE._replace(relax=0.0), KEY),
            "relax is 0.0; expected more than 0",
        ),
        (
            lambda: world.reset(PLACE._replace(behind=1.5), KEY),
            "behind is 1.5; expected 0 to 1",
        ),
        (
            lambda: world.step(PLACE._replace(noise=-1.0), start(), jnp.zeros(2), KEY),
            "noise is -1.0; expected at least 0",
        ),
        (
            lambda: world.step(PLACE, start(), jnp.zeros(3), KEY),
            r"action has shape \(3,\); expected \(2,\)",
        ),
        (
            lambda: world.follow(PLACE, start(), jnp.zeros((4, 3)), KEY),
            r"plan has shape \(4, 3\); expected \(4, 2\)",
        ),
    ],
)
def test_mistakes(call, match):
    with pytest.raises(ValueError, match=match):
        call()
