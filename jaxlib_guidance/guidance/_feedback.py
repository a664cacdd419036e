"""Guidance that watches its sample: adaptive guidance and feedback guidance."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.diffusion import Prediction, from_x0, require_prediction
from jaxlib_guidance.guidance._base import BASE, Evals, fix
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._contrast import like_cond
from jaxlib_guidance.guidance._geometry import cosine, sample_dot
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.guidance._step import step_grid, step_kernel
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


@pytree_dataclass
class Adaptive:
    """A contrast until its two predictions agree. Build it with `adaptive_guidance`.

    Attributes:
      weight: Factor of the contrast, scalar or ``[B]``; 0 is off.
      cond: Condition to move away from.
      threshold: Cosine above which two predictions agree, scalar or ``[B]``.
      worse: Name of the other branch (static).
      space: Prediction whose cosine is meant (static).
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
        """Whether a sample's predictions have agreed."""
        return jnp.zeros(x.shape[:1], bool)

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``delta + w (c - u)``, nothing from the first agreement on."""
        c, u = evals.x0[BASE], evals.x0[self.worse]
        angle = cosine(
            *(from_x0(ctx.process, self.space, a, ctx.x, ctx.t) for a in (c, u))
        )
        threshold = per_sample(self.threshold, delta, "adaptive_guidance's threshold")
        state = state | (angle > threshold).reshape(state.shape)
        weight = per_sample(self.weight, delta, "adaptive_guidance's weight")
        return delta + jnp.where(expand(state, delta), 0, weight * (c - u)), state


@method(
    "combine",
    "c + w (c - u) until cos(c, u) > threshold, c from then on",
    space="argument",
    evaluations=2,
    source="2312.12487",
    example={"threshold": 0.9999},
    law="test_adaptive_guidance_stops_for_good",
)
def adaptive_guidance(
    weight: Any,
    null: PyTree,
    *,
    threshold: Any = 0.991,
    space: Prediction = "eps",
    name: str = "uncond",
) -> Adaptive:
    """Adaptive guidance: `cfg` until the two predictions agree, then none.

    ``x0 = c + w (c - u)`` as long as the cosine of ``c`` and ``u`` in ``space`` has not
    been above the threshold, and ``c`` from that step on, for each sample by itself.
    The unconditional branch is still evaluated, since samples of a batch stop at
    different steps; `during` saves evaluations.

    Args:
      weight: Factor ``w`` of the contrast, scalar or ``[B]``; 0 is off.
      null: Condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      threshold: Cosine above which predictions agree, scalar or ``[B]``, in [-1, 1].
      space: Prediction whose cosine is meant; the paper's is "eps".
      name: Name of the branch; the default is shared with `cfg`.

    Returns:
      A guidance term.

    Raises:
      TypeError: A number that is none.
      ValueError: A threshold outside [-1, 1], or an unknown ``space``.

    Reference: Castillo et al., arXiv 2312.12487.
    """
    require_prediction(space, "space")
    require_numbers("adaptive_guidance", weight=weight, threshold=threshold)
    if known_false(lambda a: (a >= -1) & (a <= 1), threshold):
        raise ValueError(
            f"adaptive_guidance's threshold is {threshold}; expected a cosine"
        )
    null = jax.tree.map(fix, null)
    return Adaptive(weight, null, threshold, name, space)


@pytree_dataclass
class Feedback:
    """A contrast whose weight follows a posterior. Build it with `feedback_guidance`.

    Attributes:
      cond: Condition to move away from.
      prior: Share of the condition in the assumed mixture, scalar or ``[B]``.
      start: Share of the trajectory at which the scale reaches 3, scalar or ``[B]``.
      stop: Share of the trajectory at which the evidence counts as a tenth, a scalar.
      limit: Greatest scale, scalar or ``[B]``.
      worse: Name of the other branch (static).
    """

    cond: PyTree
    prior: Array | float
    start: Array | float
    stop: Array | float
    limit: Array | float
    worse: str = static(default="uncond")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The other branch."""
        return {self.worse: Branch(like_cond(self.cond, ctx.cond))}

    def init(self, x: Array) -> PyTree:
        """The log posterior, the two means of the next state, and their spread."""
        none = jnp.zeros(x.shape[:1], jnp.float32)
        return none, jnp.zeros_like(x), jnp.zeros_like(x), none

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``delta + (lambda - 1) (c - u)``."""
        kernel = step_kernel(ctx, "feedback_guidance", stochastic=True)
        other = 1 - self._of("prior", delta)
        limit = self._of("limit", delta)
        log, to_c, to_u, spread = state
        log, spread = expand(log, delta), expand(spread, delta)
        offset, temperature = self._rates(ctx, delta, other)
        away, near = ctx.x - to_c, ctx.x - to_u
        gap = divide(sample_dot(away, away) - sample_dot(near, near), spread**2)
        moved = log - temperature / 2 * gap + offset
        least = jnp.log(other * limit / (limit - 1))
        log = jnp.where(spread > 0, jnp.clip(moved, least, 3.0), log)
        c, u = evals.x0[BASE], evals.x0[self.worse]
        scale = 1 / (1 - other * jnp.exp(-log))
        (to_c, std), (to_u, _) = kernel(c), kernel(u)
        std = jnp.broadcast_to(jnp.asarray(std, jnp.float32), log.shape[:1])
        state = log.reshape(std.shape), to_c, to_u, std
        return delta + (scale - 1) * (c - u), state

    def _of(self, name: str, delta: Array) -> Array:
        return per_sample(getattr(self, name), delta, f"feedback_guidance's {name}")

    def _rates(self, ctx: Context, delta: Array, other: Array) -> tuple[Array, Array]:
        """The growth of the log posterior in a step, and the weight of the evidence."""
        grid = step_grid(ctx, "feedback_guidance")
        alpha, sigma = ctx.process.alpha(grid), ctx.process.sigma(grid)
        # Of an ancestral step from s to s' in units of the data: s'^2 (1 - s'^2 / s^2).
        kept = (sigma[1:] * alpha[:-1]) / (alpha[1:] * sigma[:-1])
        variances = (sigma[1:] / alpha[1:]) ** 2 * (1 - kept**2)
        count = variances.shape[0]
        place = (1 - jnp.asarray(self.stop, jnp.float32)) * count
        variance = jnp.interp(place, jnp.arange(count, dtype=jnp.float32), variances)
        rise = jnp.log(other * 3 / 2) / ((1 - self._of("start", delta)) * count)
        return rise, jnp.abs(2 * variance * rise / 10)


@method(
    "step",
    "u + lambda (c - u), lambda = e^L / (e^L - (1 - prior)), L the log posterior of c "
    "by the steps so far",
    space="x0",
    off="none",
    evaluations=2,
    source="2506.06085",
    strength=None,
    example={"prior": 0.5},
    skip={"weight_zero_static": "its weight is computed"},
    law="test_feedback_guidance_follows_the_posterior",
)
def feedback_guidance(
    null: PyTree,
    *,
    prior: Any = 0.95,
    start: Any = 0.5,
    stop: Any = 0.4,
    limit: Any = 10.0,
    name: str = "uncond",
) -> Feedback:
    """Feedback guidance: as strong as the sample so far still needs it.

    ``x0 = u + lambda (c - u)`` with ``lambda = e^L / (e^L - (1 - prior))``. ``L`` is
    the logarithm of a posterior of the condition, 0 at first. A step to ``x'`` changes
    it to ``L - tau / (2 s^2) (|x' - m_c|^2 - |x' - m_u|^2) + rise``, kept in ``[L_min,
    3]``, with ``m_c`` and ``m_u`` the means that the solver's step has under either
    estimate and ``s`` its standard deviation. ``rise`` is such that without evidence
    the scale is 3 at ``start``, ``tau`` such that the evidence of a step at ``stop`` is
    a tenth of it, and ``L_min`` that the scale is at most ``limit``. Where a step draws
    no noise, ``L`` rests.

    Args:
      null: Condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      prior: Share of the condition in the mixture that is assumed, scalar or ``[B]``,
        in (0, 1); the nearer to 1, the later guidance begins.
      start: Share of the trajectory that is left when the scale reaches 3, scalar or
        ``[B]``, in [0, 1).
      stop: Share of the trajectory that is left when a tenth of the evidence counts, a
        scalar in [0, 1]; the variance there is that of an ancestral step on the grid.
      limit: Greatest scale, scalar or ``[B]``, above 1.
      name: Name of the branch; the default is shared with `cfg`.

    Returns:
      A guidance term for solvers that draw noise and evaluate once a step, such as
      ``ddpm()``.

    Raises:
      TypeError: A number that is none.
      ValueError: A number outside its range; while sampling, a deterministic solver or
        one of several evaluations.

    Reference: Koulischer et al., arXiv 2506.06085, in the parameters of the authors'
    code.
    """
    numbers = {"prior": prior, "start": start, "stop": stop, "limit": limit}
    require_numbers("feedback_guidance", **numbers)
    for what, value, low, high in (
        ("prior", prior, 0, 1),
        ("start", start, -1e-9, 1),
        ("stop", stop, -1e-9, 1 + 1e-9),
        ("limit", limit, 1, math.inf),
    ):
        if known_false(lambda a, low=low, high=high: (a > low) & (a < high), value):
            raise ValueError(
                f"feedback_guidance's {what} is {value}; expected above {max(low, 0)} "
                f"and below {high:g}"
            )
    return Feedback(jax.tree.map(fix, null), prior, start, stop, limit, name)
