"""Grids as tables: the four rooms and the chain of the papers on reward design."""

import jax.numpy as jnp
import numpy as np

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
    _require_chance("slip", slip)
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
    _require_chance("slip", slip)
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


def _require_chance(name, value):
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}; expected 0 to 1")
