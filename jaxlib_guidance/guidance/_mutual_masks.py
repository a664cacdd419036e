"""Attention to the source's thing for the thing, to its ground for the ground."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.attention import (
    Before,
    Edit,
    borrow,
    combine,
    match,
    queries_and_keys,
)
from jaxlib_guidance.guidance._base import BASE, Evals, init_term, sample_axes
from jaxlib_guidance.guidance._checks import require_numbers, site_patterns
from jaxlib_guidance.guidance._edit_branches import edit_branches
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
    pytree_dataclass,
    static,
)


@pytree_dataclass
class MutualMasks:
    """Guidance under masked attention to the source. Build it with `mutual_masks`.

    Attributes:
      guided: Term or chain whose branches are evaluated under the masks.
      words: Columns of the thing's words, of source and edit in pairs: ``[2 B, M]``, or
        ``[2, M]`` for all pairs.
      threshold: Attention, from least to greatest, from which a place is of the thing.
      sites: Patterns of self-attention sites (static).
      cross_sites: Patterns of cross-attention sites (static).
    """

    guided: Any
    words: Array
    threshold: Array | float
    sites: tuple[str, ...] = static(default=("*/attn",))
    cross_sites: tuple[str, ...] = static(default=("*/cross",))

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The base branch, for its maps and for how many tokens a site has."""
        seen = [(site, head_mean) for site in self.cross_sites]
        held = [(site, queries_and_keys) for site in self.sites]
        return {BASE: Branch(ctx.cond, capture=(*seen, *held))}

    def init(self, x: Array) -> PyTree:
        """The state of what is guided."""
        return init_term(self.guided, x)

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """The guided estimate of the network under the masks, in place of the base."""
        if evals.evaluate is None:
            raise ValueError("mutual_masks needs evals.evaluate, which sample gives it")
        more = {BASE: Branch(ctx.cond)} | self.guided.branches(ctx)
        edited = edit_branches(self._control(evals.maps[BASE], ctx), None)
        found = evals.evaluate(edited.rewrite(more, ctx))
        added, state = self.guided.update(jnp.zeros_like(delta), found, state, ctx)
        return delta + found.x0[BASE] - evals.x0[BASE] + added, state

    def _control(self, maps, ctx):
        """What the attention of each site is to be, from a pass without it."""
        shape, taps = ctx.x.shape[1:], tuple(maps)
        total = jnp.zeros((*ctx.x.shape[:-1], 1))
        for site in match(self.cross_sites, taps, "capture"):
            words = word_columns(self.words, maps[site], "mutual_masks", site)
            held = jnp.einsum("bqm,bm->bq", maps[site], words)
            total = total + to_pixels(held, shape, site)
        axes = sample_axes(total)
        least, most = (f(total, axes, keepdims=True) for f in (jnp.min, jnp.max))
        seen = divide(total - least, most - least)
        control = {}
        for pattern in self.sites:
            for site in match([pattern], taps, "attention site"):
                thing = self._tokens(seen, maps[site].shape[2], shape, site)
                source, _ = split_pairs(thing)
                keys = join_pairs(source, source)
                alike = thing[:, :, None] == keys[:, None, :]
                # Where nothing of its kind is there, a place sees everything.
                hidden = ~alike & jnp.any(alike, -1, keepdims=True)
                bias = jnp.where(hidden, -jnp.inf, 0.0)[:, None]
                control[site] = combine(
                    borrow(("k", "v"), Before()), Edit(logit_bias=bias)
                )
        return control

    def _tokens(self, seen, count, shape, site):
        """Which tokens of a site are of the thing, bool ``[2 B, T]``."""
        grid = token_grid(count, shape, site)
        cells = seen[..., 0]
        for axis, n in enumerate(grid):
            cells = cells.reshape(
                *cells.shape[: axis + 1], n, -1, *cells.shape[axis + 2 :]
            )
            cells = jnp.mean(cells, axis + 2)
        return cells.reshape(len(cells), count) >= self.threshold


def mutual_masks(
    guided: Any,
    source: Any,
    target: Any,
    threshold: Any = 0.1,
    sites: str | Sequence[str] = "*/attn",
    cross_sites: str | Sequence[str] = "*/cross",
) -> MutualMasks:
    """MasaCtrl's masks: the thing sees the source's thing, its ground the ground.

    For batches of pairs, as `sampling.difference` takes. A first evaluation says by the
    mean cross-attention of its words, from 0 at the least place to 1 at the greatest,
    where the thing is, in the source and in the edit. Under ``guided`` the edit's
    self-attention then has the source's keys and values, those of the thing for places
    of the thing and the others for the others. The source is masked alike, so that
    equal words stay equal.

    Args:
      guided: Term or chain that is evaluated so, such as a `cfg`.
      source: Columns of the thing's words in the source's text, ``[M]`` or ``[B, M]``,
        1 on them and 0 elsewhere.
      target: Columns in the target's text, of the same shape.
      threshold: Attention from which a place is of the thing, a scalar in (0, 1).
      sites: Self-attention sites, by place, name or pattern.
      cross_sites: Cross-attention sites, by name or pattern; the authors take those of
        16 by 16 tokens.

    Returns:
      A guidance term, whose evaluation of the base comes to those of ``guided``.

    Raises:
      TypeError: A threshold that is no number.
      ValueError: A threshold outside (0, 1).

    Reference: Cao et al., arXiv 2304.08465, section 4.2, and the authors' code, which
      takes the maps of the same evaluation, and masks the edit alone.
    """
    require_numbers("mutual_masks", threshold=threshold)
    if jnp.ndim(threshold) or known_false(
        lambda share: (share > 0) & (share < 1), threshold
    ):
        raise ValueError(f"threshold is {threshold}; expected a share between 0 and 1")
    rows = [jnp.atleast_2d(jnp.asarray(a, jnp.float32)) for a in (source, target)]
    count = max(len(row) for row in rows)
    rows = [jnp.broadcast_to(row, (count, row.shape[-1])) for row in rows]
    return MutualMasks(
        guided,
        join_pairs(*rows),
        threshold,
        # A place, whose own name may be that of a feature, is its self-attention.
        tuple(
            pattern if pattern.endswith("attn") else f"{pattern}/*attn"
            for pattern in site_patterns(sites)
        ),
        site_patterns(cross_sites),
    )
