"""The edit where cross-attention sees its words, the source elsewhere."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.attention import match
from jaxlib_guidance.guidance._base import BASE, Evals, sample_axes
from jaxlib_guidance.guidance._checks import require_numbers, site_patterns
from jaxlib_guidance.guidance._pairs import join_pairs, split_pairs
from jaxlib_guidance.guidance._pixels import (
    head_mean,
    to_pixels,
    token_grid,
    word_columns,
)
from jaxlib_guidance.reduce import divide, known_false
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
class LocalBlend:
    """The edit inside a mask of words. Build it with `local_blend`.

    Attributes:
      words: Columns of the words, of source and edit in pairs: ``[2 B, M]``, or ``[2,
        M]`` for all pairs.
      threshold: Attention, over the greatest, from which a place is edited.
      sites: Patterns of cross-attention sites (static).
    """

    words: Array
    threshold: Array | float
    sites: tuple[str, ...] = static(default=("*/cross",))

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The base branch, for its maps."""
        capture = tuple((site, head_mean) for site in self.sites)
        return {BASE: Branch(ctx.cond, capture=capture)}

    def init(self, x: Array) -> Array:
        """The attention that the words have had at each place."""
        return jnp.zeros((*x.shape[:-1], 1), jnp.float32)

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """Gives the edit the source's estimate outside of the mask."""
        maps = evals.maps[BASE]
        seen = state + sum(
            _attention(maps[site], self.words, ctx.x.shape[1:], site)
            for pattern in self.sites
            for site in match([pattern], tuple(maps), "capture")
        )
        most = jnp.max(seen, sample_axes(seen), keepdims=True)
        threshold = per_sample(self.threshold, delta, "local_blend's threshold")
        own, edited = split_pairs((divide(seen, most) > threshold).astype(jnp.float32))
        mask = jnp.maximum(own, edited)
        x0 = evals.x0[BASE] + delta
        source, _ = split_pairs(x0)
        # By one formula for both of a pair, so that equal estimates stay equal.
        source, mask = join_pairs((source, mask), (source, mask))
        return source + mask * (x0 - source) - evals.x0[BASE], seen


def _attention(probs, words, shape, site):
    """What the words' columns hold at each place, the greatest of its neighbours."""
    words = word_columns(words, probs, "local_blend", site)
    held = jnp.einsum("bqm,bm->bq", probs, words)
    grid = token_grid(held.shape[1], shape, site)
    window = (1, *(3,) * len(grid))
    pooled = jax.lax.reduce_window(
        *(held.reshape(-1, *grid), -jnp.inf, jax.lax.max),
        *(window, (1,) * len(window), "SAME"),
    )
    return to_pixels(pooled.reshape(held.shape), shape, site)


def local_blend(
    source: Any,
    target: Any,
    threshold: Any = 0.3,
    sites: str | Sequence[str] = "*/cross",
) -> LocalBlend:
    """Prompt-to-Prompt's local blend: the edit where its words are seen.

    A place is edited where the cross-attention that some words have had so far, in the
    source or in the edit, is above ``threshold`` of the greatest; elsewhere the edit
    gets the source's estimate. For batches of pairs, as `sampling.difference` takes.

    Args:
      source: Columns of the words in the source's text, ``[M]`` or ``[B, M]``, 1 on
        them and 0 elsewhere.
      target: Columns of the words in the target's text, of the same shape ``[B, M]``.
      threshold: Share of the greatest attention, scalar or ``[2 B]``; 0 and less edits
        everywhere that is seen at all.
      sites: Cross-attention sites, by name or pattern; the authors take those of 16 by
        16 tokens.

    Returns:
      A guidance term, which costs no evaluation.

    Raises:
      TypeError: A threshold that is no number.
      ValueError: A threshold above 1.

    Reference: Hertz et al., arXiv 2208.01626, section 4 and the authors' code, which
      pools the sum of all sites and not each.
    """
    require_numbers("local_blend", threshold=threshold)
    if known_false(lambda share: share < 1, threshold):
        raise ValueError(f"threshold is {threshold}; expected a share below 1")
    rows = [jnp.atleast_2d(jnp.asarray(a, jnp.float32)) for a in (source, target)]
    count = max(len(row) for row in rows)
    rows = [jnp.broadcast_to(row, (count, row.shape[-1])) for row in rows]
    return LocalBlend(join_pairs(*rows), threshold, site_patterns(sites))
