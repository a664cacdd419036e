"""Twisted diffusion sampling: a likelihood that guides, and weights that correct it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.calls import require_energy
from jaxlib_guidance.guidance import (
    BASE,
    Evals,
    sample_axes,
    step_kernel,
    step_size,
)
from jaxlib_guidance.sampling._checks import is_zero, require_between, row_values
from jaxlib_guidance.sampling._potentials import Proposal
from jaxlib_guidance.sampling._resample import Resampling
from jaxlib_guidance.transition import Transition
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


class _Twist(NamedTuple):
    value: Array
    proposed: Transition
    target: Transition


@pytree_dataclass
class Twisted:
    """A likelihood that guides and weighs. Build it with `twisted`.

    Attributes:
      scale: Factor of the proposal's gradient, scalar; 0 does not guide.
      params: First argument of ``function`` when not None: leaves of the tree.
      tempering: Growth of the likelihood's exponent in a step, scalar; None has it
        whole from the first step.
      function: ``([params,] x, ctx) -> [R]``, the logarithm of the likelihood (static).
      through: What is differentiated: "network", "noisy" or "denoised" (static).
      resampling: When and how particles are resampled (static).
    """

    scale: Array | float
    params: PyTree = None
    tempering: Array | float | None = None
    function: Callable[..., Array] = static(default=None)
    through: str = static(default="network")
    resampling: Resampling = static(default=Resampling())

    def init(self, x: Array) -> PyTree:
        """The value before, and the step's distribution with and without guidance."""
        point = Transition(x, jnp.zeros(x.shape[:1], x.dtype))
        return _Twist(jnp.zeros(x.shape[:1], jnp.float32), point, point)

    def term(self) -> Any:
        """The guidance."""
        parts = self.scale, self.params, self.tempering, self.function, self.through
        return _Towards(*parts)

    def weigh(self, proposal: Proposal, state: PyTree) -> tuple[Array, PyTree]:
        """``log psi' - log psi + log p(x' | x) - log q(x' | x)``."""
        ratio = _log_ratio(state.target, state.proposed, proposal.x)
        if proposal.last:
            value = row_values(self.function, self.params, proposal.x0, proposal.ctx)
            return value - state.value + ratio, state
        value, target = proposal.noted
        value = value * _exponent(self.tempering, proposal.ctx.step)
        proposed = _filled(proposal.transition, proposal.x)
        return value - state.value + ratio, _Twist(value, proposed, target)


def _exponent(tempering: Array | float | None, step: Array) -> Array | float:
    """Exponent of the likelihood at a step, which has grown from 0 at the first."""
    if tempering is None:
        return 1.0
    grown = step.astype(jnp.float32) * jnp.log1p(jnp.asarray(tempering, jnp.float32))
    # Below 1 before the exponential, which else may overflow.
    return jnp.expm1(jnp.minimum(grown, np.log(2)))


def _filled(transition, x):
    std = jnp.broadcast_to(jnp.asarray(transition.std, x.dtype), x.shape[:1])
    return Transition(transition.mean, std)


def _log_ratio(p: Transition, q: Transition, x: Array) -> Array:
    """``log p(x) - log q(x)`` of a draw of q; 0 where either is a point.

    Not a difference of two sums over the sample, in which digits are lost.
    """
    some = (p.std > 0) & (q.std > 0)
    s_p, s_q = (jnp.where(some, each.std, 1) for each in (p, q))
    a, b = (x - q.mean) / expand(s_q, x), (x - p.mean) / expand(s_p, x)
    each = (a - b) * (a + b) / 2 + expand(jnp.log(s_q / s_p), x)
    total = jnp.sum(each, axis=sample_axes(x)).astype(jnp.float32)
    return jnp.where(some, total, 0)


