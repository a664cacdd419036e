"""Energy of words that cross-attention sees nowhere."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.attention import match
from jaxlib_guidance.guidance._base import BASE, Evals
from jaxlib_guidance.guidance._checks import require_numbers, site_patterns
from jaxlib_guidance.guidance._pixels import head_mean, token_grid
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.reduce import divide
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    PyTree,
    at_least_float32,
    concrete,
    per_sample,
    pytree_dataclass,
    static,
)

# Gaussian weights of deviation 0.5 at the distances 0 and 1.
KERNEL = np.exp(-2.0 * np.arange(2) ** 2) / (1 + 2 * np.exp(-2.0))


@pytree_dataclass
class Excite:
    """How far the word that is seen least is from being seen. See `attend_and_excite`.

    Attributes:
      weight: Factor of the gradient, scalar or ``[B]``; 0 is off.
      words: Columns of the words, whole numbers ``[W]`` or ``[B, W]``.
      hidden: Columns that are left out, ``[M]`` or ``[B, M]``, 1 on them; None is none.
      sharpness: Factor of the attention in a softmax over words, scalar.
      sites: Patterns of cross-attention sites (static).
    """

    weight: Array | float
    words: Array
    hidden: Array | None = None
    sharpness: Array | float = 100.0
    sites: tuple[str, ...] = static(default=("*/cross",))

    # What the planner differentiates.
    through = "network"
    linear = False

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The base branch, differentiated through its maps."""
        capture = tuple((site, head_mean) for site in self.sites)
        return {BASE: Branch(ctx.cond, grad=True, capture=capture)}

    def energy(self, evals: Evals, ctx: Context) -> Array:
        """``max_w (1 - max_places G * A_w)``, ``[B]``."""
        maps = evals.maps[BASE]
        names = dict.fromkeys(
            site
            for pattern in self.sites
            for site in match([pattern], tuple(maps), "capture")
        )
        shapes = {maps[site].shape for site in names}
        if len(shapes) > 1:
            raise ValueError(
                f"attend_and_excite's sites have maps of shapes {sorted(shapes)}; "
                "expected sites of one grid of tokens"
            )
        each = jnp.stack([at_least_float32(maps[site]) for site in names])
        seen = jnp.mean(each, axis=0)
        logits = self.sharpness * seen
        if self.hidden is not None:
            hidden = jnp.atleast_2d(jnp.asarray(self.hidden))[:, None].astype(bool)
            logits = jnp.where(hidden, -jnp.inf, logits)
        words = jnp.atleast_2d(jnp.asarray(self.words))
        words = jnp.broadcast_to(words, (len(seen), words.shape[-1]))
        own = jnp.take_along_axis(jax.nn.softmax(logits, -1), words[:, None], axis=2)
        grid = token_grid(own.shape[1], ctx.x.shape[1:], "attend_and_excite's site")
        smooth = own.reshape(len(own), *grid, -1)
        for axis in range(1, 1 + len(grid)):
            smooth = _blur(smooth, axis)
        most = _largest(smooth.reshape(own.shape), 1)
        return _largest(1 - most, 1)

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``delta - w sigma / alpha grad E``, which adds ``w grad E`` to the noise."""
        weight = per_sample(self.weight, delta, "attend_and_excite's weight")
        return delta - weight * divide(ctx.sigma, ctx.alpha) * evals.grad, state


def _largest(a, axis):
    """The maximum by its place.

    The slope of `jnp.max` compares values with their maximum, and is 0 / 0 where a
    compiler has fused the two differently.
    """
    at = jnp.argmax(a, axis=axis, keepdims=True)
    return jnp.squeeze(jnp.take_along_axis(a, at, axis=axis), axis)


def _blur(a, axis):
    """The mean of neighbours along an axis, with reflected ends."""
    size = a.shape[axis]
    ends = [min(1, size - 1), max(size - 2, 0)]
    before, after = (
        jnp.take(a, jnp.asarray([*rest]), axis=axis)
        for rest in ((ends[0], *range(size - 1)), (*range(1, size), ends[1]))
    )
    center, side = (float(w) for w in KERNEL)
    return center * a + side * (before + after)


@method(
    "energy",
    "D - w sigma / alpha grad E, E = max_words (1 - max_places attention)",
    space="eps",
    evaluations=1,
    source="2301.13826",
    example={"words": (0, 2), "sharpness": 3.0},
    shape=(8, 8, 1),
    law="test_excite_is_its_formula",
)
def attend_and_excite(
    weight: Any,
    words: Any,
    sites: str | Sequence[str] = "*/cross",
    *,
    hidden: Any = None,
    sharpness: Any = 100.0,
) -> Excite:
    """Attend-and-excite: every word is seen somewhere.

    ``E = max_w (1 - max_q (G * A_w)(q))`` where ``A`` is the mean cross-attention of
    the sites, sharpened by a softmax over words, and ``G`` a Gaussian blur of
    deviation .5 over places; ``eps -> eps + w grad_x E``.

    Args:
      weight: Factor ``w`` of the gradient, scalar or ``[B]``; 0 is off.
      words: Columns of the words that are to be seen, whole numbers ``[W]`` or
        ``[B, W]``.
      sites: Cross-attention sites of one grid, by name or pattern; the authors take
        those of 16 by 16 tokens.
      hidden: Columns that the softmax leaves out, ``[M]`` or ``[B, M]``, 1 on those of
        the text's begin, end and padding; None leaves out none.
      sharpness: Factor of the attention in the softmax.

    Returns:
      A guidance term, for networks with cross-attention; it differentiates the base.

    Raises:
      TypeError: A weight or sharpness that is no number.
      ValueError: Words that are no whole numbers; in a step, sites of several grids.

    Reference: Chefer et al., arXiv 2301.13826, section 3. The authors move the state by
      ``20 sqrt(1 .. 0.5)`` times the gradient before they evaluate it, in the first 25
      of 50 steps, and repeat this at three of them until ``E`` is small; here the
      gradient joins the estimate, once a step: limit it by `during`, and repeat steps
      by `sampling.with_recurrence`.
    """
    require_numbers("attend_and_excite", weight=weight, sharpness=sharpness)
    known = concrete(words)
    if known is not None and not np.issubdtype(known.dtype, np.integer):
        raise ValueError(f"words is {words}; expected numbers of columns")
    return Excite(
        weight,
        jnp.asarray(words),
        hidden,
        sharpness,
        site_patterns(sites),
    )
