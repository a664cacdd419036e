"""The maze: ranges by marching, no way through walls, and a robot told the way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.worlds import maze as world

MAZE = world.default()


def test_ranges_are_those_of_marching():
    gen = np.random.default_rng(0)
    inner = np.asarray(MAZE.walls)[4:]
    places, headings = gen.uniform(0.02, 0.98, (40, 2)), gen.uniform(0, 6.28, 40)
    far = np.abs(places[:, 1:] - inner[:, 1]).min(1) > 0.01
    places, headings = places[far], headings[far]
    see = lambda p, h: world.ranges(MAZE, world.State(p, h, h))  # noqa: E731
    got = jax.jit(jax.vmap(see))(jnp.float32(places), jnp.float32(headings))
    for place, heading, seen in zip(places, headings, np.asarray(got), strict=True):
        for angle, reach in zip(world.ANGLES, seen, strict=True):
            way = np.array([np.cos(heading + angle), np.sin(heading + angle)])
            at = place + np.arange(0, 1.5, 5e-4)[:, None] * way
            out = ((at < 0) | (at > 1)).any(1)
            for x0, y, x1, _ in inner:
                over = (at[:, 1] > y) != (place[1] > y)
                first = over.argmax() if over.any() else -1
                if over.any() and x0 <= at[first, 0] <= x1:
                    out |= np.arange(len(at)) >= first
            assert abs(out.argmax() * 5e-4 - reach) < 2e-3


@pytest.mark.slow
def test_nobody_goes_through_a_wall():
    keys = jax.random.split(jax.random.key(0), 64)
    draw = jax.vmap(lambda k: 2 * jax.random.normal(k, (world.WEIGHTS,)))(keys)
    ends, paid = jax.jit(jax.vmap(lambda w: world.drive(MAZE, w)))(draw)
    assert (np.asarray(ends) >= 0).all()
    assert (np.asarray(ends) <= 1).all()
    # In 40 steps none is farther on than the way allows.
    early, _ = jax.jit(jax.vmap(lambda w: world.drive(MAZE, w, steps=20)))(draw)
    assert (np.asarray(early)[:, 1] <= 0.25).all()
    assert len(np.unique(np.round(np.asarray(ends), 2), axis=0)) > 20
    np.testing.assert_allclose(
        paid,
        np.maximum(1 - np.linalg.norm(ends - MAZE.goal, axis=1) / 0.1, 0),
        atol=1e-5,
    )


def test_the_shortest_way_can_be_walked():
    """Turning at the walls' ends, by hand, in as many steps as its length has."""
    length = world.solve(MAZE)
    corners = [(0.79, 0.25), (0.21, 0.5), (0.79, 0.75), tuple(np.asarray(MAZE.goal))]
    steps, state = 0, world.reset(MAZE, None)[0]
    move = jax.jit(lambda s, a: world.step(MAZE, s, a, None))
    for corner in corners:
        while True:
            away = np.array(corner) - np.asarray(state.position)
            if np.linalg.norm(away) < 0.02:
                break
            # Faces the corner at once: turns of half a radian only cost more steps.
            state = state._replace(heading=jnp.float32(np.arctan2(away[1], away[0])))
            share = min(np.linalg.norm(away) / 0.03, 1.0)
            state, _, reward, _ = move(state, jnp.array([0.0, share], jnp.float32))
            steps += 1
            assert steps < 100
    assert length <= steps * 0.03 < 1.15 * length
    assert reward > 0.75


def test_a_picture_and_errors():
    picture = np.asarray(world.render(MAZE, jnp.array([0.5, 0.125]), size=40))
    np.testing.assert_allclose(picture[34, 20], [0.2, 0.3, 0.9])
    np.testing.assert_allclose(picture[4, 6], [0.7, 0.9, 0.7])
    dark = picture.sum(-1) < 0.7
    assert dark[29:31, :30].any(0).all()
    assert not dark[28:32, 32:38].any()
    with pytest.raises(ValueError, match="action has shape"):
        world.step(MAZE, world.reset(MAZE, None)[0], jnp.zeros(3), None)
    with pytest.raises(ValueError, match="weights has shape"):
        world.act(jnp.zeros(3), jnp.zeros(6))
