"""A key, a door and a goal: two subgoals that must be met in order, as a table.

Two rooms of a square grid, with a wall between them whose one cell is a door. The agent
starts in a corner of the left room, whose key lies in the opposite one; the goal is in
the far corner of the right room and pays 1, once. Actions 0 to 3 move up, left, down
and right, action 4 picks up the key where it lies, and opens the door from the cell
beside it.

A state is ``phase side^2 + side y + x`` with phase 0 without the key, 1 with it and 2
once the door is open; the last state is the end. Everything of `worlds.tables` works:
`reset`, `step`, `solve`, `score`.
"""

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.types import Array
from jaxlib_guidance.worlds._checks import require_chance
from jaxlib_guidance.worlds._grids import MOVES, _table
from jaxlib_guidance.worlds._paint import AGENT, FLOOR, GOAL, WALL, paint, spot
from jaxlib_guidance.worlds._tables import Table

USE = 4
"""The action that picks up the key and opens the door."""
CLOSED, OPEN, KEY = (0.55, 0.36, 0.20), (0.85, 0.74, 0.58), (0.95, 0.75, 0.15)


def build(side: int = 7, *, slip: float = 0.0, gamma: float = 0.95) -> Table:
    """The world as a table.

    Args:
      side: Cells of a side, odd and at least 5.
      slip: Probability that a move goes in a direction drawn from all four, in [0, 1].
      gamma: Discount, in [0, 1).

    Returns:
      A table of ``3 side^2 + 1`` states, of which the last is terminal, and 5 actions.
      States that cannot be, such as those within the wall, lead nowhere.

    Raises:
      ValueError: Another side, probability or discount.
    """
    _require_side(side)
    require_chance("slip", slip)
    cells, end = side**2, 3 * side**2
    middle, key, door = side // 2, (side - 1) * side, _door(side)
    p = np.zeros((end + 1, 5, end + 1))
    for phase in range(3):
        for cell in range(cells):
            x, y = cell % side, cell // side
            there = []
            for dx, dy in MOVES:
                to = (x + dx, y + dy)
                free = min(to) >= 0 and max(to) < side
                free &= to[0] != middle or (phase == 2 and to == door)
                into = to[0] + side * to[1] if free else cell
                there.append(end if into == cells - 1 else phase * cells + into)
            state = phase * cells + cell
            for action in range(4):
                p[state, action, there[action]] += 1 - slip
                np.add.at(p[state, action], there, slip / 4)
            got = phase == 0 and cell == key
            opened = phase == 1 and (x, y) == (door[0] - 1, door[1])
            p[state, USE, state + cells * (got or opened)] = 1
    p[end] = np.eye(end + 1)[end]
    rewards = p[:, :, end].copy()
    rewards[end] = 0
    return _table(p, rewards, 0, gamma)


def phase(state: Array, *, side: int = 7) -> Array:
    """How far the agent is: 0, 1 with the key, 2 with the door open, 3 at the goal.

    Args:
      state: Numbers of states, integers of any shape.
      side: Cells of a side, odd and at least 5.

    Returns:
      int32 of the shape of ``state``.
    """
    _require_side(side)
    return (jnp.asarray(state) // side**2).astype(jnp.int32)


def closed(state: Array, after: Array, *, side: int = 7) -> Array:
    """Which subgoals a transition closes: the key is picked up, the door opened.

    Args:
      state: Numbers of states, integers of any shape.
      after: Numbers of the next states, of the shape of ``state``.
      side: Cells of a side, odd and at least 5.

    Returns:
      Bool of the shape of ``state`` with a last axis of 2; the goal is no subgoal.
    """
    before, now = phase(state, side=side), phase(after, side=side)
    gained = jnp.arange(1, 3)
    return (before[..., None] < gained) & (gained <= now[..., None])


def render(state: Array, *, side: int = 7, scale: int = 8) -> Array:
    """A picture of a state: the key is gone once taken, and the agent then carries it.

    Args:
      state: Number of the state, an integer scalar; `jax.vmap` for a batch.
      side: Cells of a side, odd and at least 5.
      scale: Side of a cell in pixels.

    Returns:
      Float32 ``[side scale, side scale, 3]`` in [0, 1], y upward.
    """
    done, shape = phase(state, side=side), (side, side)
    # The end has no cell of its own: it is the goal's.
    cell = jnp.where(done == 3, side**2 - 1, state % side**2)
    (a, b), middle = _door(side), side // 2
    cells = jnp.tile(jnp.array(FLOOR), (*shape, 1))
    cells = cells.at[:, middle].set(jnp.array(WALL))
    door = jnp.where(done >= 2, jnp.array(OPEN), jnp.array(CLOSED))
    cells = cells.at[b, a].set(door).at[-1, -1].set(jnp.array(GOAL))
    lying = jnp.where(done == 0, jnp.array(KEY), jnp.nan)
    carried = jnp.where(done == 1, jnp.array(KEY), jnp.nan)
    x, y = cell % side, cell // side
    tokens = [
        spot(shape, 0, side - 1, lying),
        spot(shape, x, y, AGENT),
        spot(shape, x, y, carried),
    ]
    inset = scale // 4, scale // 8, scale // 3
    return paint(cells, jnp.stack(tokens), scale=scale, inset=inset)


def _door(side):
    return side // 2, 1


def _require_side(side):
    if side < 5 or side % 2 == 0:
        raise ValueError(f"side is {side}; expected an odd number of at least 5")
