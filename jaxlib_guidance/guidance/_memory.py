"""Guidance that remembers its past contrasts, or their sizes."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxlib_guidance.diffusion import Prediction, from_x0, require_prediction
from jaxlib_guidance.guidance._base import BASE, Evals, fix, sample_norm
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._contrast import like_cond
from jaxlib_guidance.guidance._geometry import sample_dot
from jaxlib_guidance.guidance._prediction import gain_of, to_x0_change
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.reduce import divide, known_false
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    PyTree,
    expand,
    per_sample,
    pytree_dataclass,
    static,
)

SWITCHES = ("sign", "unit")


@pytree_dataclass
class SlidingMode:
    """A contrast driven to a sliding surface. Build it with `smc_cfg`.

    Attributes:
      scale: Scale of the corrected contrast, scalar or ``[B]``.
      cond: Condition to move away from.
      slope: Factor of the contrast before in the surface, scalar or ``[B]``.
      gain: Size of the correction, scalar or ``[B]``.
      switch: Direction of the correction, "sign" or "unit" (static).
      worse: Name of the other branch (static).
      space: Prediction that is corrected (static).
    """

    scale: Array | float
    cond: PyTree
    slope: Array | float
    gain: Array | float
    switch: str = static(default="sign")
    worse: str = static(default="uncond")
    space: Prediction = static(default="velocity")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The other branch."""
        return {self.worse: Branch(like_cond(self.cond, ctx.cond))}

    def init(self, x: Array) -> PyTree:
        """The corrected contrast of the evaluation before, and whether there is one."""
        return jnp.zeros_like(x), jnp.zeros(x.shape[:1], bool)

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``delta + s d' - d``, ``d' = d - k switch(d + (slope - 1) d'_last)``."""
        past, begun = state
        c, u = (
            from_x0(ctx.process, self.space, evals.x0[name], ctx.x, ctx.t)
            for name in (BASE, self.worse)
        )
        slope = per_sample(self.slope, delta, "smc_cfg's slope")
        gain = per_sample(self.gain, delta, "smc_cfg's gain")
        d = c - u
        past = jnp.where(expand(begun, d), past, d)
        surface = d + (slope - 1) * past
        if self.switch == "sign":
            direction = jnp.sign(surface)
        else:
            direction = divide(surface, sample_norm(surface))
        corrected = d - gain * direction
        scale = per_sample(self.scale, delta, "smc_cfg's scale")
        change = to_x0_change(scale * corrected - d, gain_of(self.space, ctx))
        return delta + change, (corrected, jnp.ones_like(begun))


@method(
    "combine",
    "u + s d', d' = d - k sign(d + (l - 1) d'_last), d = c - u",
    space="argument",
    off="none; scale = 0 samples u",
    evaluations=2,
    source="2603.03281",
    strength="scale",
    example={"scale": 3.0, "switch": "unit"},
    skip={
        "weight_zero": "scale 0 is the unconditional estimate",
        "weight_zero_static": "scale 0 is the unconditional estimate",
    },
    law="test_smc_cfg_golden",
)
def smc_cfg(
    scale: Any,
    null: PyTree,
    *,
    slope: Any = 5.0,
    gain: Any = 0.2,
    switch: Literal["sign", "unit"] = "sign",
    space: Prediction = "velocity",
    name: str = "uncond",
) -> SlidingMode:
    """SMC-CFG: a contrast under sliding-mode control.

    ``x = u + s d'`` with ``d' = d - k sign(p)``, ``d = c - u`` and the sliding surface
    ``p = (d - d'_last) + l d'_last``, where ``d'_last`` is ``d'`` of the evaluation
    before, and ``d`` in the first. With ``k = 0`` it is `cfg` of weight ``s - 1``.

    Args:
      scale: Scale ``s`` of the corrected contrast from the unconditional prediction,
        scalar or ``[B]``; 0 is the unconditional estimate, and not off.
      null: Condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      slope: Factor ``l`` of the surface, scalar or ``[B]``.
      gain: Size ``k`` of the correction, scalar or ``[B]``, at least 0; 0 is `cfg`. The
        default is for velocities; "eps" takes a twentieth of it.
      switch: "sign" corrects each element by ``k``, as in the paper; "unit" corrects
        each sample by a vector of norm ``k`` along ``p``.
      space: Prediction that ``c`` and ``u`` are; the paper's is "velocity".
      name: Name of the branch; the default is shared with `cfg`.

    Returns:
      A guidance term.

    Raises:
      TypeError: A number that is none.
      ValueError: A negative gain, another switch, or an unknown ``space``.

    Reference: Wang et al., arXiv 2603.03281, read in AbstractEyes/comfy-cfg-megapack.
    """
    require_prediction(space, "space")
    require_numbers("smc_cfg", scale=scale, slope=slope, gain=gain)
    if switch not in SWITCHES:
        raise ValueError(f"smc_cfg's switch is {switch!r}; expected one of {SWITCHES}")
    if known_false(lambda k: k >= 0, gain):
        raise ValueError(f"smc_cfg's gain is {gain}; expected at least 0")
    return SlidingMode(scale, jax.tree.map(fix, null), slope, gain, switch, name, space)


@pytree_dataclass
class TransitionPoint:
    """Guidance that begins once the contrast has been small. Build it with
    `transition_point`.

    Attributes:
      scale: Scale of the contrast after the transition, scalar or ``[B]``.
      cond: Condition to move away from.
      opposite: Scale of the opposite contrast before it, scalar or ``[B]``.
      worse: Name of the other branch (static).
      space: Prediction whose contrast is measured (static).
    """

    scale: Array | float
    cond: PyTree
    opposite: Array | float
    worse: str = static(default="uncond")
    space: Prediction = static(default="eps")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The other branch."""
        return {self.worse: Branch(like_cond(self.cond, ctx.cond))}

    def init(self, x: Array) -> PyTree:
        """Squared contrasts of the two evaluations before; whether it has begun."""
        # No contrast is below minus one, so that there is no minimum before three.
        none = jnp.full(x.shape[:1], -1.0, jnp.float32)
        return none, none, jnp.zeros(x.shape[:1], bool)

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``delta + (s - 1) d`` after the transition, ``delta - (1 + o) d`` before."""
        before, last, begun = state
        c, u = (
            from_x0(ctx.process, self.space, evals.x0[name], ctx.x, ctx.t)
            for name in (BASE, self.worse)
        )
        size = sample_dot(c - u, c - u).reshape(last.shape)
        begun = begun | ((before > last) & (last < size) & (last >= 0))
        scale = per_sample(self.scale, delta, "transition_point's scale")
        opposite = per_sample(self.opposite, delta, "transition_point's opposite")
        scale = jnp.where(expand(begun, delta), scale, -opposite)
        contrast = evals.x0[BASE] - evals.x0[self.worse]
        return delta + (scale - 1) * contrast, (last, size, begun)


@method(
    "combine",
    "u - o (c - u) until |c - u| has passed a minimum, u + s (c - u) from then on",
    space="argument",
    off="none; scale = -opposite samples one contrast throughout",
    evaluations=2,
    source="2411.16738",
    strength="opposite",
    example={"scale": 3.0, "opposite": 1.0},
    skip={
        "weight_zero": "before the transition it is the unconditional estimate",
        "weight_zero_static": "before the transition it is the unconditional estimate",
    },
    law="test_transition_point_waits_for_a_minimum",
)
def transition_point(
    scale: Any,
    null: PyTree,
    *,
    opposite: Any = 0.0,
    space: Prediction = "eps",
    name: str = "uncond",
) -> TransitionPoint:
    """Guidance from the transition point on, against memorised samples.

    While a prompt pulls to a memorised sample its contrast is large. ``x = u - o (c -
    u)`` until ``|c - u|`` has passed a local minimum, that is until the last but one
    was larger and the present one is larger than the last; ``x = u + s (c - u)`` from
    then on.

    Args:
      scale: Scale ``s`` after the transition, scalar or ``[B]``; `cfg`'s weight and 1.
      null: Condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      opposite: Scale ``o`` of the opposite contrast before the transition, scalar or
        ``[B]``; 0 samples the unconditional estimate until then.
      space: Prediction whose contrast is measured; the paper's is "eps".
      name: Name of the branch; the default is shared with `cfg`.

    Returns:
      A guidance term.

    Raises:
      TypeError: A number that is none.
      ValueError: Unknown ``space``.

    Reference: Jain et al., arXiv 2411.16738, read in AbstractEyes/comfy-cfg-megapack.
    """
    require_prediction(space, "space")
    require_numbers("transition_point", scale=scale, opposite=opposite)
    return TransitionPoint(scale, jax.tree.map(fix, null), opposite, name, space)
