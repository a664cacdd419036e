"""Adaptive projected guidance."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.diffusion import Prediction, from_x0, require_prediction
from jaxlib_guidance.guidance._base import BASE, Evals, fix, sample_axes, sample_norm
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._contrast import like_cond
from jaxlib_guidance.guidance._prediction import gain_of, to_x0_change
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.reduce import divide
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
    """Adaptive projected guidance. Build it with `apg`.

    Attributes:
      weight: Factor ``w`` of the projected contrast, scalar or ``[B]``; 0 is off.
      cond: Condition to move away from.
      eta: Share of the parallel part that is kept, scalar or ``[B]``.
      momentum: Factor of the past contrasts, scalar or ``[B]``.
      norm_threshold: Greatest norm of a sample's contrast, scalar or ``[B]``; None for
        no limit.
      worse: Name of the worse branch (static).
      space: Prediction in which the contrast is taken (static).
    """

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
        """The running sum of contrasts, 0 at first."""
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
            limit = per_sample(self.norm_threshold, delta, "apg's norm_threshold")
            g = g * jnp.minimum(1, divide(limit, sample_norm(g)))
        axes = sample_axes(good)
        square = jnp.sum(good**2, axis=axes, keepdims=True)
        along = jnp.sum(g * good, axis=axes, keepdims=True)
        parallel = divide(along, square) * good
        g = g + (eta - 1) * parallel
        return delta + weight * to_x0_change(g, gain), running


@method(
    "combine",
    "c + w (g_perp + eta g_par), g = (c - u) + beta g_last",
    space="argument",
    evaluations=2,
    source="2410.02416",
    law="test_apg_golden",
)
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
      weight: Factor ``w`` of the projected contrast, scalar or ``[B]``; 0 is off.
      null: Condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      eta: Share of the parallel part that is kept, scalar or ``[B]``.
      momentum: Factor ``beta`` of the past contrasts, scalar or ``[B]``; negative
        pushes away from them.
      norm_threshold: Greatest norm ``r`` of a sample's contrast, scalar or ``[B]``;
        None for no limit. A suitable one grows with the square root of the sample's
        size.
      space: Prediction that ``c`` and ``u`` are; the paper's is "x0".
      name: Name of the branch; the default is shared with `cfg`.

    Returns:
      A guidance term.

    Raises:
      TypeError: A weight, ``eta``, ``momentum`` or threshold that is no number.
      ValueError: Unknown ``space``.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxlib_guidance as jg
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x + cond, jg.VE())
      >>> keys, cond = jg.sample_keys(jax.random.key(0), 2), jnp.array([[1.0], [3.0]])
      >>> term = jg.apg(2.0, null=0.0, eta=1.0, momentum=0.0)  # The same as cfg.
      >>> x, _ = jg.sample(keys, denoiser, jg.ddim(), [1, 0], (1,), cond, guidance=term)
      >>> x.tolist()
      [[3.0], [9.0]]

    Reference: Sadat et al., arXiv 2410.02416.
    """
    require_prediction(space, "space")
    require_numbers("apg", weight=weight, eta=eta, momentum=momentum)
    if norm_threshold is not None:
        require_numbers("apg", norm_threshold=norm_threshold)
    null = jax.tree.map(fix, null)
    return APG(weight, null, eta, momentum, norm_threshold, name, space)
