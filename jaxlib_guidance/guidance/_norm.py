"""Guidance that keeps the norm of the conditional prediction."""

from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.diffusion import Prediction
from jaxlib_guidance.guidance._combine import Combine, combine
from jaxlib_guidance.guidance._geometry import sample_dot
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.reduce import divide, known_false, sqrt
from jaxlib_guidance.types import Array, Context, PyTree


@method(
    "combine",
    "g min(1, rho |c| / |g|), g = c + w (c - u)",
    space="argument",
    evaluations=2,
    source="2503.21758",
    example={"weight": 2.0},
    law="test_renorm_caps_the_norm",
)
def cfg_renorm(
    weight: Any,
    null: PyTree,
    *,
    rho: Any = 1.0,
    space: Prediction = "velocity",
    name: str = "uncond",
) -> Combine:
    """CFG-Renorm: guidance whose norm is capped at the conditional prediction's.

    ``g = c + w (c - u)``; ``x = g min(1, rho |c| / |g|)``, norms over each sample.

    Args:
      weight: Factor ``w`` of the contrast, scalar or ``[B]``; 0 is off.
      null: Condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      rho: Greatest ratio of the norms, scalar or ``[B]``, at least 1.
      space: Prediction that ``c`` and ``u`` are. Lumina-Image 2.0 takes the velocity,
        ComfyUI x0.
      name: Name of the branch; the default is shared with `cfg`.

    Returns:
      A guidance term.

    Raises:
      TypeError: A number that is none.
      ValueError: ``rho`` below 1, with which weight 0 would not be off, or an unknown
        ``space``.

    Reference: Qin et al., Lumina-Image 2.0, arXiv 2503.21758.
    """
    if known_false(lambda r: r >= 1, rho):
        raise ValueError(f"cfg_renorm's rho is {rho}; expected at least 1")
    return combine(_cfg_renorm, weight, null, space=space, name=name, rho=rho)


def _cfg_renorm(c: Array, u: Array, weight: Array, ctx: Context, rho: Array) -> Array:
    d = c - u
    kept = jnp.minimum(1, rho * _shrunk(c, d, weight))
    return (kept - 1) * c + kept * weight * d


def _shrunk(c: Array, d: Array, weight: Array) -> Array:
    """``|c| / |c + w d|``: exactly 1 at weight 0 however the sums are rounded."""
    square = sample_dot(c, c)
    grown = square + weight * (2 * sample_dot(c, d) + weight * sample_dot(d, d))
    return sqrt(divide(square, jnp.maximum(grown, 0)))


@method(
    "combine",
    "g |c| / |g|, g = c + w (c - u)",
    space="argument",
    evaluations=2,
    source="2412.09966",
    law="test_energy_preserving_keeps_the_norm",
)
def energy_preserving(
    weight: Any, null: PyTree, *, space: Prediction = "eps", name: str = "uncond"
) -> Combine:
    """EP-CFG: guidance with the energy of the conditional prediction.

    ``g = c + w (c - u)``; ``x = g sqrt(sum(c^2) / sum(g^2))`` over each sample. The
    paper's robust form sums only values between two percentiles, which jumps as values
    enter and leave; it is not offered.

    Args:
      weight: Factor ``w`` of the contrast, scalar or ``[B]``; 0 is off.
      null: Condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      space: Prediction that ``c`` and ``u`` are; the paper's is "eps".
      name: Name of the branch; the default is shared with `cfg`.

    Returns:
      A guidance term.

    Raises:
      TypeError: A weight that is no number.
      ValueError: Unknown ``space``.

    Reference: Zhang et al., arXiv 2412.09966.
    """
    return combine(_energy_preserving, weight, null, space=space, name=name)


def _energy_preserving(c: Array, u: Array, weight: Array, ctx: Context) -> Array:
    d = c - u
    kept = _shrunk(c, d, weight)
    return (kept - 1) * c + kept * weight * d


