"""What the edits of Prompt-to-Prompt do to the attention of pairs."""

from typing import Any

import jax.numpy as jnp

from jaxlib_guidance.attention import Before, Edit, borrow, combine
from jaxlib_guidance.editing._pairs import until
from jaxlib_guidance.guidance import edit_branches, join_pairs


def word_terms(
    count: int,
    words: Any,
    gain: Any,
    blend: Any,
    shares: tuple[float, float],
    sites: tuple[str, str],
) -> tuple[Any, ...]:
    """The terms of pairs that take the source's maps, for ``count`` pairs.

    ``shares`` and ``sites`` are of cross-attention and of self-attention.

    Raises:
      ValueError: Shares outside [0, 1]; words or gain of another shape.
    """
    (cross_share, self_share), (cross_sites, self_sites) = shares, sites
    if not cross_share and (words is not None or gain is not None):
        raise ValueError(
            "words and gain act in the steps of cross_share, which is 0; expected more"
        )
    if words is None:
        cross = borrow("probs", Before())
    else:
        words = jnp.asarray(words, jnp.float32)
        if words.ndim not in (2, 3) or words.shape[:-2] not in ((), (count,)):
            raise ValueError(
                f"words has shape {words.shape}; expected [M, M] or [{count}, M, M]"
            )
        words = jnp.broadcast_to(words, (count, *words.shape[-2:]))
        words = join_pairs(words, words)
        columns = jnp.any(words > 0, axis=1).astype(jnp.float32)
        cross = borrow("probs", Before(), words=words, columns=columns)
    if gain is not None:
        gain = jnp.asarray(gain, jnp.float32)
        if gain.ndim not in (1, 2) or gain.shape[:-1] not in ((), (count,)):
            raise ValueError(
                f"gain has shape {gain.shape}; expected [M] or [{count}, M]"
            )
        gain = jnp.broadcast_to(gain, (count, gain.shape[-1]))
        both = join_pairs(jnp.ones_like(gain), gain)
        cross = combine(cross, Edit(prob_gain=both[:, None, None]))
    # The same queries and keys are the same map, without one that is ever held.
    own = borrow(("q", "k"), Before())
    return (
        *until(edit_branches({cross_sites: cross}), cross_share),
        *until(edit_branches({self_sites: own}), self_share),
        *(() if blend is None else (blend,)),
    )
