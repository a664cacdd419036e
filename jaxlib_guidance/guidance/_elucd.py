"""Guidance by a clean, off-the-shelf classifier: smoothing, logit and schedule."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.guidance._base import BASE, Evals, fix, sample_axes
from jaxlib_guidance.guidance._chain import Chain
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._classifier import (
    _NegativeLogDensity,
    classifier_guidance,
)
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.guidance._schedule import scheduled
from jaxlib_guidance.guidance._step import step_grid
from jaxlib_guidance.reduce import divide, known_false, sqrt
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    PyTree,
    at_least_float32,
    concrete,
    per_sample,
    pytree_dataclass,
    static,
)


def softplus(x: Array, beta: Array | float = 3.0) -> Array:
    """``log(1 + exp(beta x)) / beta``: a smooth stand-in for a classifier's ReLU.

    In place of each ReLU of a trained classifier it calibrates its gradients, which
    ReLUs make jump; the weights stay as they are.

    Args:
      x: Array of any shape.
      beta: Sharpness, above 0; as it grows this becomes ``max(x, 0)``.

    Returns:
      Array of ``x``'s shape.

    Raises:
      ValueError: A sharpness of 0 or less.

    Reference: Ma et al., EluCD, arXiv 2310.11311; 3 for its classifiers of DDPM.
    """
    known = concrete(beta)
    if known is not None and not (known > 0).all():
        raise ValueError(f"beta is {beta}; expected above 0")
    return jax.nn.softplus(x * beta) / beta


@method(
    "energy",
    "DDPM's mean + w (S + g sin(pi t / T) max S) grad log p(y | D), S its variance",
    space="gradient",
    evaluations=1,
    source="2310.11311",
    law="test_elucd_moves_the_mean_as_published",
)
def elucd(
    classifier: Callable[..., Array],
    weight: Any = 1.0,
    labels: Any = None,
    params: PyTree = None,
    *,
    tau1: Any = 1.0,
    tau2: Any = 0.5,
    gamma: Any = 0.3,
) -> Chain:
    """Guidance by an off-the-shelf classifier of clean data, at the estimate.

    The mean of a DDPM step moves by ``w (S + gamma sin(pi t / T) max S) g`` with ``S``
    the variance of the step, its maximum over the steps so far, ``t / T`` the share of
    steps left and ``g`` the gradient of `joint_logit` at the estimate, not through the
    network. This is the change of the estimate that makes it, so it goes with any
    solver, and its strength depends on the grid as in the paper. Build the classifier
    with `softplus` in place of its ReLUs.

    Args:
      classifier: ``(x [B, *S], t [B]) -> logits [B, C]``, or ``(params, x, t)`` with
        ``params``; ``x`` is an estimate of clean data.
      weight: Factor ``w``, scalar or ``[B]``; 0 is off.
      labels: Integers, scalar or ``[B]``; None takes the caller's condition. A label
        that is none of the classes leaves its sample alone.
      params: Parameters of the classifier; None for one that takes none.
      tau1: Factor of the label's own logit, scalar or ``[B]``.
      tau2: Factor of the logits in the normalisation, scalar or ``[B]``: 1 is the
        conditional logit, 0 the joint one.
      gamma: Strength of the sine, a scalar; 0 leaves the step's variance alone.

    Returns:
      A chain that holds the scheduled term. It needs the time grid, so no adaptive
      solver.

    Raises:
      TypeError: An argument that is no number.
      ValueError: A negative ``gamma``.

    Reference: Ma et al., EluCD, arXiv 2310.11311, and the released code for DDPM, with
      its defaults.
    """
    require_numbers("elucd", weight=weight, gamma=gamma)
    if known_false(lambda a: a >= 0, gamma):
        raise ValueError(f"gamma is {gamma}; expected at least 0")
    term = classifier_guidance(
        *(classifier, weight, labels, params), through="denoised", tau1=tau1, tau2=tau2
    )
    return scheduled(term, _boosted, gamma)


def _boosted(gamma: Array, ctx: Context) -> Array:
    """Over the factor of an energy at the estimate; ``take`` is x0's in the mean."""
    grid = step_grid(ctx, "elucd")
    count = grid.shape[0] - 1
    alpha, sigma = ctx.process.alpha(grid), ctx.process.sigma(grid)
    ratio = alpha[:-1] * sigma[1:] / (alpha[1:] * sigma[:-1])
    take = alpha[1:] * (1 - ratio**2)
    variance = sigma[1:] ** 2 * (1 - ratio**2)
    so_far = jnp.max(jnp.where(jnp.arange(count) <= ctx.step, variance, 0))
    sine = jnp.sin(jnp.pi * (1 - ctx.step / count))
    wanted = variance[ctx.step] + at_least_float32(gamma) * sine * so_far
    noise = ctx.process.sigma(ctx.t) ** 2
    size = noise / (ctx.process.alpha(ctx.t) ** 2 + noise)
    return divide(wanted / take[ctx.step], size)


