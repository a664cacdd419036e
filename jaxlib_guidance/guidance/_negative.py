"""Negative conditions: away from a third prediction, beside the unconditional one.

Each term adds only its own part, so that it stands in a chain beside `cfg`; equal names
of branches are one evaluation.
"""

from collections.abc import Callable
from typing import Any

import jax

from jaxlib_guidance.diffusion import Prediction, from_x0, require_prediction
from jaxlib_guidance.guidance._base import BASE, Evals, fix
from jaxlib_guidance.guidance._chain import Chain, chain
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._contrast import cfg, like_cond
from jaxlib_guidance.guidance._geometry import project, sample_dot
from jaxlib_guidance.guidance._prediction import gain_of, to_x0_change
from jaxlib_guidance.guidance._registry import method
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
class Negative:
    """A change of the estimate by three predictions. `negation` and others build it.

    Attributes:
      weight: Strength, scalar or ``[B]``; 0 is off.
      cond: Condition of the unconditional branch.
      other: Condition of the third branch.
      params: Further numbers of ``function`` by name, each a scalar or ``[B]``.
      function: ``(c, u, n, **params) -> change`` for weight 1 (static).
      names: Names of the two branches (static).
      space: What ``c``, ``u`` and ``n`` are (static).
    """

    weight: Array | float
    cond: PyTree
    other: PyTree
    params: dict[str, Any]
    function: Callable[..., Array] = static()
    names: tuple[str, str] = static(default=("uncond", "negative"))
    space: Prediction = static(default="x0")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The unconditional and the third branch."""
        conds = (like_cond(each, ctx.cond) for each in (self.cond, self.other))
        return dict(zip(self.names, map(Branch, conds), strict=True))

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``delta + weight function(c, u, n)``."""
        params = {k: per_sample(v, delta, k) for k, v in self.params.items()}
        predictions = (
            from_x0(ctx.process, self.space, evals.x0[name], ctx.x, ctx.t)
            for name in (BASE, *self.names)
        )
        weight = per_sample(self.weight, delta, f"the weight of {self.names[1]!r}")
        change = weight * self.function(*predictions, **params)
        return delta + to_x0_change(change, gain_of(self.space, ctx)), state


def _away(
    name, function, weight, null, other, names, space: Prediction = "x0", **params
) -> Negative:
    require_numbers(name, weight=weight, **params)
    require_prediction(space, "space")
    if len(names) != 2 or names[0] == names[1]:
        raise ValueError(f"{name}'s names are {names}; expected two different ones")
    null, other = (jax.tree.map(fix, each) for each in (null, other))
    return Negative(weight, null, other, params, function, tuple(names), space)


@method(
    "combine",
    "x - v (n - u)",
    space="any",
    evaluations=3,
    source="2206.01714",
    example={"negative": 1},
    law="test_negation_golden",
)
def negation(
    weight: Any,
    null: PyTree,
    negative: PyTree,
    *,
    names: tuple[str, str] = ("uncond", "negative"),
) -> Negative:
    """Composable NOT: away from a condition, measured from no condition.

    ``x0 <- x0 - v (n - u)``. Beside ``cfg(w, null)`` with ``v = 1 + w`` it is the
    composition ``u + s (c - n)`` of the paper, ``s = 1 + w``; with another ``v``, the
    signed guidance ``u + s (c - u) - v (n - u)``. ``cfg`` with the negative condition
    for null is ``n + s (c - n)``, which differs by one ``n - u``.

    Args:
      weight: Factor ``v``, scalar or ``[B]``; 0 is off, below 0 moves towards ``n``.
      null: Unconditional condition: a pytree of the condition's structure whose leaves
        broadcast against it, such as the index of the null class.
      negative: Condition to move away from, of the same kind.
      names: Names of the two branches; the first is shared with `cfg`.

    Returns:
      A guidance term.

    Raises:
      TypeError: A weight that is no number.

    Reference: Liu et al., arXiv 2206.01714.
    """
    return _away("negation", _negation, weight, null, negative, names)


def _negation(c: Array, u: Array, n: Array) -> Array:
    return u - n


@method(
    "combine",
    "x - v (N - <N, P> P / |P|^2), P = c - u, N = n - u",
    space="any",
    evaluations=3,
    source="2304.04968",
    example={"negative": 1},
    law="test_perp_neg_golden",
)
def perp_neg(
    weight: Any,
    null: PyTree,
    negative: PyTree,
    *,
    names: tuple[str, str] = ("uncond", "negative"),
) -> Negative:
    """Perp-Neg: away from a condition, only across what the prompt asks for.

    ``x0 <- x0 - v N_perp`` with ``N_perp`` the part of ``N = n - u`` perpendicular to
    ``P = c - u``, in each sample. ComfyUI's scales (s, k) are ``cfg(s - 1, null)``
    beside ``v = s k``; its inner product is over the whole batch.

    Args:
      weight: Factor ``v``, scalar or ``[B]``; 0 is off.
      null: Unconditional condition: a pytree of the condition's structure whose leaves
        broadcast against it, such as the index of the null class.
      negative: Condition to move away from, of the same kind.
      names: Names of the two branches; the first is shared with `cfg`.

    Returns:
      A guidance term.

    Raises:
      TypeError: A weight that is no number.

    Reference: Armandpour et al., arXiv 2304.04968.
    """
    return _away("perp_neg", _perp_neg, weight, null, negative, names)


