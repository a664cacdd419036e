"""What training carries from step to step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance import rng
from jaxlib_guidance.types import Array, PyTree


class TrainState(NamedTuple):
    """All that a run needs to continue.

    Attributes:
      step: Optimiser steps taken, int32 scalar.
      params: Parameters being trained.
      ema: Exponential moving average of the parameters, which is what one samples
        with; float32 where parameters are of half precision.
      opt_state: State of the optimiser.
      key: Root of all training randomness, a typed key.
    """

    step: Array
    params: PyTree
    ema: PyTree
    opt_state: PyTree
    key: Array


def init_state(params: PyTree, tx: PyTree, key: Array) -> TrainState:
    """The state before the first step; the average starts at the parameters.

    Args:
      params: Initial parameters.
      tx: Optimiser, an optax `GradientTransformation`.
      key: Root of all training randomness, a typed key.

    Raises:
      TypeError: A legacy uint32 key.
    """
    rng.require_key(key)
    # Copies, because the train step donates its input and a buffer can be given once.
    params = jax.tree.map(jnp.array, params)
    # In bfloat16 an average of decay 0.999 would stand still: what is added to it is
    # less than its last bit.
    ema = jax.tree.map(lambda p: jnp.array(p, _float32_or_wider(p.dtype)), params)
    return TrainState(
        jnp.zeros((), jnp.int32), params, ema, tx.init(params), jnp.array(key)
    )


def _float32_or_wider(dtype: Any) -> Any:
    """float32 for floats of less, and any other type as it is."""
    small = jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize < 4
    return jnp.dtype(jnp.float32) if small else dtype


def ema_decay_at(step: Array, decay: float, warmup: bool) -> Array:
    """``decay``, or ``min(decay, (1 + step) / (10 + step))`` while warming up.

    Without the ramp an average with decay 0.999 remembers the random initialisation for
    thousands of steps.

    Args:
      step: Number of steps taken before this one.
      decay: Decay after the warm-up, in [0, 1).
      warmup: Whether the decay rises from 0.1 as steps are taken.
    """
    final = jnp.asarray(decay, jnp.float32)
    if not warmup:
        return final
    taken = jnp.asarray(step, jnp.float32)
    return jnp.minimum(final, (1 + taken) / (10 + taken))


def ema_update(ema: PyTree, params: PyTree, decay: Array) -> PyTree:
    """``decay ema + (1 - decay) params``; leaves that are not floats are copied.

    Computed in the types of ``ema``, which should be float32: see `init_state`.
    """

    def mix(old, new):
        if not jnp.issubdtype(new.dtype, jnp.floating):
            return new
        # As a difference, so that equal leaves stay equal to the last bit.
        return old + (1 - decay).astype(old.dtype) * (new.astype(old.dtype) - old)

    return jax.tree.map(mix, ema, params)