@method(
    "combine",
    "c + min(w, beta) (c - u), the greatest beta with |x| <= limit |c|",
    space="x0",
    evaluations=2,
    source="2609.24287",
    law="test_pmc_golden",
)
def pmc(
    weight: Any, null: PyTree, *, limit: Any = 1.05, name: str = "uncond"
) -> Combine:
    """PMC-CFG: the estimate's norm stays below a multiple of the conditional one's.

    ``x0 = c + min(w, beta) d`` with ``d = c - u`` and ``beta`` the greatest number for
    which ``|c + beta d| <= limit |c|``: the positive root of ``|d|^2 beta^2 + 2 <c, d>
    beta = (limit^2 - 1) |c|^2``.

    Args:
      weight: Factor ``w`` of the contrast, scalar or ``[B]``; 0 is off.
      null: Condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      limit: Greatest ratio of the norms, scalar or ``[B]``, at least 1.
      name: Name of the branch; the default is shared with `cfg`.

    Returns:
      A guidance term.

    Raises:
      TypeError: A number that is none.
      ValueError: A limit below 1.

    Reference: Peng and Ma, arXiv 2609.24287, read in AbstractEyes/comfy-cfg-megapack.
    """
    if known_false(lambda a: a >= 1, limit):
        raise ValueError(f"pmc's limit is {limit}; expected at least 1")
    return combine(_pmc, weight, null, name=name, limit=limit)


def _pmc(c: Array, u: Array, weight: Array, ctx: Context, limit: Array) -> Array:
    d = c - u
    square, along = sample_dot(d, d), sample_dot(c, d)
    room = (limit**2 - 1) * sample_dot(c, c)
    root = sqrt(along**2 + square * room)
    # Of two forms of the root the one that subtracts nothing.
    greatest = jnp.where(
        along > 0, divide(room, root + along), divide(root - along, square)
    )
    return jnp.where(square > 0, jnp.minimum(weight, greatest), weight) * d


@method(
    "combine",
    "y + phi (|c| / |y| - 1) y at each place, y = c + w (c - u), norms of channels",
    space="argument",
    evaluations=2,
    source="https://github.com/QwenLM/Qwen-Image",
    law="test_cfg_norm_keeps_the_norm_of_each_place",
)
def cfg_norm(
    weight: Any,
    null: PyTree,
    *,
    strength: Any = 1.0,
    space: Prediction = "velocity",
    name: str = "uncond",
) -> Combine:
    """CFGNorm: guidance with the conditional prediction's norm at each place.

    ``y = c + w (c - u)``; ``x = phi y |c| / |y| + (1 - phi) y`` with norms along the
    last axis, the channels of a pixel or a token. With one channel the sign is all that
    guidance changes.

    Args:
      weight: Factor ``w`` of the contrast, scalar or ``[B]``; 0 is off.
      null: Condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      strength: Share ``phi`` of the way to the conditional norm, scalar or ``[B]``.
      space: Prediction that ``c`` and ``u`` are; Qwen-Image's is "velocity".
      name: Name of the branch; the default is shared with `cfg`.

    Returns:
      A guidance term.

    Raises:
      TypeError: A number that is none.
      ValueError: Unknown ``space``.

    Reference: the pipeline of Qwen-Image in huggingface/diffusers; there is no paper.
    """
    return combine(_cfg_norm, weight, null, space=space, name=name, strength=strength)


def _cfg_norm(c, u, weight, ctx, strength):
    d = c - u
    square, along, other = (
        jnp.sum(product, axis=-1, keepdims=True) for product in (c * c, c * d, d * d)
    )
    # Exactly 1 at weight 0, however the sums are rounded.
    grown = jnp.maximum(square + weight * (2 * along + weight * other), 0)
    kept = 1 + strength * (sqrt(divide(square, grown)) - 1)
    return (kept - 1) * c + kept * weight * d
