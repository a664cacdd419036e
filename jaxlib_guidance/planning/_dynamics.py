"""A small network that learns where actions lead, or which action led there."""

from collections.abc import Sequence

import jax.numpy as jnp

from jaxlib_guidance.planning._layers import apply_layers, init_layers
from jaxlib_guidance.planning._trajectories import Layout
from jaxlib_guidance.types import Array, PyTree


def init_dynamics(
    key: Array, layout: Layout, widths: Sequence[int] = (128, 128)
) -> PyTree:
    """New parameters of `apply_dynamics`.

    Args:
      key: One typed key.
      layout: How trajectories are arrays.
      widths: Units of the hidden layers.

    Returns:
      Layers ``{"layer0": {"kernel", "bias"}, ...}``; the last is 0, so that at first
      nothing moves.
    """
    return init_layers(key, layout.states + layout.actions, layout.states, widths)


def apply_dynamics(
    params: PyTree, layout: Layout, states: Array, actions: Array
) -> Array:
    """Where actions lead, ``s + std_s MLP([s, a])``.

    Args:
      params: Parameters.
      layout: How trajectories are arrays.
      states: States ``[..., S]``, in the units of the world.
      actions: Actions ``[..., A]``.

    Returns:
      The states after them ``[..., S]``.
    """
    scaled = layout.scale_actions(actions)
    moved = apply_layers(
        params, jnp.concatenate([layout.scale(states), scaled], axis=-1)
    )
    return states + layout.state_std * moved


def init_inverse(
    key: Array, layout: Layout, widths: Sequence[int] = (128, 128)
) -> PyTree:
    """New parameters of `apply_inverse`.

    Args:
      key: One typed key.
      layout: How trajectories are arrays.
      widths: Units of the hidden layers.

    Returns:
      Layers ``{"layer0": {"kernel", "bias"}, ...}``; the last is 0.
    """
    return init_layers(key, 2 * layout.states, layout.actions, widths)


def apply_inverse(params: PyTree, layout: Layout, states: Array, after: Array) -> Array:
    """Which actions lead from states to others.

    Args:
      params: Parameters.
      layout: How trajectories are arrays.
      states: States ``[..., S]``, in the units of the world.
      after: States one step later ``[..., S]``.

    Returns:
      Actions ``[..., A]``.

    Reference: Ajay et al., Decision Diffuser, arXiv 2211.15657, section 3.1.
    """
    change = (after - states) / layout.state_std
    pair = jnp.concatenate([layout.scale(states), change], axis=-1)
    return layout.unscale_actions(apply_layers(params, pair))
