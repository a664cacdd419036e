"""Guidance that compares its predictions with those of the step before."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.diffusion import Prediction, from_x0, require_prediction
from jaxlib_guidance.guidance._base import BASE, Evals, fix
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._contrast import like_cond
from jaxlib_guidance.guidance._geometry import cosine, project
from jaxlib_guidance.guidance._prediction import gain_of, to_x0_change
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.reduce import divide, known_false, sqrt
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


@pytree_dataclass
class ErrorCorrection:
    """A contrast with a corrected unconditional prediction. Build it with `cfg_ec`.

    Attributes:
      weight: Factor of the contrast, scalar or ``[B]``; 0 is off.
      cond: Condition to move away from.
      threshold: Cosine of the two errors below which it corrects, scalar or ``[B]``.
      worse: Name of the other branch (static).
      space: Prediction that is corrected (static).
    """

    weight: Array | float
    cond: PyTree
    threshold: Array | float
    worse: str = static(default="uncond")
    space: Prediction = static(default="eps")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The other branch."""
        return {self.worse: Branch(like_cond(self.cond, ctx.cond))}

    def init(self, x: Array) -> PyTree:
        """Both predictions of the evaluation before, and whether there was one."""
        return jnp.zeros_like(x), jnp.zeros_like(x), jnp.zeros(x.shape[:1], bool)

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``delta + w (c - u')``."""
        past_c, past_u, begun = state
        c, u = (
            from_x0(ctx.process, self.space, evals.x0[name], ctx.x, ctx.t)
            for name in (BASE, self.worse)
        )
        # Errors of a linear extrapolation by one step: c - (2 c - c_last).
        error_c, error_u = past_c - c, past_u - u
        share = cosine(error_c, error_u)
        across = error_u - project(error_u, error_c)
        corrected = (1 - share) * (2 * u - past_u + across) + share * u
        threshold = per_sample(self.threshold, delta, "cfg_ec's threshold")
        acts = expand(begun, delta) & (share < threshold)
        weight = per_sample(self.weight, delta, "cfg_ec's weight")
        change = weight * (c - jnp.where(acts, corrected, u))
        delta = delta + to_x0_change(change, gain_of(self.space, ctx))
        return delta, (c, u, jnp.ones_like(begun))


@method(
    "combine",
    "c + w (c - u'), u' with the part of its step's error across that of c",
    space="argument",
    evaluations=2,
    source="2511.14075",
    law="test_cfg_ec_golden",
)
def cfg_ec(
    weight: Any,
    null: PyTree,
    *,
    threshold: Any = 0.5,
    space: Prediction = "eps",
    name: str = "uncond",
) -> ErrorCorrection:
    """CFG-EC: an unconditional prediction whose error is across the conditional one's.

    With ``a`` and ``b`` the errors that a linear extrapolation by one step makes in
    ``c`` and ``u``, ``a = c_last - c`` and ``b = u_last - u``, and ``s`` their cosine:
    where ``s < threshold``, ``u' = (1 - s) (2 u - u_last + b_perp) + s u`` with the
    part of ``b`` perpendicular to ``a``; elsewhere and in the first evaluation ``u' =
    u``. In the end ``x = c + w (c - u')``.

    Args:
      weight: Factor ``w`` of the contrast, scalar or ``[B]``; 0 is off.
      null: Condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      threshold: Cosine of the errors below which it corrects, scalar or ``[B]``, in
        [-1, 1]; at -1 it is `cfg`. The default is a place to begin, not the paper's.
      space: Prediction that ``c`` and ``u`` are; the paper's is "eps".
      name: Name of the branch; the default is shared with `cfg`.

    Returns:
      A guidance term.

    Raises:
      TypeError: A number that is none.
      ValueError: A threshold outside [-1, 1], or an unknown ``space``.

    Reference: Yang et al., arXiv 2511.14075, read in AbstractEyes/comfy-cfg-megapack.
    """
    require_prediction(space, "space")
    require_numbers("cfg_ec", weight=weight, threshold=threshold)
    if known_false(lambda a: (a >= -1) & (a <= 1), threshold):
        raise ValueError(f"cfg_ec's threshold is {threshold}; expected a cosine")
    return ErrorCorrection(weight, jax.tree.map(fix, null), threshold, name, space)


@pytree_dataclass
class History:
    """Away from the average of past guided estimates. Build it with `higs`.

    Attributes:
      weight: Factor of the difference, scalar or ``[B]``; 0 is off.
      alpha: Share of the newest estimate in the average, scalar or ``[B]``.
      eta: Share of the part along the estimate that is kept, scalar or ``[B]``.
      start: Noise level at which the factor is largest, scalar or ``[B]``.
      stop: Noise level at which the factor ends, scalar or ``[B]``.
      normalise: Whether the average is one of its estimates alone (static).
    """

    weight: Array | float
    alpha: Array | float
    eta: Array | float
    start: Array | float
    stop: Array | float
    normalise: bool = static(default=False)

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """No branches but the base."""
        return {}

    def init(self, x: Array) -> PyTree:
        """The average, and the sum of its weights."""
        return jnp.zeros_like(x), jnp.zeros(x.shape[:1], jnp.float32)

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``y + w f(n) (y - h)`` once there is an ``h``."""
        average, mass = state
        mass = expand(mass, delta)
        alpha, eta, start, stop = (
            per_sample(getattr(self, name), delta, f"higs's {name}")
            for name in ("alpha", "eta", "start", "stop")
        )
        weight = per_sample(self.weight, delta, "higs's weight")
        y = evals.x0[BASE] + delta
        past = divide(average, mass) if self.normalise else average
        difference = jnp.where(mass > 0, y - past, 0)
        difference = difference - (1 - eta) * project(difference, y)
        level = ctx.sigma / (ctx.alpha + ctx.sigma)
        inside = (level > stop) & (level <= start)
        factor = jnp.where(inside, sqrt((level - stop) / (start - stop)), 0)
        change = weight * factor * difference
        average = alpha * y + (1 - alpha) * average
        mass = (alpha + (1 - alpha) * mass).reshape(delta.shape[:1])
        return delta + change, (average, mass)


@method(
    "reshape",
    "y + w sqrt((n - n1) / (n0 - n1)) (y - h), then h = a y + (1 - a) h, n the noise "
    "level in (n1, n0]",
    space="x0",
    evaluations=1,
    source="2509.22300",
    after=True,
    example={"start": 1.0, "stop": 0.0},
    law="test_higs_golden",
)
def higs(
    weight: Any = 1.75,
    *,
    alpha: Any = 0.75,
    eta: Any = 1.0,
    start: Any = 0.95,
    stop: Any = 0.4,
    normalise: bool = False,
) -> History:
    """History-guided sampling: away from the average of past guided estimates.

    ``y <- y + w sqrt((n - n1) / (n0 - n1)) (y - h)`` for noise levels ``n = sigma /
    (alpha + sigma)`` in ``(n1, n0]``, then ``h <- a y + (1 - a) h`` with the ``y``
    before the change, ``h`` from 0. ``eta`` keeps a share of the part along ``y``. It
    needs no further evaluation of the network.

    Args:
      weight: Factor ``w``, scalar or ``[B]``; 0 is off.
      alpha: Share ``a`` of the newest estimate in the average, scalar or ``[B]``, in
        (0, 1].
      eta: Share of the part of the difference along ``y`` that is kept, scalar or
        ``[B]``; 1 keeps it, 0 projects it out.
      start: Noise level ``n0`` at which it begins, scalar or ``[B]``, in (stop, 1].
      stop: Noise level ``n1`` at which it ends, scalar or ``[B]``, at least 0.
      normalise: Whether to divide ``h`` by the sum of its weights, so that predictions
        that do not change are left alone; the published ``h`` begins too small.

    Returns:
      A guidance term, to stand after those whose prediction it sharpens.

    Raises:
      TypeError: A number that is none.
      ValueError: A number outside its range.

    Reference: Sadat et al., arXiv 2509.22300, without its high-pass filter.
    """
    numbers = {"alpha": alpha, "eta": eta, "start": start, "stop": stop}
    require_numbers("higs", weight=weight, **numbers)
    if known_false(lambda a: (a > 0) & (a <= 1), alpha):
        raise ValueError(f"higs's alpha is {alpha}; expected above 0 and at most 1")
    if known_false(
        lambda low, high: (low >= 0) & (low < high) & (high <= 1), stop, start
    ):
        raise ValueError(
            f"higs got start {start} and stop {stop}; expected 0 <= stop < start <= 1"
        )
    return History(weight, alpha, eta, start, stop, bool(normalise))
