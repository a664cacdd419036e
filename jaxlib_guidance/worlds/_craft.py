"""A crafting grid whose goals are predicates, small enough to be solved for each goal.

An agent walks a 7 by 7 grid with six resources and two stations. Actions 0 to 3 move
up, left, down and right; action 4 gathers what lies in the cell, where its tool is at
hand, and makes, at a station, all that the inventory allows. Things are had for good:
nothing is used up. Of each kind there is one place.

=========  =======================  ==========================
item       where                    needs
=========  =======================  ==========================
wood       its cell                 --
stone      its cell                 --
water      its cell                 bucket
iron       its cell                 pickaxe
coal       its cell                 pickaxe
gem        its cell                 drill
plank      bench                    wood
stick      bench                    plank
pickaxe    bench                    stick, stone
bucket     bench                    plank, iron
glass      furnace                  stone, coal
steel      furnace                  iron, coal
drill      bench                    steel, stick
lamp       furnace                  glass, gem, water
=========  =======================  ==========================

A state is ``49 inventory + 7 y + x``, with the inventories that can be numbered from
the empty one. A predicate says of a state that an item is had, that the agent is in a
row, in a column, or at a place; a goal is a set of predicates, all of which must hold.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array
from jaxlib_guidance.worlds._checks import require_index, require_number
from jaxlib_guidance.worlds._grids import MOVES
from jaxlib_guidance.worlds._paint import AGENT, FLOOR, paint, spot

SIDE, USE = 7, 4
RESOURCES = ("wood", "stone", "water", "iron", "coal", "gem")
ITEMS = (*RESOURCES, "plank", "stick", "pickaxe", "bucket")
ITEMS = (*ITEMS, "glass", "steel", "drill", "lamp")
PLACES = {
    "wood": (1, 1),
    "stone": (5, 1),
    "water": (0, 6),
    "iron": (6, 3),
    "coal": (2, 5),
    "gem": (6, 6),
    "bench": (3, 2),
    "furnace": (4, 5),
}
"""Cells ``(x, y)``; gathering and making happen there."""
NEEDS = {
    "wood": ("wood", ()),
    "stone": ("stone", ()),
    "water": ("water", ("bucket",)),
    "iron": ("iron", ("pickaxe",)),
    "coal": ("coal", ("pickaxe",)),
    "gem": ("gem", ("drill",)),
    "plank": ("bench", ("wood",)),
    "stick": ("bench", ("plank",)),
    "pickaxe": ("bench", ("stick", "stone")),
    "bucket": ("bench", ("plank", "iron")),
    "glass": ("furnace", ("stone", "coal")),
    "steel": ("furnace", ("iron", "coal")),
    "drill": ("bench", ("steel", "stick")),
    "lamp": ("furnace", ("glass", "gem", "water")),
}
CORNERS = {"corner 0": (0, 0), "corner 1": (6, 0), "middle": (3, 3), "gate": (0, 3)}
PREDICATES = (
    *(f"have {item}" for item in ITEMS),
    *(f"row {y}" for y in range(SIDE)),
    *(f"column {x}" for x in range(SIDE)),
    *(f"at {place}" for place in (*PLACES, *CORNERS)),
)
COLOURS = {
    "wood": (0.45, 0.30, 0.15),
    "stone": (0.55, 0.55, 0.58),
    "water": (0.25, 0.50, 0.85),
    "iron": (0.75, 0.62, 0.55),
    "coal": (0.12, 0.12, 0.12),
    "gem": (0.65, 0.30, 0.75),
    "bench": (0.80, 0.60, 0.30),
    "furnace": (0.90, 0.45, 0.15),
}


class World(NamedTuple):
    """The rules as tables, of ``S`` states, ``I`` inventories and 40 predicates.

    Attributes:
      after: Next state of a state and an action, int32 ``[S, 5]``.
      holds: Whether a predicate holds in a state, bool ``[S, 40]``.
      has: Items of each inventory, bool ``[I, 14]``.
    """

    after: Array
    holds: Array
    has: Array


def build() -> World:
    """The world; all that can be reached, enumerated."""
    bits = {item: 1 << i for i, item in enumerate(ITEMS)}
    known, todo = {0: 0}, [0]

    def use(inventory, place):
        # What is made may be used at once: a plank for a stick.
        while True:
            got = inventory
            for item, (where, needs) in NEEDS.items():
                if where == place and all(got & bits[n] for n in needs):
                    got |= bits[item]
            if got == inventory:
                return got
            inventory = got

    while todo:
        inventory = todo.pop(0)
        for place in PLACES:
            got = use(inventory, place)
            if got not in known:
                known[got] = len(known)
                todo.append(got)
    cells = SIDE**2
    at = {x + SIDE * y: place for place, (x, y) in PLACES.items()}
    after = np.zeros((len(known) * cells, 5), np.int32)
    for inventory, number in known.items():
        for cell in range(cells):
            x, y = cell % SIDE, cell // SIDE
            for action, (dx, dy) in enumerate(MOVES):
                to = np.clip((x + dx, y + dy), 0, SIDE - 1)
                after[number * cells + cell, action] = number * cells + to @ (1, SIDE)
            got = known[use(inventory, at[cell])] if cell in at else number
            after[number * cells + cell, USE] = got * cells + cell
    has = np.array([[bool(i & bits[item]) for item in ITEMS] for i in known])
    x, y = np.arange(cells) % SIDE, np.arange(cells) // SIDE
    spots = [(x == a) & (y == b) for a, b in (PLACES | CORNERS).values()]
    lines = [line == i for line in (y, x) for i in range(SIDE)]
    there = np.stack([*lines, *spots], -1)
    holds = np.concatenate(
        [np.repeat(has, cells, 0), np.tile(there, (len(known), 1))], -1
    )
    return World(jnp.asarray(after), jnp.asarray(holds), jnp.asarray(has))


def reset(world: World, key: Array) -> tuple[Array, Array]:
    """A cell drawn evenly, with nothing in hand.

    Args:
      world: The world.
      key: A typed key.

    Returns:
      ``(state, observation)``, both the state's number, int32.
    """
    del world
    state = jax.random.randint(key, (), 0, SIDE**2)
    return state, state


def step(
    world: World, state: Array, action: Array, key: Array
) -> tuple[Array, Array, Array, Array]:
    """Acts; what pays is a goal's matter, so the reward is 0.

    Args:
      world: The world.
      state: Number of the state.
      action: Number of the action, 0 to 4.
      key: A typed key; nothing is drawn from it.

    Returns:
      ``(state, observation, reward, terminated)``: the next state twice, 0 and False.

    Raises:
      ValueError: A state or an action that the world has not.
    """
    require_shape("state", state, ())
    require_shape("action", action, ())
    require_index("state", state, len(world.after))
    require_index("action", action, USE + 1)
    del key
    to = jnp.asarray(world.after)[state, action]
    return to, to, jnp.zeros(()), jnp.zeros((), bool)


def fulfilled(world: World, goal: Array) -> Array:
    """In which states a goal's predicates all hold.

    Args:
      world: The world.
      goal: Which predicates it has, bool ``[40]``; none at all holds everywhere.

    Returns:
      Bool ``[S]``.

    Raises:
      ValueError: Another shape.
    """
    require_shape("goal", goal, (len(PREDICATES),))
    return jnp.all(world.holds | ~jnp.asarray(goal, bool), -1)


def solve(world: World, goal: Array) -> Array:
    """Fewest actions to a state in which a goal holds.

    Args:
      world: The world.
      goal: Which predicates it has, bool ``[40]``.

    Returns:
      Float32 ``[S]``: 0 where it holds, infinity from where it never can.
    """
    there = fulfilled(world, goal)

    def improve(carry):
        steps, _ = carry
        better = jnp.where(there, 0.0, 1 + jnp.min(steps[world.after], -1))
        return better, jnp.any(better != steps)

    first = jnp.where(there, 0.0, jnp.inf), jnp.array(True)
    return jax.lax.while_loop(lambda carry: carry[1], improve, first)[0]


def render(world: World, state: Array, *, scale: int = 12) -> Array:
    """A picture of a state: places, the agent, and what it has in a row above.

    Args:
      world: The world.
      state: Number of the state, an integer scalar; `jax.vmap` for a batch.
      scale: Side of a cell in pixels.

    Returns:
      Float32 ``[9 scale, 7 scale, 3]`` in [0, 1], y upward; the two upper rows are the
      items in order, coloured once they are had.

    Raises:
      ValueError: A state that the world has not, ``scale`` below 1.
    """
    require_index("state", state, len(world.after))
    require_number("scale", scale, 1)
    cell, items = state % SIDE**2, jnp.asarray(world.has)[state // SIDE**2]
    shape = (SIDE + 2, SIDE)
    cells = jnp.tile(jnp.array(FLOOR), (*shape, 1))
    cells = cells.at[SIDE:].set(jnp.array((0.82, 0.82, 0.80)))
    places = jnp.full((*shape, 3), jnp.nan)
    for place, (x, y) in PLACES.items():
        places = places.at[y, x].set(jnp.array(COLOURS[place]))
    made = jnp.array((0.20, 0.45, 0.40))
    for i, item in enumerate(ITEMS):
        colour = jnp.array(COLOURS[item]) if item in COLOURS else made
        held = jnp.where(items[i], colour, jnp.nan)
        places = places.at[SIDE + i // SIDE, i % SIDE].set(held)
    agent = spot(shape, cell % SIDE, cell // SIDE, AGENT)
    tokens = jnp.stack([places, agent])
    return paint(cells, tokens, scale=scale, inset=(scale // 8, scale // 3))
