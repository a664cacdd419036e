"""Which answers of a group to prefer over which: pairs for a preference loss."""

from typing import NamedTuple

import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.policy.select._best_of import _known
from jaxlib_guidance.reduce import hide, masked_mean
from jaxlib_guidance.types import Array


class Pairs(NamedTuple):
    """Which two of a group to prefer one over the other.

    Attributes:
      chosen: Index of the better answer in the group, int32 ``[...]``.
      rejected: Index of the worse answer in the group, int32 ``[...]``.
      mask: 1 where the pair is to be used, float32 ``[...]``.
    """

    chosen: Array
    rejected: Array
    mask: Array


def pair_from_scores(
    scores: Array, mask: Array | None = None, *, margin: float | Array = 0.0
) -> Pairs:
    """The best and the worst of each group, if they differ by more than a margin.

    Anyprefer: scores of a judge. Self-rationalization: ``-|score - gold|``. RLHS:
    `hindsight_score`. Agent-RLVR: rewards of the attempts with and without guidance.

    Args:
      scores: Scores of the answers of each group, ``[..., G]``; of equal ones the first
        counts, one of NaN is not used.
      mask: 0 for answers that are not to be used, ``[..., G]``; None keeps all.
      margin: Smallest difference of a pair's scores, not negative. Equal scores are
        never a pair.

    Returns:
      The two answers of each group and whether to use them, ``[...]``.

    Raises:
      ValueError: Mismatched shapes, a negative margin.

    Reference: Anyprefer, arXiv 2504.19276; Self-rationalization, arXiv 2410.04949.
    """
    require_range("margin", margin, 0)
    mask = _known(scores, mask)
    high, low = hide(scores, mask, -jnp.inf), hide(scores, mask, jnp.inf)
    best, worst = jnp.argmax(high, -1), jnp.argmin(low, -1)
    gap = jnp.max(high, -1) - jnp.min(low, -1)
    use = jnp.where(margin > 0, gap >= margin, gap > 0).astype(jnp.float32)
    return Pairs(best.astype(jnp.int32), worst.astype(jnp.int32), use)


def hindsight_score(utility: Array, mask: Array | None = None) -> Array:
    """Mean utility of simulated consequences: ``[..., K]`` to ``[...]``, NaN for none.

    The judge sees what an answer led to, so an answer that only sounds good scores what
    it is worth.

    Args:
      utility: Utility of each simulated outcome, ``[..., K]``; NaN is not known.
      mask: 0 on outcomes that do not count, ``[..., K]``; None keeps all.

    Returns:
      Float32 ``[...]``.

    Reference: RLHS, Liang et al., arXiv 2501.08617.
    """
    mask = _known(utility, mask)
    some = jnp.any(mask > 0, -1)
    return jnp.where(some, masked_mean(utility, mask, -1), jnp.nan)