def _perp_neg(c: Array, u: Array, n: Array) -> Array:
    return project(n - u, c - u) - (n - u)


@method(
    "combine",
    "u + s L+ (c - u) - s L- (n - u), L+ = 2 / (1 + e^(-tau |c - u|^2)), "
    "L- = 2 - L+ of n",
    space="argument",
    off="none; scale = 0 samples u",
    evaluations=3,
    source="2411.17077",
    strength="scale",
    example={"negative": 1, "tau": 0.1},
    skip={
        "weight_zero": "scale 0 is the unconditional estimate",
        "weight_zero_static": "scale 0 is the unconditional estimate",
    },
    law="test_contrastive_cfg_golden",
)
def contrastive_cfg(
    scale: Any,
    null: PyTree,
    negative: PyTree,
    tau: Any,
    *,
    space: Prediction = "eps",
    names: tuple[str, str] = ("uncond", "negative"),
) -> Negative:
    """Contrastive CFG: a negative condition that stops pushing once it is far.

    ``x = u + s L+ (c - u) - s L- (n - u)`` with ``L+ = 2 / (1 + exp(-tau |c - u|^2))``
    and ``L- = 2 exp(-tau |n - u|^2) / (1 + exp(-tau |n - u|^2))``, norms over each
    sample. Where the negative condition says nothing, ``n = u``, its term is 0.

    Args:
      scale: Scale ``s``, scalar or ``[B]``; 0 is the unconditional estimate, and not
        off.
      null: Unconditional condition: a pytree of the condition's structure whose leaves
        broadcast against it, such as the index of the null class.
      negative: Condition to move away from, of the same kind.
      tau: Rate of both weights, scalar or ``[B]``; one over the usual ``|c - u|^2`` is
        a start.
      space: Prediction that ``c``, ``u`` and ``n`` are; the paper's is "eps".
      names: Names of the two branches; the first is shared with `cfg`.

    Returns:
      A guidance term.

    Raises:
      TypeError: A number that is none.
      ValueError: Unknown ``space``.

    Reference: Chang et al., arXiv 2411.17077, read in AbstractEyes/comfy-cfg-megapack.
    """
    return _away(
        "contrastive_cfg",
        _contrastive_cfg,
        1.0,
        null,
        negative,
        names,
        space,
        scale=scale,
        tau=tau,
    )


def _contrastive_cfg(c: Array, u: Array, n: Array, scale: Array, tau: Array) -> Array:
    good, bad = c - u, n - u
    more, less = (
        2 * jax.nn.sigmoid(sign * tau * sample_dot(d, d))
        for sign, d in ((1, good), (-1, bad))
    )
    return (scale * more - 1) * good - scale * less * bad


@method(
    "combine",
    "x + w (c - m) + v (m - u), m with part of the condition",
    space="any",
    off="weight = inner_weight = 0",
    evaluations=3,
    source="2211.09800",
    strength=None,
    example={"weight": 1.0, "inner_weight": 0.5, "partial": 1},
    skip={"weight_zero_static": "it has two weights"},
    law="test_nested_golden",
)
def nested(
    weight: Any,
    null: PyTree,
    partial: PyTree,
    inner_weight: Any,
    *,
    names: tuple[str, str] = ("uncond", "partial"),
) -> Chain:
    """Two nested guidances: a weight for part of the condition, one for the rest.

    ``x0 = c + w (c - m) + v (m - u)`` with ``m`` under part of the condition, as the
    picture without the instruction in InstructPix2Pix, whose scales are ``s_T = w + 1``
    and ``s_I = v + 1``.

    Args:
      weight: Factor ``w`` of what the whole condition adds to its part, scalar or
        ``[B]``.
      null: Unconditional condition: a pytree of the condition's structure whose leaves
        broadcast against it, such as the index of the null class.
      partial: Part of the condition, of the same kind.
      inner_weight: Factor ``v`` of what the part adds to no condition, scalar or
        ``[B]``.
      names: Names of the two branches; the first is shared with `cfg`.

    Returns:
      A chain of two terms.

    Raises:
      TypeError: A weight that is no number.

    Reference: Brooks et al., InstructPix2Pix, arXiv 2211.09800.
    """
    require_numbers("nested", weight=weight, inner_weight=inner_weight)
    inner = _away("nested", _negation, -inner_weight, null, partial, names)
    return chain(cfg(weight, partial, names[1]), inner)
