"""Losses of an estimate, called, averaged over noise and checked."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance import rng
from jaxlib_guidance.calls import call_energy, require_energy
from jaxlib_guidance.types import Array, Context, PyTree

SMOOTHED = 2**20  # First number of the noises that losses draw of a step's keys.


def smooth_loss(
    function: Callable[..., Array],
    params: PyTree,
    x0: Array,
    ctx: Context,
    std: Array,
    samples: int,
) -> Array:
    """``-log mean_k exp(-E(x0 + std z_k))``, ``[B]``."""

    def once(i):
        noise = rng.normal(rng.fold(ctx.keys, SMOOTHED + i), x0.shape[1:], x0.dtype)
        return call_energy(function, params, x0 + std * noise, ctx, "the loss")

    energies = jax.vmap(once)(jnp.arange(samples))
    return math.log(samples) - jax.nn.logsumexp(-energies, axis=0)


def require_loss(name: str, function: Any, params: PyTree, samples: Any = 1) -> None:
    """Raises unless there is a function and a number of draws of its smoothing."""
    require_energy(function, params, f"{name}'s function")
    whole = isinstance(samples, int) and not isinstance(samples, bool)
    if not whole or samples < 1:
        raise ValueError(
            f"{name}'s samples is {samples!r}; expected a whole number from 1"
        )
