"""Grids as tables: the four rooms and the chain of the papers on reward design."""

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array
from jaxlib_guidance.worlds._checks import require_chance, require_index, require_number
from jaxlib_guidance.worlds._paint import AGENT, FLOOR, GOAL, paint, spot
from jaxlib_guidance.worlds._tables import Table

SIDE = 7
MOVES = ((0, 1), (-1, 0), (0, -1), (1, 0))
"""Up, left, down, right as ``(x, y)``; the cell ``(x, y)`` is state ``7 y + x``."""
DOORS = (1, 5)


def four_rooms(
    *, slip: float = 0.1, gamma: float = 0.95, reward: float = 10.0
) -> Table:
    """Four rooms of a 7 by 7 grid, joined by four doors; the far corner pays once.

    Walls stand between the third and fourth columns, and rows, with doors at 1 and 5.
    The agent starts in (1, 1). "Right" in (6, 6) pays, and leaves the grid there;
    so does, unpaid, "up" in that corner, and "left" or "down" in (0, 0). A move goes
    astray with probability ``slip``, to another cell that is one move away; against a
    wall the agent stays, or goes astray.

    Args:
      slip: Probability that a move goes astray, in [0, 1].
      gamma: Discount, in [0, 1).
      reward: What the goal pays.

    Returns:
      A table of 50 states, of which the last is terminal, and 4 actions.

    Reference: EXPRD, Devidze et al., NeurIPS 2021, ROOMSNAVENV of the released code.
    """
    require_chance("slip", slip)
    end = SIDE**2
    p = np.zeros((end + 1, 4, end + 1))
    for state in range(end):
        x, y = state % SIDE, state // SIDE
        to = {a: _beside(x, y, a) for a in range(4)}
        to = {a: there for a, there in to.items() if there is not None}
        for a in range(4):
            aim = to.get(a, state)
            others = sorted(set(to.values()) - {aim})
            p[state, a, aim] += 1 - slip
            p[state, a, others] += slip / len(others)
    p[end, :, end] = 1
    r = np.zeros((end + 1, 4))
    r[end - 1, 3] = reward
    return _table(p, r, SIDE + 1, gamma)


def _beside(x, y, action):
    """State that a move leads to; None for a wall."""
    dx, dy = MOVES[action]
    if (x, y) in ((0, 0), (SIDE - 1, SIDE - 1)):
        out = x + dx not in range(SIDE) or y + dy not in range(SIDE)
        if out:
            return SIDE**2
    if x + dx not in range(SIDE) or y + dy not in range(SIDE):
        return None
    middle = SIDE // 2
    for along, across, d in ((y, x, dx), (x, y, dy)):
        if d and min(across, across + d) == middle - 1 and along not in DOORS:
            return None
    return SIDE * (y + dy) + x + dx


def chain(
    length: int = 12,
    *,
    start: int = 4,
    slip: float = 0.1,
    gamma: float = 0.9,
    reward: float = 1.0,
    distractor: float = 0.0,
    at: int = 0,
) -> Table:
    """A corridor whose right end pays and ends; a distractor on the left may pay, too.

    Action 0 goes left and 1 right. With probability ``slip`` either is taken, by coin.
    The wall is on the left: there "left" stays.

    Args:
      length: Number of states besides the terminal one.
      start: First state.
      slip: Probability that chance decides, in [0, 1].
      gamma: Discount, in [0, 1).
      reward: What "right" pays in the last state.
      distractor: What "left" pays in the state ``at``, each time.
      at: State of the distractor.

    Returns:
      A table of ``length + 1`` states, the last terminal, and 2 actions.
    """
    require_chance("slip", slip)
    if length < 1:
        raise ValueError(f"length is {length}; expected at least 1")
    for name, value in (("start", start), ("at", at)):
        if value not in range(length):
            raise ValueError(f"{name} is {value}; expected 0 to {length - 1}")
    p = np.zeros((length + 1, 2, length + 1))
    for state in range(length):
        for a, there in enumerate((max(state - 1, 0), state + 1)):
            p[state, a, there] += 1 - slip
            p[state, :, there] += slip / 2
    p[length, :, length] = 1
    r = np.zeros((length + 1, 2))
    r[length - 1, 1] = reward
    r[at, 0] += distractor
    return _table(p, r, start, gamma)


