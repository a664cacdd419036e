"""Inpainting by flows, and the real-time chunking of flow policies made of it."""

import math
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.guidance._base import BASE, Evals
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.reduce import known_false
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    PyTree,
    at_least_float32,
    per_sample,
    pytree_dataclass,
    static,
)


@pytree_dataclass
class InpaintFlow:
    """Towards what is known of a sample. Build it with `inpaint_flow`.

    Attributes:
      weight: Factor of the correction, scalar or ``[B]``; 0 is off.
      y: What is known, ``[B, *S]`` or ``[*S]``.
      weights: How firmly each entry is known.
      w_max: Largest weight of the velocity, scalar or ``[B]``.
      jacobian: What is needed of the network's Jacobian (static).
    """

    weight: Array | float
    y: Array
    weights: Array
    w_max: Array | float
    jacobian: str = static(default="transpose")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """No branches but the base, whose Jacobian it is."""
        return {}

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """Adds ``w sigma min((alpha^2 + sigma^2) / (alpha sigma), w_max) J^T W e``."""
        if evals.jacobian is None:
            raise ValueError("inpaint_flow needs the denoiser's Jacobian")
        x0 = evals.x0[BASE]
        known, y = self._entries(x0)
        error = jnp.where(known > 0, known * (y - x0), 0)
        limit = per_sample(self.w_max, delta, "inpaint_flow's w_max")
        product = ctx.alpha * ctx.sigma
        raw = (ctx.alpha**2 + ctx.sigma**2) / jnp.where(product > 0, product, 1)
        raw = jnp.where(product > 0, raw, jnp.inf)
        size = jnp.minimum(raw, limit)
        # Without a limit a state of noise alone says nothing.
        size = jnp.where(jnp.isinf(size), 0, size)
        weight = per_sample(self.weight, delta, "inpaint_flow's weight")
        return delta + weight * ctx.sigma * size * evals.jacobian.transpose(
            error
        ), state

    def _entries(self, x0: Array) -> tuple[Array, Array]:
        shape = x0.shape[1:]
        if self.y.shape not in (x0.shape, shape):
            raise ValueError(
                f"inpaint_flow's y has shape {self.y.shape}; expected {x0.shape}, or "
                f"{shape} for all samples"
            )
        known = self.weights
        if known.shape == shape[:1]:
            known = known.reshape(-1, *(1,) * (len(shape) - 1))
        elif known.shape not in (x0.shape, shape):
            raise ValueError(
                f"inpaint_flow's weights have shape {known.shape}; expected "
                f"{shape[:1]}, {shape} or {x0.shape}"
            )
        return known, self.y


@method(
    "posterior",
    "D + w sigma min((a^2 + sigma^2) / (a sigma), w_max) J' W (y - D)",
    space="velocity",
    evaluations=1,
    source="2506.07339",
    law="test_inpaint_flow_is_exact_for_unit_noise",
    example={"w_max": 3.0},
)
def inpaint_flow(
    y: Any, weights: Any, w_max: Any = 5.0, *, weight: Any = 1.0
) -> InpaintFlow:
    """Inpainting by a flow's velocity: the guidance of real-time chunking.

    The velocity from noise to data gains ``min(w(t), w_max) J^T W (y - D)`` with ``w =
    (alpha^2 + sigma^2) / (alpha sigma)``, for a flow whose time runs from noise 0 to
    data 1 the published ``(1 - t) / t (t^2 + (1 - t)^2) / (1 - t)^2``. That is `pigdm`
    with a mask, no noise and a limit; without the limit it is exact for data ``N(0,
    I)``. Stated in ``alpha`` and ``sigma`` it is the same for every process.

    Args:
      y: What is known, ``[B, *S]``, or ``[*S]`` for all samples; for a policy the
        previous chunk of actions ``[B, T, A]``, moved up by what was executed. Where a
        weight is 0 it may be anything, NaN too.
      weights: How firmly each entry is known, from 0 to 1: ``[T]`` along a sample's
        first axis, as `chunk_weights` makes them, or ``[*S]`` or ``[B, *S]``.
      w_max: Largest weight of the velocity, scalar or ``[B]``, at least 0; the paper's
        is 5, infinity sets none.
      weight: Factor of the whole correction, scalar or ``[B]``; 0 is off.

    Returns:
      A guidance term.

    Raises:
      TypeError: A number that is none.
      ValueError: Weights outside [0, 1], a negative ``w_max``; while sampling, shapes
        that do not fit.

    Reference: Black et al., arXiv 2506.07339, eq. 2 to 4.
    """
    require_numbers("inpaint_flow", weight=weight, w_max=w_max)
    if known_false(lambda w: (w >= 0) & (w <= 1), weights):
        raise ValueError(
            f"weights are from {np.min(weights)} to {np.max(weights)}; expected 0 to 1"
        )
    if known_false(lambda w: w >= 0, w_max):
        raise ValueError(f"w_max is {w_max}; expected at least 0")
    y, weights = (at_least_float32(jnp.asarray(a)) for a in (y, weights))
    return InpaintFlow(weight, y, weights, w_max)


def chunk_weights(
    horizon: int,
    delay: int,
    overlap: int,
    schedule: Literal["exponential", "linear", "ones", "zeros"] = "exponential",
) -> np.ndarray:
    """How firmly each action of a chunk is known from the chunk before.

    1 for the first ``delay`` actions, which will have been executed when the chunk is
    ready; 0 from action ``overlap`` on, where the chunk before had none; between them
    ``c = (overlap - i) / (overlap - delay + 1)`` or ``c (e^c - 1) / (e - 1)``.

    Args:
      horizon: Number of actions in a chunk.
      delay: Number of actions that are executed while the chunk is computed; no more
        than ``overlap`` of them count.
      overlap: Number of actions that the chunk before also has.
      schedule: What lies between: "exponential" or "linear" decay, "ones" for no decay,
        "zeros" for nothing, which freezes the first actions alone.

    Returns:
      float32 ``[horizon]``, on the host.

    Raises:
      ValueError: Numbers that do not fit each other, or an unknown schedule.

    Reference: Black et al., arXiv 2506.07339, eq. 5, and the released code.
    """
    schedules = ("exponential", "linear", "ones", "zeros")
    if schedule not in schedules:
        raise ValueError(f"schedule is {schedule!r}; expected one of {schedules}")
    if not (delay >= 0 and 0 <= overlap <= horizon and horizon >= 1):
        raise ValueError(
            f"horizon {horizon}, delay {delay}, overlap {overlap}; expected delay >= 0 "
            "and 0 <= overlap <= horizon"
        )
    place, frozen = np.arange(horizon), min(delay, overlap)
    match schedule:
        case "ones":
            c = np.ones(horizon)
        case "zeros":
            c = (place < frozen).astype(np.float64)
        case _:
            c = np.clip((overlap - place) / (overlap - frozen + 1), 0, 1)
    if schedule == "exponential":
        c = c * np.expm1(c) / math.expm1(1)
    return np.where(place < overlap, c, 0).astype(np.float32)
