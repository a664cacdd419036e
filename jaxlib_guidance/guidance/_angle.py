"""Guidance by angles and projections between the two predictions."""

import math
from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.diffusion import Prediction, from_x0, to_x0
from jaxlib_guidance.guidance._base import sample_norm
from jaxlib_guidance.guidance._combine import Combine, combine
from jaxlib_guidance.guidance._geometry import cosine, project, sample_dot
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.reduce import divide, known_false
from jaxlib_guidance.types import Array, Context, PyTree


@method(
    "combine",
    "cos(a) c + sin(a) / sin(theta) e, a = min(w theta, pi/3), theta of u and c, "
    "e = c less its part along u",
    space="x0",
    evaluations=2,
    source="2506.11039",
    law="test_adg_golden",
)
def adg(
    weight: Any, null: PyTree, *, limit: Any = math.pi / 3, name: str = "uncond"
) -> Combine:
    """Angle-domain guidance: the estimate turns away from the unconditional one.

    With ``theta`` the angle between ``u`` and ``c``, ``a = min(w theta, limit)`` and
    ``e = c - <u, c> / |u|^2 u``: ``x0 = cos(a) c + sin(a) / sin(theta) e``, where for
    ``sin(theta) <= 1e-3`` the factor of ``e`` is ``w``. Whatever the weight, the norm
    is at most ``sqrt(2) |c|``.

    Args:
      weight: Factor ``w`` of the angle, scalar or ``[B]``; 0 is off. The paper's scale
        is ``w + 1``.
      null: Condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      limit: Greatest angle ``a`` in radians, scalar or ``[B]``, in [0, pi/2].
      name: Name of the branch; the default is shared with `cfg`.

    Returns:
      A guidance term.

    Raises:
      TypeError: A number that is none.
      ValueError: A limit outside [0, pi/2].

    Reference: Jin et al., arXiv 2506.11039.
    """
    if known_false(lambda a: (a >= 0) & (a <= math.pi / 2 + 1e-6), limit):
        raise ValueError(f"adg's limit is {limit}; expected an angle in [0, pi/2]")
    return combine(_adg, weight, null, name=name, limit=limit)


def _adg(c: Array, u: Array, weight: Array, ctx: Context, limit: Array) -> Array:
    across = c - project(c, u)
    size, height = sample_norm(c), sample_norm(across)
    base = divide(sample_dot(u, c), sample_norm(u))
    small = height <= 1e-3 * size
    # The angle from both legs: an arccosine has no slope where u and c are parallel.
    theta = jnp.arctan2(
        jnp.where(small, 0, height), jnp.where(small & (base == 0), 1, base)
    )
    angle = jnp.minimum(weight * theta, limit)
    turned = jnp.sin(angle) * size / jnp.where(small, 1, height)
    return (jnp.cos(angle) - 1) * c + jnp.where(small, weight, turned) * across


@method(
    "combine",
    "a u + s (c - a u), a = <c, u> / |u|^2, s = 1 + w; 0 in the first steps",
    space="argument",
    evaluations=2,
    source="2503.18886",
    law="test_cfg_zero_golden",
)
def cfg_zero(
    weight: Any,
    null: PyTree,
    *,
    zero_steps: Any = 1,
    space: Prediction = "velocity",
    name: str = "uncond",
) -> Combine:
    """CFG-Zero*: a contrast with the best multiple of the unconditional prediction.

    ``x = c + w (c - a u)`` with ``a = <c, u> / |u|^2``. In the first steps the
    prediction is 0, which for a velocity leaves the state where it is.

    Args:
      weight: Factor ``w`` of the contrast, scalar or ``[B]``; 0 is off, the first steps
        included.
      null: Condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      zero_steps: Number of first steps in which the prediction is 0, scalar or ``[B]``.
      space: Prediction that ``c`` and ``u`` are; the paper's is "velocity".
      name: Name of the branch; the default is shared with `cfg`.

    Returns:
      A guidance term.

    Raises:
      TypeError: A number that is none.
      ValueError: Negative ``zero_steps``, or an unknown ``space``.

    Reference: Fan et al., arXiv 2503.18886, and WeichenFan/CFG-Zero-star.
    """
    if known_false(lambda n: n >= 0, zero_steps):
        raise ValueError(f"cfg_zero's zero_steps is {zero_steps}; expected at least 0")
    numbers = {"zero_steps": zero_steps}
    return combine(_cfg_zero, weight, null, space=space, name=name, **numbers)


def _cfg_zero(c, u, weight, ctx, zero_steps):
    still = (jnp.asarray(ctx.step, jnp.float32) < zero_steps) & (weight != 0)
    return jnp.where(still, -c, weight * (c - project(c, u)))


@method(
    "combine",
    "c + w (c - u'), u' = u along the direction that u and c share most",
    space="argument",
    evaluations=2,
    source="2503.18137",
    law="test_tcfg_golden",
)
def tcfg(
    weight: Any, null: PyTree, *, space: Prediction = "eps", name: str = "uncond"
) -> Combine:
    """Tangential damping: the unconditional prediction loses what is its own.

    ``x = c + w (c - u')`` with ``u' = <u, v> v`` and ``v`` the first right singular
    vector of the matrix of the rows ``u`` and ``c``, in closed form from their three
    inner products.

    Args:
      weight: Factor ``w`` of the contrast, scalar or ``[B]``; 0 is off.
      null: Condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      space: Prediction that ``c`` and ``u`` are; the paper's is the score, "eps" up to
        a factor, with which the method is the same.
      name: Name of the branch; the default is shared with `cfg`.

    Returns:
      A guidance term.

    Raises:
      TypeError: A weight that is no number.
      ValueError: Unknown ``space``.

    Reference: Kwon et al., arXiv 2503.18137; huggingface/diffusers has the projection.
    """
    return combine(_tcfg, weight, null, space=space, name=name)


