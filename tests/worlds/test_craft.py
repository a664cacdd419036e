"""The crafting grid against its rules, played by sets of names, and by search."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.worlds import craft

WORLD = craft.build()


def played(cell, had, action):
    """The table of the docstring, by names."""
    x, y = cell
    if action < 4:
        dx, dy = ((0, 1), (-1, 0), (0, -1), (1, 0))[action]
        return (min(max(x + dx, 0), 6), min(max(y + dy, 0), 6)), had
    rules = [
        ("wood", (1, 1), ""),
        ("stone", (5, 1), ""),
        ("water", (0, 6), "bucket"),
        ("iron", (6, 3), "pickaxe"),
        ("coal", (2, 5), "pickaxe"),
        ("gem", (6, 6), "drill"),
        ("plank", (3, 2), "wood"),
        ("stick", (3, 2), "plank"),
        ("pickaxe", (3, 2), "stick stone"),
        ("bucket", (3, 2), "plank iron"),
        ("drill", (3, 2), "steel stick"),
        ("glass", (4, 5), "stone coal"),
        ("steel", (4, 5), "iron coal"),
        ("lamp", (4, 5), "glass gem water"),
    ]
    for _ in rules:
        for item, where, needs in rules:
            if where == cell and set(needs.split()) <= had:
                had = had | {item}
    return cell, had


def read(state):
    """Cell and items of a state."""
    has = np.asarray(WORLD.has)[state // 49]
    cell = state % 49
    return (cell % 7, cell // 7), {
        i for i, h in zip(craft.ITEMS, has, strict=True) if h
    }


def test_steps_follow_the_rules_and_numbers_are_complete():
    after = np.asarray(WORLD.after)
    assert after.shape == (len(WORLD.has) * 49, 5)
    seen = set()
    for state in range(len(after)):
        cell, had = read(state)
        seen.add((cell, frozenset(had)))
        for action in range(5):
            assert read(after[state, action]) == played(cell, had, action)
    assert len(seen) == len(after)
    there, _, reward, ended = craft.step(WORLD, 8, 4, jax.random.key(0))
    assert read(int(there)) == ((1, 1), {"wood"})
    assert (float(reward), bool(ended)) == (0, False)


def test_solutions_are_shortest():
    """Against a search by sets of names from one start, for three goals."""
    names = ("have iron", "have bucket", "row 6")
    goals = np.stack([np.isin(craft.PREDICATES, name) for name in names])
    goals = np.concatenate([goals, goals[1:2] | goals[2:]])
    steps = jax.jit(jax.vmap(lambda goal: craft.solve(WORLD, goal)))(goals)
    first = ((3, 3), frozenset())
    depth, edge = {first: 0}, [first]
    while edge:
        cell, had = edge.pop(0)
        for action in range(5):
            to, got = played(cell, had, action)
            key = to, frozenset(got)
            if key not in depth:
                depth[key] = depth[cell, had] + 1
                edge.append(key)
    tests = (
        lambda cell, had: "iron" in had,
        lambda cell, had: "bucket" in had,
        lambda cell, had: cell[1] == 6,
        lambda cell, had: cell[1] == 6 and "bucket" in had,
    )
    for row, test in zip(steps, tests, strict=True):
        assert row[24] == min(d for key, d in depth.items() if test(*key))
    assert float(jnp.max(craft.solve(WORLD, np.zeros(40, bool)))) == 0


def test_predicates_say_what_is_so():
    state = int(WORLD.after[8, 4])
    true = {p for p, h in zip(craft.PREDICATES, WORLD.holds[state], strict=True) if h}
    assert true == {"have wood", "row 1", "column 1", "at wood"}
    with pytest.raises(ValueError, match="goal has shape"):
        craft.fulfilled(WORLD, np.ones(3, bool))


def test_a_picture_shows_the_agent_and_what_it_has():
    states = jnp.array([8, 9, int(WORLD.after[8, 4])])
    pictures = jax.jit(jax.vmap(lambda s: craft.render(WORLD, s, scale=6)))(states)
    assert pictures.shape == (3, 54, 42, 3)
    assert float(jnp.min(pictures)) >= 0
    assert float(jnp.max(pictures)) <= 1
    walked, gathered = (np.abs(pictures[0] - p).max(-1) > 0.05 for p in pictures[1:])
    # Items are in the two upper rows, and wood is the first.
    assert walked[12:].any()
    assert not walked[:12].any()
    rows, columns = np.nonzero(gathered)
    assert set(rows // 6) == {1}
    assert set(columns // 6) == {0}
