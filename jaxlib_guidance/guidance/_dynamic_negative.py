"""Dynamic negative guidance: as strong as the sample so far looks like the negative."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.guidance._base import BASE, Evals, fix
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._contrast import like_cond
from jaxlib_guidance.guidance._geometry import sample_dot
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.guidance._step import step_kernel
from jaxlib_guidance.reduce import known_false
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
class DynamicNegative:
    """A negative weighted by its posterior. Build it with `dynamic_negative`.

    Attributes:
      weight: Factor of the posterior odds, scalar or ``[B]``; 0 is off.
      cond: Negative condition.
      prior: Probability of the negative at the start, scalar or ``[B]``.
      temperature: Factor of the evidence, scalar or ``[B]``.
      offset: Added to the evidence of each step, scalar or ``[B]``.
      low: Least probability, scalar or ``[B]``.
      high: Greatest probability, scalar or ``[B]``.
      worse: Name of the negative branch (static).
    """

    weight: Array | float
    cond: PyTree
    prior: Array | float
    temperature: Array | float
    offset: Array | float
    low: Array | float
    high: Array | float
    worse: str = static(default="negative")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The negative branch."""
        return {self.worse: Branch(like_cond(self.cond, ctx.cond))}

    def init(self, x: Array) -> PyTree:
        """The log probability, the two means of the next state, and their spread."""
        none = jnp.zeros(x.shape[:1], jnp.float32)
        log = jnp.log(self._of("prior", x)).reshape(-1)
        log = jnp.broadcast_to(log, x.shape[:1])
        return log, jnp.zeros_like(x), jnp.zeros_like(x), none

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``delta - w p / (1 - p) (n - b)``."""
        kernel = step_kernel(ctx, "dynamic_negative", stochastic=True)
        log, to_n, to_b, spread = state
        log, spread = expand(log, delta), expand(spread, delta)
        away, near = ctx.x - to_n, ctx.x - to_b
        gap = sample_dot(away, away) - sample_dot(near, near)
        evidence = self._of("offset", delta) - self._of("temperature", delta) * gap
        known = spread > 0
        moved = log + evidence / (2 * jnp.where(known, spread, 1) ** 2)
        low, high = (jnp.log(self._of(name, delta)) for name in ("low", "high"))
        log = jnp.where(known, jnp.clip(moved, low, high), log)
        b, n = evals.x0[BASE], evals.x0[self.worse]
        p = jnp.exp(log)
        weight = self._of("weight", delta) * p / (1 - p)
        (to_n, std), (to_b, _) = kernel(n), kernel(b)
        std = jnp.broadcast_to(jnp.asarray(std, jnp.float32), delta.shape[:1])
        state = log.reshape(std.shape), to_n, to_b, std
        return delta - weight * (n - b), state

    def _of(self, name: str, like: Array) -> Array:
        return per_sample(getattr(self, name), like, f"dynamic_negative's {name}")


@method(
    "step",
    "b - w p / (1 - p) (n - b), p the probability of the negative by the steps so far",
    space="any",
    evaluations=2,
    source="2410.14398",
    example={"negative": 10, "prior": 0.3},
    law="test_dynamic_negative_follows_the_posterior",
)
def dynamic_negative(
    weight: Any,
    negative: PyTree,
    *,
    prior: Any = 0.01,
    temperature: Any = 0.2,
    offset: Any = 0.0,
    low: Any = 1e-6,
    high: Any = 0.99,
    name: str = "negative",
) -> DynamicNegative:
    """Dynamic negative guidance (DNG): strong where the sample nears the negative.

    ``x0 = b - w p / (1 - p) (n - b)`` with ``b`` the estimate under the sampler's
    condition, ``n`` that under the negative one and ``p`` the probability of the
    negative. A step to ``x'`` makes ``log p`` of it ``log p + (d - tau (|x' - m_n|^2
    - |x' - m_b|^2)) / (2 s^2)``, kept within bounds, with the means ``m`` that the
    solver's step has under either estimate and ``s`` its standard deviation. With
    ``tau = 1``, ``w = 1`` and ``b`` unconditional it is the score of what is not the
    negative, as long as the mixture is followed.

    Args:
      weight: Factor ``w`` of the odds, scalar or ``[B]``; 0 is off. The authors use 5.
      negative: Condition to move away from: a pytree of the condition's structure
        whose leaves broadcast against it.
      prior: Probability of the negative at the start, scalar or ``[B]``, in (0, 1).
      temperature: Factor ``tau`` of the evidence, scalar or ``[B]``.
      offset: Number ``d`` that is added to the evidence of each step, scalar or
        ``[B]``.
      low: Least probability, scalar or ``[B]``, above 0.
      high: Greatest probability, scalar or ``[B]``, below 1.
      name: Name of the negative branch.

    Returns:
      A guidance term for solvers that draw noise and evaluate once a step, such as
      ``ddpm()``.

    Raises:
      TypeError: A number that is none.
      ValueError: A probability outside (0, 1); while sampling, a deterministic solver
        or one of several evaluations.

    Reference: Koulischer et al., arXiv 2410.14398, and the authors' released code.
    """
    shares = {"prior": prior, "low": low, "high": high}
    numbers = {"temperature": temperature, "offset": offset} | shares
    require_numbers("dynamic_negative", weight=weight, **numbers)
    for what, value in shares.items():
        if known_false(lambda p: (p > 0) & (p < 1), value):
            raise ValueError(
                f"dynamic_negative's {what} is {value}; expected a probability in "
                "(0, 1)"
            )
    negative = jax.tree.map(fix, negative)
    return DynamicNegative(
        weight, negative, prior, temperature, offset, low, high, name
    )
