"""People who walk across a place, and a robot among them that may be taken away.

A person is driven to a goal at a pace and is pushed away by the other people and by the
robot, ``a_i = (pace_i e_i - v_i) / relax + sum_j w_ij strength exp((r_ij - d_ij) /
reach) n_ij``, with ``n_ij`` from ``j`` to ``i``, ``d_ij`` the distance of the centres
and ``r_ij`` the sum of the radii. What is behind counts less: ``w = behind + (1 -
behind) (1 + cos phi) / 2``, with ``phi`` between the way ``e_i`` to the goal and ``j``.
Within a metre of the goal the pace falls to 0 with the distance. The robot moves as it
is told.

`alone` takes the robot away: the same start with the same key is then what the people
would have done, so that how much a robot disturbed them is known. Lengths are in
metres, times in seconds.

Reference: Helbing and Molnar, arXiv cond-mat/9805244 (the way to a goal, what is
  behind, the largest speed); Helbing, Farkas and Vicsek, arXiv cond-mat/0009448 (the
  force that falls exponentially with the gap).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance.reduce import require_shape, sqrt
from jaxlib_guidance.types import Array
from jaxlib_guidance.worlds._checks import at_most_one, require_chance, require_number
from jaxlib_guidance.worlds._picture import disc, paper

TIME, PARTS = 1 / 3, 2
"""Time of a step, and the parts in which it is integrated."""
NEAR, HURRY = 0.3, 1.3
"""Distance at which a goal is reached; the largest speed of a person over its pace."""
EDGE = 6.0
"""Half of the side of a picture."""


class World(NamedTuple):
    """Parameters.

    Attributes:
      relax: Time in which a person comes back to its pace, scalar.
      strength: Acceleration by a body that is touched, scalar.
      reach: Length over which that falls by a factor of e, scalar.
      behind: Share of it that is felt from behind, in [0, 1]; 1 is all, scalar.
      body: Radius of a person, scalar.
      robot: Radius of the robot, scalar.
      speed: Largest speed of the robot, scalar.
      noise: Standard deviation of what a step adds to each entry of a person's
        velocity, scalar.
    """

    relax: Array | float
    strength: Array | float
    reach: Array | float
    behind: Array | float
    body: Array | float
    robot: Array | float
    speed: Array | float
    noise: Array | float


class State(NamedTuple):
    """People and the robot.

    Attributes:
      people: Places ``[N, 2]``.
      moves: Velocities ``[N, 2]``.
      goals: Where each goes ``[N, 2]``.
      paces: How fast each likes to go ``[N]``.
      robot: Place ``[2]``.
      goal: Where the robot should go ``[2]``.
      present: How much of the robot's force is felt, 1 with it and 0 without, scalar.
    """

    people: Array
    moves: Array
    goals: Array
    paces: Array
    robot: Array
    goal: Array
    present: Array


class Tracks(NamedTuple):
    """Places after each step: of the people ``[T, N, 2]``, of the robot ``[T, 2]``."""

    people: Array
    robot: Array


def default() -> World:
    """People of .2 m radius who feel a quarter of what is behind, a robot of .5 m."""
    values = 0.5, 2.0, 0.3, 0.25, 0.2, 0.5, 1.0, 0.05
    return World(*map(jnp.float32, values))


def _require(world: World) -> None:
    for name in ("relax", "reach"):
        require_number(name, getattr(world, name), 0, above=True)
    for name in ("strength", "body", "robot", "speed", "noise"):
        require_number(name, getattr(world, name), 0)
    require_chance("behind", world.behind)


def observe(state: State) -> Array:
    """The way to the robot's goal, and of each person place and velocity from there.

    Args:
      state: The state.

    Returns:
      ``[2 + 4 N]``.
    """
    seen = jnp.concatenate([state.people - state.robot, state.moves], axis=1)
    return jnp.concatenate([state.goal - state.robot, seen.ravel()])


def reset(world: World, key: Array, *, people: int = 4) -> tuple[State, Array]:
    """A robot that has to cross 6 m, and people from ahead and from the sides.

    Each begins at its pace, 5 to 9 m from the middle, and goes past it at up to two
    metres and 8 m beyond.

    Args:
      world: Parameters.
      key: Typed key.
      people: Number ``N`` of people, at least 1.

    Returns:
      The state, and what is seen ``[2 + 4 N]``.

    Raises:
      ValueError: No people, or parameters out of range.
    """
    _require(world)
    require_number("people", people, 1)
    far, side, past, pace = jax.random.split(key, 4)
    # From behind nobody comes, who would walk upon the robot before it can move.
    angle = jax.random.uniform(side, (people, 1), minval=-0.5, maxval=jnp.pi + 0.5)
    radius = jax.random.uniform(far, (people, 1), minval=5.0, maxval=9.0)
    start = radius * jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], 1)
    middle = jax.random.uniform(past, (people, 2), minval=-1.5, maxval=1.5)
    way = _unit(middle - start)
    paces = 1.2 + 0.2 * jnp.clip(jax.random.normal(pace, (people,)), -2, 2)
    robot = jnp.array([0.0, -3.0], jnp.float32)
    state = State(
        *(start, paces[:, None] * way, middle + 8 * way, paces),
        *(robot, -robot, jnp.float32(1)),
    )
    return state, observe(state)


def alone(state: State) -> State:
    """The same people without the robot, which nobody feels any more.

    Args:
      state: The state.

    Returns:
      The state with ``present`` 0.
    """
    return state._replace(present=jnp.float32(0))


def _unit(way):
    return way / jnp.maximum(sqrt(jnp.sum(way**2, -1, keepdims=True)), 1e-6)


def _feel(world, apart, contact, ahead):
    """Acceleration by bodies from which ``apart [..., 2]`` leads to who feels them."""
    distance = sqrt(jnp.sum(apart**2, -1, keepdims=True))
    way = _unit(apart)
    seen = (1 - jnp.sum(way * ahead, -1, keepdims=True)) / 2
    share = world.behind + (1 - world.behind) * seen
    return share * world.strength * jnp.exp((contact - distance) / world.reach) * way


def forces(world: World, state: State) -> Array:
    """Acceleration of each person by its goal, the others and the robot.

    Args:
      world: Parameters.
      state: The state.

    Returns:
      ``[N, 2]``.
    """
    to_goal = state.goals - state.people
    ahead = _unit(to_goal)
    # Who is at the goal stays there.
    wish = (
        state.paces[:, None]
        * ahead
        * jnp.minimum(sqrt(jnp.sum(to_goal**2, -1, keepdims=True)), 1.0)
    )
    drive = (wish - state.moves) / world.relax
    apart = state.people[:, None] - state.people
    pairs = _feel(world, apart, 2 * world.body, ahead[:, None])
    others = jnp.sum(jnp.where(jnp.eye(len(apart), dtype=bool)[..., None], 0, pairs), 1)
    contact = world.body + world.robot
    robot = _feel(world, state.people - state.robot, contact, ahead)
    return drive + others + state.present * robot


def step(
    world: World, state: State, action: Array, key: Array
) -> tuple[State, Array, Array, Array]:
    """One step of a third of a second.

    Args:
      world: Parameters.
      state: The state.
      action: Velocity of the robot over its largest speed, ``[2]``, shortened to length
        1 where it is longer.
      key: Typed key of the noise; it does the same to people with and without a robot.

    Returns:
      The next state, what is seen, how much nearer the robot came to its goal, and
      whether it is within `NEAR` of it.

    Raises:
      ValueError: An action of another shape, or parameters out of range.
    """
    _require(world)
    velocity = world.speed * at_most_one(action)
    shaken = world.noise * jax.random.normal(key, state.moves.shape)
    most, part = HURRY * state.paces[:, None], TIME / PARTS
    after = state._replace(moves=state.moves + shaken)
    for _ in range(PARTS):
        moves = after.moves + part * forces(world, after)
        fast = sqrt(jnp.sum(moves**2, -1, keepdims=True))
        moves = moves * jnp.minimum(1.0, most / jnp.maximum(fast, 1e-6))
        after = after._replace(
            people=after.people + part * moves,
            moves=moves,
            robot=after.robot + part * velocity,
        )
    left, still = _left(state), _left(after)
    return after, observe(after), left - still, still <= NEAR


def _left(state):
    return sqrt(jnp.sum((state.goal - state.robot) ** 2))


def follow(world: World, state: State, plan: Array, key: Array) -> tuple[State, Tracks]:
    """What comes of a plan. Without the robot, see `alone`, it is the counterfactual.

    Args:
      world: Parameters.
      state: The state at first.
      plan: Actions ``[T, 2]``, see `step`.
      key: Typed key of the noise.

    Returns:
      The state after the plan, and the tracks that led there.

    Raises:
      ValueError: A plan of another shape, or parameters out of range.
    """
    require_shape("plan", plan, (len(plan), 2))

    def one(state, given):
        action, key = given
        state = step(world, state, action, key)[0]
        return state, Tracks(state.people, state.robot)

    return jax.lax.scan(one, state, (plan, jax.random.split(key, len(plan))))


def touches(world: World, tracks: Tracks) -> Array:
    """Whether the robot touches anybody: bool ``[T]`` of tracks ``[T, ...]``."""
    apart = tracks.people - tracks.robot[..., None, :]
    near = jnp.sum(apart**2, -1) < (world.body + world.robot) ** 2
    return jnp.any(near, axis=-1)


def render(world: World, state: State, *, size: int = 64) -> Array:
    """A picture of twelve metres: people blue, the robot red, its goal green.

    Args:
      world: Parameters.
      state: The state.
      size: Pixels of a side.

    Returns:
      Float32 ``[size, size, 3]`` in [0, 1], the top row where ``y`` is `EDGE`.
    """
    picture, *_ = paper(size)
    place = lambda at: 0.5 + 0.5 * at / EDGE  # noqa: E731
    picture = disc(picture, place(state.goal), NEAR / EDGE, (0.30, 0.62, 0.36))
    radius = jnp.where(state.present > 0, world.robot, 0) / EDGE / 2
    picture = disc(picture, place(state.robot), radius, (0.8, 0.2, 0.16))
    for person in state.people:
        picture = disc(picture, place(person), world.body / EDGE / 2, (0.2, 0.3, 0.9))
    return picture
