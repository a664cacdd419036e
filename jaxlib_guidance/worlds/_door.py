"""A door to be opened by hand: reach the handle, hold it till the latch is free, turn.

In the plane, the door hangs at the origin and its handle is at ``REACH (cos q, sin q)``
for an angle ``q``, 0 when closed. An action is a push of the hand and a grip. The hand
holds the handle while it grips within ``NEAR`` of it; held, the latch opens in five
steps and closes when it is let go; held with the latch open, the door turns by the part
of the push that is tangential. A door that nobody holds does not move, ever: a plan in
which it does is a ghost. Everything is a function of one hand and one door; `jax.vmap`
makes many.

The world stands in for the door of Adroit (arXiv 1709.10087); the numbers are ours.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array

REACH, NEAR, WIDEST = 0.8, 0.15, 1.6
"""Distance of the handle from the hinge; within which it is held; largest angle."""
DT, DRAG, PUSH, LATCH = 0.1, 0.8, 0.2, 0.2
"""Length of a step, what a velocity keeps, what a push adds, what the latch gains."""
CLOSE_ENOUGH = 0.1
"""Distance of the angle from the goal that is a success."""
ACTIONS, STATES = 3, 7
"""Entries of an action (push x, push y, grip) and of a state, see `State`."""


class Door(NamedTuple):
    """What is asked of the hand.

    Attributes:
      goal: Angle that the door is to have, from 0 to `WIDEST`, scalar.
      start: Angle that it has at first, scalar.
    """

    goal: Array | float
    start: Array | float = 0.0


class State(NamedTuple):
    """Hand and door.

    Attributes:
      hand: Position of the hand ``[2]``.
      velocity: Its velocity ``[2]``, in lengths per unit of time.
      angle: Angle of the door, scalar.
      turning: Its velocity, scalar.
      latch: How far the latch is open, from 0 to 1, scalar.
    """

    hand: Array
    velocity: Array
    angle: Array
    turning: Array
    latch: Array


def observe(state: State) -> Array:
    """The state as a vector.

    Args:
      state: The state, or many with leading axes.

    Returns:
      ``[..., 7]``: hand, velocity, angle, turning, latch.
    """
    rest = jnp.stack([state.angle, state.turning, state.latch], axis=-1)
    return jnp.concatenate([state.hand, state.velocity, rest], axis=-1)


def handle(angle: Array) -> Array:
    """Where the handle is.

    Args:
      angle: Angle of the door ``[...]``.

    Returns:
      ``[..., 2]``.
    """
    return REACH * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def holds(state: State, action: Array) -> Array:
    """Whether an action holds the handle: it grips, and the hand is near enough.

    Args:
      state: The state.
      action: The action ``[3]``; above 0 the last entry grips.

    Returns:
      Bool scalar.
    """
    off = state.hand - handle(state.angle)
    return (jnp.sum(off**2) < NEAR**2) & (action[2] > 0)


def reset(params: Door, key: Array) -> tuple[State, Array]:
    """A hand at rest in front of the door.

    Args:
      params: What is asked.
      key: Typed key, of the hand's place in a square.

    Returns:
      The state and its vector ``[7]``.
    """
    low, high = jnp.array([-0.5, 0.4]), jnp.array([0.5, 1.2])
    hand = jax.random.uniform(key, (2,), minval=low, maxval=high)
    zero = jnp.float32(0)
    angle = jnp.asarray(params.start, jnp.float32)
    state = State(hand, jnp.zeros(2), angle, zero, zero)
    return state, observe(state)


def step(
    params: Door, state: State, action: Array, key: Array
) -> tuple[State, Array, Array, Array]:
    """One step of the hand and the door.

    Args:
      params: What is asked.
      state: The state.
      action: Push along both axes and grip ``[3]``, cut to [-1, 1].
      key: Typed key; nothing is drawn from it.

    Returns:
      The next state, its vector ``[7]``, the reward (1 while the door is within
      `CLOSE_ENOUGH` of its goal, else 0) and whether it is over (never).

    Raises:
      ValueError: An action of another shape.
    """
    del key
    require_shape("action", action, (ACTIONS,))
    push = jnp.clip(action, -1, 1)
    held = holds(state, push)
    latch = jnp.clip(state.latch + jnp.where(held, LATCH, -LATCH), 0, 1)
    along = jnp.stack([-jnp.sin(state.angle), jnp.cos(state.angle)])
    # It turns once the latch was open at the start of the step.
    free = held & (state.latch >= 1)
    turning = DRAG * state.turning + PUSH * jnp.sum(push[:2] * along)
    turning = jnp.where(free, turning, 0.0)
    angle = jnp.clip(state.angle + DT * turning, 0, WIDEST)
    turning = jnp.where((angle > 0) & (angle < WIDEST), turning, 0.0)
    # A hand that holds goes where the handle goes, and its grip comes to the middle.
    off = state.hand - handle(state.angle)
    carried = handle(angle) + 0.7 * off
    velocity = DRAG * state.velocity + PUSH * push[:2]
    hand = jnp.where(held, carried, state.hand + DT * velocity)
    velocity = jnp.where(held, (carried - state.hand) / DT, velocity)
    state = State(hand, velocity, angle, turning, latch)
    reward = (jnp.abs(angle - params.goal) < CLOSE_ENOUGH).astype(jnp.float32)
    return state, observe(state), reward, jnp.array(False)


def expert(params: Door, state: State) -> Array:
    """A scripted hand that knows the world: it reaches, holds and turns.

    Args:
      params: What is asked.
      state: The state.

    Returns:
      Its action ``[3]``.
    """
    off = handle(state.angle) - state.hand
    near = jnp.sum(off**2) < (0.8 * NEAR) ** 2
    reach = 4 * off - 1.5 * state.velocity
    along = jnp.stack([-jnp.sin(state.angle), jnp.cos(state.angle)])
    pull = (4 * (params.goal - state.angle) - 2 * state.turning) * along
    push = jnp.clip(jnp.where(near, pull, reach), -1, 1)
    grip = jnp.where(near, 1.0, -1.0)
    return jnp.concatenate([push, grip[None]])


def ghosts(states: Array) -> Array:
    """Steps of a plan in which the door moves though no hand is at it.

    Args:
      states: Vectors of the states ``[..., T, 7]``, as `observe` gives them.

    Returns:
      Bool ``[..., T - 1]``: the angle changes by more than .02, about a fifth of its
      fastest, while the hand is further than `NEAR` from the handle. Never true of what
      `step` does.

    Raises:
      ValueError: Vectors of another length.
    """
    if jnp.ndim(states) < 2 or jnp.shape(states)[-1] != STATES:
        raise ValueError(f"states have shape {jnp.shape(states)}; expected [..., T, 7]")
    angle = states[..., 4]
    off = states[..., :2] - handle(angle)
    far = jnp.sum(off**2, axis=-1) > NEAR**2
    return far[..., :-1] & (jnp.abs(jnp.diff(angle, axis=-1)) > 0.02)


def render(params: Door, states: Array | np.ndarray, size: int = 96) -> np.ndarray:
    """Pictures of the door (dark), its goal (grey), the handle and the hand.

    Args:
      params: What is asked.
      states: Vectors of states ``[T, 7]``.
      size: Side of a picture in pixels.

    Returns:
      uint8 ``[T, size, size, 3]``; the plane from -.6 to 1.3 each way.

    Raises:
      ValueError: Vectors of another length, or no size.
    """
    rows = np.asarray(states)
    if rows.ndim != 2 or rows.shape[1] != STATES:
        raise ValueError(f"states have shape {rows.shape}; expected [T, {STATES}]")
    if size < 8:
        raise ValueError(f"size is {size}; expected at least 8")
    at = np.linspace(-0.6, 1.3, size)
    plane = np.stack(np.meshgrid(at, at[::-1]), axis=-1)

    def bar(angle):
        end = np.array([np.cos(angle), np.sin(angle)])
        along = np.clip(plane @ end, 0, 1)
        return np.linalg.norm(plane - along[..., None] * end, axis=-1)

    frames = np.full((len(rows), size, size, 3), 255, np.uint8)
    for frame, row in zip(frames, rows, strict=True):
        frame[bar(float(params.goal)) < 0.03] = (205, 205, 205)
        frame[bar(row[4]) < 0.03] = (70, 60, 50)
        end = REACH * np.array([np.cos(row[4]), np.sin(row[4])])
        held = np.linalg.norm(row[:2] - end) < NEAR
        frame[np.linalg.norm(plane - end, axis=-1) < 0.06] = (200, 150, 40)
        colour = (30, 140, 60) if held else (190, 50, 40)
        frame[np.linalg.norm(plane - row[:2], axis=-1) < 0.05] = colour
    return frames