def _table(p, r, start, gamma):
    if not 0 <= gamma < 1:
        raise ValueError(f"gamma is {gamma}; expected 0 to below 1")
    states = np.arange(len(p))
    return Table(
        transitions=jnp.asarray(p, jnp.float32),
        rewards=jnp.asarray(r, jnp.float32),
        start=jnp.asarray(states == start, jnp.float32),
        terminal=jnp.asarray(states == len(p) - 1),
        gamma=jnp.float32(gamma),
    )


def render_rooms(
    state: Array | int, values: Array | None = None, *, scale: int = 12
) -> Array:
    """The four rooms: walls, the corner that pays in green, the agent in red.

    Args:
      state: Number of the state, 0 to 49; in the last, terminal one nobody is drawn.
      values: Of each state, ``[50]``: the larger, the bluer its cell; None for none.
      scale: Side of a cell in pixels, at least 6.

    Returns:
      Float32 ``[7 scale, 7 scale, 3]`` in [0, 1], y upward.
    """
    require_index("state", state, SIDE**2 + 1)
    require_number("scale", scale, 6)
    cells = _shaded(values, SIDE, SIDE)
    cells = cells.at[SIDE - 1, SIDE - 1].set(jnp.array(GOAL))
    agent = spot((SIDE, SIDE), state % SIDE, state // SIDE, AGENT)
    picture = paint(cells, agent[None], scale=scale, inset=(scale // 4,))
    place = jnp.arange(SIDE * scale)
    middle = (SIDE // 2) * scale
    thick = max(scale // 8, 1)
    wall = (place >= middle - thick) & (place < middle + thick)
    door = jnp.isin(place // scale, jnp.array(DOORS))
    # Rows are counted from the top, and cells from below.
    across = wall[None] & ~door[::-1, None]
    picture = jnp.where(
        (across | (wall[::-1, None] & ~door[None]))[..., None], 0.2, picture
    )
    return picture.astype(jnp.float32)


def render_chain(
    table: Table, state: Array | int, values: Array | None = None, *, scale: int = 12
) -> Array:
    """The corridor: what pays in green, the agent in red.

    Args:
      table: A table of `chain`.
      state: Number of the state; in the last, terminal one nobody is drawn.
      values: Of each state, ``[S]``: the larger, the bluer its cell; None for none.
      scale: Side of a cell in pixels, at least 6.

    Returns:
      Float32 ``[scale, (S - 1) scale, 3]`` in [0, 1].
    """
    length = len(table.rewards) - 1
    require_index("state", state, length + 1)
    require_number("scale", scale, 6)
    cells = _shaded(values, 1, length)
    pays = jnp.any(table.rewards[:-1] > 0, -1)
    cells = jnp.where(pays[:, None], jnp.array(GOAL), cells)
    agent = spot((1, length), state, 0, AGENT)
    picture = paint(cells, agent[None], scale=scale, inset=(scale // 4,))
    return picture.astype(jnp.float32)


def _shaded(values, height, width):
    """Cells ``[height, width, 3]`` of the floor, bluer where a value is larger."""
    floor = jnp.tile(jnp.array(FLOOR), (height, width, 1))
    if values is None:
        return floor
    require_shape("values", values, (height * width + 1,))
    kept = jnp.asarray(values, jnp.float32)[:-1].reshape(height, width, 1)
    low, high = jnp.min(kept), jnp.max(kept)
    share = (kept - low) / jnp.maximum(high - low, 1e-9)
    return floor + share * (jnp.array((0.35, 0.55, 0.90)) - floor)
