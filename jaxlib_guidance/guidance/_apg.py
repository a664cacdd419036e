"""Adaptive projected guidance."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.diffusion import Prediction, from_x0, require_prediction
from jaxlib_guidance.guidance._base import BASE, Evals, fix, sample_axes, sample_norm
from jaxlib_guidance.guidance._contrast import like_cond
from jaxlib_guidance.guidance._prediction import gain_of, to_x0_change
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    PyTree,
    per_sample,
    pytree_dataclass,
    static,
)


@pytree_dataclass
class APG:
    """Adaptive projected guidance. Build it with `apg`."""

    weight: Array | float
    cond: PyTree
    eta: Array | float
    momentum: Array | float
    norm_threshold: Array | float | None = None
    worse: str = static(default="uncond")
    space: Prediction = static(default="x0")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The worse branch."""
        return {self.worse: Branch(like_cond(self.cond, ctx.cond))}

    def init(self, x: Array) -> PyTree:
        """The running sum of contrasts."""
        return jnp.zeros_like(x)

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``delta + w (g_perp + eta g_par)``."""
        gain = gain_of(self.space, ctx)
        base, worse = evals.x0[BASE], evals.x0[self.worse]
        good = from_x0(ctx.process, self.space, base, ctx.x, ctx.t)
        momentum = per_sample(self.momentum, delta, "apg's momentum")
        eta = per_sample(self.eta, delta, "apg's eta")
        weight = per_sample(self.weight, delta, "apg's weight")
        running = gain * (base - worse) + momentum * state
        g = running
        if self.norm_threshold is not None:
            most = per_sample(self.norm_threshold, delta, "apg's norm_threshold")
            norm = sample_norm(g)
            g = g * jnp.minimum(1, most / jnp.where(norm > 0, norm, 1))
        axes = sample_axes(good)
        square = jnp.sum(good**2, axis=axes, keepdims=True)
        along = jnp.sum(g * good, axis=axes, keepdims=True)
        parallel = along / jnp.where(square > 0, square, 1) * good
        g = g + (eta - 1) * parallel
        return delta + weight * to_x0_change(g, gain), running


def apg(
    weight: Any,
    null: PyTree,
    *,
    eta: Any = 0.0,
    momentum: Any = -0.5,
    norm_threshold: Any = None,
    space: Prediction = "x0",
    name: str = "uncond",
) -> APG:
    """Adaptive projected guidance: CFG without what makes colours burn.

    ``m <- (c - u) + beta m``; ``g = m min(1, r / |m|)``; ``x0 = c + w (g_perp + eta
    g_par)``, parallel and perpendicular to ``c``. With ``eta = 1``, no momentum and no
    threshold it is `cfg`. The paper's scale is ``w + 1``; so is diffusers', whose form
    ``u + s g`` jumps where this one is off, at ``w = 0``.

    Args:
      weight: ``w``, scalar or ``[B]``.
      null: The condition to move away from, as in `cfg`.
      eta: Share of the parallel part that is kept, scalar or ``[B]``.
      momentum: ``beta``; negative pushes away from past contrasts.
      norm_threshold: ``r``, the greatest norm of a sample's contrast; None for no
        limit. A suitable one grows with the square root of the sample's size.
      space: What ``c``, ``u`` are; the paper's is x0.
      name: Name of the branch, shared with `cfg`'s.

    Reference: Sadat et al., arXiv 2410.02416.
    """
    require_prediction(space, "space")
    null = jax.tree.map(fix, null)
    return APG(weight, null, eta, momentum, norm_threshold, name, space)
