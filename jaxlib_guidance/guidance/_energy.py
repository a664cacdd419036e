"""Energy guidance: steer by the gradient of a function of the sample.

An energy is to be lowered; a likelihood enters as ``E = -log p(y | x)``. It moves the
estimate by ``delta -= w c(t) grad E``, where what is differentiated sets ``c``:

- through="network": ``grad`` is with respect to ``x_t`` through the denoiser, and
  ``c = sigma^2 / alpha``. Exact when ``E = -log p(y | x_t)``: Tweedie's formula turns
  the tilted score into the tilted posterior mean.
- through="noisy": the energy is a function of ``x_t`` itself, such as a classifier
  trained on noisy data; same ``c``, and no backward pass through the network.
- through="denoised": ``grad`` is with respect to the estimate alone. Then ``c =
  sigma^2 / (alpha^2 + sigma^2)``, the posterior variance of unit-variance data, which
  stands for the Jacobian that is left out.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.calls import call_energy, require_energy
from jaxlib_guidance.guidance._base import BASE, Evals, sample_axes
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.reduce import divide, sqrt
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    PyTree,
    per_sample,
    pytree_dataclass,
    static,
)

THROUGH = ("network", "noisy", "denoised")


@pytree_dataclass
class Energy:
    """An energy term. Build it with `energy`.

    Attributes:
      weight: Factor of the gradient, scalar or ``[B]``; 0 is off.
      params: First argument of ``function`` when not None: leaves of the tree, so that
        a classifier's parameters are arguments of the compiled sampler.
      function: ``([params,] x, ctx) -> [B]`` with ``x`` the estimate or, for "noisy",
        the state (static).
      through: What is differentiated: "network", "noisy" or "denoised" (static).
      normalize: None, or "rms", which divides each sample's gradient by its root mean
        square (static).
    """

    weight: Array | float
    params: PyTree = None
    function: Callable[..., Array] = static(default=None)
    through: str = static(default="network")
    normalize: str | None = static(default=None)

    @property
    def linear(self) -> bool:
        """Whether neighbours may share one backward pass."""
        return self.normalize is None

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The base branch, differentiated if the gradient goes through the network."""
        if self.through == "network":
            return {BASE: Branch(ctx.cond, grad=True)}
        return {}

    def energy(self, evals: Evals, ctx: Context) -> Array:
        """The energy ``[B]`` that the planner differentiates, weighted when linear."""
        x = ctx.x if self.through == "noisy" else evals.x0[BASE]
        value = call_energy(self.function, self.params, x, ctx, "energy's function")
        if self.linear:
            value = value * self._weight(value)
        return value

    def _weight(self, like: Array) -> Array:
        return per_sample(self.weight, like, "energy's weight")

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``delta - c(t) w grad E``."""
        grad = evals.grad
        if grad is None:  # Summed into an earlier term's.
            return delta, state
        if self.normalize == "rms":
            square = jnp.mean(grad**2, axis=sample_axes(grad), keepdims=True)
            grad = divide(grad, sqrt(square)) * self._weight(grad)
        return delta - step_size(self.through, ctx) * grad, state


def step_size(through: str, ctx: Context) -> Array:
    """The factor ``c(t)`` of an energy's gradient.

    "denoised": ``sigma^2 / (alpha^2 + sigma^2)``; else ``sigma^2 / alpha``. At ``alpha
    = 0`` the state says nothing about the data and nothing is added.

    Args:
      through: What is differentiated: "network", "noisy" or "denoised".
      ctx: The evaluation at hand.

    Returns:
      ``[B, 1, ...]``, ready to broadcast.
    """
    variance = ctx.sigma**2
    if through == "denoised":
        return variance / (ctx.alpha**2 + variance)
    return divide(variance, ctx.alpha)


@method(
    "energy",
    "D - w c(t) grad E",
    space="gradient",
    evaluations=1,
    source="2105.05233",
    law="test_exact_evidence_draws_from_the_tilted_posterior",
)
def energy(
    function: Callable[..., Array],
    weight: Any = 1.0,
    params: PyTree = None,
    *,
    through: str = "network",
    normalize: str | None = None,
) -> Energy:
    """Guidance by the gradient of an energy: ``delta -= w c(t) grad E``.

    A reward is an energy of the other sign, ``lambda x0, ctx: -reward(x0)``. An energy
    of the estimate is not that of the sample which it will become, so samples are near
    ``p(x) exp(-w E(x))`` and not of it, at weight 1 too; the particles of
    `sampling.twisted` correct that.

    Through the network the gradient holds the network's own Jacobian, of which training
    sees nothing, times ``c = sigma^2 / alpha``, which at the first times of a process
    is in the hundreds. A learned network that predicts eps is wrong there by as much,
    and its samples diverge; one that predicts v or velocity is wrong by less, which may
    still lower a reward that it should raise. Keep the term off those steps,
    ``during(energy(...), 0.2, 1.0)``, or take "denoised".

    Neighbouring energies of a chain that go through the same thing and are not
    normalised are summed and cost one backward pass.

    Args:
      function: ``(x0 [B,*S], ctx) -> [B]``, or ``(params, x0, ctx)`` with ``params``;
        for "noisy" the first array is the state ``x_t``.
      weight: Factor ``w`` of the gradient, scalar or ``[B]``; 0 is off.
      params: Pytree that ``function`` receives first; None for a function without one.
      through: What to differentiate. "network": with respect to ``x_t`` through the
        denoiser, with ``c = sigma^2 / alpha``. "noisy": the energy of the state itself,
        with the same ``c``. "denoised": with respect to the estimate alone, with ``c =
        sigma^2 / (alpha^2 + sigma^2)``.
      normalize: None for the gradient itself, or "rms" for one of unit root mean square
        in each sample.

    Returns:
      A guidance term.

    Raises:
      TypeError: A weight that is no number, or a function of other arguments.
      ValueError: Unknown ``through`` or ``normalize``.

    Example:
      >>> import jax
      >>> import jaxlib_guidance as jg
      >>> distance = lambda x0, ctx: ((x0 - 1) ** 2).sum(1)
      >>> term = jg.energy(distance, 0.5, through="denoised")
      >>> denoiser = jg.parametrize(lambda x, t, cond: 0 * x, jg.VE())
      >>> keys = jg.sample_keys(jax.random.key(0), 1)
      >>> jg.sample(keys, denoiser, jg.ddim(), [1, 0], (1,), guidance=term)[0].tolist()
      [[0.5]]

    Reference: Dhariwal and Nichol, arXiv 2105.05233, section 4; through the denoiser:
    Chung et al., arXiv 2209.14687; at the estimate: Bansal et al., arXiv 2302.07121.
    """
    require_numbers("energy", weight=weight)
    require_energy(function, params, "energy's function")
    if through not in THROUGH:
        raise ValueError(f"through is {through!r}; expected one of {THROUGH}")
    if normalize not in (None, "rms"):
        raise ValueError(f"normalize is {normalize!r}; expected None or 'rms'")
    return Energy(weight, params, function, through, normalize)
