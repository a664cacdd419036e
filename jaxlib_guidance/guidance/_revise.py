"""Terms that revise the guided prediction itself, with or without a memory of it."""

from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.diffusion import Prediction, from_x0, require_prediction
from jaxlib_guidance.guidance._base import BASE, Evals
from jaxlib_guidance.guidance._checks import require_numbers
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


@pytree_dataclass
class TemperScore:
    """The score multiplied by a schedule. Build it with `tsr`.

    Attributes:
      k: Inverse factor of the data's variance, scalar or ``[B]``; 1 is off.
      scale: Standard deviation of the data, scalar or ``[B]``.
    """

    k: Array | float
    scale: Array | float

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """No branches but the base."""
        return {}

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``x0 + (r - 1) (x0 - x / alpha)``."""
        k = per_sample(self.k, delta, "tsr's k")
        variance = per_sample(self.scale, delta, "tsr's scale") ** 2
        noise = ctx.alpha * (evals.x0[BASE] + delta) - ctx.x
        # (r - 1) / alpha, which is finite at alpha = 0 too.
        factor = ctx.alpha * variance * (1 - 1 / k)
        factor = factor / (ctx.alpha**2 * variance / k + ctx.sigma**2)
        return delta + factor * noise, state


@method(
    "reshape",
    "x0 + (r - 1) (x0 - x / a), r = (h s^2 + 1) / (h s^2 / k + 1), h = a^2 / sigma^2",
    space="score",
    off="k = 1",
    evaluations=1,
    source="2510.01184",
    strength=None,
    example={"k": 0.7, "scale": 0.8},
    skip={"weight_zero_static": "it has no weight of its own to be known"},
    law="test_tsr_is_the_denoiser_of_another_variance",
)
def tsr(k: Any, scale: Any = 1.0) -> TemperScore:
    """Temporal score rescaling: a temperature of the samples, for ODE and SDE alike.

    The score is multiplied by ``r = (h s^2 + 1) / (h s^2 / k + 1)`` with ``h`` the
    ratio ``alpha^2 / sigma^2``. For data of N(m, s^2) the samples are exactly those of
    N(m, s^2 / k): a ``k`` above 1 narrows, one below 1 widens. In a mixture of separate
    modes it acts within each mode and keeps their shares.

    Args:
      k: Factor by which the variance of a mode is divided, scalar or ``[B]``, above 0;
        1 is off.
      scale: Standard deviation ``s`` of a mode, scalar or ``[B]``, above 0.

    Returns:
      A guidance term, to stand after those whose prediction it rescales.

    Raises:
      TypeError: A number that is none.
      ValueError: ``k`` or ``scale`` not above 0.

    Reference: Xu et al., arXiv 2510.01184.
    """
    require_numbers("tsr", k=k, scale=scale)
    for name, value in (("k", k), ("scale", scale)):
        if known_false(lambda a: a > 0, value):
            raise ValueError(f"tsr's {name} is {value}; expected a number above 0")
    return TemperScore(k, scale)


@pytree_dataclass
class ScaleNoise:
    """The estimated noise divided by a number. Build it with `epsilon_scaling`.

    Attributes:
      factor: What the noise is divided by, scalar or ``[B]``; 1 is off.
    """

    factor: Array | float

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """No branches but the base."""
        return {}

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``x0 + (1 - 1 / factor) (x / alpha - x0)``."""
        factor = per_sample(self.factor, delta, "epsilon_scaling's factor")
        noise = ctx.x - ctx.alpha * (evals.x0[BASE] + delta)
        return delta + (1 - 1 / factor) * divide(noise, ctx.alpha), state


@method(
    "reshape",
    "eps / factor",
    space="eps",
    off="factor = 1",
    evaluations=1,
    source="2308.15321",
    strength=None,
    example={"factor": 1.2},
    skip={"weight_zero_static": "it has no weight of its own to be known"},
    law="test_epsilon_scaling_widens_with_the_noise",
)
def epsilon_scaling(factor: Any = 1.005) -> ScaleNoise:
    """Epsilon scaling: against the drift of a sampler from what its network was shown.

    ``eps <- eps / factor``. It is no temperature: the variance of samples of N(0, v)
    grows as ``((v + sigma_max^2) / v)^(1 - 1 / factor)``, with the range of noise. At
    ``alpha = 0`` nothing is changed.

    Args:
      factor: What the noise is divided by, scalar or ``[B]``, above 0; 1 is off.

    Returns:
      A guidance term, to stand after those whose prediction it scales.

    Raises:
      TypeError: A factor that is no number.
      ValueError: A factor not above 0.

    Reference: Ning et al., arXiv 2308.15321.
    """
    require_numbers("epsilon_scaling", factor=factor)
    if known_false(lambda a: a > 0, factor):
        raise ValueError(f"epsilon_scaling's factor is {factor}; expected above 0")
    return ScaleNoise(factor)


@pytree_dataclass
class Momentum:
    """Away from the average of past predictions. Build it with `momentum_guidance`.

    Attributes:
      weight: Factor of the difference, scalar or ``[B]``; 0 is off.
      beta: Share of the average that is kept, scalar or ``[B]``.
      space: Prediction that is averaged (static).
    """

    weight: Array | float
    beta: Array | float
    space: Prediction = static(default="velocity")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """No branches but the base."""
        return {}

    def init(self, x: Array) -> PyTree:
        """The average, and whether there is one."""
        return jnp.zeros_like(x), jnp.zeros(x.shape[:1], bool)

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``y + w (y - m)`` once there is an ``m``."""
        average, begun = state
        beta = per_sample(self.beta, delta, "momentum_guidance's beta")
        weight = per_sample(self.weight, delta, "momentum_guidance's weight")
        y = from_x0(ctx.process, self.space, evals.x0[BASE] + delta, ctx.x, ctx.t)
        past = jnp.where(expand(begun, y), average, y)
        change = to_x0_change(weight * (y - past), gain_of(self.space, ctx))
        state = beta * past + (1 - beta) * y, jnp.ones_like(begun)
        return delta + change, state


@method(
    "reshape",
    "y + w (y - m), then m = beta m + (1 - beta) y",
    space="argument",
    evaluations=1,
    source="2602.20360",
    after=True,
    law="test_momentum_guidance_golden",
)
def momentum_guidance(
    weight: Any = 0.5, *, beta: Any = 0.6, space: Prediction = "velocity"
) -> Momentum:
    """Momentum guidance: away from the average of the trajectory's past predictions.

    ``y <- y + w (y - m)``, then ``m <- beta m + (1 - beta) y`` with the ``y`` before
    the change. In the first evaluation ``m = y`` and nothing is added. It needs no
    further evaluation of the network.

    Args:
      weight: Factor ``w``, scalar or ``[B]``; 0 is off.
      beta: Share of the average that is kept at each evaluation, scalar or ``[B]``, in
        [0, 1).
      space: Prediction that ``y`` is; the paper's is "velocity".

    Returns:
      A guidance term, to stand after those whose prediction it extrapolates.

    Raises:
      TypeError: A number that is none.
      ValueError: ``beta`` outside [0, 1), or an unknown ``space``.

    Reference: Liao et al., arXiv 2602.20360.
    """
    require_prediction(space, "space")
    require_numbers("momentum_guidance", weight=weight, beta=beta)
    if known_false(lambda b: (b >= 0) & (b < 1), beta):
        raise ValueError(f"momentum_guidance's beta is {beta}; expected [0, 1)")
    return Momentum(weight, beta, space)
