"""The key and the door against breadth-first search of rules written again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.worlds import key_door, tables


def moves(side, cell, key, opened, action):
    """The rules, as one would say them; None at the goal."""
    x, y = cell
    if action == 4:
        if cell == (0, side - 1):
            key = True
        if key and cell == (side // 2 - 1, 1):
            opened = True
        return cell, key, opened
    dx, dy = ((0, 1), (-1, 0), (0, -1), (1, 0))[action]
    to = x + dx, y + dy
    wall = to[0] == side // 2 and not (opened and to[1] == 1)
    if min(to) < 0 or max(to) >= side or wall:
        to = cell
    return None if to == (side - 1, side - 1) else (to, key, opened)


@pytest.mark.parametrize("side", [5, 7])
def test_transitions_follow_the_rules(side):
    """From the start, every state that can be reached leads where the rules say."""
    table = key_door.build(side, gamma=0.9)
    p = np.asarray(table.transitions)
    number = lambda s: (  # noqa: E731
        3 * side**2
        if s is None
        else (int(s[1]) + int(s[2])) * side**2 + side * s[0][1] + s[0][0]
    )
    first = ((0, 0), False, False)
    depth, edge = {first: 0}, [first]
    while edge:
        state = edge.pop(0)
        for action in range(5):
            after = moves(side, *state, action)
            assert p[number(state), action, number(after)] == 1
            pays = table.rewards[number(state), action]
            assert pays == float(after is None)
            if after not in depth:
                depth[after] = depth[state] + 1
                if after is not None:
                    edge.append(after)
    found = jax.jit(tables.solve)(table)
    value = found.values @ table.start
    np.testing.assert_allclose(value, 0.9 ** (depth[None] - 1), rtol=1e-4)


def test_subgoals_close_once_each():
    side = 5
    table = key_door.build(side)
    policy = jax.jit(tables.solve)(table).policy
    state, closed, phases = jnp.int32(0), [], []
    for _ in range(40):
        after, _, _, ended = tables.step(table, state, policy[state], jax.random.key(0))
        closed.append(key_door.closed(state, after, side=side))
        phases.append(int(key_door.phase(after, side=side)))
        state = after
        if ended:
            break
    np.testing.assert_array_equal(np.sum(closed, 0), [1, 1])
    assert sorted(phases) == phases
    assert phases[-1] == 3


def test_slips_keep_probability():
    p = np.asarray(key_door.build(5, slip=0.2).transitions)
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-6)
    # From the corner "up" goes up, or nowhere by a slip to the left or down.
    np.testing.assert_allclose(p[0, 0, [0, 1, 5]], [0.1, 0.05, 0.85], rtol=1e-6)


def test_pictures_tell_states_apart():
    side, cells = 5, 25
    # One cell in each phase, the goal, and a neighbour.
    states = jnp.array([5, cells + 5, 2 * cells + 5, 3 * cells, 0])
    draw = jax.jit(jax.vmap(lambda s: key_door.render(s, side=side, scale=8)))
    pictures = draw(states)
    assert pictures.shape == (5, 40, 40, 3)
    assert float(pictures.min()) >= 0
    assert float(pictures.max()) <= 1
    for i in range(5):
        for j in range(i):
            assert float(jnp.abs(pictures[i] - pictures[j]).max()) > 0.1
    # The agent of state 5 stands in the first column of the second row from below.
    red = np.asarray(jnp.abs(pictures[0] - jnp.array([0.80, 0.20, 0.16])).max(-1))
    rows, columns = np.nonzero(red < 1e-3)
    assert (rows // 8 == 3).all()
    assert (columns // 8 == 0).all()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: key_door.build(6), "side is 6; expected an odd number"),
        (lambda: key_door.build(slip=-0.1), "slip is -0.1"),
        (lambda: key_door.phase(0, side=3), "side is 3"),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()
