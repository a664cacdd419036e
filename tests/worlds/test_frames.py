"""Frames: what is drawn is where it is, in its color."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.worlds import (
    dynamical_bandit,
    gaussian_bandit,
    grids,
    hidden_role,
    kuhn,
    linear_game,
    negotiation,
    pendulum,
    pusher,
    raters,
    shop,
    site_graph,
    social_dilemma,
    users,
)

RED, BLUE = np.array([0.80, 0.20, 0.16]), np.array([0.2, 0.3, 0.9])


def painted(picture, color):
    """Mean row and column of the pixels of a color, as shares of the picture."""
    picture = np.asarray(picture)
    assert picture.dtype == np.float32
    assert picture.min() >= 0
    assert picture.max() <= 1
    at = np.argwhere(np.abs(picture - color).max(-1) < 1e-3)
    return (at.mean(0) + 0.5) / picture.shape[:2] if len(at) else None


@pytest.mark.slow
def test_rooms():
    frame = grids.render_rooms(7 * 5 + 2, jnp.arange(50.0), scale=8)
    assert frame.shape == (56, 56, 3)
    np.testing.assert_allclose(painted(frame, RED), [1.5 / 7, 2.5 / 7], atol=0.02)
    assert painted(grids.render_rooms(49), RED) is None
    # Two lines after the third cells, two pixels wide, less two doors each.
    plain = np.asarray(grids.render_rooms(0, scale=8))
    wall = np.abs(plain - 0.2).max(-1) < 1e-3
    for line in (wall[:, 23], wall[:, 24], wall[31], wall[32]):
        assert 40 <= line.sum() <= 44
    for door in (1, 5):
        assert not wall[56 - 8 * door - 8 + 2 : 56 - 8 * door - 2, 23:25].any()


def test_chain():
    frame = grids.render_chain(grids.chain(5, start=1), 3, scale=8)
    assert frame.shape == (8, 40, 3)
    np.testing.assert_allclose(painted(frame, RED), [0.5, 3.5 / 5], atol=0.02)
    assert painted(frame, (0.30, 0.62, 0.36)) is not None


@pytest.mark.slow
def test_site():
    site = site_graph.build(jax.random.key(0), pages=12, links=2)
    frame = jax.jit(lambda p: site_graph.render(site, p, size=64))(3)
    # The fourth of twelve pages on a circle that begins on top.
    np.testing.assert_allclose(painted(frame, BLUE), [0.5, 0.95], atol=0.03)
    assert painted(frame, (0.95, 0.6, 0.1)) is not None
    goal = jnp.zeros(8, bool)
    green = painted(site_graph.render(site, 3, goal, size=64), (0.2, 0.65, 0.3))
    assert green is not None  # A goal that asks for nothing holds everywhere.


def test_motion():
    state = pusher.State(*jnp.array([[0.2, 0.3], [0, 0], [0.7, 0.8], [0, 0]]))
    frame = pusher.render(pusher.default(), state)
    np.testing.assert_allclose(painted(frame, BLUE), [0.7, 0.2], atol=0.02)
    np.testing.assert_allclose(painted(frame, (0.9, 0.3, 0.2)), [0.2, 0.7], atol=0.02)
    frame = pendulum.render(pendulum.make(), jnp.array([np.pi / 2, 0]))
    np.testing.assert_allclose(painted(frame, BLUE), [0.5, 0.9], atol=0.02)
    game = linear_game.Game(jnp.float32(3))
    frame = linear_game.render(game, jnp.float32(1.5), jnp.array([-1.0, 1.0]))
    np.testing.assert_allclose(painted(frame, BLUE), [0.4, 0.75], atol=0.02)
    left, right = (painted(frame, c) for c in ((0.2, 0.6, 0.3), (0.8, 0.2, 0.15)))
    assert left[1] < 0.75 < right[1]


@pytest.mark.slow
def test_numbers():
    frame = gaussian_bandit.render(gaussian_bandit.Bandit(), jnp.float32(0.75))
    np.testing.assert_allclose(painted(frame, BLUE)[1], 0.5 + 1 / 8, atol=0.02)
    system = dynamical_bandit.delayed()
    frame = dynamical_bandit.render(system, jnp.zeros(2))
    # From rest arm 0 pays nothing at once, arm 1 its all and arm 2 the half.
    wide = np.abs(np.asarray(frame) - [0.35, 0.7, 0.4]).max(-1) < 1e-3
    shares = [part.sum() for part in np.array_split(wide, 3, 1)]
    assert shares[0] < shares[2] < shares[1]
    policy = kuhn.equilibrium(0.0)
    blue = painted(kuhn.render(policy), BLUE)
    np.testing.assert_array_equal(np.asarray(policy)[:3], 0)
    assert blue[1] > 0.5  # Player 0 bets nothing at first, and calls later.
    frame = social_dilemma.render(social_dilemma.prisoners(), jnp.array([0, 2]))
    np.testing.assert_allclose(painted(frame, (0.3, 0.65, 0.35)), [0.5, 0.25])
    np.testing.assert_allclose(painted(frame, (0.7, 0.7, 0.7)), [0.5, 0.75])
    frame = np.asarray(raters.render(np.array([[0.5, 1], [0, 0.5]]), scale=1))
    np.testing.assert_allclose(frame, [[[1] * 3, BLUE], [[0.85, 0.25, 0.2], [1] * 3]])
    made = users.build(jax.random.key(0), genres=4, each=1, pull=9.0)
    user = users.reset(made, jax.random.key(1))[0]._replace(
        ago=jnp.array([9, 1, 1, 1]), seeking=jnp.bool_(False)
    )
    green = painted(users.render(made, user), (0.2, 0.65, 0.3))
    assert green is None or green[0] > 0.95  # Who does not seek clicks nothing novel.
    at = painted(users.render(made, user._replace(seeking=True)), (0.2, 0.65, 0.3))
    np.testing.assert_allclose(at, [0.5, 1 / 8], atol=0.02)
    frame = shop.render(shop.build(), jnp.array([2, 1, 0]), jnp.array([2, 0, 1]))
    # Beliefs of the second item, in blue below its listing, and the third, in red above
    # its own; of the first nothing is said, and the belief is the share.
    wide = np.abs(np.asarray(frame) - RED).max(-1) < 1e-3
    assert wide[:, 107:].any()
    assert not wide[:, :107].any()
    np.testing.assert_allclose(wide.any(1).mean(), 0.783, atol=0.01)


def test_talks():
    talks = negotiation.build()
    state = negotiation.begin(jnp.array([0, 0]))
    # The first asks for its second item, of .3, and leaves .6 and .1 to the second.
    state = negotiation.say(talks, state, 2)
    drawn = np.abs(np.asarray(negotiation.render(talks, state)) - RED).max(-1) < 1e-3
    for bar, height in enumerate((0, 0.6, 0.3, 0, 0, 0.1)):
        middle = drawn[:, int((bar + 0.5) * 128 / 6)].mean()
        np.testing.assert_allclose(middle, height, atol=0.01)
    done = negotiation.say(talks, state, 5)
    frame = np.asarray(negotiation.render(talks, done))
    green = np.abs(frame - np.array([0.2, 0.65, 0.3])).max(-1) < 1e-3
    np.testing.assert_array_equal(green, drawn)


def test_a_meeting():
    seen = np.array([[3, 2, 0, 1], [0, 3, 0, 0], [0, 0, 3, 0], [0, 0, 0, 3]])
    state = hidden_role.begin(2, seen)
    for word in (0, hidden_role.ACCUSE + 3, hidden_role.CLEAR):
        state = hidden_role.say(state, word)
    frame = hidden_role.render(hidden_role.build(), state, scale=8)
    assert frame.shape == (96, 32, 3)
    # The first saw the second idle and the last at a task; then words of two, below.
    np.testing.assert_allclose(painted(frame, BLUE), [2.5 / 12, 2.5 / 4])
    red, green = np.array([[0.5, 1.5], [5.5, 3.5]]), np.array([[0.5, 3.5], [6.5, 0.5]])
    np.testing.assert_allclose(painted(frame, RED), red.mean(0) / [12, 4])
    np.testing.assert_allclose(
        painted(frame, (0.2, 0.65, 0.3)), green.mean(0) / [12, 4]
    )


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: grids.render_rooms(50), "state is 50"),
        (lambda: grids.render_rooms(0, jnp.ones(49)), "values has shape"),
        (lambda: grids.render_chain(grids.chain(), 13), "state is 13"),
        (lambda: shop.render(shop.build(), *2 * [jnp.full(3, 3)]), "listing is 3"),
        (lambda: raters.render(np.full((2, 2), np.nan)), "preference is nan"),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()
