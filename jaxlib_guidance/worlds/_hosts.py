"""Worlds as environments in the way of gymnax, and such environments as worlds.

Nothing is imported: what counts is the interface of gymnax 1.0, ``reset_env(key,
params) -> (obs, state)`` and ``step_env(key, state, action, params) -> (obs, state,
reward, terminated, info)``, with ``reset`` and ``step`` that begin anew after an end.
"""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance.types import Array, PyTree
from jaxlib_guidance.worlds._checks import require_number


class World(NamedTuple):
    """A host's environment as a world.

    Attributes:
      reset: ``(params, key) -> (state, obs)``.
      step: ``(params, state, action, key) -> (state, obs, reward, terminated)``.
    """

    reset: Callable
    step: Callable


def from_gymnax(env: Any) -> World:
    """An environment of gymnax as a world; its time limit and its resets stay out.

    Args:
      env: Anything with gymnax' ``reset_env`` and ``step_env``. Its parameters, of
        ``gymnax.make``, are the world's.

    Returns:
      The world's two functions.

    Raises:
      ValueError: ``env`` has not the two methods.

    Example:
      >>> class Counter:
      ...     def reset_env(self, key, params):
      ...         return 0.0, 0
      ...     def step_env(self, key, state, action, params):
      ...         state += action
      ...         return 1.0 * state, state, 1.0, state >= params, {}
      >>> world = from_gymnax(Counter())
      >>> world.step(3, 2, 1, None)
      (3, 3.0, 1.0, True)
    """
    for name in ("reset_env", "step_env"):
        if not callable(getattr(env, name, None)):
            raise ValueError(
                f"env is {type(env).__name__} without {name}; expected gymnax' methods"
            )

    def reset(params: PyTree, key: Array) -> tuple:
        obs, state = env.reset_env(key, params)
        return state, obs

    def step(params: PyTree, state: PyTree, action: Array, key: Array) -> tuple:
        obs, state, reward, terminated, _ = env.step_env(key, state, action, params)
        return state, obs, reward, terminated

    return World(reset, step)


class Space(NamedTuple):
    """What an action or an observation is, as gymnax' spaces say it.

    Attributes:
      shape: Shape of one.
      dtype: Its type.
      n: Number of actions, of integers 0 to ``n - 1``; None for real numbers.
      low: Least value.
      high: Largest value.
    """

    shape: tuple[int, ...]
    dtype: Any
    n: int | None = None
    low: float = -jnp.inf
    high: float = jnp.inf

    def sample(self, key: Array) -> Array:
        """One drawn evenly; without bounds from a normal distribution."""
        if self.n is not None:
            return jax.random.randint(key, self.shape, 0, self.n, self.dtype)
        if self.low > -jnp.inf and self.high < jnp.inf:
            return jax.random.uniform(key, self.shape, self.dtype, self.low, self.high)
        return jax.random.normal(key, self.shape, self.dtype)


class Timed(NamedTuple):
    """State of a world, and how many steps were made since it was reset."""

    world: PyTree
    time: Array


class Environment:
    """A world with gymnax' methods; see `to_gymnax`."""

    def __init__(self, world: Any, params: PyTree, length: int, actions: Space):
        self._world, self._actions = world, actions
        self.default_params, self.max_steps_in_episode = params, length

    @property
    def name(self) -> str:
        """Name of the world."""
        name = getattr(self._world, "__name__", type(self._world).__name__)
        return name.rsplit(".", 1)[-1].lstrip("_")

    @property
    def num_actions(self) -> int:
        """Number of actions, or of an action's elements."""
        space = self._actions
        if space.n is not None:
            return space.n
        return int(jnp.prod(jnp.array(space.shape, jnp.int32)))

    def action_space(self, params: PyTree = None) -> Space:
        """What an action is."""
        return self._actions

    def observation_space(self, params: PyTree = None) -> Space:
        """Shape and type of an observation, which has to be one array."""
        params = self.default_params if params is None else params
        obs, _ = jax.eval_shape(self.reset_env, jax.random.key(0), params)
        return Space(obs.shape, obs.dtype)

    def reset_env(self, key: Array, params: PyTree) -> tuple[Array, Timed]:
        """``(obs, state)`` at the start."""
        state, obs = self._world.reset(params, key)
        return obs, Timed(state, jnp.zeros((), jnp.int32))

    def step_env(
        self, key: Array, state: Timed, action: Array, params: PyTree
    ) -> tuple[Array, Timed, Array, Array, dict]:
        """``(obs, state, reward, terminated, info)``, without a reset."""
        seen = self._world.step(params, state.world, action, key)
        if len(seen) != 4 or jnp.shape(seen[3]):
            shapes = [jax.tree.map(jnp.shape, x) for x in seen]
            raise ValueError(
                f"the world's step returned {shapes}; expected state, observation, "
                "reward and terminated, one boolean"
            )
        after, obs, reward, terminated = seen
        terminated = jnp.asarray(terminated).astype(bool)
        return obs, Timed(after, state.time + 1), reward, terminated, {}

    def is_truncated(self, state: Timed, params: PyTree = None) -> Array:
        """Whether the time is up."""
        return state.time >= self.max_steps_in_episode

    def reset(self, key: Array, params: PyTree = None) -> tuple[Array, Timed]:
        """``(obs, state)`` at the start."""
        params = self.default_params if params is None else params
        return self.reset_env(key, params)

    def step(
        self, key: Array, state: Timed, action: Array, params: PyTree = None
    ) -> tuple[Array, Timed, Array, Array, Array, dict]:
        """``(obs, state, reward, terminated, truncated, info)``, begun anew at an end.

        ``info["final_observation"]`` is what was seen before.
        """
        params = self.default_params if params is None else params
        step_key, reset_key = jax.random.split(key)
        last, after, reward, terminated, info = self.step_env(
            step_key, state, action, params
        )
        truncated = self.is_truncated(after, params)
        over = terminated | truncated
        fresh = self.reset_env(reset_key, params)
        shapes = [jax.tree.map(jnp.shape, x) for x in (fresh, (last, after))]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"the world's step returned an observation and a state {shapes[1]}; "
                f"expected {shapes[0]}, as its reset"
            )
        obs, state = jax.tree.map(
            lambda new, old: jnp.where(over, new, old), fresh, (last, after)
        )
        info |= {
            "terminated": terminated,
            "truncated": truncated,
            "final_observation": last,
        }
        return obs, state, reward, terminated, truncated, info


def to_gymnax(
    world: Any, params: PyTree, *, length: int, actions: int | tuple[int, ...]
) -> Environment:
    """A world as an environment of gymnax, for learners that are written for those.

    Args:
      world: Anything with ``reset`` and ``step`` of a world, as `worlds.doorway`.
      params: The world's parameters, ``default_params`` of the environment.
      length: Steps after which an episode is cut, at least 1.
      actions: Number of actions where these are integers, or else the shape of an
        action of real numbers in [-1, 1].

    Returns:
      An object with gymnax' methods.

    Raises:
      ValueError: ``world`` has not the two functions, numbers below 1.
    """
    for name in ("reset", "step"):
        if not callable(getattr(world, name, None)):
            raise ValueError(f"world is {world!r} without {name}; expected a world")
    require_number("length", length, 1)
    if not isinstance(actions, tuple | list):
        actions = operator.index(actions)  # Also an integer of numpy.
        require_number("actions", actions, 1)
        space = Space((), jnp.int32, actions, 0, actions - 1)
    else:
        space = Space(tuple(actions), jnp.float32, None, -1.0, 1.0)
    return Environment(world, params, length, space)
