"""A small network that learns where actions lead, or which action led there."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

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
    return _init(key, layout.states + layout.actions, layout.states, widths)


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
    scaled = (actions - layout.action_mean) / layout.action_std
    moved = _apply(params, jnp.concatenate([layout.scale(states), scaled], axis=-1))
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
    return _init(key, 2 * layout.states, layout.actions, widths)


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
    return layout.action_mean + layout.action_std * _apply(params, pair)


def _init(key: Array, entries: int, outputs: int, widths: Sequence[int]) -> Any:
    sizes = [entries, *widths, outputs]
    layers = {}
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        last = i == len(widths)
        noise = jax.random.normal(jax.random.fold_in(key, i), (a, b))
        kernel = jnp.zeros((a, b)) if last else noise * (2 / a) ** 0.5
        layers[f"layer{i}"] = {"kernel": kernel, "bias": jnp.zeros(b)}
    return layers


def _apply(params: Any, x: Array) -> Array:
    for i in range(len(params)):
        layer = params[f"layer{i}"]
        x = x @ layer["kernel"] + layer["bias"]
        x = x if i == len(params) - 1 else jax.nn.silu(x)
    return x
