"""How far an estimate is from what was observed, and levels to forecast by.

An energy is a function ``(x0 [B, L, C], observed) -> [B]``; your own has the same form.
Entries whose mask is 0 have no part in these: their gradient is exactly 0.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.guidance._base import sample_axes
from jaxlib_guidance.guidance._chain import Chain, chain
from jaxlib_guidance.guidance._checks import require_numbers
from jaxlib_guidance.guidance._energy import energy as energy_term
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.guidance._schedule import scheduled
from jaxlib_guidance.types import (
    Array,
    Context,
    per_sample,
)


class Observed(NamedTuple):
    """What is known of a batch of windows.

    Attributes:
      y: Observations ``[B, L, C]``; anything, NaN too, where the mask is 0.
      mask: Mask ``[B, L, C]``, 1 where ``y`` is known.
      level: Quantile that each path is drawn to, scalar or ``[B]``.
    """

    y: Array
    mask: Array
    level: Array | float = 0.5


ObservationEnergy = Callable[[Array, Observed], Array]


def square_energy(x0: Array, observed: Observed) -> Array:
    """``sum_m (x0 - y)^2``: the energy of TSDiff-MS.

    Args:
      x0: Estimates ``[B, L, C]``.
      observed: Observations of the same shape.

    Returns:
      One energy for each sample ``[B]``.

    Raises:
      ValueError: Observations or a mask of another shape.

    Reference: Kollovieh et al., arXiv 2307.11494, section 3.2.
    """
    error = _errors(x0, observed)
    return jnp.sum(error**2, sample_axes(x0))


def quantile_energy(x0: Array, observed: Observed) -> Array:
    """``sum_m max(k e, (k - 1) e)``, ``e = y - x0``: the energy of TSDiff-Q.

    The pinball loss at each path's own level ``k``: an asymmetric Laplace likelihood,
    whose paths at evenly spread levels spread like a forecast's quantiles.

    Args:
      x0: Estimates ``[B, L, C]``.
      observed: Observations of the same shape, with a level for each sample.

    Returns:
      One energy for each sample ``[B]``.

    Raises:
      ValueError: Observations, a mask or levels of another shape.

    Reference: Kollovieh et al., arXiv 2307.11494, section 3.2.
    """
    error = _errors(x0, observed)
    level = per_sample(observed.level, x0, "level")
    pinball = jnp.maximum(level * error, (level - 1) * error)
    # At e = 0 either slope would do; where nothing was observed there must be none.
    pinball = jnp.where(observed.mask > 0, pinball, 0)
    return jnp.sum(pinball, sample_axes(x0))


ENERGIES: dict[str, ObservationEnergy] = {
    "square": square_energy,
    "quantile": quantile_energy,
}


def find_energy(energy: str | ObservationEnergy) -> ObservationEnergy:
    """An energy by its name, or the function itself.

    Args:
      energy: Name "square" or "quantile", or a function ``(x0, observed) -> [B]``.

    Returns:
      The function.

    Raises:
      ValueError: Unknown name.
    """
    if callable(energy):
        return energy
    if energy not in ENERGIES:
        raise ValueError(
            f"energy is {energy!r}; expected one of {tuple(ENERGIES)} or a function "
            "(x0, observed) -> [B]"
        )
    return ENERGIES[energy]


def spread_levels(samples: int) -> np.ndarray:
    """``(i + 1) / (S + 1)`` for ``i = 0, ..., S - 1``: one level for each path.

    The published choice. How far paths at these levels end up from each other is set by
    the scale, form and steps of the guidance as well, so these are chosen by a score of
    the paths' quantiles.

    Args:
      samples: Number ``S`` of paths, at least 1.

    Returns:
      float32 ``[S]``, on the host: the same numbers inside and outside of jit.

    Raises:
      ValueError: ``samples`` that is no whole number from 1.

    Reference: Kollovieh et al., arXiv 2307.11494, section 3.2.
    """
    whole = isinstance(samples, (int, np.integer)) and not isinstance(samples, bool)
    if not whole or samples < 1:
        raise ValueError(f"samples is {samples!r}; expected a whole number from 1")
    return ((np.arange(samples) + 1) / (samples + 1)).astype(np.float32)


def _errors(x0, observed):
    if observed.y.shape != x0.shape or observed.mask.shape != x0.shape:
        raise ValueError(
            f"observed y and mask have shapes {observed.y.shape} and "
            f"{observed.mask.shape}; expected x0's, {x0.shape}"
        )
    known = observed.mask > 0
    return jnp.where(known, jnp.where(known, observed.y, 0) - x0, 0)


@dataclasses.dataclass(frozen=True)
class _OfObserved:
    """An energy's function that equals another of the same energy of observations.

    So that a term that is built anew does not compile anew.
    """

    energy: ObservationEnergy

    def __call__(self, observed: Observed, x0: Array, ctx: Context) -> Array:
        """``[B]``."""
        return self.energy(x0, observed)


@method(
    "posterior",
    "the step's mean - s std^2 grad E, or eps + s sigma grad E",
    space="gradient",
    off="scale = 0",
    evaluations=1,
    source="2307.11494",
    strength="scale",
    example={"energy": "square", "scale": 0.2, "form": "estimate"},
    law="test_guided_forecasts_approach_the_closed_form",
)
def observation(
    observed: Observed,
    energy: str | ObservationEnergy = "quantile",
    scale: Any = 1.0,
    form: Literal["posterior", "estimate"] = "posterior",
) -> Chain:
    """Observation self-guidance as guidance terms, to chain with others.

    - form="posterior": the mean of a step of `ddpm` moves by ``-s std^2 grad E`` with
      its own ``std``; so the last step is not guided. The paper's. Other solvers weigh
      an estimate otherwise: theirs moves by less the less noise they draw, and
      `timeseries.infill` refuses those that draw none.
    - form="estimate": ``eps += s sigma grad E``, which at ``s = 1`` samples the data
      tilted by ``exp(-E)`` if ``E`` were exact for the noisy state, whatever the
      solver. The released code's form for DDIM.

    Scales do not carry over from one form, number of steps or solver to another: search
    them on validation windows.

    Args:
      observed: What is known of each window.
      energy: Name "quantile" or "square", or a function ``(x0, observed) -> [B]``.
      scale: Factor ``s`` of the gradient, scalar or ``[B]``; 0 is off.
      form: Where the gradient enters: "posterior" or "estimate".

    Returns:
      A chain of terms.

    Raises:
      TypeError: A scale that is no number.
      ValueError: Unknown energy or form; a scale of another shape.

    Reference: Kollovieh et al., arXiv 2307.11494, eq. 7 and algorithm 1.
    """
    chosen = find_energy(energy)
    if form not in ("posterior", "estimate"):
        raise ValueError(f"form is {form!r}; expected 'posterior' or 'estimate'")
    require_numbers("observation", scale=scale)
    scale = require_scale(scale, observed)
    term = energy_term(_OfObserved(chosen), scale, params=observed)
    return chain(term) if form == "estimate" else scheduled(term, _posterior_share)


def _posterior_share(ctx: Context) -> Array:
    """What takes ``sigma^2 / alpha``, an energy's step, to ``std^2`` of the mean.

    The posterior's mean has ``alpha' (1 - r^2)`` of the estimate and its variance is
    ``sigma'^2 (1 - r^2)``, so the factor is ``sigma'^2 alpha / (sigma^2 alpha')``.
    """
    t, t_next = ctx.t_step, ctx.t_next
    alpha, sigma = ctx.process.alpha(t), ctx.process.sigma(t)
    next_alpha, next_sigma = ctx.process.alpha(t_next), ctx.process.sigma(t_next)
    return (next_sigma / sigma) ** 2 * alpha / next_alpha


def require_scale(scale: Array | float, observed: Observed) -> Array | float:
    """The scale of an observation's guidance, once its shape is known to fit.

    Args:
      scale: Scale of the guidance, scalar or ``[B]``.
      observed: The observation whose batch the scale must fit.

    Returns:
      The scale: a scalar as it is, so that 0 stays a number that costs nothing; an
      array in float32.

    Raises:
      ValueError: The scale is neither a scalar nor ``[B]``.
    """
    per_sample(scale, observed.y, "scale")
    # A number that is 0 before tracing costs nothing: it must stay one.
    return scale if np.ndim(scale) == 0 else jnp.asarray(scale, jnp.float32)
