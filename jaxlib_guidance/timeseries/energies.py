"""How far an estimate is from what was observed, and levels to forecast by.

An energy is a function ``(x0 [B, L, C], observed) -> [B]``; write your own likewise.
Entries whose mask is 0 have no part in these: their gradient is exactly 0.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.types import Array, per_sample


class Observed(NamedTuple):
    """What is known of a batch of windows.

    Attributes:
      y: ``[B, L, C]``; anything, NaN too, where the mask is 0.
      mask: ``[B, L, C]``, 1 where ``y`` is known.
      level: Quantile that each path is drawn to, scalar or ``[B]``.
    """

    y: Array
    mask: Array
    level: Array | float = 0.5


Energy = Callable[[Array, Observed], Array]


def square_energy(x0: Array, observed: Observed) -> Array:
    """``sum_m (x0 - y)^2``: the energy of TSDiff-MS.

    Args:
      x0: ``[B, L, C]``.
      observed: Of the same shape.

    Returns:
      ``[B]``.

    Reference: Kollovieh et al., arXiv 2307.11494, section 3.2.
    """
    error = _errors(x0, observed)
    return jnp.sum(error**2, tuple(range(1, x0.ndim)))


def quantile_energy(x0: Array, observed: Observed) -> Array:
    """``sum_m max(k e, (k - 1) e)``, ``e = y - x0``: the energy of TSDiff-Q.

    The pinball loss at each path's own level ``k``: an asymmetric Laplace likelihood,
    whose paths at evenly spread levels spread like a forecast's quantiles.

    Args:
      x0: ``[B, L, C]``.
      observed: Of the same shape, with the levels.

    Returns:
      ``[B]``.

    Reference: Kollovieh et al., arXiv 2307.11494, section 3.2.
    """
    error = _errors(x0, observed)
    level = per_sample(observed.level, x0, "level")
    pinball = jnp.maximum(level * error, (level - 1) * error)
    # At e = 0 either slope would do; where nothing was observed there must be none.
    pinball = jnp.where(observed.mask > 0, pinball, 0)
    return jnp.sum(pinball, tuple(range(1, x0.ndim)))


ENERGIES: dict[str, Energy] = {"square": square_energy, "quantile": quantile_energy}


def find_energy(energy: str | Energy) -> Energy:
    """An energy by its name, or the function itself.

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
      samples: Number of paths ``S``.

    Returns:
      float32 ``[S]``, on the host: the same numbers inside and outside of jit.

    Raises:
      ValueError: No whole number from 1.
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
