"""A planner as a file holds it: its denoiser, its dynamics, and their layout."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.files import load_weights
from jaxlib_guidance.models import DiffusionModel, from_config
from jaxlib_guidance.planning._dynamics import apply_dynamics, apply_inverse
from jaxlib_guidance.planning._trajectories import Layout
from jaxlib_guidance.types import Array, Denoiser, PyTree


@dataclasses.dataclass(frozen=True)
class Planner:
    """A diffusion model of trajectories and two small networks; parameters are apart.

    Attributes:
      model: Model of arrays ``[H, A + S]``, conditioned on the first state.
      layout: How trajectories are arrays.
    """

    model: DiffusionModel
    layout: Layout

    @property
    def horizon(self) -> int:
        """Number ``H`` of steps of a plan."""
        return self.model.shape[0]

    def denoiser(self, params: PyTree) -> Denoiser:
        """The denoiser; call it inside the function that is jitted.

        Args:
          params: Parameters, from `load_planner`.
        """
        return self.model.denoiser(params["planner"])

    def dynamics(self, params: PyTree, states: Array, actions: Array) -> Array:
        """Where actions lead, ``[..., S]``; see `apply_dynamics`.

        Args:
          params: Parameters, from `load_planner`.
          states: States ``[..., S]``.
          actions: Actions ``[..., A]``.
        """
        return apply_dynamics(params["dynamics"], self.layout, states, actions)

    def inverse(self, params: PyTree, states: Array, after: Array) -> Array:
        """Which actions led there, ``[..., A]``; see `apply_inverse`.

        Args:
          params: Parameters, from `load_planner`.
          states: States ``[..., S]``.
          after: States one step later ``[..., S]``.
        """
        return apply_inverse(params["inverse"], self.layout, states, after)


def planner_from_config(config: Mapping[str, Any]) -> Planner:
    """A planner without parameters, from its configuration.

    Args:
      config: Plain JSON, with the model's configuration as "planner" and the lists of
        `Layout` as "layout".

    Returns:
      The planner.

    Raises:
      ValueError: A configuration of something else.
    """
    if not {"planner", "layout"} <= set(config):
        raise ValueError(f"config has {sorted(config)}; expected planner and layout")
    model = from_config(config["planner"])
    if not isinstance(model, DiffusionModel):
        raise ValueError("config's planner is a classifier; expected a denoiser")
    lists = {name: jnp.asarray(x, jnp.float32) for name, x in config["layout"].items()}
    return Planner(model, Layout(**lists))


def load_planner(path: str | os.PathLike) -> tuple[Planner, PyTree]:
    """A planner and its parameters, from a file of train/planner.py.

    Args:
      path: Path of the file.

    Returns:
      The planner and its parameters, a tree with "planner", "dynamics" and "inverse".

    Raises:
      FileNotFoundError: No such file.
      CorruptFileError: A damaged or foreign file.
      ValueError: A file of something else.
    """
    params, config = load_weights(Path(path).expanduser())
    return planner_from_config(config), params
