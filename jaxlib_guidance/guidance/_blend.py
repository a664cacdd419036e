"""Guidance by similarity, by tangents, and by measured ratios of predictions."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance import rng
from jaxlib_guidance.calls import process_of
from jaxlib_guidance.diffusion import (
    coefficients,
    from_x0,
)
from jaxlib_guidance.guidance._base import BASE, Evals, fix, sample_axes
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._combine import Combine, combine
from jaxlib_guidance.guidance._contrast import like_cond
from jaxlib_guidance.guidance._geometry import project
from jaxlib_guidance.guidance._prediction import gain_of, to_x0_change
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.reduce import divide, sqrt
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    Denoiser,
    PyTree,
    per_sample,
    pytree_dataclass,
    static,
)


@method(
    "combine",
    "(1 + q) / 2 (c + w (c - u)) + (1 - q) / 2 (1 + w) c, q how alike they are to u",
    space="x0",
    evaluations=2,
    source="https://github.com/comfyanonymous/ComfyUI",
    law="test_mahiro_golden",
)
def mahiro(weight: Any, null: PyTree, *, name: str = "uncond") -> Combine:
    """Mahiro: a contrast that leans on the condition where the null disagrees.

    ``x0 = (1 + q) / 2 g + (1 - q) / 2 (1 + w) c`` with ``g = c + w (c - u)`` and ``q``
    the mean over a sample of the cosine along the last axis of ``r(u)`` and ``r((g +
    (1 + w) c) / 2)``, ``r(a) = sign(a) sqrt(|a|)``. ComfyUI takes the mean over the
    whole batch.

    Args:
      weight: Factor ``w``, the scale less 1, scalar or ``[B]``; 0 is off.
      null: Condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      name: Name of the branch; the default is shared with `cfg`.

    Returns:
      A guidance term.

    Raises:
      TypeError: A weight that is no number.

    Reference: ComfyUI, ``nodes_mahiro.py``.
    """
    return combine(_mahiro, weight, null, name=name)


def _mahiro(c: Array, u: Array, weight: Array, ctx: Context) -> Array:
    d = c - u
    a, b = _root(u), _root((1 + weight) * c + (c + weight * d))
    dot, square_a, square_b = (
        jnp.sum(product, -1, keepdims=True) for product in (a * b, a * a, b * b)
    )
    alike = divide(dot, sqrt(square_a) * sqrt(square_b))
    alike = jnp.mean(alike, axis=sample_axes(c), keepdims=True)
    return weight * ((1 + alike) / 2 * d + (1 - alike) / 2 * c)


def _root(a: Array) -> Array:
    return jnp.sign(a) * sqrt(jnp.abs(a))


@pytree_dataclass
class Tangential:
    """More of the estimate's part across the state. Build it with `tag`.

    Attributes:
      weight: Factor of the part that is added, scalar or ``[B]``; 0 is off.
    """

    weight: Array | float

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """No branches but the base."""
        return {}

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``y + w (y - y along x)``."""
        y = evals.x0[BASE] + delta
        weight = per_sample(self.weight, delta, "tag's weight")
        return delta + weight * (y - project(y, ctx.x)), state


@method(
    "reshape",
    "y + w (y - <y, x> x / |x|^2), x the state",
    space="any",
    evaluations=1,
    source="2510.04533",
    after=True,
    law="test_tag_keeps_what_is_along_the_state",
)
def tag(weight: Any = 0.05) -> Tangential:
    """Tangential amplifying guidance: more of what is across the state.

    ``y <- y + w (y - y along x)`` with ``x`` the sampler's state. The step's direction
    is a combination of ``y`` and ``x``, so its part across ``x`` grows by ``1 + w`` in
    every space and the part along it stays.

    Args:
      weight: Factor ``w``, scalar or ``[B]``; 0 is off. A "tangential scale" of 1.05 is
        a weight of 0.05.

    Returns:
      A guidance term, to stand after those whose prediction it amplifies.

    Raises:
      TypeError: A weight that is no number.

    Reference: TAG, arXiv 2510.04533.
    """
    require_numbers("tag", weight=weight)
    return Tangential(weight)


