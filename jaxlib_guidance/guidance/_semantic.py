"""Guidance by concepts where their words are seen: the masks of LEDITS++."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxlib_guidance.attention import match
from jaxlib_guidance.guidance._base import Evals, fix, sample_axes
from jaxlib_guidance.guidance._checks import require_numbers, site_patterns
from jaxlib_guidance.guidance._contrast import like_cond
from jaxlib_guidance.guidance._pixels import head_mean, to_pixels
from jaxlib_guidance.guidance._registry import method
from jaxlib_guidance.reduce import known_false
from jaxlib_guidance.types import (
    Array,
    Branch,
    Context,
    PyTree,
    at_least_float32,
    per_sample,
    pytree_dataclass,
    static,
)


@pytree_dataclass
class SemanticEdit:
    """Guidance by a concept, inside its masks. Build it with `semantic_edit`.

    Attributes:
      weight: Factor of the direction, scalar or ``[B]``; 0 is off, below 0 removes.
      cond: Condition of the unconditional branch.
      concept: Condition of the concept's branch.
      words: Columns of the concept's words, ``[M]`` or ``[B, M]``.
      threshold: Share of the places that are left out, scalar.
      sites: Patterns of cross-attention sites (static).
      names: Names of the two branches (static).
    """

    weight: Array | float
    cond: PyTree
    concept: PyTree
    words: Array
    threshold: Array | float
    sites: tuple[str, ...] = static(default=("*/cross",))
    names: tuple[str, str] = static(default=("uncond", "concept"))

    def branches(self, ctx: Context) -> dict[str, Branch]:
        """The unconditional branch, and the concept's with its maps."""
        null, concept = (
            like_cond(each, ctx.cond) for each in (self.cond, self.concept)
        )
        capture = tuple((site, head_mean) for site in self.sites)
        return dict(
            zip(
                self.names,
                (Branch(null), Branch(concept, capture=capture)),
                strict=True,
            )
        )

    def update(
        self, delta: Array, evals: Evals, state: PyTree, ctx: Context
    ) -> tuple[Array, PyTree]:
        """``delta + w M (n - u)``."""
        away, to = (evals.x0[name] for name in self.names)
        direction = to - away
        seen = self._seen(evals.maps[self.names[1]], direction.shape)
        mask = _greatest(seen, self.threshold)
        size = jnp.sum(jnp.abs(mask * direction), axis=-1, keepdims=True)
        mask = mask * _greatest(size, self.threshold)
        weight = per_sample(self.weight, delta, "semantic_edit's weight")
        return delta + weight * mask * direction, state

    def _seen(self, maps, shape):
        """The attention that the words have at each place, ``[B, ..., 1]``."""
        total = jnp.zeros((*shape[:-1], 1))
        for pattern in self.sites:
            for site in match([pattern], tuple(maps), "capture"):
                probs = at_least_float32(maps[site])
                words = jnp.atleast_2d(jnp.asarray(self.words, jnp.float32))
                if words.shape[-1] != probs.shape[-1]:
                    raise ValueError(
                        f"semantic_edit's words have shape {words.shape}; expected "
                        f"{probs.shape[-1]} columns, as the map of {site!r} has"
                    )
                words = jnp.broadcast_to(words, (len(probs), words.shape[-1]))
                held = jnp.einsum("bqm,bm->bq", probs, words)
                total = total + to_pixels(held, shape[1:], f"the site {site!r}")
        return total


def _greatest(a, threshold):
    """1 where a place is in the greatest ``1 - threshold`` of its sample's."""
    least = jax.vmap(lambda one: jnp.quantile(one, threshold))(a.reshape(len(a), -1))
    return (a >= least.reshape(-1, *(1 for _ in sample_axes(a)))).astype(jnp.float32)


@method(
    "combine",
    "D + w M (n - u), M the greatest of cross-attention and of |n - u|",
    space="any",
    evaluations=3,
    source="2311.16711",
    example={
        "concept": 1,
        "words": (1.0, 0.0, 0.0),
        "threshold": 0.3,
        "sites": "block1/cross",
    },
    shape=(8, 8, 1),
    law="test_semantic_edit_is_its_formula",
)
def semantic_edit(
    weight: Any,
    null: PyTree,
    concept: PyTree,
    words: Any,
    threshold: Any = 0.9,
    sites: str | Sequence[str] = "*/cross",
    names: tuple[str, str] = ("uncond", "concept"),
) -> SemanticEdit:
    """LEDITS++'s guidance: towards a concept, where its words are seen and it matters.

    ``x0 -> x0 + w M (n - u)`` with the predictions ``n`` for the concept and ``u`` for
    nothing. ``M`` is 1 where the cross-attention of the concept's words, and then the
    size of ``n - u`` there, are in the greatest ``1 - threshold`` of all places.
    Several concepts are several terms of a chain.

    Args:
      weight: Factor ``w``, scalar or ``[B]``; 0 is off, below 0 removes the concept.
      null: Condition ``u``, as for `cfg`.
      concept: Condition ``n``, a pytree of the condition's structure.
      words: Columns of the concept's words in its text, ``[M]`` or ``[B, M]``, 1 on
        them and 0 elsewhere.
      threshold: Share of the places that each mask leaves out, a scalar in [0, 1).
      sites: Cross-attention sites, by name or pattern; the authors take those of 16 by
        16 tokens.
      names: Names of the two branches; each concept needs its own second name.

    Returns:
      A guidance term, two evaluations beside the base.

    Raises:
      TypeError: A weight or threshold that is no number.
      ValueError: A threshold outside [0, 1).

    Reference: Brack et al., arXiv 2311.16711, section 3, without warm-up, momentum and
      the smoothing of maps.
    """
    require_numbers("semantic_edit", weight=weight, threshold=threshold)
    if known_false(lambda share: (share >= 0) & (share < 1), threshold):
        raise ValueError(f"threshold is {threshold}; expected a share in [0, 1)")
    null, concept = (jax.tree.map(fix, each) for each in (null, concept))
    return SemanticEdit(
        weight,
        null,
        concept,
        jnp.asarray(words),
        threshold,
        site_patterns(sites),
        names,
    )
