"""Weights that differ over the frames of a sample."""

from typing import Any, Literal

import jax.numpy as jnp

from jaxlib_guidance.guidance._base import Evals, init_term
from jaxlib_guidance.guidance._chain import Chain, chain
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.guidance._schedule import _single
from jaxlib_guidance.guidance._tree import changes_condition
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    PyTree,
    per_sample,
    pytree_dataclass,
    static,
)

SHAPES = ("linear", "triangle")


@pytree_dataclass
class FrameRamp:
    """A term whose contribution is scaled frame by frame. Build it with `frame_ramp`.

    Attributes:
      inner: Term or chain that is scaled.
      low: Factor at the first frame, scalar or ``[B]``.
      high: Factor at the last frame, or the middle one, scalar or ``[B]``.
      shape: "linear" or "triangle" (static).
    """

    inner: Any
    low: Array | float
    high: Array | float
    shape: str = static(default="linear")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The branches of the inner term."""
        return self.inner.branches(ctx)

    def init(self, x: Array) -> PyTree:
        """The state of the inner term."""
        return init_term(self.inner, x)

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``delta + f (inner(delta) - delta)`` with ``f`` of each frame."""
        moved, state = self.inner.update(delta, evals, state, ctx)
        frames = jnp.linspace(0.0, 1.0, delta.shape[1])
        if self.shape == "triangle":
            frames = 1 - jnp.abs(2 * frames - 1)
        frames = frames.reshape(1, -1, *(1,) * (delta.ndim - 2))
        low = per_sample(self.low, delta, "frame_ramp's low")
        high = per_sample(self.high, delta, "frame_ramp's high")
        factor = low + (high - low) * frames
        return delta + factor * (moved - delta), state


@method(
    "when",
    "the terms' correction times low + (high - low) p, p from 0 to 1 over the frames",
    space="any",
    off="the terms' weights = 0",
    evaluations=None,
    source="https://github.com/comfyanonymous/ComfyUI",
    strength=None,
    law="test_frame_ramps_golden",
)
def frame_ramp(
    term: Any,
    low: Any = 0.0,
    high: Any = 1.0,
    *,
    shape: Literal["linear", "triangle"] = "linear",
) -> Chain:
    """A weight that changes over the frames of a video or the steps of a series.

    The factor of what the term adds is ``low + (high - low) p`` with ``p`` from 0 to 1
    along the first axis of a sample, or up to the middle and back ("triangle"). Image-
    to-video networks guide the frames near the given one less.

    Args:
      term: A term or a chain.
      low: Factor at the first frame, scalar or ``[B]``. ComfyUI's ``min_cfg`` of 1 is
        0.
      high: Factor at the last frame, or at the middle one, scalar or ``[B]``.
      shape: "linear", or "triangle" for samples that end where they begin.

    Returns:
      A chain that holds the scaled term.

    Raises:
      TypeError: A factor that is no number; a term that changes the condition.
      ValueError: Another shape.

    Reference: ComfyUI, ``nodes_video_model.py``; Stable Video Diffusion, arXiv
      2311.15127.
    """
    require_numbers("frame_ramp", low=low, high=high)
    if shape not in SHAPES:
        raise ValueError(f"frame_ramp's shape is {shape!r}; expected one of {SHAPES}")
    if changes_condition(chain(term)):
        raise TypeError(
            "frame_ramp got a term that changes the condition, which is no correction "
            "to scale; put that term beside it"
        )
    return chain(FrameRamp(_single(term), low, high, shape))