@pytree_dataclass
class _Towards:
    # Not "weight": a term of weight 0 is left out, and would note nothing.
    scale: Array | float
    params: PyTree = None
    tempering: Array | float | None = None
    function: Callable[..., Array] = static(default=None)
    through: str = static(default="network")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        graded = self.through == "network"
        return {BASE: Branch(ctx.cond, grad=True)} if graded else {}

    def init(self, x: Array) -> PyTree:
        point = Transition(x, jnp.zeros(x.shape[:1], x.dtype))
        return jnp.zeros(x.shape[:1], jnp.float32), point

    def energy(self, evals: Evals, ctx: Context) -> Array:
        return -self._value(evals, ctx)

    def _value(self, evals, ctx):
        x = ctx.x if self.through == "noisy" else evals.x0[BASE]
        graded = not is_zero(self.scale)
        return row_values(self.function, self.params, x, ctx, graded=graded)

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        kernel = step_kernel(ctx, "twisted", stochastic=True)
        target = _filled(kernel(evals.x0[BASE] + delta), ctx.x)
        move = step_size(self.through, ctx) * evals.grad
        # Towards the likelihood by which the next state will be weighed.
        scale = self.scale * _exponent(self.tempering, ctx.step + 1)
        scale = per_sample(scale, delta, "twisted's scale")
        move = scale.astype(delta.dtype) * move
        # A step without noise has no density to weigh a move by: it is not guided.
        move = jnp.where(expand(target.std > 0, delta), move, 0)
        return delta - move, (self._value(evals, ctx), target)


def twisted(
    function: Callable[..., Array],
    scale: Any = 1.0,
    params: PyTree = None,
    *,
    tempering: Any = None,
    through: str = "network",
    resampling: Resampling | None = None,
) -> Twisted:
    """Twisted diffusion sampler: a likelihood guides, and weights make it exact.

    With ``log psi(x, t)`` the function at the estimate ``x0(x, t)``, a particle moves
    by the guided step ``q``, whose estimate is ``x0 + c(t) grad log psi``, and its
    weight is multiplied by

      ``psi(x', t') / psi(x, t) * p(x' | x) / q(x' | x)``

    with ``p`` the step without this guidance, and with whatever else guides. Whatever
    the estimates are worth, the weighted particles are of the sampler's own
    distribution times ``psi`` at the data, the more exactly the more there are, and
    ``exp(log_z)`` is an unbiased estimate of ``E psi``. A step without noise, as the
    last often is, is not guided.

    With ``tempering`` ``gamma`` step ``i`` has ``psi^lambda_i`` for ``psi``, with
    ``lambda_i = min((1 + gamma)^i - 1, 1)``: early estimates, which say little, neither
    lead nor weigh by much. With a reward over a temperature for ``log psi`` this is
    DAS. The target is the same.

    Through a network that predicts eps the gradient is wrong by much in the first
    steps, as `energy` says: there ``tempering`` of about .2 or "denoised" keeps the
    particles finite.

    Args:
      function: ``(x0 [R, *S], ctx) -> [R]``, the logarithm of the likelihood, or
        ``(params, x0, ctx)`` with ``params``; for "noisy" the first array is the state.
        ``R`` counts all particles, as do the condition and keys of ``ctx``.
      scale: Factor of the gradient by which particles are guided, a scalar. It changes
        how many particles are needed, and not what they sample.
      params: Pytree that ``function`` receives first; None for a function without one.
      tempering: Growth ``gamma`` of the likelihood's exponent in a step, a scalar of at
        least 0: about ``.7 / gamma`` steps pass until it is whole. None has it whole
        from the first step.
      through: What the gradient goes through, "network", "noisy" or "denoised"; see
        `energy`.
      resampling: When and how particles are resampled; None is systematically, below
        half of the effective size.

    Returns:
      A potential for `sample_particles`, under stochastic solvers with one evaluation a
      step.

    Raises:
      TypeError: A function of other arguments.
      ValueError: Unknown ``through``, a ``scale`` or ``tempering`` below 0; while
        sampling, a solver without noise or of several evaluations.

    Reference: Wu et al., arXiv 2306.17775, algorithm 1; tempered: Kim et al., DAS,
    arXiv 2501.05803, with the exponential schedule of its code.
    """
    require_energy(function, params, "twisted's function")
    if through not in ("network", "noisy", "denoised"):
        raise ValueError(
            f"through is {through!r}; expected 'network', 'noisy' or 'denoised'"
        )
    require_between(scale, "scale", 0)
    if tempering is not None:
        require_between(tempering, "tempering", 0)
    resampling = Resampling() if resampling is None else resampling
    return Twisted(scale, params, tempering, function, through, resampling)
