"""Steering by a reward: Feynman-Kac potentials of the estimated data, no gradient."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from jaxlib_guidance.calls import require_energy
from jaxlib_guidance.sampling._checks import row_values
from jaxlib_guidance.sampling._potentials import Proposal
from jaxlib_guidance.sampling._resample import Resampling
from jaxlib_guidance.types import Array, PyTree, pytree_dataclass, static

Potentials = Literal["diff", "max", "add", "each"]


class _Reached(NamedTuple):
    value: Array
    given: Array


@pytree_dataclass
class Steering:
    """A reward that weighs. Build it with `steering`.

    Attributes:
      scale: Factor of the reward, a scalar.
      params: First argument of ``function`` when not None: leaves of the tree.
      function: ``([params,] x0, ctx) -> [R]``, the reward (static).
      kind: Which factors multiply to ``exp(scale r)``: "diff", "max" or "add"; "each"
        takes ``exp(scale r)`` at every step (static).
      resampling: When and how particles are resampled (static).
    """

    scale: Array | float
    params: PyTree = None
    function: Callable[..., Array] = static(default=None)
    kind: Potentials = static(default="diff")
    resampling: Resampling = static(default=Resampling())

    def init(self, x: Array) -> PyTree:
        """What the reward has reached, and the logarithm of all factors so far."""
        none = jnp.zeros(x.shape[:1], jnp.float32)
        return _Reached(none - jnp.inf if self.kind == "max" else none, none)

    def weigh(self, proposal: Proposal, state: PyTree) -> tuple[Array, PyTree]:
        """The logarithm of the step's factor; 0 where resampling is not due."""

        def factor():
            value = row_values(self.function, self.params, proposal.x0, proposal.ctx)
            return self._factor(self.scale * value, state, proposal.last)

        if isinstance(proposal.due, bool) and proposal.due:
            return factor()
        # One condition for all particles: the reward is not evaluated in between.
        nothing = jnp.zeros_like(state.given), state
        return jax.lax.cond(proposal.due, factor, lambda: nothing)

    def _factor(self, value: Array, state: _Reached, last: bool):
        match self.kind:
            case "diff":
                return value - state.value, _Reached(value, state.given)
            case "each":
                return value, state
            case _ if last:
                return value - state.given, state
            case "max":
                reached = jnp.fmax(state.value, value)
            case "add":
                reached = state.value + value
        return reached, _Reached(reached, state.given + reached)


def steering(
    function: Callable[..., Array],
    scale: Any = 1.0,
    params: PyTree = None,
    *,
    kind: Potentials = "diff",
    resampling: Resampling | None = None,
) -> Steering:
    """Feynman-Kac steering: particles whose estimates earn more go on more often.

    The target is the sampler's own distribution, guidance included, times ``exp(scale
    r(x0))``, and the reward ``r`` need have no gradient. A step multiplies a weight by

      "diff"  ``exp(scale (r_i - r_(i-1)))``
      "max"   ``exp(scale max_(j <= i) r_j)``
      "add"   ``exp(scale sum_(j <= i) r_j)``

    with ``r_i`` the reward of step ``i``'s estimate of the data. After the last step
    the factor is what makes the product ``exp(scale r(x0))``. "max" and "add" prefer
    what was promising early and resample more; all three have the same target. A weight
    that does not lead to resampling is kept, and rewards of any sign count.

    Args:
      function: ``(x0 [R, *S], ctx) -> [R]``, the reward, or ``(params, x0, ctx)`` with
        ``params``. ``R`` counts all particles, as do the condition and keys of ``ctx``.
        A particle whose reward is NaN gets weight 0.
      scale: Factor of the reward, a scalar.
      params: Pytree that ``function`` receives first; None for a function without one.
      kind: Factors of the weights, see above; "each" takes ``exp(scale r)`` at every
        step and corrects nothing at the end, so that ``function`` is the logarithm of a
        potential of your own.
      resampling: When and how particles are resampled; None is systematically, below
        half of the effective size. The reward is evaluated only where it is due.

    Returns:
      A potential for `sample_particles`, under any stochastic solver.

    Raises:
      TypeError: A function of other arguments.
      ValueError: Another kind.

    Reference: Singhal et al., arXiv 2501.06848, section 3.
    """
    require_energy(function, params, "steering's function")
    if kind not in get_args(Potentials):
        raise ValueError(f"kind is {kind!r}; expected one of {get_args(Potentials)}")
    resampling = Resampling() if resampling is None else resampling
    return Steering(scale, params, function, kind, resampling)
