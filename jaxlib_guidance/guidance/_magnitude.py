"""Guidance whose strength follows how much two predictions differ."""

from typing import Any

import jax.numpy as jnp
from jax.scipy.special import betaln

from jaxlib_guidance.diffusion import Prediction
from jaxlib_guidance.guidance._base import sample_norm
from jaxlib_guidance.guidance._combine import Combine, combine
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.reduce import known_false
from jaxlib_guidance.types import Array, Context, PyTree


@method(
    "combine",
    "c + w |d|^alpha d, d = c - u",
    space="argument",
    evaluations=2,
    source="2502.07849",
    law="test_power_law_golden",
)
def power_law(
    weight: Any,
    null: PyTree,
    *,
    alpha: Any = 0.9,
    space: Prediction = "score",
    name: str = "uncond",
) -> Combine:
    """Power-law guidance: the more two predictions differ, the stronger it is.

    ``x = c + w |d|^alpha d`` with ``d = c - u`` and the Euclidean norm of each sample.
    The norm grows with the square root of the sample's size, so a weight does not carry
    over to another resolution. With ``alpha = 0`` it is `cfg`.

    Args:
      weight: Factor ``w``, scalar or ``[B]``; 0 is off.
      null: Condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      alpha: Power of the norm, scalar or ``[B]``, at least 0.
      space: Prediction that ``c`` and ``u`` are; the paper's is "score".
      name: Name of the branch; the default is shared with `cfg`.

    Returns:
      A guidance term.

    Raises:
      TypeError: A number that is none.
      ValueError: A negative ``alpha``, or an unknown ``space``.

    Reference: Lehman Pavasovic et al., arXiv 2502.07849.
    """
    if known_false(lambda a: a >= 0, alpha):
        raise ValueError(f"power_law's alpha is {alpha}; expected at least 0")
    return combine(_power_law, weight, null, space=space, name=name, alpha=alpha)


def _power_law(c: Array, u: Array, weight: Array, ctx: Context, alpha: Array) -> Array:
    d = c - u
    return weight * _power(sample_norm(d), alpha) * d


def _power(norm: Array, exponent: Array) -> Array:
    """``norm ** exponent``, and 0 with gradient 0 where the norm is 0."""
    return jnp.where(norm == 0, 0, jnp.where(norm == 0, 1, norm) ** exponent)


@method(
    "combine",
    "c + w exp(-alpha |c - u| / |u|) (c - u)",
    space="argument",
    evaluations=2,
    source="2508.03442",
    law="test_mambo_g_golden",
)
def mambo_g(
    weight: Any,
    null: PyTree,
    *,
    alpha: Any = 8.0,
    space: Prediction = "velocity",
    name: str = "uncond",
) -> Combine:
    """MAMBO-G: guidance that fades where two predictions differ much.

    ``x = c + w exp(-alpha |c - u| / |u|) (c - u)``. With ``alpha = 0`` it is `cfg`.

    Args:
      weight: Factor ``w``, the paper's greatest scale less 1, scalar or ``[B]``; 0 is
        off.
      null: Condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      alpha: Rate at which the weight falls with the ratio of norms, scalar or ``[B]``.
      space: Prediction that ``c`` and ``u`` are; the paper's is "velocity".
      name: Name of the branch; the default is shared with `cfg`.

    Returns:
      A guidance term.

    Raises:
      TypeError: A number that is none.
      ValueError: Unknown ``space``.

    Reference: Zhu et al., arXiv 2508.03442; huggingface/diffusers has the formula.
    """
    return combine(_mambo_g, weight, null, space=space, name=name, alpha=alpha)


def _mambo_g(c: Array, u: Array, weight: Array, ctx: Context, alpha: Array) -> Array:
    d = c - u
    # Beside u = 0 any contrast is large.
    ratio = sample_norm(d) / jnp.maximum(sample_norm(u), 1e-12)
    return weight * jnp.exp(-alpha * ratio) * d


@method(
    "combine",
    "u + s Beta(p; a, b) d / |d|^gamma, d = c - u, p the share of the steps done",
    space="argument",
    off="none; scale = 0 samples u",
    evaluations=2,
    source="2502.10574",
    strength="scale",
    example={"scale": 3.0, "a": 1.5, "b": 1.0},
    skip={
        "weight_zero": "scale 0 is the unconditional estimate",
        "weight_zero_static": "scale 0 is the unconditional estimate",
    },
    law="test_beta_cfg_golden",
)
def beta_cfg(
    scale: Any,
    null: PyTree,
    *,
    a: Any = 2.0,
    b: Any = 2.0,
    gamma: Any = 1.0,
    space: Prediction = "eps",
    name: str = "uncond",
) -> Combine:
    """beta-CFG: a normalised contrast whose scale follows a Beta density.

    ``x = u + s Beta(p; a, b) d / |d|^gamma`` with ``d = c - u`` and ``p`` from 0 in the
    first step to 1 in the last. With ``a = b = 1`` and ``gamma = 0`` it is `cfg` of
    weight ``s - 1``. The Euclidean norm makes the scale depend on the sample's size.

    Args:
      scale: Scale ``s`` of the contrast from the unconditional prediction, scalar or
        ``[B]``; 0 is the unconditional estimate, and not off.
      null: Condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      a: First parameter of the density, scalar or ``[B]``, at least 1.
      b: Second parameter of the density, scalar or ``[B]``, at least 1.
      gamma: Power of the norm by which the contrast is divided, scalar or ``[B]``.
      space: Prediction that ``c`` and ``u`` are; the paper's is "eps".
      name: Name of the branch; the default is shared with `cfg`.

    Returns:
      A guidance term.

    Raises:
      TypeError: A number that is none.
      ValueError: ``a`` or ``b`` below 1, where the density has no bound, or an unknown
        ``space``; while sampling, an adaptive solver, which has no number of steps.

    Reference: Malarz et al., arXiv 2502.10574.
    """
    for what, value in (("a", a), ("b", b)):
        if known_false(lambda v: v >= 1, value):
            raise ValueError(f"beta_cfg's {what} is {value}; expected at least 1")
    numbers = {"scale": scale, "a": a, "b": b, "gamma": gamma}
    return combine(_beta_cfg, 1.0, null, space=space, name=name, **numbers)


def _beta_cfg(c, u, weight, ctx, scale, a, b, gamma):
    if ctx.steps is None:
        raise ValueError(
            "beta_cfg needs a number of steps; an adaptive solver has none"
        )
    d = c - u
    done = jnp.asarray(ctx.step, jnp.float32) / max(ctx.steps - 1, 1)
    density = done ** (a - 1) * (1 - done) ** (b - 1) / jnp.exp(betaln(a, b))
    return weight * (scale * density * _power(sample_norm(d), -gamma) - 1) * d