@pytree_dataclass
class MovedState:
    """A state moved along a classifier's gradient. Build it with `elucd_edm`.

    Attributes:
      weight: Size of the move relative to the state, scalar or ``[B]``; 0 is off.
      gamma: Strength of the sine.
      params: Parameters, labels and the two temperatures.
      function: Negative log-density ``(params, x, ctx) -> [B]`` (static).
    """

    weight: Array | float
    gamma: Array | float
    params: PyTree
    function: Callable[..., Array] = static()

    def move(self, ctx: Context) -> Array:
        """The move ``[B, *S]`` of the state at this step."""
        count = step_grid(ctx, "elucd_edm").shape[0]  # Steps + 1, as published.
        sine = jnp.sin(ctx.step / max(count - 1, 1) * jnp.pi)
        size = 1 - ctx.step / count + at_least_float32(jnp.asarray(self.gamma)) * sine
        x = divide(ctx.x, ctx.alpha)
        rms = sqrt(jnp.mean(x**2, axis=sample_axes(x), keepdims=True))
        proxy = x / jnp.maximum(rms, 1)
        grad = -jax.grad(lambda x: self.function(self.params, x, ctx).sum())(proxy)
        square = jnp.mean(grad**2, axis=sample_axes(grad), keepdims=True)
        unit = divide(grad, sqrt(square))
        weight = per_sample(self.weight, x, "elucd_edm's weight")
        return weight * size * ctx.alpha * rms * unit

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The network at the moved state."""
        return {"elucd_edm": Branch(ctx.cond, x=ctx.x + self.move(ctx))}

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """The change of x0 that makes an Euler step from here one from the moved."""
        grid = step_grid(ctx, "elucd_edm")
        alpha, sigma = ctx.process.alpha(grid), ctx.process.sigma(grid)
        noise = sigma[ctx.step + 1] / alpha[ctx.step + 1]
        ratio = divide(noise * alpha[ctx.step], sigma[ctx.step])
        kept = divide(ratio, 1 - ratio) * divide(self.move(ctx), ctx.alpha)
        return delta + evals.x0["elucd_edm"] - evals.x0[BASE] + kept, state


@method(
    "energy",
    "the state moved by w ((N - i) / N + g sin(pi i / (N - 1))) rms(x) grad / rms(grad)"
    " before the step",
    space="state",
    evaluations=2,
    source="2310.11311",
    example={"weight": 0.05},
    law="test_elucd_edm_is_the_published_loop",
)
def elucd_edm(
    classifier: Callable[..., Array],
    weight: Any = 0.004,
    labels: Any = None,
    params: PyTree = None,
    *,
    tau1: Any = 1.0,
    tau2: Any = 0.0,
    gamma: Any = 0.3,
) -> MovedState:
    """Guidance by an off-the-shelf classifier, the update for EDM's sampler.

    Before step ``i`` the state ``x`` (over ``alpha``) moves by ``w ((N - i) / N + gamma
    sin(pi i / (N - 1))) rms(x)`` along the gradient of `joint_logit` at ``x / max(1,
    rms(x))``, of unit root mean square; ``N`` is the number of steps plus one. The
    change of the estimate that does it is exact for `ddim` and `euler`; other solvers
    of one evaluation a step follow it to their order. Not differentiated through the
    network, which is evaluated at both states.

    Args:
      classifier: ``(x [B, *S], t [B]) -> logits [B, C]``, or ``(params, x, t)`` with
        ``params``; ``x`` is the state, scaled to a root mean square of 1 or less.
      weight: Factor ``w``, scalar or ``[B]``; 0 is off.
      labels: Integers, scalar or ``[B]``; None takes the caller's condition. A label
        that is none of the classes leaves its sample alone.
      params: Parameters of the classifier; None for one that takes none.
      tau1: Factor of the label's own logit, scalar or ``[B]``.
      tau2: Factor of the logits in the normalisation, scalar or ``[B]``: 1 is the
        conditional logit, 0 the joint one.
      gamma: Strength of the sine, a scalar; 0 leaves the linear decay alone.

    Returns:
      A guidance term. It needs the time grid, so no adaptive solver.

    Raises:
      TypeError: An argument that is no number.

    Reference: Ma et al., EluCD, arXiv 2310.11311, and the released code for EDM, with
      its defaults; its floor of 1e-5 for the first term never acts at them.
    """
    require_numbers("elucd_edm", weight=weight, tau1=tau1, tau2=tau2, gamma=gamma)
    inner = params, fix(labels), tau1, tau2
    return MovedState(weight, gamma, inner, _NegativeLogDensity(classifier))
