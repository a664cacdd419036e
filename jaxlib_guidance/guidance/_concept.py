"""Guidance by a concept, with a gate by element and momentum: SLD and SEGA."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.diffusion import Prediction, from_x0, require_prediction
from jaxlib_guidance.guidance._base import BASE, Evals, fix, sample_axes
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._contrast import like_cond
from jaxlib_guidance.guidance._prediction import gain_of, to_x0_change
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.reduce import known_false
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
class Concept:
    """Gated guidance by a concept. Build it with `sld` or `sega`.

    Attributes:
      weight: Factor of the direction, scalar or ``[B]``; 0 is off.
      cond: Condition of the unconditional branch.
      concept: Condition of the concept's branch.
      params: Numbers of ``gate`` by name, each a scalar or ``[B]``.
      warmup: Number of first steps in which nothing is added, scalar or ``[B]``.
      momentum: Factor of the average of past directions, scalar or ``[B]``.
      decay: Share of that average that is kept, scalar or ``[B]``.
      gate: ``(c, u, n, **params) -> factor`` of each element of ``n - u`` (static).
      names: Names of the two branches (static).
      space: Prediction that ``c``, ``u`` and ``n`` are (static).
    """

    weight: Array | float
    cond: PyTree
    concept: PyTree
    params: dict[str, Any]
    warmup: Array | float
    momentum: Array | float
    decay: Array | float
    gate: Callable[..., Array] = static()
    names: tuple[str, str] = static(default=("uncond", "concept"))
    space: Prediction = static(default="eps")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The unconditional branch and the concept's."""
        conds = (like_cond(each, ctx.cond) for each in (self.cond, self.concept))
        return dict(zip(self.names, map(Branch, conds), strict=True))

    def init(self, x: Array) -> PyTree:
        """The average of past directions, 0 at first."""
        return jnp.zeros_like(x)

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``delta + w (gate (n - u) + momentum average)``."""
        c, u, n = (
            from_x0(ctx.process, self.space, evals.x0[name], ctx.x, ctx.t)
            for name in (BASE, *self.names)
        )

        def number(name, value):
            return per_sample(value, delta, f"{name} of {self.names[1]!r}")

        params = {name: number(name, value) for name, value in self.params.items()}
        direction = self.gate(c, u, n, **params) * (n - u)
        direction = direction + number("momentum", self.momentum) * state
        decay = number("decay", self.decay)
        state = decay * state + (1 - decay) * direction
        warm = jnp.asarray(ctx.step, jnp.float32) >= number("warmup", self.warmup)
        change = jnp.where(warm, number("weight", self.weight), 0) * direction
        return delta + to_x0_change(change, gain_of(self.space, ctx)), state


def _concept(name, gate, weight, null, concept, names, space, params, **numbers):
    require_numbers(name, weight=weight, **params, **numbers)
    require_prediction(space, "space")
    if len(names) != 2 or names[0] == names[1]:
        raise ValueError(f"{name}'s names are {names}; expected two different ones")
    if known_false(lambda n: n >= 0, numbers["warmup"]):
        raise ValueError(
            f"{name}'s warmup is {numbers['warmup']}; expected a number of steps"
        )
    if known_false(lambda a: (a >= 0) & (a < 1), numbers["decay"]):
        raise ValueError(f"{name}'s decay is {numbers['decay']}; expected [0, 1)")
    null, concept = (jax.tree.map(fix, each) for each in (null, concept))
    return Concept(
        weight=weight,
        cond=null,
        concept=concept,
        params=params,
        gate=gate,
        names=tuple(names),
        space=space,
        **numbers,
    )


@method(
    "combine",
    "x - s (mu (n - u) + m nu), mu = min(1, k |c - n|) where c - n < tau, "
    "nu the average of the past",
    space="argument",
    evaluations=3,
    source="2211.05105",
    example={"concept": 1, "warmup": 0},
    law="test_sld_golden",
)
def sld(
    weight: Any,
    null: PyTree,
    concept: PyTree,
    *,
    scale: Any = 1000.0,
    threshold: Any = 0.01,
    warmup: Any = 10,
    momentum: Any = 0.3,
    decay: Any = 0.4,
    space: Prediction = "eps",
    names: tuple[str, str] = ("uncond", "concept"),
) -> Concept:
    """Safe latent diffusion: away from a concept, where the sample goes to it.

    With ``mu = min(1, scale |c - n|)`` in elements where ``c - n < threshold`` and 0
    elsewhere, ``gamma = mu (n - u) + momentum nu`` and ``nu <- decay nu + (1 - decay)
    gamma``: ``x <- x - s gamma``. Put it beside ``cfg(s - 1, null)``. The defaults are
    the paper's medium setting; the strong one is 2000, 0.025, 7, 0.5, 0.7. The gate
    jumps at the threshold.

    Args:
      weight: Factor ``s``, the paper's scale of `cfg`, scalar or ``[B]``; 0 is off.
      null: Unconditional condition: a pytree of the condition's structure whose leaves
        broadcast against it, such as the index of the null class.
      concept: Condition to stay away from, of the same kind.
      scale: Slope of the gate, scalar or ``[B]``.
      threshold: Difference ``c - n`` from which the gate is closed, scalar or ``[B]``.
      warmup: Number of first steps in which nothing is added, scalar or ``[B]``; the
        average grows there too.
      momentum: Factor of the average of past directions, scalar or ``[B]``.
      decay: Share of that average that is kept, scalar or ``[B]``, in [0, 1).
      space: Prediction that ``c``, ``u`` and ``n`` are; the paper's is "eps".
      names: Names of the two branches; the first is shared with `cfg`.

    Returns:
      A guidance term.

    Raises:
      TypeError: A number that is none.
      ValueError: A negative ``warmup``, a ``decay`` outside [0, 1), an unknown
        ``space``, or equal names.

    Reference: Schramowski et al., arXiv 2211.05105; the safe pipeline of
    huggingface/diffusers.
    """
    numbers = {"warmup": warmup, "momentum": momentum, "decay": decay}
    require_numbers("sld", weight=weight)
    params = {"scale": scale, "threshold": threshold}
    return _concept(
        "sld", _safe, -weight, null, concept, names, space, params, **numbers
    )


def _safe(c: Array, u: Array, n: Array, scale: Array, threshold: Array) -> Array:
    towards = c - n
    return jnp.where(towards < threshold, jnp.minimum(1, scale * jnp.abs(towards)), 0)


@method(
    "combine",
    "x + w (m (n - u) + k nu), m the largest elements of |n - u|, nu the average of "
    "the past",
    space="argument",
    evaluations=3,
    source="2301.12247",
    example={"concept": 1, "warmup": 0, "share": 0.5},
    law="test_sega_golden",
)
def sega(
    weight: Any,
    null: PyTree,
    concept: PyTree,
    *,
    share: Any = 0.1,
    warmup: Any = 10,
    momentum: Any = 0.1,
    decay: Any = 0.4,
    space: Prediction = "eps",
    names: tuple[str, str] = ("uncond", "concept"),
) -> Concept:
    """Semantic guidance: towards a concept in the few elements where it matters most.

    ``gamma = m (n - u) + momentum nu`` with ``m`` 1 in the ``share`` of elements where
    ``|n - u|`` is greatest, in each channel of each sample, and ``nu <- decay nu +
    (1 - decay) gamma``; ``x <- x + w gamma``. One term for each concept.

    Args:
      weight: Factor ``w``, scalar or ``[B]``; 0 is off, below 0 moves away. The paper's
        usual one is 5.
      null: Unconditional condition: a pytree of the condition's structure whose leaves
        broadcast against it, such as the index of the null class.
      concept: Condition of the concept, of the same kind.
      share: Share of the elements that are moved, a scalar in (0, 1].
      warmup: Number of first steps in which nothing is added, scalar or ``[B]``; the
        average grows there too.
      momentum: Factor of the average of past directions, scalar or ``[B]``.
      decay: Share of that average that is kept, scalar or ``[B]``, in [0, 1).
      space: Prediction that ``u`` and ``n`` are; the paper's is "eps".
      names: Names of the two branches; the first is shared with `cfg`.

    Returns:
      A guidance term.

    Raises:
      TypeError: A number that is none.
      ValueError: A ``share`` outside (0, 1], a negative ``warmup``, a ``decay`` outside
        [0, 1), an unknown ``space``, or equal names.

    Reference: Brack et al., arXiv 2301.12247; the semantic pipeline of
    huggingface/diffusers.
    """
    if jnp.ndim(share) or known_false(lambda s: (s > 0) & (s <= 1), share):
        raise ValueError(f"sega's share is {share}; expected a number in (0, 1]")
    numbers = {"warmup": warmup, "momentum": momentum, "decay": decay}
    params = {"share": share}
    return _concept(
        "sega", _largest, weight, null, concept, names, space, params, **numbers
    )


def _largest(c: Array, u: Array, n: Array, share: Array) -> Array:
    size = jnp.abs(n - u)
    axes = sample_axes(size) if size.ndim == 2 else tuple(range(1, size.ndim - 1))
    limit = jnp.quantile(size, 1 - share, axis=axes, keepdims=True)
    return jnp.where(size >= limit, 1.0, 0.0)
