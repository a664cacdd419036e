"""Losses of the estimate: smoothed by noise, or stepped along as far as noise goes."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp

from jaxlib_guidance.calls import call_energy
from jaxlib_guidance.guidance._base import BASE, Evals, sample_axes
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._energy import Energy
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.guidance.posterior._moments import posterior_variance
from jaxlib_guidance.guidance.posterior._smoothing import (
    require_loss,
    smooth_loss,
)
from jaxlib_guidance.reduce import divide, known_false, sqrt
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    PyTree,
    per_sample,
    pytree_dataclass,
    static,
)


@dataclasses.dataclass(frozen=True)
class _Smoothed:
    """A loss averaged over the Gaussian that the estimate stands for."""

    function: Callable[..., Array]
    samples: int

    def __call__(self, params: PyTree, x0: Array, ctx: Context) -> Array:
        data_variance, inner = params
        data = per_sample(data_variance, x0, "data_variance")
        std = jnp.sqrt(posterior_variance(ctx.alpha, ctx.sigma, data))
        return smooth_loss(self.function, inner, x0, ctx, std, self.samples)


@method(
    "posterior",
    "D + w s2/a J' grad log mean_k e^-E(D + r z_k), r^2 = v s2 / (v a^2 + s2)",
    space="gradient",
    evaluations=1,
    source="https://proceedings.mlr.press/v202/song23k.html",
    example={"samples": 2},
    law="test_lgd_mc_becomes_pigdm",
)
def lgd_mc(
    function: Callable[..., Array],
    weight: Any = 1.0,
    params: PyTree = None,
    *,
    samples: int = 8,
    data_variance: Any = 1.0,
) -> Energy:
    """Loss guidance by Monte Carlo: the likelihood averaged about the estimate.

    The energy ``-log mean_k exp(-E(D + r z_k))`` through the network, ``z_k`` drawn
    anew in each step, ``r^2 = v sigma^2 / (v alpha^2 + sigma^2)``. With many draws it
    is exact for data ``N(m, v I)``; for a linear measurement (`gaussian_energy`) it
    becomes `pigdm`.

    Args:
      function: Energy ``(x0 [B, *S], ctx) -> [B]``, or ``(params, x0, ctx)`` with
        ``params``: minus a log likelihood of clean data.
      weight: Factor of the gradient, scalar or ``[B]``; 0 is off.
      params: Pytree that ``function`` receives first; None for one without.
      samples: Number of draws.
      data_variance: Variance ``v`` of the data, scalar or ``[B]``, positive.

    Returns:
      A guidance term.

    Raises:
      TypeError: A number that is none, or a function that cannot be called.
      ValueError: ``samples`` below 1, or a variance that is not positive.

    Reference: Song et al., ICML 2023, https://proceedings.mlr.press/v202/song23k.html,
      eq. 8.
    """
    require_loss("lgd_mc", function, params, samples)
    require_numbers("lgd_mc", weight=weight, data_variance=data_variance)
    if known_false(lambda v: v > 0, data_variance):
        raise ValueError(f"data_variance is {data_variance}; expected above 0")
    return Energy(weight, (data_variance, params), _Smoothed(function, samples))


@pytree_dataclass
class MatchedLoss:
    """A loss's gradient of a size set by the noise. Build it with `freedom`, `mpgd`.

    Attributes:
      weight: Factor of the step, scalar or ``[B]``; 0 is off.
      params: First argument of ``function`` when not None.
      function: ``([params,] x0, ctx) -> [B]`` (static).
      through: What is differentiated, "network" or "denoised" (static).
      size: "noise" matches the network's noise, "alpha" is ``1 / alpha`` (static).
    """

    weight: Array | float
    params: PyTree = None
    function: Callable[..., Array] = static(default=None)
    through: str = static(default="network")
    size: str = static(default="noise")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The base branch, differentiated if the gradient goes through the network."""
        if self.through == "network":
            return {BASE: Branch(ctx.cond, grad=True)}
        return {}

    def energy(self, evals: Evals, ctx: Context) -> Array:
        """The loss of the estimate ``[B]``."""
        return call_energy(self.function, self.params, evals.x0[BASE], ctx, "the loss")

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``delta - w size grad``."""
        grad, x0 = evals.grad, evals.x0[BASE]
        weight = per_sample(self.weight, delta, "a loss's weight")
        if self.size == "alpha":
            return delta - weight * divide(grad, ctx.alpha), state

        def rms(a):
            return sqrt(jnp.mean(a**2, axis=sample_axes(a), keepdims=True))

        noise = rms(ctx.x - ctx.alpha * x0)  # sigma times that of the noise.
        step = divide(noise, ctx.alpha) * divide(grad, rms(grad))
        if self.through == "denoised":
            step = step * per_sample(_share(ctx), x0)
        return delta - weight * step, state


def _share(ctx: Context) -> Array:
    """``1 - (alpha sigma' / (alpha' sigma))^2``: x0 in DDPM's mean, over alpha'."""
    alpha, sigma = ctx.process.alpha(ctx.t_step), ctx.process.sigma(ctx.t_step)
    later, left = ctx.process.alpha(ctx.t_next), ctx.process.sigma(ctx.t_next)
    return 1 - (alpha * left / (later * sigma)) ** 2


@method(
    "posterior",
    "D - w (s/a) rms(eps) g / rms(g), g the gradient of E(D) through the network",
    space="gradient",
    evaluations=1,
    source="2303.09833",
    example={"weight": 0.3},
    law="test_freedom_moves_the_mean_as_released",
)
def freedom(
    function: Callable[..., Array], weight: Any = 0.02, params: PyTree = None
) -> MatchedLoss:
    """FreeDoM: a loss's gradient through the network, as large as the noise it meets.

    ``x0 = D - w (sigma / alpha) rms(eps) g / rms(g)``, ``g`` the gradient of ``E(D)``
    by the state, ``eps`` the noise that the network sees. For DDPM that is the released
    ``x' -= rho g``. Its time travel is `sampling.with_recurrence` with ``repeats`` from
    1 to 9 in the middle of the trajectory.

    Args:
      function: Loss ``(x0 [B, *S], ctx) -> [B]``, or ``(params, x0, ctx)`` with
        ``params``; its scale has no effect.
      weight: Factor ``w``, scalar or ``[B]``; 0 is off. The released 0.02 is for texts
        and faces.
      params: Pytree that ``function`` receives first; None for one without.

    Returns:
      A guidance term.

    Raises:
      TypeError: A weight that is no number, or a function that cannot be called.

    Reference: Yu et al., arXiv 2303.09833, algorithm 1, and the released code, whose
      means are over the batch where these are over each sample.
    """
    require_loss("freedom", function, params)
    require_numbers("freedom", weight=weight)
    return MatchedLoss(weight, params, function, "network", "noise")


@method(
    "posterior",
    "D - w grad E(D) / a, the gradient at the estimate alone",
    space="x0",
    evaluations=1,
    source="2311.16424",
    example={"weight": 0.3},
    law="test_mpgd_moves_the_estimate_as_released",
)
def mpgd(
    function: Callable[..., Array],
    weight: Any = 1.0,
    params: PyTree = None,
    *,
    size: Literal["alpha", "noise"] = "alpha",
) -> MatchedLoss:
    """MPGD: a gradient step on the estimate, and no pass back through the network.

    - size="alpha": ``x0 = D - w grad E(D) / alpha``, the released code for linear
      measurements, with `norm_energy`.
    - size="noise": ``x0 = D - w (1 - r^2) (sigma / alpha) rms(eps) g / rms(g)`` with
      ``r = alpha sigma' / (alpha' sigma)``, the released code for other losses.

    Its projection on the manifold by an autoencoder is the loss's business.

    Args:
      function: Loss ``(x0 [B, *S], ctx) -> [B]``, or ``(params, x0, ctx)`` with
        ``params``.
      weight: Factor ``w``, scalar or ``[B]``; 0 is off.
      params: Pytree that ``function`` receives first; None for one without.
      size: What sets the size of the step, "alpha" or "noise".

    Returns:
      A guidance term.

    Raises:
      TypeError: A weight that is no number, or a function that cannot be called.
      ValueError: Unknown ``size``.

    Reference: He et al., arXiv 2311.16424, algorithm 1, and the released code, whose
      norms are over the batch where these are over each sample.
    """
    require_loss("mpgd", function, params)
    require_numbers("mpgd", weight=weight)
    if size not in ("alpha", "noise"):
        raise ValueError(f"size is {size!r}; expected 'alpha' or 'noise'")
    return MatchedLoss(weight, params, function, "denoised", size)
