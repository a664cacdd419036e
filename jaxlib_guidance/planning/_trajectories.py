"""Trajectories of actions and states, and the arrays that a denoiser knows them as."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.types import Array, Context, PyTree, pytree_dataclass


class Trajectory(NamedTuple):
    """What is done and where it leads, in the units of the world.

    Action ``t`` is taken in state ``t`` and leads to state ``t + 1``.

    Attributes:
      actions: Actions ``[..., T, A]``.
      states: States ``[..., T, S]``.
    """

    actions: Array
    states: Array


@pytree_dataclass
class Layout:
    """How a trajectory is an array ``[..., T, A + S]`` of unit scale, actions first.

    Make one of data with `fit_layout`.

    Attributes:
      action_mean: Mean of each entry of an action ``[A]``.
      action_std: Standard deviation of each ``[A]``, positive.
      state_mean: Mean of each entry of a state ``[S]``.
      state_std: Standard deviation of each ``[S]``, positive.
    """

    action_mean: Array
    action_std: Array
    state_mean: Array
    state_std: Array

    @property
    def actions(self) -> int:
        """Number ``A`` of entries of an action."""
        return jnp.shape(self.action_mean)[0]

    @property
    def states(self) -> int:
        """Number ``S`` of entries of a state."""
        return jnp.shape(self.state_mean)[0]

    def pack(self, trajectory: Trajectory) -> Array:
        """The array of a trajectory.

        Args:
          trajectory: Actions ``[..., T, A]`` and states ``[..., T, S]``.

        Returns:
          Float32 ``[..., T, A + S]``, mean 0 and standard deviation 1 on the data.

        Raises:
          ValueError: Actions or states of other lengths.
        """
        actions, states = trajectory
        for name, part, size in (
            ("actions", actions, self.actions),
            ("states", states, self.states),
        ):
            if jnp.ndim(part) < 2 or jnp.shape(part)[-1] != size:
                raise ValueError(
                    f"{name} have shape {jnp.shape(part)}; expected [..., T, {size}]"
                )
        scaled = self.scale_actions(actions), self.scale(states)
        return jnp.concatenate(scaled, axis=-1).astype(jnp.float32)

    def unpack(self, x: Array) -> Trajectory:
        """The trajectory of an array.

        Args:
          x: Array ``[..., T, A + S]``.

        Returns:
          Its actions and states, in the units of the world.

        Raises:
          ValueError: An array of another length.
        """
        if jnp.ndim(x) < 2 or jnp.shape(x)[-1] != self.actions + self.states:
            raise ValueError(
                f"x has shape {jnp.shape(x)}; expected [..., T, "
                f"{self.actions} + {self.states}]"
            )
        actions, states = x[..., : self.actions], x[..., self.actions :]
        return Trajectory(self.unscale_actions(actions), self.unscale(states))

    def scale(self, states: Array) -> Array:
        """States ``[..., S]`` in unit scale."""
        return (states - self.state_mean) / self.state_std

    def unscale(self, x: Array) -> Array:
        """States ``[..., S]`` of unit scale in the units of the world."""
        return x * self.state_std + self.state_mean

    def scale_actions(self, actions: Array) -> Array:
        """Actions ``[..., A]`` in unit scale."""
        return (actions - self.action_mean) / self.action_std

    def unscale_actions(self, x: Array) -> Array:
        """Actions ``[..., A]`` of unit scale in the units of the world."""
        return x * self.action_std + self.action_mean

    def energy(
        self, function: Callable[..., Array], *, params: bool = False
    ) -> Callable[..., Array]:
        """An energy of trajectories as one of arrays, for `guidance.energy`.

        Args:
          function: ``trajectory -> [B]``, or ``(params, trajectory) -> [B]``.
          params: Whether it takes the parameters that `guidance.energy` was given.

        Returns:
          ``(x0, ctx) -> [B]``, or ``(params, x0, ctx) -> [B]``.
        """

        def plain(x0: Array, ctx: Context) -> Array:
            del ctx
            return function(self.unpack(x0))

        def of_params(params: PyTree, x0: Array, ctx: Context) -> Array:
            del ctx
            return function(params, self.unpack(x0))

        return of_params if params else plain


def fit_layout(trajectory: Trajectory, least: float = 1e-3) -> Layout:
    """The layout in which data have mean 0 and standard deviation 1.

    Args:
      trajectory: Actions ``[..., A]`` and states ``[..., S]`` of data.
      least: Smallest standard deviation, of an entry that hardly varies; positive.

    Returns:
      The layout.

    Raises:
      ValueError: No data, values that are not finite, or ``least`` not positive.
    """
    if not least > 0:
        raise ValueError(f"least is {least}; expected more than 0")
    found: list[Any] = []
    for name, part in zip(Trajectory._fields, trajectory, strict=True):
        rows = np.asarray(part, np.float64)
        rows = rows.reshape(-1, rows.shape[-1] if rows.ndim else 1)
        if not rows.size or not np.isfinite(rows).all():
            raise ValueError(f"{name} have {rows.size} values; expected finite ones")
        found += [rows.mean(0), np.maximum(rows.std(0), least)]
    return Layout(*(jnp.asarray(each, jnp.float32) for each in found))


def windows(trajectory: Trajectory, horizon: int) -> Trajectory:
    """All windows of a length, as views that hold no memory.

    Args:
      trajectory: Numpy arrays ``[N, T, A]`` and ``[N, T, S]`` of whole episodes.
      horizon: Length ``H`` of a window, at most ``T``.

    Returns:
      ``[N, T - H + 1, H, A]`` and ``[N, T - H + 1, H, S]``.

    Raises:
      ValueError: A horizon that is none, or longer than an episode.
    """
    shapes = [np.shape(part) for part in trajectory]
    if any(len(s) != 3 for s in shapes) or shapes[0][:2] != shapes[1][:2]:
        raise ValueError(
            f"actions and states have shapes {shapes[0]} and {shapes[1]}; expected "
            "[N, T, A] and [N, T, S]"
        )
    length = shapes[1][1]
    if not 1 <= horizon <= length:
        raise ValueError(f"horizon is {horizon}; expected 1 to {length}, an episode's")
    slide = np.lib.stride_tricks.sliding_window_view
    parts: Any = (
        np.moveaxis(slide(part, horizon, axis=1), -1, 2) for part in trajectory
    )
    return Trajectory(*parts)