@pytree_dataclass
class Rectified:
    """A contrast with a measured multiple of the null. Build it with `recfg`.

    Attributes:
      weight: Factor of the contrast, scalar or ``[B]``; 0 is off.
      cond: Condition to move away from.
      ratio: Multiple of the null's noise in each step, ``[N]`` or ``[N, *S]``.
      worse: Name of the other branch (static).
    """

    weight: Array | float
    cond: PyTree
    ratio: Array
    worse: str = static(default="uncond")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The other branch."""
        return {self.worse: Branch(like_cond(self.cond, ctx.cond))}

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``delta + w (c - r u)`` of the noise."""
        ratio, sizes = self.ratio, ((), delta.shape[1:])
        if ratio.shape[0] != ctx.steps or ratio.shape[1:] not in sizes:
            raise ValueError(
                f"recfg's ratio has shape {ratio.shape}; expected one of "
                f"{[(ctx.steps, *size) for size in sizes]}, a row for each step"
            )
        c, u = (
            from_x0(ctx.process, "eps", evals.x0[name], ctx.x, ctx.t)
            for name in (BASE, self.worse)
        )
        weight = per_sample(self.weight, delta, "recfg's weight")
        change = weight * (c - ratio[ctx.step] * u)
        return delta + to_x0_change(change, gain_of("eps", ctx)), state


@method(
    "combine",
    "c + w (c - r u), r measured for each step and element",
    space="eps",
    evaluations=2,
    source="2410.18737",
    example={"ratio": (0.9, 0.8)},
    law="test_recfg_keeps_the_mean",
)
def recfg(weight: Any, null: PyTree, ratio: Any, *, name: str = "uncond") -> Rectified:
    """ReCFG: contrasts whose null is rectified, so that the mean does not drift.

    ``eps = c + w (c - r u)`` of noise predictions. With ``r`` from `recfg_ratio` the
    guided noise has the conditional one's projection on ``u``; with ``r = E[c] / E[u]``
    its mean. With ``r = 1`` it is `cfg`.

    Args:
      weight: Factor ``w``, scalar or ``[B]``; 0 is off.
      null: Condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      ratio: Multiple ``r`` of the null's noise in each of the ``N`` steps, ``[N]`` or
        ``[N, *S]``.
      name: Name of the branch; the default is shared with `cfg`.

    Returns:
      A guidance term.

    Raises:
      TypeError: A weight that is no number.
      ValueError: While sampling, a ratio of another shape.

    Reference: Xia et al., arXiv 2410.18737, and the authors' released code.
    """
    require_numbers("recfg", weight=weight)
    ratio = jnp.asarray(ratio, jnp.float32)
    if not ratio.ndim:
        raise ValueError(f"recfg's ratio is {ratio}; expected one for each step, [N]")
    return Rectified(weight, jax.tree.map(fix, null), ratio, name)


def recfg_ratio(
    keys: Array, denoiser: Denoiser, x0: Array, grid: Any, cond: PyTree, null: PyTree
) -> Array:
    """The table of `recfg` from examples of data with their condition.

    ``r = E[c u] / E[u u]`` for each element, with ``c`` and ``u`` the conditional and
    the null's noise predictions at perturbed data; 0 where ``u`` is. For a ratio of
    one condition, give its data alone.

    Args:
      keys: Random keys of the examples, ``[n]``.
      denoiser: Denoiser whose predictions are measured.
      x0: Data ``[n, *S]``; the authors take 500 examples for each condition.
      grid: Times ``[N + 1]`` of the sampler, largest first.
      cond: Condition of the data, leading with ``n``.
      null: Condition of `recfg`.

    Returns:
      Ratios ``[N, *S]`` for the steps of ``grid``.

    Raises:
      ValueError: A denoiser without a process, or a null that does not fit.

    Reference: Xia et al., arXiv 2410.18737, as the authors' released code has it.
    """
    away = like_cond(null, cond)
    process = process_of(denoiser)
    eps = rng.normal(keys, x0.shape[1:])

    def at(t: Array) -> Array:
        times = jnp.broadcast_to(t, x0.shape[:1])
        alpha, sigma = coefficients(process, times, x0)
        x = alpha * x0 + sigma * eps
        c, u = (
            from_x0(process, "eps", denoiser(x, times, which).x0, x, times)
            for which in (cond, away)
        )
        return divide(jnp.mean(c * u, 0), jnp.mean(u * u, 0))

    return jax.lax.map(at, jnp.asarray(grid, jnp.float32)[:-1])
