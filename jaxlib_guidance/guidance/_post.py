"""Terms that reshape what other terms propose: rescaling, projection, thresholding.

They are not linear in the prediction, so each says in which space it works: the same
edit of an x0 estimate and of the eps estimate it implies are different edits.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.diffusion import Prediction, from_x0, require_prediction
from jaxlib_guidance.guidance._base import (
    BASE,
    Evals,
    init_state,
    sample_axes,
    sample_norm,
)
from jaxlib_guidance.guidance._branches import merge
from jaxlib_guidance.guidance._chain import chain
from jaxlib_guidance.guidance._prediction import gain_of, to_x0_change
from jaxlib_guidance.guidance._tree import walk
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    PyTree,
    concrete,
    per_sample,
    pytree_dataclass,
    static,
)


def _known_false(holds: Callable[..., Any], *values: Any) -> bool:
    """Whether the values are known and what they should fulfil does not hold."""
    known = [concrete(value) for value in values]
    return all(k is not None for k in known) and not np.all(holds(*known))


@pytree_dataclass
class RescaleStd:
    """Part of the way to the base's standard deviation. See `rescale_std`."""

    weight: Array | float
    space: Prediction = static(default="x0")

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """None but the base."""
        return {}

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``y += phi (std(base) / std(y) - 1) y`` in ``space``."""
        base = evals.x0[BASE]
        y = from_x0(ctx.process, self.space, base + delta, ctx.x, ctx.t)
        wanted = _std(from_x0(ctx.process, self.space, base, ctx.x, ctx.t))
        have = _std(y)
        ratio = jnp.where(have > 0, wanted / jnp.where(have > 0, have, 1), 1)
        phi = per_sample(self.weight, delta, "rescale_std's phi")
        return delta + to_x0_change(
            phi * (ratio - 1) * y, gain_of(self.space, ctx)
        ), state


def _std(x: Array) -> Array:
    axes = sample_axes(x)
    offset = x - jnp.mean(x, axis=axes, keepdims=True)
    return sample_norm(offset) / (x[0].size ** 0.5)


def rescale_std(phi: Any, *, space: Prediction = "x0") -> RescaleStd:
    """Undoes the growth in contrast that strong guidance brings.

    ``y <- phi y std(base) / std(y) + (1 - phi) y``, with ``y`` the guided prediction
    and the standard deviation over each sample. Put it after what it corrects.

    Args:
      phi: Scalar or ``[B]``; 0 is off, the paper uses 0.7.
      space: What ``y`` is. diffusers takes what the network predicts, ComfyUI v.

    Reference: Lin et al., arXiv 2305.08891, section 3.4.
    """
    require_prediction(space, "space")
    return RescaleStd(phi, space)


@pytree_dataclass
class RescaleNorm:
    """Terms whose total is kept within a range of norms. See `rescale_norm`."""

    inner: Any
    low: Array | float
    high: Array | float
    relative_to: Any = None

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """Those of the terms and of the reference."""
        if self.relative_to is None:
            return self.inner.branches(ctx)
        return merge(self.inner.branches(ctx), self.relative_to.branches(ctx))

    def init(self, x: Array) -> PyTree:
        """The terms' state and the reference's."""
        return init_state(self.inner, x), init_state(self.relative_to, x)

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``delta + gamma part``."""
        state, reference_state = state
        moved, state = self.inner.update(delta, evals, state, ctx)
        reference = delta
        if self.relative_to is not None:
            reference, reference_state = self.relative_to.update(
                jnp.zeros_like(delta), evals._replace(grad=None), reference_state, ctx
            )
        part = moved - delta
        low = per_sample(self.low, delta, "rescale_norm's low")
        high = per_sample(self.high, delta, "rescale_norm's high")
        have, unit = sample_norm(part), sample_norm(reference)
        wanted = jnp.clip(have, low * unit, high * unit)
        gamma = wanted / jnp.where(have > 0, have, 1)
        return delta + gamma * part, (state, reference_state)


