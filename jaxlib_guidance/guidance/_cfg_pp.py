"""CFG whose weight follows from the step: CFG++ and terminal repair."""

from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.guidance._chain import Chain
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._contrast import cfg
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.guidance._schedule import scheduled
from jaxlib_guidance.types import Array, Context, PyTree, at_least_float32


@method(
    "step",
    "x' = a' (u + w (c - u)) + s' (x - a u) / s, as a scale S(w, step) of cfg",
    space="any",
    off="none; weight = 0 samples u",
    evaluations=2,
    source="2406.08070",
    law="test_cfg_pp_renoises_with_the_unconditional_noise",
    skip={
        "weight_zero": "weight 0 is the unconditional estimate",
        "weight_zero_static": "weight 0 is the unconditional estimate",
    },
)
def cfg_pp(weight: Any, null: PyTree, name: str = "uncond") -> Chain:
    """CFG++: an interpolation of two estimates, noised again by the unconditional one.

    A step is ``x' = a' (u + w (c - u)) + s' (x - a u) / s``. DDIM with `cfg` of scale
    ``S = w a' s / (a' s - s' a)`` makes the same step, so this is a schedule, which
    goes with any solver. ``S`` grows with the number of steps: 0.6 is about as strong
    as a scale of 7.5 in 50 steps, and a weight does not carry over to another grid. In
    a last step to clean data ``S = w``.

    Args:
      weight: Share ``w`` of the way from the unconditional to the conditional estimate,
        scalar or ``[B]``, in [0, 1]; the paper uses 0.6. 0 is the unconditional
        estimate, and not off.
      null: Condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      name: Name of the branch; the default is shared with `cfg`.

    Returns:
      A chain that holds the scheduled term.

    Raises:
      TypeError: A weight that is no number.

    Reference: Chung et al., arXiv 2406.08070, algorithm 2.
    """
    require_numbers("cfg_pp", weight=weight)
    return scheduled(cfg(1.0, null, name), _weight_of_step, weight)


def _weight_of_step(share: Array, ctx: Context) -> Array:
    """``S - 1`` for the step at hand."""
    alpha, sigma = (f(ctx.t_step) for f in (ctx.process.alpha, ctx.process.sigma))
    alpha_next, sigma_next = (
        f(ctx.t_next) for f in (ctx.process.alpha, ctx.process.sigma)
    )
    kept = alpha_next * sigma
    return at_least_float32(share) * kept / (kept - sigma_next * alpha) - 1


@method(
    "step",
    "c + (r - r^S) / (1 - r) (c - u), S = 1 + w, r = sigma' alpha / (alpha' sigma)",
    space="any",
    evaluations=2,
    source="2607.07665",
    skip={"weight_zero_static": "the schedule has the weight"},
    law="test_terminal_repair_golden",
)
def terminal_repair(weight: Any, null: PyTree, name: str = "uncond") -> Chain:
    """Guidance that takes the noise of a step for what it is, and ends unguided.

    A step by ``r``, the ratio of noise levels ``sigma / alpha`` after and before, leads
    to ``c + r (y - c) + (r - r^S) (c - u)`` with ``y = x / alpha`` and ``S = 1 + w``.
    DDIM with `cfg` of weight ``(r - r^S) / (1 - r)`` makes that step, so this is a
    schedule, which goes with any solver. In short steps it is `cfg`; in a last step to
    clean data it is off.

    Args:
      weight: Factor ``w`` of the contrast in short steps, scalar or ``[B]``, at least
        0; 0 is off.
      null: Condition to move away from: a pytree of the condition's structure whose
        leaves broadcast against it, such as the index of the null class.
      name: Name of the branch; the default is shared with `cfg`.

    Returns:
      A chain that holds the scheduled term.

    Raises:
      TypeError: A weight that is no number.

    Reference: Zhang, arXiv 2607.07665.
    """
    require_numbers("terminal_repair", weight=weight)
    return scheduled(cfg(1.0, null, name), _weight_of_ratio, weight)


def _weight_of_ratio(weight: Array, ctx: Context) -> Array:
    weight = at_least_float32(weight)
    alpha, sigma = (f(ctx.t_step) for f in (ctx.process.alpha, ctx.process.sigma))
    alpha_next, sigma_next = (
        f(ctx.t_next) for f in (ctx.process.alpha, ctx.process.sigma)
    )
    ratio = sigma_next * alpha / (alpha_next * sigma)
    longer = jnp.where(ratio == 1, 0, ratio)
    return jnp.where(ratio == 1, weight, longer * (1 - longer**weight) / (1 - longer))
