"""The shortest way against a grid search, and against the guide's own steps."""

import heapq

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.worlds import doorway as world

PLACE = world.default()


def grid_distance(size=40):
    """Dijkstra from the goal over a grid with moves of up to two cells."""
    low, high = np.asarray(PLACE.door)
    goal = np.round(np.asarray(PLACE.goal) * size).astype(int)
    moves = [(i, j) for i in range(-2, 3) for j in range(-2, 3) if (i, j) != (0, 0)]
    best = {tuple(goal): 0.0}
    queue = [(0.0, tuple(goal))]
    while queue:
        d, (x, y) = heapq.heappop(queue)
        if d > best[x, y]:
            continue
        for i, j in moves:
            to = x + i, y + j
            if not (0 <= to[0] <= size and 0 <= to[1] <= size):
                continue
            a, b = x / size - 0.5 + 1e-6, to[0] / size - 0.5 + 1e-6
            if (a < 0) != (b < 0):
                at = y / size + (-a) / (b - a) * j / size
                if not low <= at <= high:
                    continue
            there = d + np.hypot(i, j) / size
            if there < best.get(to, np.inf) - 1e-9:
                best[to] = there
                heapq.heappush(queue, (there, to))
    return size, best


def test_distance_is_the_shortest_way_of_a_fine_grid():
    size, best = grid_distance()
    at = np.array([p for p in best if p[0] % 4 == 2 and p[1] % 4 == 0])
    got = jax.vmap(lambda p: world.distance(PLACE, p))(jnp.float32(at) / size)
    want = np.array([best[tuple(p)] for p in at])
    assert len(at) == 110
    # A grid's way is longer, by its angles, and by a cell beside a corner.
    assert (want > np.asarray(got) - 1e-5).all()
    np.testing.assert_allclose(got, want, rtol=0.04, atol=0.03)


def test_the_guide_needs_the_fewest_steps():
    keys = jax.random.split(jax.random.key(0), 64)

    def walk(key):
        place, _ = world.reset(PLACE, key)
        fewest = world.solve(PLACE, place)

        def move(carry, _):
            place, over = carry
            action = world.guide(PLACE, place, margin=0.005)
            to, _, _, there = world.step(PLACE, place, action, key)
            return (jnp.where(over, place, to), over | there), over

        _, over = jax.lax.scan(move, (place, jnp.bool_(False)), None, length=60)
        return fewest, jnp.sum(~over)

    fewest, steps = (np.asarray(x, int) for x in jax.vmap(walk)(keys))
    assert ((steps - fewest) >= 0).all()
    assert (steps - fewest).max() <= 2
    assert (steps - fewest).mean() < 0.7


def test_walls_and_goal():
    place, *_ = world.step(PLACE, jnp.array([0.48, 0.3]), jnp.array([1.0, 0.5]), None)
    assert place[0] < world.WALL
    assert place[1] > 0.3  # Along the wall it slides.
    through, *_ = world.step(PLACE, jnp.array([0.48, 0.7]), jnp.array([5.0, 0.0]), None)
    np.testing.assert_allclose(through, [0.53, 0.7], rtol=1e-6)
    _, seen, reward, over = world.step(PLACE, PLACE.goal, jnp.zeros(2), None)
    np.testing.assert_allclose(seen, 2 * PLACE.goal - 1)
    assert reward == 1
    assert over
    with pytest.raises(ValueError, match="action has shape .3,.; expected .2,."):
        world.step(PLACE, PLACE.goal, jnp.zeros(3), None)


def test_a_picture_shows_the_three():
    picture = np.asarray(world.render(PLACE, jnp.array([0.25, 0.75]), size=40))
    assert picture.shape == (40, 40, 3)
    np.testing.assert_allclose(picture[10, 10], [0.2, 0.3, 0.9])  # The point, on top.
    np.testing.assert_allclose(picture[34, 34], [0.3, 0.7, 0.3])  # The goal, low.
    dark = (picture.sum(-1) < 0.7).sum(1) > 0
    assert dark[20:].all()
    assert not dark[11:15].any()  # The door.
    with pytest.raises(ValueError, match="size is 0"):
        world.render(PLACE, PLACE.goal, size=0)


def test_the_guide_arrives_on_either_side_and_steps_have_slopes():
    """Goal and start on either side of the wall; an action of 0 has a finite slope."""
    start = jnp.array([0.9, 0.1])
    for goal in ([0.15, 0.15], [0.85, 0.9]):
        there = world.default()._replace(goal=jnp.array(goal))
        for first in (start, jnp.array([0.1, 0.9])):

            def walk(state, _, there=there):
                action = world.guide(there, state)
                return world.step(there, state, action, None)[0], None

            end, _ = jax.lax.scan(walk, first, length=60)
            assert float(jnp.linalg.norm(end - there.goal)) < 0.1
    slope = jax.grad(lambda a: world.step(there, start, a, None)[0].sum())(jnp.zeros(2))
    np.testing.assert_allclose(slope, there.speed, rtol=1e-5)