def rescale_norm(
    terms: Any, low: Any, high: Any, *, relative_to: Any = None
) -> RescaleNorm:
    """Keeps what terms add within a range of norms, relative to what came before them.

    ``gamma = clip(r, low, high) / r`` with ``r = |part| / |reference|``, norms over
    each sample. ``chain(cfg(w, null), rescale_norm(energy(f), low, high))`` is
    Guide-and-Rescale. A ratio of corrections is the same in every space. A part that is
    zero stays zero, and so does the part where the reference is zero.

    Args:
      terms: A term or a chain.
      low: Least ratio, scalar or ``[B]``; 0 only limits from above.
      high: Greatest ratio.
      relative_to: The term or chain whose contribution is the reference; None takes the
        whole correction so far. Terms that are also in the chain cost nothing more.

    Raises:
      ValueError: Bounds that are not ``0 <= low <= high``.
      TypeError: An energy as the reference.

    Reference: Titov et al., Guide-and-Rescale, arXiv 2409.01322.
    """
    if _known_false(lambda low, high: (low >= 0) & (low <= high), low, high):
        raise ValueError(
            f"rescale_norm got low {low} and high {high}; expected 0 <= low <= high"
        )
    reference = None if relative_to is None else chain(relative_to)
    if reference and any(hasattr(term, "energy") for term in walk(reference)):
        raise TypeError("relative_to has an energy; expected contrasts only")
    return RescaleNorm(chain(terms), low, high, reference)


@pytree_dataclass
class Clip:
    """Keeps the x0 estimate within bounds. See `clip_x0`."""

    low: Array | float
    high: Array | float

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """None but the base."""
        return {}

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``clip(x0, low, high)``."""
        x0 = evals.x0[BASE] + delta
        low = per_sample(self.low, delta, "clip_x0's low")
        high = per_sample(self.high, delta, "clip_x0's high")
        return delta + (jnp.clip(x0, low, high) - x0), state


def clip_x0(low: Any = -1.0, high: Any = 1.0) -> Clip:
    """Static thresholding: clips the guided x0 estimate to the range of the data.

    Args:
      low: Scalar or ``[B]``.
      high: Scalar or ``[B]``.

    Raises:
      ValueError: ``low`` not below ``high``.

    Reference: Saharia et al., Imagen, arXiv 2205.11487, section 2.3.
    """
    if _known_false(lambda low, high: low < high, low, high):
        raise ValueError(f"clip_x0 got low {low}, high {high}; expected low < high")
    return Clip(low, high)


@pytree_dataclass
class DynamicThreshold:
    """Shrinks an x0 estimate that leaves its range. See `dynamic_threshold`."""

    percentile: Array | float
    limit: Array | float

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """None but the base."""
        return {}

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``clip(x0, -s, s) limit / s``."""
        x0 = evals.x0[BASE] + delta
        limit = per_sample(self.limit, delta, "dynamic_threshold's limit")
        share = jnp.asarray(self.percentile, x0.dtype) / 100
        s = jnp.quantile(jnp.abs(x0), share, axis=sample_axes(x0), keepdims=True)
        s = jnp.maximum(s, limit)
        return delta + (jnp.clip(x0, -s, s) * (limit / s) - x0), state


def dynamic_threshold(percentile: Any = 99.5, limit: Any = 1.0) -> DynamicThreshold:
    """Dynamic thresholding of the guided x0 estimate.

    ``s = max(percentile of |x0|, limit)`` of each sample, ``x0 <- clip(x0, -s, s)
    limit / s``: saturated values are pushed inwards. An estimate within ``limit`` is
    unchanged.

    Args:
      percentile: In (0, 100], a scalar; Imagen's code uses 99.5.
      limit: The data's largest value, scalar or ``[B]``.

    Raises:
      ValueError: A percentile outside (0, 100].

    Reference: Saharia et al., Imagen, arXiv 2205.11487, section 2.3.
    """
    if jnp.ndim(percentile) or _known_false(lambda p: (p > 0) & (p <= 100), percentile):
        raise ValueError(f"percentile is {percentile}; expected a number in (0, 100]")
    return DynamicThreshold(percentile, limit)
