"""Settings of the next round of self-training: exploring against exploiting."""

import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.reduce import (
    divide,
    masked_mean,
    require_shape,
)
from jaxlib_guidance.types import Array, at_least_float32


def behaviour_rate(counts: Array, mask: Array | None = None) -> Array:
    """Mean count a response of each behaviour, ``[N, K]`` to ``[K]``.

    The four habits are verification, backtracking, subgoals and backward chaining; the
    classifier is the caller's.

    Args:
      counts: Number of each behaviour in each response, ``[N, K]``.
      mask: 0 on responses that do not count, ``[N]``; None keeps all.

    Returns:
      Float32 ``[K]``.

    Reference: Gandhi et al., arXiv 2503.01307.
    """
    counts = at_least_float32(counts)
    if counts.ndim != 2:
        raise ValueError(f"counts has shape {counts.shape}; expected [N, K]")
    if mask is not None:
        require_shape("mask", mask, counts.shape[:1])
        mask = jnp.broadcast_to(at_least_float32(mask)[:, None], counts.shape)
    return masked_mean(counts, mask, 0)


def balance_score(correct: Array, selected: Array, *, wanted: int = 8) -> Array:
    """``min(n' / n*, 1) n' / n``: enough different right answers, and little else.

    Args:
      correct: Number ``n'`` of different right answers among those selected, of any
        shape.
      selected: Number ``n`` of answers selected, of the shape of ``correct``.
      wanted: Number ``n*`` of different right answers wanted, at least 1.

    Returns:
      Float32 in [0, 1]; 0 where nothing was selected.

    Reference: B-STaR, Zeng et al., arXiv 2412.17256; its ``determine_hyper.py``.
    """
    require_shape("selected", selected, jnp.shape(correct))
    require_range("correct", correct, 0)
    require_range("selected", selected, 0)
    require_range("wanted", wanted, 1)
    n, m = at_least_float32(correct), at_least_float32(selected)
    return jnp.minimum(n / wanted, 1) * divide(n, m)


def best_configuration(
    correct: Array, selected: Array, *, wanted: int = 8
) -> tuple[Array, Array]:
    """The temperature and threshold, say, with the best mean `balance_score`.

    The mean is over prompts of which anything was selected, as in the code: a threshold
    that selects next to nothing is judged by that.

    Args:
      correct: Number of different right answers of each configuration and prompt, ``[C,
        P]``.
      selected: Number of answers selected of each configuration and prompt, ``[C, P]``.
      wanted: Number ``n*`` of different right answers wanted, at least 1.

    Returns:
      Index of the configuration, int32, and the scores ``[C]``.

    Reference: B-STaR, Zeng et al., arXiv 2412.17256.
    """
    scores = masked_mean(
        balance_score(correct, selected, wanted=wanted), jnp.asarray(selected) > 0, -1
    )
    return jnp.argmax(scores, -1).astype(jnp.int32), scores