def _tcfg(c: Array, u: Array, weight: Array, ctx: Context) -> Array:
    # The top eigenvector of the 2x2 Gram matrix is (cos, sin) of half this angle.
    twice, gap = 2 * sample_dot(u, c), sample_dot(u, u) - sample_dot(c, c)
    gap = jnp.where((twice == 0) & (gap == 0), 1, gap)
    half = jnp.arctan2(twice, gap) / 2
    shared = jnp.cos(half) * u + jnp.sin(half) * c
    return weight * (c - project(u, shared))


@method(
    "combine",
    "u + s e^(kappa (1 - 2 n) cos(u, c)) (c - u), n = sigma / (alpha + sigma)",
    space="argument",
    off="none; scale = 0 samples u",
    evaluations=2,
    source="2605.15661",
    strength="scale",
    example={"scale": 3.0},
    skip={
        "weight_zero": "scale 0 is the unconditional estimate",
        "weight_zero_static": "scale 0 is the unconditional estimate",
    },
    law="test_vags_golden",
)
def vags(
    scale: Any,
    null: PyTree,
    *,
    kappa: Any = 1.0,
    space: Prediction = "velocity",
    name: str = "uncond",
) -> Combine:
    """VAGS: where both predictions agree, less guidance early and more of it late.

    ``x = u + s exp(kappa (1 - 2 n) cos(u, c)) (c - u)`` with the noise level ``n =
    sigma / (alpha + sigma)``, the time of a rectified flow. With ``kappa = 0`` it is
    `cfg` of weight ``s - 1``.

    Args:
      scale: Scale ``s`` of the contrast from the unconditional prediction, scalar or
        ``[B]``; 0 is the unconditional estimate, and not off.
      null: Condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      kappa: Strength of the adaptation, scalar or ``[B]``.
      space: Prediction that ``c`` and ``u`` are; the paper's is "velocity".
      name: Name of the branch; the default is shared with `cfg`.

    Returns:
      A guidance term.

    Raises:
      TypeError: A number that is none.
      ValueError: Unknown ``space``.

    Reference: Luo et al., arXiv 2605.15661, read in AbstractEyes/comfy-cfg-megapack.
    """
    numbers = {"scale": scale, "kappa": kappa}
    return combine(_vags, 1.0, null, space=space, name=name, **numbers)


def _vags(c, u, weight, ctx, scale, kappa):
    level = ctx.sigma / (ctx.alpha + ctx.sigma)
    adapted = scale * jnp.exp(kappa * (1 - 2 * level) * cosine(u, c))
    return weight * (adapted - 1) * (c - u)


@method(
    "combine",
    "u + max(1, s n^4) (d_perp + beta d_par), d = c - u, beside the noise of c",
    space="velocity",
    off="none",
    evaluations=2,
    source="2605.20079",
    strength="scale",
    example={"scale": 30.0},
    skip={
        "weight_zero": "a scale below 1 acts as 1, and the parallel part is reduced",
        "weight_zero_static": "a scale of 0 acts as 1",
    },
    law="test_adamag_golden",
)
def adamag(
    scale: Any,
    null: PyTree,
    *,
    beta: Any = 0.1,
    power: Any = 4.0,
    name: str = "uncond",
) -> Combine:
    """AdaMaG: guidance across the estimated noise, that falls with the noise level.

    ``v = u + max(1, s n^power) (d_perp + beta d_par)`` in velocities, with ``d = c -
    u``, its parts perpendicular and parallel to the noise that the conditional estimate
    implies, and ``n = sigma / (alpha + sigma)``, the time of a rectified flow. The
    factor is well below ``s`` except at the start.

    Args:
      scale: Scale ``s`` at the start, scalar or ``[B]``.
      null: Condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      beta: Share of the parallel part that is kept, scalar or ``[B]``.
      power: Power of the noise level, scalar or ``[B]``.
      name: Name of the branch; the default is shared with `cfg`.

    Returns:
      A guidance term.

    Raises:
      TypeError: A number that is none.

    Reference: Esmati et al., arXiv 2605.20079, read in AbstractEyes/comfy-cfg-megapack,
    from which the floor of 1 is.
    """
    numbers = {"scale": scale, "beta": beta, "power": power}
    return combine(_adamag, 1.0, null, space="velocity", name=name, **numbers)


def _adamag(c, u, weight, ctx, scale, beta, power):
    x0 = to_x0(ctx.process, "velocity", c, ctx.x, ctx.t)
    noise = from_x0(ctx.process, "eps", x0, ctx.x, ctx.t)
    level = ctx.sigma / (ctx.alpha + ctx.sigma)
    d = c - u
    kept = d + (beta - 1) * project(d, noise)
    return weight * (jnp.maximum(1, scale * level**power) * kept - d)
